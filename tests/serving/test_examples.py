"""Clients in `serving/examples` and the requests of the README: what they send, and that they print what our own client is answered."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from conftest import ROOT
from tensorflow_serving.apis import prediction_service_pb2_grpc

from mmtfrs._keras import tf
from serving.client import Client
from serving.grpc_server import Server

EXAMPLES = ROOT / "serving" / "examples"
HISTORY = ["i3", "i9"]


class _Between(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Stands before a server, and keeps what is sent to it."""

    def __init__(self, stub):
        self._stub, self.requests, self.as_bytes = stub, [], False

    def Predict(self, request, context):
        self.requests.append(request)
        response = self._stub.Predict(request)
        score = tf.make_ndarray(response.outputs["score"])
        made = tf.make_tensor_proto(score)  # as bytes
        if not self.as_bytes:
            made.ClearField("tensor_content")
            made.float_val.extend(score.ravel())
        response.outputs["score"].CopyFrom(made)
        return response


@pytest.fixture(scope="module")
def server(tiny):
    made = Server(tiny, port=0).start()
    yield made
    made.stop()


@pytest.fixture
def client(server):
    with Client(f"localhost:{server.port}", "tiny") as made:
        yield made


@pytest.fixture(scope="module")
def between(server):
    with grpc.insecure_channel(f"localhost:{server.port}") as channel, ThreadPoolExecutor(2) as pool:
        made, front = _Between(prediction_service_pb2_grpc.PredictionServiceStub(channel)), grpc.server(pool)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(made, front)
        made.port = front.add_insecure_port("127.0.0.1:0")
        front.start()
        yield made
        front.stop(None).wait()


def _python(arguments, jobs):
    job = jobs(_run_script, str(EXAMPLES / "recommend.py"), arguments)
    assert job.wait() == 0, job.stderr
    return job.stdout


def _run_script(path, arguments):
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _node(arguments, jobs):
    if shutil.which("node") is None:
        pytest.skip("node is not on PATH")
    needed = "for (const name of ['@grpc/grpc-js', '@grpc/proto-loader']) require.resolve(name)"
    if subprocess.run(["node", "-e", needed], capture_output=True, cwd=EXAMPLES).returncode:
        pytest.skip(
            "@grpc/grpc-js and @grpc/proto-loader are not in NODE_PATH: npm install them anywhere, and name its node_modules"
        )
    command = ["node", str(EXAMPLES / "recommend.js"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("run", [_python, _node], ids=["python", "node"])
@pytest.mark.parametrize("text", ["", "a text about 3"])
def test_prints_what_our_client_is_answered(run, text, between, client, jobs):
    between.requests.clear()
    between.as_bytes = bool(text)  # servers may send numbers in either way
    printed = run([f"localhost:{between.port}", "tiny", "u3", ",".join(HISTORY), text], jobs)
    found = [line.split() for line in printed.splitlines()]
    expected = client.recommend(user="u3", history=HISTORY, text=text, k=10)
    assert [item for item, _ in found] == [item for item, _ in expected] and len(expected) == 10
    np.testing.assert_allclose([float(score) for _, score in found], [score for _, score in expected], atol=1e-5)
    assert expected != client.recommend(user="u3", k=10)  # what is sent matters
    (request,) = between.requests
    assert request.model_spec.signature_name == ("serving_default" if text else "recommend_user")
    _check_lists({name: tf.make_ndarray(value).tolist() for name, value in request.inputs.items()})
    assert tf.make_ndarray(request.inputs["history"]).tolist() == [[b"", *(item.encode() for item in HISTORY)]]


def _check_lists(inputs):
    """TF Serving's padding repeats what a list begins with; only "" may be repeated."""
    lists = [row for rows in inputs.values() for row in rows if isinstance(row, list)]
    assert len(lists) >= 2 and all(row[0] in (b"", "") for row in lists)


@pytest.mark.parametrize("name", ["recommend.py", "recommend.js"])
def test_needs_nothing_of_ours(name):
    text = (EXAMPLES / name).read_text()
    assert not re.search(r"mmtfrs|serving\.(client|grpc)", text) and len(text.splitlines()) < 50


def test_rest_requests_of_the_readme(client):
    bodies = [
        json.loads(body)
        for body in re.findall(r"curl -d '(\{.*?\})' \S+:predict", (ROOT / "serving/README.md").read_text(), re.S)
    ]
    assert {"inputs", "instances"} == {form for body in bodies for form in body} - {"signature_name"}
    for body in bodies:
        rows = body.get("instances")
        inputs = {name: [row[name] for row in rows] for name in rows[0]} if rows else body["inputs"]
        signature = body.get("signature_name", "serving_default")
        assert set(inputs) == set(client.signatures()[signature].inputs)
        _check_lists(inputs)
        sent = {name: np.vectorize(str.encode, [object])(np.array(value, object)) for name, value in inputs.items()}
        assert (client.predict(signature, sent)["item_id"] != b"").any(axis=1).all()
