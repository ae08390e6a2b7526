"""TF Serving's PredictionService and ModelService over the served models, and what reflection says of them."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceServicer

from mmtfrs.exporting.request import model_spec
from serving.prometheus import Metrics
from serving.servable import DEFAULT_SIGNATURE, RequestError, Servable, invalid
from serving.served_model import ServedModel

log = logging.getLogger("serving")
_PACKAGE = "tensorflow.serving"
_METHODS = {
    "PredictionService": {"Predict": PredictRequest, "GetModelMetadata": GetModelMetadataRequest},
    "ModelService": {"GetModelStatus": GetModelStatusRequest},
}
SERVICES = tuple(f"{_PACKAGE}.{name}" for name in _METHODS)


def _answers(method):
    """Turns a RequestError into its gRPC status, anything unforeseen into INTERNAL without a traceback for clients, and a
    deadline that has passed in the queue into DEADLINE_EXCEEDED without any work; counts and logs the request. The method is
    told the seconds that are left."""

    @functools.wraps(method)
    def call(self, request, context):
        start = time.perf_counter()
        left = min(context.time_remaining(), self.seconds)
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
        model, signature = self._known_names(request.model_spec, method.__name__)
        self.metrics.observe(model, signature, code.name, seconds)
        log.debug("request", extra={"model": model, "signature": signature, "code": code.name, "ms": round(1000 * seconds, 2)})
        if response is None:
            context.abort(code, message)
        return response

    return call


class Services(PredictionServiceServicer, ModelServiceServicer):
    """Predict and GetModelMetadata of the one, GetModelStatus of the other.

    Args:
        models: by name; each has a version that answers.
        metrics: where requests are counted.
        seconds: requests that take longer are given up.
    """

    def __init__(self, models: Mapping[str, ServedModel], metrics: Metrics, seconds: float) -> None:
        self.models, self.metrics, self.seconds = models, metrics, seconds

    @_answers
    def Predict(self, request: PredictRequest, left: float) -> PredictResponse:
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self._leased(request.model_spec) as servable:
            outputs = servable.predict(signature, dict(request.inputs), list(request.output_filter), left)
        spec = model_spec(request.model_spec.name, signature, servable.version)
        return PredictResponse(model_spec=spec, outputs=outputs)

    @_answers
    def GetModelMetadata(self, request: GetModelMetadataRequest, _: float) -> GetModelMetadataResponse:
        with self._leased(request.model_spec) as servable:
            if not request.metadata_field:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for field in request.metadata_field:
                if field != "signature_def":
                    raise invalid(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse(model_spec=model_spec(request.model_spec.name, version=servable.version))
        response.metadata["signature_def"].Pack(SignatureDefMap(signature_def=servable.signature_defs))
        return response

    @_answers
    def GetModelStatus(self, request: GetModelStatusRequest, _: float) -> GetModelStatusResponse:
        name, wanted = request.model_spec.name, _version(request.model_spec)
        statuses = dict(self.models[name].statuses) if name in self.models else {}
        found = [version for version in sorted(statuses, reverse=True) if wanted in (None, version)]
        if not found:
            what = name if wanted is None else f"{name} version {wanted}"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {what}")
        response = GetModelStatusResponse()
        for version in found:
            status = statuses[version]
            entry = response.model_version_status.add(version=version, state=status.state)
            entry.status.error_code, entry.status.error_message = status.error_code, status.error_message
        return response

    @contextlib.contextmanager
    def _leased(self, spec) -> Iterator[Servable]:
        """The version that a request asks for. Raises `RequestError` NOT_FOUND in TF Serving's words."""
        if not spec.name:
            raise invalid("Missing ModelSpec")
        if spec.version_label:
            message = "version labels are TF Serving's; this server knows names and versions"
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, message)
        wanted, model = _version(spec), self.models.get(spec.name)
        with model.lease() if model is not None else contextlib.nullcontext() as current:
            if current is None or wanted not in (None, current.version):
                which = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
                raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
            yield current

    def _known_names(self, spec, method: str) -> tuple[str, str]:
        """What a request is counted under: names come from clients, and one that is not served would make a new series for
        every misspelling."""
        if spec.name not in self.models:
            return "unknown", method
        if method != "Predict":
            return spec.name, method
        signature = spec.signature_name or DEFAULT_SIGNATURE
        return spec.name, signature if signature in self.models[spec.name].current.signature_defs else "unknown"


def _version(spec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def add_reflection(server: grpc.Server) -> None:
    """Lets clients, as grpcurl, ask the server what it answers.

    The published modules `prediction_service_pb2` and `model_service_pb2` cannot be imported with today's protobuf, so that
    their services are described here, of the messages that can.
    """
    described = descriptor_pb2.FileDescriptorProto(name="mmtfrs_services.proto", package=_PACKAGE, syntax="proto3")
    for name, methods in _METHODS.items():
        service = described.service.add(name=name)
        for method, message in methods.items():
            stem = f".{_PACKAGE}.{method}"
            service.method.add(name=method, input_type=f"{stem}Request", output_type=f"{stem}Response")
            described.dependency.append(message.DESCRIPTOR.file.name)
    descriptor_pool.Default().Add(described)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
