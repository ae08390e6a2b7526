"""TF Serving's PredictionService and ModelService over the served models."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping

import grpc
from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.prometheus import Metrics
from serving.servable import DEFAULT_SIGNATURE, RequestError, Servable
from serving.served_model import ServedModel

log = logging.getLogger("serving")


def _answers(method):
    """Turns a RequestError into its gRPC status, anything unforeseen into INTERNAL without a traceback for clients, and a
    deadline that has passed in the queue into DEADLINE_EXCEEDED without any work; counts and logs the request. The method is
    told the seconds that are left."""

    @functools.wraps(method)
    def call(self, request, context):
        start = time.perf_counter()
        left = context.time_remaining()
        left = self.seconds if left is None else min(left, self.seconds)
        code, message, response = grpc.StatusCode.OK, "", None
        try:
            if left <= 0 or not context.is_active():
                raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the request was begun")
            response = method(self, request, left)
        except RequestError as error:
            code, message = error.code, str(error)
        except Exception as error:
            log.exception("internal error", extra={"method": method.__name__, "kind": type(error).__name__})
            code, message = grpc.StatusCode.INTERNAL, "internal error; the server's log says more"
        seconds = time.perf_counter() - start
        # Names come from clients: one that is not served would make a new series for every misspelling.
        known = request.model_spec.name in self.models
        model = request.model_spec.name if known else "unknown"
        signature = _known_signature(self.models, request) if method.__name__ == "Predict" and known else method.__name__
        self.metrics.observe(model, signature, code.name, seconds)
        log.debug("request", extra={"model": model, "signature": signature, "code": code.name, "ms": round(1000 * seconds, 2)})
        if response is None:
            context.abort(code, message)
        return response

    return call


class _Service:
    def __init__(self, models: Mapping[str, ServedModel], metrics: Metrics, seconds: float) -> None:
        self.models, self.metrics, self.seconds = models, metrics, seconds


class PredictionService(_Service, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    @_answers
    def Predict(self, request: predict_pb2.PredictRequest, left: float) -> predict_pb2.PredictResponse:
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with _leased(self.models, request.model_spec) as servable:
            outputs = servable.predict(signature, dict(request.inputs), list(request.output_filter), left)
        response = predict_pb2.PredictResponse()
        _fill_spec(response.model_spec, request.model_spec.name, servable.version, signature)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(value)
        return response

    @_answers
    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, _: float
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        with _leased(self.models, request.model_spec) as servable:
            if not request.metadata_field:
                raise RequestError(
                    grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
                )
            for field in request.metadata_field:
                if field != "signature_def":
                    raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
        packed = any_pb2.Any()
        packed.Pack(signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill_spec(response.model_spec, request.model_spec.name, servable.version)
        response.metadata["signature_def"].CopyFrom(packed)
        return response


class ModelService(_Service, model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    @_answers
    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, _: float
    ) -> get_model_status_pb2.GetModelStatusResponse:
        spec = request.model_spec
        wanted = spec.version.value if spec.HasField("version") else None
        statuses = dict(self.models[spec.name].statuses) if spec.name in self.models else {}
        if wanted is not None:
            statuses = {version: status for version, status in statuses.items() if version == wanted}
        if not statuses:
            what = spec.name if wanted is None else f"{spec.name} version {wanted}"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {what}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(statuses, reverse=True):
            status = statuses[version]
            entry = response.model_version_status.add(version=version, state=status.state)
            entry.status.error_code, entry.status.error_message = status.error_code, status.error_message
        return response


@contextlib.contextmanager
def _leased(models: Mapping[str, ServedModel], spec) -> Iterator[Servable]:
    """The version that a request asks for. Raises `RequestError` NOT_FOUND in TF Serving's words."""
    if not spec.name:
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
    if spec.version_label:
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED, "version labels are TF Serving's; this server knows names and versions"
        )
    wanted = spec.version.value if spec.HasField("version") else None
    model = models.get(spec.name)
    with model.lease() if model is not None else contextlib.nullcontext() as current:
        if current is None or wanted not in (None, current.version):
            which = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
        yield current


def _known_signature(models: Mapping[str, ServedModel], request) -> str:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    current = models[request.model_spec.name].current
    return name if current is not None and name in current.signature_defs else "unknown"


def _fill_spec(spec, name: str, version: int, signature: str = "") -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.value = version
