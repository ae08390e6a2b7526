"""TF Serving's REST interface over the same services: status, metadata, and predict in rows or in columns."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import model_pb2, predict_pb2
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

from mmtfrs.errors import ExportError
from serving.json_tensors import columns, plain, tensor_of
from serving.request_queue import FULL, RequestQueue
from serving.servable import RequestError, invalid
from serving.services import Services

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?"
_ROUTES = {"POST": re.compile(_MODEL + ":(predict)", re.I), "GET": re.compile(_MODEL + "(/metadata)?", re.I)}
# Values that equal their default are printed too; protobuf 5 renamed the setting.
_PRINT = ("always_print_fields_with_no_presence", "including_default_value_fields")
_DEFAULTS = {name: True for name in _PRINT if name in inspect.signature(json_format.MessageToDict).parameters}
_LINGER = 5.0  # seconds
_HTTP = {"NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "UNIMPLEMENTED": 501, "INTERNAL": 500, "DEADLINE_EXCEEDED": 504}


class RestServer(ThreadingHTTPServer):
    """Answers HTTP until `shutdown`; predictions, of at most so many bytes, wait in the queue of the gRPC requests.

    Raises:
        ExportError: the port is taken or not allowed.
    """

    def __init__(self, services: Services, queue: RequestQueue, host: str, port: int, most: int) -> None:
        self.services, self.queue, self.most = services, queue, most
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ExportError(f"{host}:{port} cannot be listened on ({error}). Use --rest-port.") from None
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True, name="rest").start()

    def answer(self, verb: str, path: str, body: bytes) -> dict:
        """The JSON of an answer. Raises `RequestError`."""
        if (found := _ROUTES[verb].fullmatch(path)) is None:
            raise invalid(f"Malformed request: {verb} {path}")
        name, version, label, what = found.groups()
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(name), version_label=urllib.parse.unquote(label or ""))
        if version:
            spec.version.value = int(version)
        if verb == "GET":
            status = GetModelStatusRequest(model_spec=spec)
            return self._metadata(spec) if what else _said(self.services.answer("GetModelStatus", status))
        try:
            if self.queue.full:
                raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, FULL)
            request, rows = self._request(spec, body)
        except RequestError as error:
            self.services.metrics.observe("unknown", "Predict", error.code.name)
            raise
        answer = self.queue.submit(self.services.answer, "Predict", request).result()
        outputs = {name: plain(name, tensor) for name, tensor in answer.outputs.items()}
        only = next(iter(outputs.values())) if len(outputs) == 1 else None
        if rows is None:
            return {"outputs": outputs if only is None else only}
        for name, value in outputs.items():
            if not isinstance(value, list) or len(value) != rows:
                raise invalid(f"Tensor name: {name} has inconsistent batch size or none, expecting: {rows}")
        return {"predictions": only or [{name: value[row] for name, value in outputs.items()} for row in range(rows)]}

    def _metadata(self, spec: model_pb2.ModelSpec) -> dict:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        answer = self.services.answer("GetModelMetadata", request)
        found = SignatureDefMap.FromString(answer.metadata["signature_def"].value)
        return {"model_spec": _said(answer.model_spec), "metadata": {"signature_def": _said(found)}}

    def _request(self, spec: model_pb2.ModelSpec, body: bytes) -> tuple[predict_pb2.PredictRequest, int | None]:
        """The request of a body, and its rows; None where it came in columns."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise invalid(f"JSON Parse error: {error}") from None
        if not isinstance(asked, dict) or len({"instances", "inputs"} & set(asked)) != 1:
            raise invalid("Missing 'inputs' or 'instances' key; a request has one of them")
        spec.signature_name = str(asked.get("signature_name", ""))
        inputs = self.services.signature(spec).inputs
        rows = None if "inputs" in asked else asked["instances"]
        values = asked["inputs"] if "inputs" in asked else columns(rows, inputs)
        if len(inputs) == 1 and not (isinstance(values, dict) and set(values) == set(inputs)):
            values = dict.fromkeys(inputs, values)  # the only input need not be named
        request = predict_pb2.PredictRequest(model_spec=spec)
        for name, info in inputs.items():
            if not isinstance(values, dict) or name not in values:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
            request.inputs[name].CopyFrom(tensor_of(values[name], tf.dtypes.as_dtype(info.dtype)))
        return request, None if rows is None else len(rows)


class _Handler(BaseHTTPRequestHandler):
    protocol_version, timeout = "HTTP/1.1", 60  # seconds that a client may be silent

    def do_GET(self) -> None:
        length, code, answer = self.headers.get("Content-Length", "0"), 200, {}
        unread = not length.isdecimal() or "Transfer-Encoding" in self.headers or int(length) > self.server.most
        try:
            if unread:
                raise invalid(f"a request needs a Content-Length of at most {self.server.most} bytes")
            answer = self.server.answer(self.command, self.path, self.rfile.read(int(length)))
        except RequestError as error:
            code, answer = _HTTP.get(error.code.name, 400), {"error": str(error)}
        body = json.dumps(answer, indent=1).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if unread:
            self._let_finish()

    def _let_finish(self) -> None:
        """Ends the connection as nginx does by `lingering_close`: a client that is still sending when it is closed would see a
        broken pipe instead of the answer. What comes is thrown away, for a while."""
        self.close_connection = True
        until = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER)
            while self.connection.recv(1 << 16) and time.monotonic() < until:
                pass

    do_POST = do_GET

    def log_message(self, *_) -> None:
        """The services log."""


def _said(message: Message) -> dict:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **_DEFAULTS)
