"""A real server on a free port, asked by the real client and by raw stubs."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from conftest import run_cli, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from mmtfrs.cli.stops import AGAIN
from mmtfrs.errors import ExportError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query, predict_request, results
from serving.client import Client, ServingError
from serving.client import results as answers
from serving.grpc_server import Server
from serving.limits import proxy

SPEC, NONE = {"name": "small"}, {"name": "small", "signature_name": "none"}


@pytest.fixture(scope="module", params=["local", "tensorflow_model_server"])
def kind(request):
    """Which server: ours, and TF Serving's wherever it is installed."""
    if request.param != "local" and shutil.which(request.param) is None:
        pytest.skip("tensorflow_model_server is not on PATH: this ran against the local server alone")
    return request.param


class _TFServing:
    """The stock binary on a free port."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [
                "tensorflow_model_server",
                f"--port={self.port}",
                "--rest_api_port=0",
                f"--model_name={folder.name}",
                f"--model_base_path={folder.resolve()}",
                "--file_system_poll_wait_seconds=1",
                "--max_num_load_retries=0",
                "--enable_grpc_healthcheck_service",
            ]
        )
        with grpc.insecure_channel(f"localhost:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(120)

    def stop(self):
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def server(kind, exported):
    made = Server(exported, port=0).start() if kind == "local" else _TFServing(exported)
    yield made
    made.stop()


@pytest.fixture
def client(server):
    with Client(f"localhost:{server.port}", "small") as made:
        yield made


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def _request(signature="recommend_user", name="small", drop=(), **changes):
    _, inputs = Query("user-0003", ["item-0001"]).request()
    return predict_request(name, signature, {key: value for key, value in (inputs | changes).items() if key not in drop})


def _refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value.code().name, caught.value.details()


def test_answers_equal_the_model_in_this_process(client, exported, demo):
    loaded = LoadedModel(exported)
    picture, sound = next((demo / "image").glob("*.jpg")), next((demo / "audio").glob("*.flac"))
    for query in (
        {"user": "user-0003"},
        {"history": ["item-0001", "item-0002"], "exclude": ["item-0003"]},
        {"text": "a rocket", "image": picture, "audio": sound},
    ):
        expected = results(loaded.ask(*Query(**query).request()), 0, 10)
        found = client.recommend(**query, k=10)
        assert [item for item, _ in found] == [item for item, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-5)


def test_client_fills_absent_inputs(client):
    full = client.predict("serving_default", {"user_id": np.array([b"user-0003"], object)})
    assert results(full, 0, 5) == results(client.predict("recommend_user", {"user_id": np.array([b"user-0003"], object)}), 0, 5)
    many = client.predict("recommend_user", {"user_id": np.array([b"user-0003", b"x"], object)}, ["item_id"])
    assert list(many) == ["item_id"] and many["item_id"].shape == (2, 100)


def test_similar_items_and_status(client):
    found = client.similar_items("item-0005", k=5)
    assert len(found) == 5 and "item-0005" not in [item for item, _ in found]
    assert client.similar_items("item-0005", k=9, history=[found[0][0]], min_score=found[3][1]) == found[1:4]
    assert client.status()[1] == "AVAILABLE"


def test_popular_items(client):
    found = client.popular(k=5)
    scores = [score for _, score in found]
    assert len(found) == 5 and scores == sorted(scores, reverse=True) and scores[-1] > 0
    left = client.popular(k=5, history=[found[0][0]], exclude=[found[1][0]], min_score=scores[3])
    assert left[:2] == found[2:4] and all(score == scores[3] for _, score in left[2:])  # as many as are taken as often
    nobody = np.array([b""], object)
    assert results(client.predict("popular", {"user_id": nobody}), 0, 5) == found  # what is left out limits nothing


def test_metadata(client, stub):
    signatures = client.signatures()
    assert set(signatures["recommend_user"].inputs) == {"user_id", "history", "exclude"}
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    response = stub.GetModelMetadata(request)
    assert response.model_spec.version.value >= 1 and "signature_def" in response.metadata
    request.metadata_field[:] = []
    assert _refusal(stub.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"


def test_response_names_model_version_and_signature(stub):
    response = stub.Predict(_request())
    assert (response.model_spec.name, response.model_spec.signature_name) == ("small", "recommend_user")
    assert response.model_spec.version.value == 1
    request = _request()
    request.output_filter.append("score")
    assert list(stub.Predict(request).outputs) == ["score"]
    request.model_spec.version.value = 1
    assert list(stub.Predict(request).outputs) == ["score"]


def _version(request, number):
    request.model_spec.version.value = number
    return request


def _labeled(request, label):
    request.model_spec.version_label = label
    return request


def _filter(request, *names):
    request.output_filter.extend(names)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (lambda: _request(name="other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        (lambda: _version(_request(), 77), "NOT_FOUND", "Servable not found for request: Specific(small, 77)"),
        (lambda: _request(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (lambda: predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (lambda: _labeled(_request(), "none"), "INVALID_ARGUMENT", "Unrecognized servable version label: none"),
        (lambda: _request("nothing"), "FAILED_PRECONDITION", 'Serving signature key "nothing" not found.'),
        (lambda: _request(drop=["exclude"]), "INVALID_ARGUMENT", "Missing but required: {exclude}"),
        (lambda: _request(extra=np.array([1])), "INVALID_ARGUMENT", "Sent extra: {extra}"),
        (
            lambda: _request(drop=["exclude"], wrong=np.array([1])),
            "INVALID_ARGUMENT",
            "input tensor alias not found in signature: wrong",
        ),
        (lambda: _request(user_id=np.array([1, 2])), "INVALID_ARGUMENT", "input `user_id` must be string. Received: DT_INT64."),
        (lambda: _request(user_id="scalar"), "INVALID_ARGUMENT", "input `user_id` must have the shape [?]. Received: []."),
        (lambda: _request(history=np.array([b"a"], object)), "INVALID_ARGUMENT", "input `history` must have the shape [?, ?]"),
        (lambda: _filter(_request(), "nothing"), "INVALID_ARGUMENT", "output tensor alias not found in signature: nothing"),
        (lambda: _filter(_request(), "score", "score"), "INVALID_ARGUMENT", "duplicate output tensor alias: score"),
    ],
)
def test_refusals_as_tf_serving_words_them(stub, request_, code, text):
    found = _refusal(stub.Predict, request_())
    assert found[0] == code and text in found[1]


WAS = "signature method_name to be tensorflow/serving/{}. Was: tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        (
            "Classify",
            classification_pb2.ClassificationRequest(model_spec=SPEC),
            "Expected classification " + WAS.format("classify"),
        ),
        ("Regress", regression_pb2.RegressionRequest(model_spec=SPEC), "Expected regression " + WAS.format("regress")),
        (
            "MultiInference",
            inference_pb2.MultiInferenceRequest(tasks=[{"model_spec": SPEC, "method_name": "tensorflow/serving/regress"}]),
            "Expected regression " + WAS.format("regress"),
        ),
        ("Classify", classification_pb2.ClassificationRequest(model_spec=NONE), "No signature was found with the name: none"),
        ("Regress", regression_pb2.RegressionRequest(), "Missing ModelSpec"),
        ("MultiInference", inference_pb2.MultiInferenceRequest(), "ModelSpec has no name specified."),
        (
            "MultiInference",
            inference_pb2.MultiInferenceRequest(tasks=[{"model_spec": NONE}]),
            "Requested signature not found in model graph: none",
        ),
    ],
)
def test_signatures_of_tensors_answer_no_examples(server, method, request_, text):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}", type(request_).SerializeToString)
        assert _refusal(call, request_) == ("INVALID_ARGUMENT", text)


def test_lists_without_width(stub):
    code, text = _refusal(stub.Predict, _request(history=np.zeros((1, 0), object)))
    assert code == "INVALID_ARGUMENT" and 'input `history` has no entries; a list without entries is one ""' in text


def test_bytes_that_are_no_picture(client):
    """The row says so, the others are answered, and the client raises it."""
    asked = {"user_id": np.array([b"user-0003"] * 2, object), "image": np.array([b"no image", b""], object)}
    answer = client.predict("serving_default", asked)
    assert answer["problem"].tolist() == [b"image: the bytes are no PNG, JPEG, GIF or BMP image", b""]
    assert results(answer, 1)
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: image: the bytes are no PNG"):
        answers(answer, 0)


def test_a_tensor_that_lies_about_its_content(stub):
    request = _request()
    request.inputs["user_id"].tensor_shape.dim[0].size = 5
    request.inputs["user_id"].string_val[:] = [b"a", b"b"]
    assert _refusal(stub.Predict, request)[0] == "INVALID_ARGUMENT"


def test_rows_that_do_not_fit_each_other(stub):
    request = _request(user_id=np.array([b"a", b"b", b"c"], object))
    code, text = _refusal(stub.Predict, request)
    assert code == "INVALID_ARGUMENT" and "3" in text


def test_unknown_users_and_items_are_answered(client):
    found = client.recommend(user="never seen \0 \U0001f600", history=["no such item"], exclude=["nor this"], k=3)
    assert len(found) == 3


def test_health(server):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING


def test_status_of_unknown_models(server):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        request = get_model_status_pb2.GetModelStatusRequest()
        ask = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        assert _refusal(ask, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
        request.model_spec.name = "other"
        assert _refusal(ask, request) == ("NOT_FOUND", "Could not find any versions of model other")
        request.model_spec.version.value = 7
        assert _refusal(ask, request) == ("NOT_FOUND", "Could not find version 7 of model other")


@pytest.fixture
def growing(kind, tiny, tmp_path):
    """`(folder, client)` of a server whose model may get versions."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    server = Server(folder, port=0, poll=0.05).start() if kind == "local" else _TFServing(folder)
    with Client(f"localhost:{server.port}", "tiny") as client:
        yield folder, client
    server.stop()


@pytest.mark.slow
def test_new_versions_are_picked_up_and_corrupt_ones_are_not(growing):
    folder, client = growing
    shutil.copytree(folder / "1", folder / ".part-x")
    (folder / ".part-x" / "saved_model.pb").write_bytes(b"corrupt")
    (folder / ".part-x").rename(folder / "2")
    wait_until(lambda: client.status().get(2) == "END")
    assert client.status()[1] == "AVAILABLE" and client.recommend(user="u3", k=1)
    shutil.copytree(folder / "1", folder / ".part-y")
    (folder / ".part-y").rename(folder / "3")
    failures = []

    def ask(_):
        try:
            client.recommend(user="u3", k=1)
        except ServingError as error:
            failures.append(error)

    with ThreadPoolExecutor(4) as pool:
        while client.status().get(3) != "AVAILABLE":
            list(pool.map(ask, range(8)))
    assert not failures
    wait_until(lambda: client.status()[1] == "END")  # it is let go when the last request on it has been answered
    assert client.predict("recommend_user", {}, ["score"])


@pytest.mark.slow
def test_server_errors(tiny, tmp_path, server):
    with pytest.raises(ExportError, match="holds no version of a model"):
        Server(tmp_path, port=0)
    with pytest.raises(ExportError, match="the port is taken or not allowed"):
        Server(tiny, port=server.port)
    shutil.copytree(tiny / "1", tmp_path / "m" / "1")
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"corrupt")
    with pytest.raises(ExportError, match="no version can be loaded"):
        Server(tmp_path / "m", port=0)


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_proxies(server, monkeypatch, variable):
    """Nobody listens on port 1."""
    monkeypatch.setenv(variable, "http://me:secret@127.0.0.1:1")
    for target in ("localhost", "127.0.0.1"):
        with Client(f"{target}:{server.port}", "small", retries=0) as client:
            assert client.status()[1] == "AVAILABLE"
    with Client("192.0.2.1:8500", "small", retries=0, timeout=20) as client, pytest.raises(ServingError) as caught:
        client.status()
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert f"(by way of {variable}=127.0.0.1:1)" in str(caught.value) and "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "192.0.2.1")
    assert proxy("192.0.2.1:8500") == proxy("dns:///192.0.2.1:8500") == ("", [])
    assert proxy("dns:///pods:8500") == (f"{variable}=127.0.0.1:1", [])


def test_client_errors():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Client(f"localhost:{port}", "small", timeout=5) as client, pytest.raises(ServingError, match="UNAVAILABLE"):
        client.recommend(user="u")


@pytest.mark.slow
def test_commands_and_graceful_stop(tiny, jobs):
    server = jobs("serving.server", tiny, "--port", 0)
    line = server.line("serving tiny version 1 on 127.0.0.1:")
    ask = ("--target", line.rpartition(" ")[2], "--model")
    good = run_cli(*ask, "tiny", "recommend", "--user", "u3", "-k", 3, module="serving.client")
    assert good.returncode == 0 and len(re.findall(r"^ *[123]  .* i\d+", good.stdout, re.M)) == 3, good
    bad = run_cli(*ask, "other", "recommend", "--user", "u3", module="serving.client")
    assert bad.returncode == 1 and bad.stderr.strip() == "error: NOT_FOUND: Servable not found for request: Latest(other)"
    server.send(signal.SIGTERM)
    assert server.wait() == 143 and server.stdout.splitlines() == [line]
    assert server.stderr.splitlines()[-1] == AGAIN
