"""Asks a model for recommendations with gRPC and TF Serving's stubs alone: pip install tensorflow-serving-api

python recommend.py localhost:8500 demo user-0001 item-0001,item-0002
python recommend.py localhost:8500 demo user-0001 "" "red shoes"
"""

import sys

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

DT_STRING = 7


def recommend(target, model, user="", history=(), text="", exclude=(), k=10):
    """`[(item id, score)]`, best first; `history` runs from oldest to newest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default" if text else "recommend_user"
    _put(request, "user_id", [user], [1])
    # A list begins with "": TF Serving fills up the shorter lists of a batch with what theirs begin with.
    _put(request, "history", ["", *history], [1, 1 + len(history)])
    _put(request, "exclude", ["", *exclude], [1, 1 + len(exclude)])
    for name in ("text", "image", "audio") if text else ():
        _put(request, name, [text if name == "text" else ""], [1])  # what is absent is sent as ""
    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=10, wait_for_ready=True).outputs
    ids, scores = outputs["item_id"].string_val, outputs["score"]
    scores = scores.float_val or np.frombuffer(scores.tensor_content, np.float32)  # a server may send either
    return [(item.decode(), float(score)) for item, score in zip(ids, scores, strict=True) if item][:k]


def _put(request, name, values, shape):
    tensor = request.inputs[name]
    tensor.dtype = DT_STRING
    tensor.string_val.extend(value.encode() for value in values)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    target, model, user, history, text = [*sys.argv[1:], "", "", ""][:5]
    for item, score in recommend(target, model, user, [item for item in history.split(",") if item], text):
        print(item, score)
