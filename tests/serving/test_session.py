"""The C session: what it gives equals what TensorFlow's own loader gives, and it lets go of what it held."""

from __future__ import annotations

import resource
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import wait_until

from mmtfrs._keras import tf
from serving.client import Client, ServingError
from serving.grpc_server import Server
from serving.session import Session

TEXTS = [b"", b"a", b"exactly twenty-two byt", b"and this one has more than twenty-two", b"\0nul\0", "übergröße".encode()]


class Echo(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.float32)])
    def echo(self, text, number):
        tf.debugging.assert_equal(tf.shape(text)[0], tf.shape(number)[0], "rows")
        return {"text": tf.strings.join([text, b"!"]), "same": text, "double": number * 2, "count": tf.shape(text)[0],
                "half": tf.cast(number, tf.bfloat16), "flag": number > 0}  # fmt: skip

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def spin(self, rounds):
        return {"sum": tf.while_loop(lambda step, _: step < tf.reduce_max(rounds), lambda step, total: (step + 1, total + tf.sin(total)),
                                     (0, 1.0))[1]}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    module, path = Echo(), tmp_path_factory.mktemp("echo") / "1"
    tf.saved_model.save(module, str(path), signatures={"echo": module.echo, "spin": module.spin})
    return path


@pytest.fixture(scope="module")
def session(path):
    made = Session(path)
    made.signatures = {}
    with tf.compat.v1.Session(graph=tf.Graph()) as reference:
        graph = tf.compat.v1.saved_model.loader.load(reference, ["serve"], str(path))
        made.signatures = {name: graph.signature_def[name] for name in ("echo", "spin")}
    return made


def _run(session, signature, seconds=None, **inputs):
    known = session.signatures[signature]
    feeds = [(known.inputs[name].name, value) for name, value in inputs.items()]
    names = list(known.outputs)
    values = session.run(feeds, [known.outputs[name].name for name in names], seconds)
    return dict(zip(names, values, strict=True))


def test_strings_of_every_length_and_every_type_come_through(session):
    texts = np.array(TEXTS, object)
    numbers = np.arange(2.0 * len(TEXTS), dtype=np.float32).reshape(-1, 2) - 3
    found = _run(session, "echo", text=texts, number=numbers)
    assert found["text"].tolist() == [text + b"!" for text in TEXTS] and found["same"].tolist() == TEXTS
    np.testing.assert_array_equal(found["double"], numbers * 2)
    np.testing.assert_array_equal(found["half"].astype(np.float32), numbers)
    np.testing.assert_array_equal(found["flag"], numbers > 0)
    assert found["count"] == len(TEXTS) and found["count"].dtype == np.int32 and found["flag"].dtype == bool
    # Not contiguous, and no rows at all.
    turned = _run(session, "echo", text=texts[::-1], number=np.asfortranarray(numbers)[::-1])
    assert turned["same"].tolist() == TEXTS[::-1]
    np.testing.assert_array_equal(turned["double"], numbers[::-1] * 2)
    none = _run(session, "echo", text=texts[:0], number=numbers[:0])
    assert none["text"].shape == (0,) and none["double"].shape == (0, 2)


def test_errors_are_those_of_tensorflow(session, tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows"):
        _run(session, "echo", text=np.array(TEXTS, object), number=np.zeros((2, 2), np.float32))
    with pytest.raises(tf.errors.NotFoundError, match="no operation nothing"):
        session.run([], ["nothing:0"])
    with pytest.raises(tf.errors.NotFoundError):
        Session(tmp_path)


def test_a_run_ends_at_its_deadline(session):
    start = time.monotonic()
    with pytest.raises(tf.errors.DeadlineExceededError):
        _run(session, "spin", 0.3, rounds=np.array([2_000_000_000], np.int32))
    assert time.monotonic() - start < 10
    assert np.isfinite(_run(session, "spin", 60.0, rounds=np.array([10], np.int32))["sum"])  # it is none the worse for it


def test_a_cancelled_run_leaves_others_alone(session):
    found = []
    other = threading.Thread(target=lambda: found.append(_run(session, "spin", rounds=np.array([300_000], np.int32))))
    other.start()
    with pytest.raises(tf.errors.DeadlineExceededError):
        _run(session, "spin", 0.05, rounds=np.array([2_000_000_000], np.int32))
    other.join(60)
    assert len(found) == 1


@pytest.mark.slow
def test_the_server_gives_up_a_request_whose_client_no_longer_waits(path):
    server = Server(path.parent, "echo", port=0, seconds=2.0).start()
    try:
        for timeout in (0.5, 30.0):  # the client's own, and the server's
            with Client(f"localhost:{server.port}", "echo", timeout=timeout) as client, pytest.raises(ServingError) as caught:
                client.predict("spin", {"rounds": np.array([2_000_000_000], np.int32)})
            assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: not any(server.models["echo"]._in_flight.values()), 10)
    finally:
        server.stop()


def test_long_strings_are_let_go(session):
    texts = np.array([b"x" * (1 << 20)] * 8, object)

    def ask(times):
        for _ in range(times):
            _run(session, "echo", text=texts, number=np.zeros((8, 2), np.float32))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = ask(20)
    assert ask(100) - before < 200  # MiB; each round moves 8 in and 16 out
