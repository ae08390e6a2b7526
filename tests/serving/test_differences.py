"""Each row of serving/README.md's table of differences to TF Serving is what the local server does."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from conftest import ROOT
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, model_management_pb2

from mmtfrs._keras import tf
from mmtfrs.exporting.request import predict_request
from serving.grpc_server import Server
from serving.model_list import read_models
from serving.servable import RequestError
from serving.served_model import ServedModel
from serving.services import Services

TABLE = (ROOT / "serving" / "README.md").read_text().split("| | TF Serving | the local server |\n|---|---|---|\n")[1]
ROWS = re.findall(r"^\| (.*?) \|", TABLE.split("\n\n")[0], re.M)


class Mixer(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.float32)])
    def mix(self, text, weight):
        return {"text": text, "sum": tf.reduce_sum(weight, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    module, folder = Mixer(), tmp_path_factory.mktemp("differences") / "m"
    tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": module.mix})
    return folder


@pytest.fixture
def server(folder):
    made = Server(folder, port=0, rest_port=0).start()
    yield made
    made.stop(0)


def _request(rows=1, width=2, **changes):
    inputs = {"text": np.full(rows, b"a", object), "weight": np.ones((rows, width), np.float32)} | changes
    return predict_request("m", "", {name: value for name, value in inputs.items() if value is not None})


def _refusal(server, method="Predict", request=None):
    with pytest.raises(RequestError) as caught:
        server.services.answer(method, request or _request())
    return f"{caught.value.code.name}: {caught.value}"


def tls(server, **_):
    with socket.create_connection(("127.0.0.1", server.port)) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        ssl._create_unverified_context().wrap_socket(raw)


def batching(server, monkeypatch, **_):
    both, seen = threading.Barrier(2), []
    servable = server.models["m"].get()
    run = servable._session.run

    def run_beside(*asked):
        seen.append(both.wait(30))  # the one waits for the other
        return run(*asked)

    monkeypatch.setattr(servable._session, "run", run_beside)
    calls = [server.queue.submit(server.services.answer, "Predict", _request()) for _ in range(2)]
    assert all(call.result(30).outputs["sum"].float_val == [2.0] for call in calls) and len(seen) == 2  # two runs at a time


def rows(server, **_):
    assert len(server.services.answer("Predict", _request(32)).outputs["sum"].float_val) == 32
    assert _refusal(server, request=_request(33)) == "INVALID_ARGUMENT: Task size 33 is larger than maximum input batch size 32"


def lists_without_width(server, **_):
    assert _refusal(server, request=_request(2, 0)).startswith("INVALID_ARGUMENT: input `weight` has no entries")


def outputs(server, monkeypatch, **_):
    servable, fetched = server.models["m"].get(), []
    run = servable._session.run
    monkeypatch.setattr(servable._session, "run", lambda fetches, *rest: fetched.extend(fetches) or run(fetches, *rest))
    request = _request()
    request.output_filter.append("sum")
    assert list(server.services.answer("Predict", request).outputs) == ["sum"] and sorted(fetched) == ["sum", "text"]


def wrong_types_and_shapes(server, **_):
    request = _request(weight=np.ones((1, 2), np.int64))
    assert _refusal(server, request=request) == "INVALID_ARGUMENT: input `weight` must be float32. Received: DT_INT64."


def default_inputs(server, **_):
    signature = server.models["m"].get().signature_defs["serving_default"]
    signature.defaults["weight"].CopyFrom(tf.make_tensor_proto(np.ones((1, 2), np.float32)))
    assert "Missing but required: {weight}" in _refusal(server, request=_request(weight=None))


def signatures_for_tf_example(server, **_):
    server.models["m"].get().signature_defs["serving_default"].method_name = "tensorflow/serving/classify"
    request = classification_pb2.ClassificationRequest(model_spec={"name": "m"})
    assert _refusal(server, "Classify", request).startswith("UNIMPLEMENTED: ")


def saved_model_init_op(server, folder, **_):
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=["signature_def"])
    packed = server.services.answer("GetModelMetadata", request).metadata["signature_def"].value
    assert list(get_model_metadata_pb2.SignatureDefMap.FromString(packed).signature_def) == ["serving_default"]
    assert b"__saved_model_init_op" in (folder / "1" / "saved_model.pb").read_bytes()


def a_broken_newest_version(folder, tmp_path, **_):
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "2").mkdir()
    model = ServedModel("m", tmp_path / "m")
    assert model.refresh() and model.current.version == 1


def labels_of_absent_versions(folder, **_):
    server = Server([ServedModel("m", folder, labels={"next": 9})], port=0)
    request = _request()
    request.model_spec.version_label = "next"
    assert _refusal(server, request=request) == "NOT_FOUND: Servable not found for request: Specific(m, 9)"


def reload_of_models_config(server, **_):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        call = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        call(model_management_pb2.ReloadConfigRequest().SerializeToString(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def relative_paths_in_models_config(folder, monkeypatch, **_):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "models.config").write_text('model_config_list { config { name: "m" base_path: "m" } }')
    (model,) = read_models("models.config")
    assert model.refresh()


def full_queue(server, monkeypatch, **_):
    assert server.queue.most == 4096
    monkeypatch.setattr(server.queue, "most", 0)
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(_request().SerializeToString(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def time(server, **_):
    assert server.services.seconds == 60
    server.services = Services(server.models, server.metrics, 0.0)
    assert _refusal(server).startswith("DEADLINE_EXCEEDED: ")


def metrics(server, **_):
    names = {family.name for family in server.metrics.registry.collect()}
    assert names and all(name.startswith("mmtfrs_") for name in names)


def rest(server, **_):
    url = f"http://127.0.0.1:{server.rest.server_port}/v1/models/m"
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    chunked = urllib.request.Request(f"{url}:predict", iter([b"{}"]), {"Transfer-Encoding": "chunked"})
    for refused in (urllib.request.Request(f"{url}:classify", b"{}"), chunked):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(refused, timeout=10)
    assert ask(url, timeout=10).status == ask(f"{url}/metadata", timeout=10).status == 200


@pytest.mark.parametrize("row", ROWS)
def test_a_difference_is_as_the_table_says(row, server, folder, tmp_path, monkeypatch):
    check = globals()[re.sub(r"\W+", "_", row.lower()).strip("_")]
    check(server=server, folder=folder, tmp_path=tmp_path, monkeypatch=monkeypatch)


def test_every_check_has_its_row():
    made = {name for name, value in globals().items() if callable(value) and getattr(value, "__module__", "") == __name__}
    checks = {name for name in made if not name.startswith(("_", "test_")) and name not in ("Mixer", "folder", "server")}
    assert checks == {re.sub(r"\W+", "_", row.lower()).strip("_") for row in ROWS} and len(ROWS) > 10
