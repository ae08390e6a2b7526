"""REST on a free port, by urllib, beside what gRPC answers."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from mmtfrs._keras import tf
from serving.client import Client
from serving.grpc_server import Server

PICTURE = bytes(range(256))


class Shop(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.float32)])
    def score(self, image, weight):
        return {
            "name": tf.strings.as_string(tf.strings.length(image)),
            "raw_bytes": image,
            "score": tf.reduce_sum(weight, 1, keepdims=True) / 3,
            "count": tf.shape(weight)[1] + tf.zeros_like(tf.strings.length(image)),
            "good": weight > 0,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def twice(self, number):
        return {"twice": number * 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def total(self, number):
        return {"total": tf.reduce_sum(number)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    module, path = Shop(), tmp_path_factory.mktemp("rest") / "shop" / "3"
    tf.saved_model.save(
        module, str(path), signatures={"serving_default": module.score, "twice": module.twice, "total": module.total}
    )
    server = Server(path.parent, port=0, rest_port=0, max_bytes=1 << 20).start()
    yield server
    server.stop(0)


def _ask(server, path, body=None):
    """`(HTTP code, JSON)`."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.rest.server_port}/v1/models/{path}", data)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


IMAGES = [{"b64": base64.b64encode(PICTURE).decode()}, "é"]
WEIGHTS = [[0.1, 0.2], [-1.0, 5]]


def test_both_formats_answer_what_grpc_answers(server):
    sent = {"image": np.array([PICTURE, "é".encode()], object), "weight": np.array(WEIGHTS, np.float32)}
    with Client(f"localhost:{server.port}", "shop") as client:
        expected = client.predict("serving_default", sent)
    code, found = _ask(server, "shop:predict", {"inputs": {"image": IMAGES, "weight": WEIGHTS}})
    columns = found["outputs"]
    assert code == 200 and set(columns) == set(expected)
    assert columns["name"] == ["256", "2"] == [value.decode() for value in expected["name"]]
    assert [base64.b64decode(value["b64"]) for value in columns["raw_bytes"]] == expected["raw_bytes"].tolist()
    np.testing.assert_array_equal(np.array(columns["score"], np.float32), expected["score"])  # to the last bit
    assert "0.1" in json.dumps(columns["score"]) and len(json.dumps(columns["score"])) < 40  # and in no more digits
    assert columns["count"] == [2, 2] and columns["good"] == [[True, True], [False, True]] == expected["good"].tolist()
    rows = [{"image": image, "weight": weight} for image, weight in zip(IMAGES, WEIGHTS, strict=True)]
    for path in ("shop:predict", "shop/versions/3:predict"):
        assert _ask(server, path, {"signature_name": "serving_default", "instances": rows}) == (
            200,
            {"predictions": [{name: columns[name][row] for name in columns} for row in range(2)]},
        )


def test_one_input_and_one_output_need_no_names(server):
    twice = {"signature_name": "twice"}
    assert _ask(server, "shop:predict", {**twice, "instances": [1, 2**40]}) == (200, {"predictions": [2, 2**41]})
    assert _ask(server, "shop:predict", {**twice, "instances": [{"number": 4}]}) == (200, {"predictions": [8]})
    assert _ask(server, "shop:predict", {**twice, "inputs": [5]}) == (200, {"outputs": [10]})
    assert _ask(server, "shop:predict", {**twice, "inputs": {"number": [5]}}) == (200, {"outputs": [10]})
    assert _ask(server, "shop:predict", {"signature_name": "total", "inputs": [0.5, 1e30]})[1]["outputs"] == 1e30
    assert np.isnan(_ask(server, "shop:predict", b'{"signature_name": "total", "inputs": [NaN]}')[1]["outputs"])


def test_status_and_metadata(server):
    status = {"error_code": "OK", "error_message": ""}
    expected = {"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": status}]}
    assert _ask(server, "shop") == _ask(server, "shop/versions/3") == (200, expected)
    code, found = _ask(server, "shop/metadata")
    spec = {"name": "shop", "signature_name": "", "version": "3"}
    assert code == 200 and found["model_spec"] == spec and list(found["metadata"]) == ["signature_def"]
    given = found["metadata"]["signature_def"]["signature_def"]["twice"]
    assert given["method_name"] == "tensorflow/serving/predict" and given["inputs"]["number"]["dtype"] == "DT_INT64"
    assert given["inputs"]["number"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


ONE = {"signature_name": "twice"}


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("other:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(other)"),
        ("shop/versions/9:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(shop, 9)"),
        ("shop/labels/new:predict", {"instances": [1]}, 400, "Unrecognized servable version label: new"),
        ("other", None, 404, "Could not find any versions of model other"),
        ("shop/versions/9", None, 404, "Could not find version 9 of model shop"),
        ("other/metadata", None, 404, "Servable not found for request: Latest(other)"),
        ("shop:bake", {}, 400, "Malformed request: POST /v1/models/shop:bake"),
        ("shop/metadata/x", None, 400, "Malformed request: GET /v1/models/shop/metadata/x"),
        ("shop:predict", b"{", 400, "JSON Parse error: "),
        ("shop:predict", b"[" * 100_000, 400, "JSON Parse error: "),
        ("shop:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("shop:predict", {"signature_name": "x", "inputs": [1]}, 400, 'Serving signature name: "x" not found in signature def'),
        ("shop:predict", {"inputs": {"image": [""]}}, 400, "Missing named input: weight in 'inputs' object."),
        ("shop:predict", {"instances": [{"image": ""}]}, 400, "objects with keys equal to: image,weight"),
        ("shop:predict", {**ONE, "instances": []}, 400, "'instances' to be a list"),
        ("shop:predict", {**ONE, "instances": None}, 400, "'instances' to be a list"),
        ("shop:predict", {**ONE, "inputs": None}, 400, "JSON Value: null is not of expected type: int64"),
        ("shop:predict", {"inputs": None}, 400, "Missing named input: "),
        ("shop:predict", {"signature_name": "total", "inputs": [10**400]}, 400, "not formatted correctly for float32"),
        ("shop:predict", {**ONE, "instances": ["1"]}, 400, 'JSON Value: "1" is not of expected type: int64'),
        ("shop:predict", {**ONE, "instances": [True]}, 400, "JSON Value: true is not of expected type: int64"),
        ("shop:predict", {**ONE, "instances": [2**70]}, 400, "not formatted correctly for int64"),
        ("shop:predict", {**ONE, "instances": [[1], [2, 3]]}, 400, "Encountered list at unexpected size"),
        ("shop:predict", {**ONE, "instances": [1] * 33}, 400, "Task size 33 is larger than maximum input batch size 32"),
        (
            "shop:predict",
            {"signature_name": "total", "instances": [1.0]},
            400,
            "Tensor name: total has inconsistent batch size",
        ),
        ("shop:predict", {"inputs": {"image": [{"b64": "*"}], "weight": [[1]]}}, 400, "not formatted correctly for string"),
    ],
)
def test_refusals(server, path, body, code, text):
    found = _ask(server, path, body)
    assert found[0] == code and list(found[1]) == ["error"] and text in found[1]["error"]


@pytest.mark.parametrize(
    "headers", [{"Content-Length": str((1 << 20) + 1)}, {"Content-Length": "-1"}, {"Transfer-Encoding": "chunked"}]
)
def test_bodies_that_are_not_read(server, headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest.server_port, timeout=30)
    connection.putrequest("POST", "/v1/models/shop:predict")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400 and b"needs a Content-Length of at most 1048576 bytes" in answer.read()
    connection.close()


def test_a_client_that_is_still_sending_gets_the_answer(server):
    """Refused by its headers, it goes on with its body: the connection ends behind that and not in the middle of it."""
    with socket.create_connection(("127.0.0.1", server.rest.server_port), timeout=30) as client:
        client.sendall(b"POST /v1/models/shop:predict HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n")
        said = client.recv(1 << 16)  # it is refused by now
        for _ in range(16):
            client.sendall(b"x" * (1 << 16))
        client.shutdown(socket.SHUT_WR)
        while more := client.recv(1 << 16):
            said += more
    assert said.startswith(b"HTTP/1.1 400") and b"needs a Content-Length" in said


def test_a_full_queue_refuses(server, monkeypatch):
    monkeypatch.setattr(server.queue, "most", 0)
    assert _ask(server, "shop:predict", {**ONE, "instances": [1]}) == (429, {"error": "the server's queue is full"})
    monkeypatch.undo()
    assert _ask(server, "shop:predict", {**ONE, "instances": [1]})[0] == 200
