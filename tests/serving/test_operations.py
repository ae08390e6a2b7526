"""What running a server needs: several models, metrics, reflection, limits, draining, and a client that tries again."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_cli, wait_until
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from mmtfrs.errors import ExportError
from mmtfrs.exporting.request import Query, predict_request
from serving.client import Client, ServingError
from serving.grpc_server import Server
from serving.limits import sizes
from serving.model_list import read_models
from serving.prometheus import JsonLines
from serving.served_model import ServedModel, State


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    """A models.config of two models; the second may serve version 1 alone."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny, folder / "one")
    shutil.copytree(tiny / "1", folder / "two" / "1")
    shutil.copytree(tiny / "1", folder / "two" / "2")
    path = folder / "models.config"
    path.write_text(f"""model_config_list {{
      config {{ name: "one" base_path: "{folder / "one"}" model_platform: "tensorflow" }}
      config {{ name: "two" base_path: "{folder / "two"}" model_platform: "tensorflow"
               model_version_policy {{ specific {{ versions: 1 }} }} }}
    }}""")
    return path


@pytest.fixture(scope="module")
def server(config):
    made = Server(read_models(config), port=0, poll=0.05).start()
    yield made
    made.stop()


def test_several_models(server):
    with Client(f"localhost:{server.port}", "one") as one, Client(f"localhost:{server.port}", "two") as two:
        assert one.recommend(user="u3", k=3) == two.recommend(user="u3", k=3)
        assert two.status() == {1: "AVAILABLE"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no config",
        'model_config_list { config { name: "a" base_path: "/nowhere" } }',
        'model_config_list { config { base_path: "/x" } }',
    ],
)
def test_bad_models_config(tmp_path, text):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ExportError):
        read_models(tmp_path / "models.config")
    with pytest.raises(ExportError, match=r"this is no models\.config"):
        read_models(tmp_path / "nothing")


@pytest.mark.slow
def test_metrics_count_by_signature_and_code(tiny):
    server = Server(tiny, "one", port=0).start()  # its counts are of this test alone
    http = server.metrics.serve(0, "127.0.0.1")
    with Client(f"localhost:{server.port}", "one") as client:
        client.similar_items("i5")
        with pytest.raises(ServingError):
            client.predict("nothing-such", {"item_id": np.array([b"x"], object)})
    text = (
        urllib.request.build_opener(urllib.request.ProxyHandler({}))
        .open(f"http://127.0.0.1:{http.server_port}/metrics")
        .read()
        .decode()
    )
    http.shutdown()
    server.stop(0)
    assert 'mmtfrs_requests_total{code="OK",model="one",signature="similar_items"} 1.0' in text
    assert 'mmtfrs_requests_total{code="FAILED_PRECONDITION",model="one",signature="unknown"} 1.0' in text
    assert 'mmtfrs_latency_seconds_count{model="one",signature="similar_items"} 1.0' in text


def test_ports_and_sizes_that_cannot_be(server):
    with pytest.raises(ExportError, match="Use --metrics-port"):
        server.metrics.serve(server.port, "127.0.0.1")
    for option, value in (("--port", 65536), ("--metrics-port", -1), ("--max-mib", 2048)):
        done = run_cli("folder", option, value, module="serving.server")
        assert done.returncode == 2 and f"Invalid value for '{option}'" in done.stderr


def test_log_lines_are_json_without_what_users_sent(server, capsys):
    lines = []
    handler = logging.Handler()
    handler.setFormatter(JsonLines())
    handler.emit = lambda record: lines.append(handler.format(record))
    log = logging.getLogger("serving")
    before = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        with Client(f"localhost:{server.port}", "one") as client:
            client.recommend(user="secret-user", history=["secret-item"], k=1)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    records = [json.loads(line) for line in lines]
    (record,) = [each for each in records if each["event"] == "request" and each["signature"] == "recommend_user"]
    assert record["code"] == "OK" and record["model"] == "one" and record["ms"] > 0 and "secret" not in "".join(lines)


def test_reflection_describes_the_service(server):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        described = ProtoReflectionDescriptorDatabase(channel)
        assert {"tensorflow.serving.PredictionService", "grpc.health.v1.Health"} <= set(described.get_services())
        file = described.FindFileContainingSymbol("tensorflow.serving.PredictionService")
        methods = {service.name: [method.name for method in service.method] for service in file.service}
        predictions = ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]
        assert methods == {"PredictionService": predictions, "ModelService": ["GetModelStatus"]}
        assert "PredictRequest" in str(described.FindFileContainingSymbol("tensorflow.serving.PredictRequest"))


def test_a_batch_of_queries_is_answered_as_one_by_one(server):
    queries = [
        Query("u3"),
        Query(text="a rocket"),
        Query("u13", ["i1", "i2"]),
        Query("u23", diversity=0.5),
        Query(history=["i9"], exclude=["i1"]),
    ]
    with Client(f"localhost:{server.port}", "one") as client:
        for batch in (1, 2, 32):
            many = client.recommend_many(queries, 10, batch)
            for query, found in zip(queries, many, strict=True):
                alone = client.recommend(query, 10)
                np.testing.assert_allclose([score for _, score in found], [score for _, score in alone], atol=1e-5)
                assert len({item for item, _ in found} & {item for item, _ in alone}) >= 9


def test_titles_of_more_items_than_a_request_has_rows(server):
    ids = [f"i{n}" for n in range(60)]
    with Client(f"localhost:{server.port}", "one") as client:
        found = client.titles(ids)
        assert len(set(found)) == 60 and found[:2] + found[50:] == client.titles([*ids[:2], *ids[50:]])


class _Flaky(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Refuses a few times with a code, then answers."""

    def __init__(self, code, times):
        self.code, self.times, self.calls = code, times, 0

    def Predict(self, request, context):
        self.calls += 1
        if self.calls <= self.times:
            context.abort(self.code, "not now")
        response = predict_pb2.PredictResponse()
        response.outputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        return response


@contextlib.contextmanager
def _serving(flaky, port=0):
    """A server's port while it answers; stopped at once afterwards."""
    made = grpc.server(ThreadPoolExecutor(2), options=[*sizes(), ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(flaky, made)
    port = made.add_insecure_port(f"127.0.0.1:{port}")
    made.start()
    yield port
    made.stop(0).wait()


def _asking(port, **options):
    """A client that takes the signature `s` for granted."""
    client = Client(f"127.0.0.1:{port}", "m", **options)
    client._signatures = {"s": type("S", (), {"inputs": {}})}
    return client


@pytest.mark.parametrize(
    "code, times, calls",
    [
        (grpc.StatusCode.UNAVAILABLE, 2, 3),
        (grpc.StatusCode.UNAVAILABLE, 9, 4),
        (grpc.StatusCode.INTERNAL, 1, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1, 1),
    ],
)
def test_only_unavailable_is_tried_again(code, times, calls):
    flaky = _Flaky(code, times)
    with _serving(flaky) as port, _asking(port, backoff=0.01) as client:
        for values in (np.zeros(1), np.zeros(1 << 20)):  # as a picture's, more bytes than gRPC keeps by itself for a repetition
            flaky.calls = 0
            if calls > times:
                assert client.predict("s", {"a": values})["x"] == [1.0]
            else:
                with pytest.raises(ServingError, match=rf"^{code.name}: not now$"):
                    client.predict("s", {"a": values})
            assert flaky.calls == calls


@pytest.mark.parametrize("retries, calls", [(0, 1), (1, 2), (4, 5), (9, 5)])
def test_so_many_repetitions_as_are_asked_for(retries, calls):
    flaky = _Flaky(grpc.StatusCode.UNAVAILABLE, 20)
    with (
        _serving(flaky) as port,
        _asking(port, retries=retries, backoff=0.0001) as client,
        pytest.raises(ServingError, match="UNAVAILABLE: not now"),
    ):
        client.predict("s", {"a": np.zeros(1)})
    assert flaky.calls == calls


def test_a_server_that_restarts_is_survived():
    flaky, lost = _Flaky(grpc.StatusCode.OK, 0), threading.Event()
    with _serving(flaky) as port:
        client = _asking(port)
        client.predict("s", {"a": np.zeros(1)})
        client._channel.subscribe(lambda state: state == grpc.ChannelConnectivity.TRANSIENT_FAILURE and lost.set())
    with client:
        assert lost.wait(60)
        with _serving(flaky, port):
            assert client.predict("s", {"a": np.zeros(1)})["x"] == [1.0]


def test_repetitions_end_at_the_deadline():
    flaky = _Flaky(grpc.StatusCode.UNAVAILABLE, 9)
    with _serving(flaky) as port, _asking(port, timeout=0.5, backoff=60.0) as client, pytest.raises(ServingError) as caught:
        client.predict("s", {"a": np.zeros(1)})
    assert flaky.calls == 1 and caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def _empty(servable, signature):
    """A request of one row that says nothing."""
    made = {}
    for name, info in servable.signature_defs[signature].inputs.items():
        dtype = tf.dtypes.as_dtype(info.dtype)
        made[name] = tf.make_tensor_proto(np.full([1] * len(info.tensor_shape.dim), b"" if dtype == tf.string else 0), dtype)
    return made


@pytest.mark.slow
def test_the_old_version_is_kept_until_its_last_request_is_answered(tiny, tmp_path):
    shutil.copytree(tiny / "1", tmp_path / "m" / "1")
    model = ServedModel("m", tmp_path / "m")
    assert model.refresh()
    held = model.get()  # as a request holds it
    shutil.copytree(tiny / "1", tmp_path / "m" / "2")
    assert model.refresh() and model.current.version == 2
    assert model.get(1) is None and held.version == 1 and model.statuses[1].state == State.UNLOADING
    assert held.predict("popular", _empty(held, "popular"), ["score"])
    del held
    assert model.statuses[1].state == State.END


def test_a_version_whose_warm_up_fails_does_not_serve(tiny, tmp_path):
    shutil.copytree(tiny / "1", tmp_path / "m" / "1")
    with tf.io.TFRecordWriter(str(tmp_path / "m" / "1" / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(b"\xff\xff no prediction log")
    model = ServedModel("m", tmp_path / "m")
    assert not model.refresh() and model.current is None and model.statuses[1].status.error_message


@pytest.mark.slow
def test_load_is_open_loop_and_counts_what_was_answered(server, tmp_path):
    options = ["--rate", "40", "--seconds", "2", "--warmup", "0.1", "--user", "u3", "--picture", tmp_path / "l.png"]

    def load(model, *more):
        return run_cli("--target", f"localhost:{server.port}", "--model", model, *more, module="serving.loadtest")

    done = load("one", *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == 80 and found["errors"] == {} and found["signature"] == "recommend_user"
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")
    done = load("none")
    assert done.returncode == 1 and done.stderr.startswith("error: NOT_FOUND")


def _raw(port):
    return grpc.insecure_channel(f"localhost:{port}", options=[("grpc.max_send_message_length", 256 << 20)])


def test_requests_that_are_too_large_are_refused_and_the_server_lives(server):
    request = predict_request("one", "", {"text": np.array([b"x" * (65 << 20)], object)})
    calls = server.metrics.registry.get_sample_value
    before = calls("mmtfrs_calls_total")
    with _raw(server.port) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert calls("mmtfrs_calls_total") == before + 1
    with Client(f"localhost:{server.port}", "one") as client:
        assert client.recommend(user="u3", k=1)


def test_clients_that_hang_up_leave_no_trace(server):
    request = predict_request("one", "recommend_user", {})
    with _raw(server.port) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for _ in range(50):
            stub.Predict.future(request).cancel()
    wait_until(lambda: not server.queue.held)


@pytest.mark.slow
def test_a_thousand_clients_at_once(server):
    request = predict_request("one", *Query("u3").request())
    channels = [
        grpc.insecure_channel(f"localhost:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(1000)
    ]
    try:
        calls = [
            prediction_service_pb2_grpc.PredictionServiceStub(each).Predict.future(request, timeout=120) for each in channels
        ]
        answers = [tf.make_ndarray(call.result().outputs["score"])[0, 0] for call in calls]
    finally:
        for channel in channels:
            channel.close()
    assert len(answers) == 1000 and len(set(np.round(answers, 4))) == 1
