"""A loaded version: strings and numbers of every kind come through, errors have TF Serving's codes, runs end at their deadline."""

from __future__ import annotations

import collections
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import wait_until

from mmtfrs._keras import tf
from mmtfrs.exporting.request import predict_request
from serving.client import Client, ServingError
from serving.grpc_server import Server
from serving.request_queue import FULL
from serving.servable import RequestError, Servable

TEXTS = [b"", b"a", b"exactly twenty-two byt", b"and this one has more than twenty-two", b"\0nul\0", "übergröße".encode()]


class Echo(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.float32)])
    def echo(self, text, number):
        tf.debugging.assert_equal(tf.shape(text)[0], tf.shape(number)[0], "rows")
        return {
            "text": tf.strings.join([text, b"!"]),
            "same": text,
            "double": number * 2,
            "count": tf.shape(text)[0],
            "half": tf.cast(number, tf.bfloat16),
            "flag": number > 0,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, rounds):
        return {
            "sum": tf.while_loop(
                lambda step, _: step < tf.reduce_max(rounds), lambda step, total: (step + 1, total + tf.sin(total)), (0, 1.0)
            )[1]
        }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    module, path = Echo(), tmp_path_factory.mktemp("echo") / "1"
    tf.saved_model.save(module, str(path), signatures={"echo": module.echo, "spin": module.spin})
    return path


@pytest.fixture(scope="module")
def servable(path):
    return Servable(path)


def _run(servable, signature, seconds=None, **inputs):
    sent = {name: tf.make_tensor_proto(value) for name, value in inputs.items()}
    return {name: tf.make_ndarray(value) for name, value in servable.predict(signature, sent, [], seconds).items()}


def test_strings_of_every_length_and_every_type_come_through(servable):
    texts = np.array(TEXTS, object)
    numbers = np.arange(2.0 * len(TEXTS), dtype=np.float32).reshape(-1, 2) - 3
    found = _run(servable, "echo", text=texts, number=numbers)
    assert found["text"].tolist() == [text + b"!" for text in TEXTS] and found["same"].tolist() == TEXTS
    np.testing.assert_array_equal(found["double"], numbers * 2)
    np.testing.assert_array_equal(found["half"].astype(np.float32), numbers)
    np.testing.assert_array_equal(found["flag"], numbers > 0)
    assert found["count"] == len(TEXTS) and found["count"].dtype == np.int32 and found["flag"].dtype == bool
    none = _run(servable, "echo", text=texts[:0], number=numbers[:0])
    assert none["text"].shape == (0,) and none["double"].shape == (0, 2)


def test_answers_are_in_the_fields_that_tf_serving_fills(servable):
    sent = {"text": tf.make_tensor_proto(TEXTS[:2]), "number": tf.make_tensor_proto([[0.5, -2.0], [3.0, 4.0]])}
    found = servable.predict("echo", sent, [])
    assert list(found["double"].float_val) == [1.0, -4.0, 6.0, 8.0] and list(found["count"].int_val) == [2]
    assert list(found["flag"].bool_val) == [True, False, True, True] and list(found["same"].string_val) == TEXTS[:2]
    assert list(found["half"].half_val) == [0x3F00, 0xC000, 0x4040, 0x4080]  # bfloat16: the first half of float32's bits
    assert [dim.size for dim in found["double"].tensor_shape.dim] == [2, 2] and not found["count"].tensor_shape.dim
    assert not any(tensor.tensor_content for tensor in found.values())


def test_a_filter_takes_of_the_same_run(servable, monkeypatch):
    fetched = []
    run = type(servable._session).run
    monkeypatch.setattr(
        type(servable._session), "run", lambda self, fetches, *rest: fetched.append(fetches) or run(self, fetches, *rest)
    )
    sent = {"text": tf.make_tensor_proto(TEXTS[:1]), "number": tf.make_tensor_proto([[0.5, -2.0]])}
    for wanted in ([], ["text"], ["flag", "double"]):
        assert list(servable.predict("echo", sent, wanted)) == (wanted or list(servable.signature_defs["echo"].outputs))
    assert fetched[0] == fetched[1] == fetched[2]  # else the session would build an executor for each


@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        (np.full(33, b"", object), np.zeros((33, 2), np.float32), "^Task size 33 is larger than maximum input batch size 32$"),
        (np.full(2, b"", object), np.zeros((2, 0), np.float32), r"input `number` must have the shape \[\?, 2\]"),
    ],
)
def test_sizes_that_are_refused(servable, text, number, reason):
    with pytest.raises(RequestError, match=reason) as caught:
        _run(servable, "echo", text=text, number=number)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_one_long_string_does_not_stand_for_many(servable):
    """Five megabytes that stand for thirty rows are a hundred and fifty."""
    sent = {"text": tf.make_tensor_proto([b"g" * (5 << 20)]), "number": tf.make_tensor_proto(np.zeros((30, 2), np.float32))}
    sent["text"].tensor_shape.dim[0].size = 30
    with pytest.raises(RequestError, match=r"`text` may have 64 MiB. Received: \[30\]") as refused:
        servable.predict("echo", sent, [])
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    sent["text"].string_val[:] = [b"g" * (5 << 20), b"x"]  # the last one does
    assert servable.predict("echo", sent, ["same"])["same"].string_val[29] == b"x"


def test_what_the_graph_refuses_is_an_invalid_argument(servable):
    with pytest.raises(RequestError, match="rows") as caught:
        _run(servable, "echo", text=np.array(TEXTS, object), number=np.zeros((2, 2), np.float32))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_run_ends_at_its_deadline(servable):
    start = time.monotonic()
    with pytest.raises(RequestError) as caught:
        _run(servable, "spin", 0.3, rounds=np.array([2_000_000_000], np.int32))
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - start < 10
    assert np.isfinite(_run(servable, "spin", 60.0, rounds=np.array([10], np.int32))["sum"])  # it is none the worse for it


def test_a_cancelled_run_leaves_others_alone(servable):
    found = []
    other = threading.Thread(target=lambda: found.append(_run(servable, "spin", rounds=np.array([300_000], np.int32))))
    other.start()
    with pytest.raises(RequestError):
        _run(servable, "spin", 0.05, rounds=np.array([2_000_000_000], np.int32))
    other.join(60)
    assert len(found) == 1


def test_a_full_queue_refuses_every_call_and_counts_it(path, monkeypatch):
    server, come, leave = Server(path.parent, "echo", port=0, threads=1, queue=3), threading.Event(), threading.Event()
    monkeypatch.setattr(server.metrics, "began", lambda: come.wait(60))  # gRPC's thread waits here: calls pile up before it
    servable = server.models["echo"].get()
    predict = servable.predict
    monkeypatch.setattr(servable, "predict", lambda *asked: leave.wait(60) and predict(*asked))
    request = predict_request("echo", "echo", {"text": np.array([b"x"]), "number": np.zeros((1, 2), np.float32)})
    server.start()
    try:
        with Client(f"localhost:{server.port}", "echo", retries=0) as client:
            # More than the 3000 of gRPC's own limit, which ends calls with CANCELLED.
            calls = [client._prediction.Predict.future(request, timeout=60) for _ in range(4003)]
            come.set()
            wait_until(lambda: sum(call.done() for call in calls) == 4000, 30)
            leave.set()
            codes = collections.Counter((call.code().name, call.details()) for call in calls)
            assert codes == {("OK", ""): 3, ("RESOURCE_EXHAUSTED", FULL): 4000}
            wait_until(lambda: not server.queue.held, 10)
            assert client.predict("echo", {"text": np.array([b"x"], object), "number": np.zeros((1, 2), np.float32)})
    finally:
        come.set()
        leave.set()
        server.stop(0)
    labels = {"model": "unknown", "signature": "Predict", "code": "RESOURCE_EXHAUSTED"}
    assert server.metrics.registry.get_sample_value("mmtfrs_requests_total", labels) == 4000


@pytest.mark.slow
def test_the_server_gives_up_a_request_whose_client_no_longer_waits(path):
    server = Server(path.parent, "echo", port=0, seconds=2.0).start()
    try:
        for timeout in (0.5, 30.0):  # the client's own, and the server's
            with Client(f"localhost:{server.port}", "echo", timeout=timeout) as client, pytest.raises(ServingError) as caught:
                client.predict("spin", {"rounds": np.array([2_000_000_000], np.int32)})
            assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: not server.queue.held, 10)
    finally:
        server.stop()
