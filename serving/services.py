"""TF Serving's PredictionService and ModelService over the served models: what each method answers, to gRPC and REST alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from mmtfrs.exporting.request import model_spec
from serving.prometheus import Metrics
from serving.servable import DEFAULT_SIGNATURE, RequestError, Servable, invalid
from serving.served_model import ServedModel

log = logging.getLogger("serving")
_PACKAGE = "tensorflow.serving"
_METHODS = {
    "PredictionService": {
        "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
        "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
        "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataResponse),
    },
    "ModelService": {
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse)
    },
}
SERVICES = tuple(f"{_PACKAGE}.{name}" for name in _METHODS)
_EXAMPLES = {"tensorflow/serving/classify": "classification", "tensorflow/serving/regress": "regression"}


class Services:
    """Answers requests.

    Args:
        models: by name.
        metrics: where requests are counted.
        seconds: requests that take longer are given up.
    """

    def __init__(self, models: Mapping[str, ServedModel], metrics: Metrics, seconds: float) -> None:
        self.models, self.metrics, self.seconds = models, metrics, seconds

    def answer(self, method: str, request: Message, left: float = float("inf")) -> Message:
        """The response to a request of a method, `Predict` for instance, whose client waits so many seconds more; counted.

        Raises:
            RequestError: it is refused, its time is over, or something went wrong that nobody foresaw: that is INTERNAL, and
                the log has the traceback.
        """
        start, code, left = time.perf_counter(), grpc.StatusCode.OK, min(left, self.seconds)
        try:
            if left <= 0:
                raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the request was begun")
            return getattr(self, f"_{method}")(request, left)
        except RequestError as error:
            code = error.code
            raise
        except Exception as error:
            log.exception("internal error", extra={"method": method, "kind": type(error).__name__})
            code = grpc.StatusCode.INTERNAL
            raise RequestError(code, "internal error; the server's log says more") from None
        finally:
            seconds = time.perf_counter() - start
            model, signature = self._known_names(_spec(request), method)
            self.metrics.observe(model, signature, code.name, seconds)
            fields = {"model": model, "signature": signature, "code": code.name, "ms": round(1000 * seconds, 2)}
            log.debug("request", extra=fields)

    def add_to(self, server: grpc.Server) -> None:
        """Registers both services and describes them to clients, as grpcurl, that ask by reflection."""
        for service, methods in _METHODS.items():
            handlers = {
                method: grpc.unary_unary_rpc_method_handler(
                    self._behavior(method), asked.FromString, answered.SerializeToString
                )
                for method, (asked, answered) in methods.items()
            }
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(f"{_PACKAGE}.{service}", handlers)])
        descriptor_pool.Default().Add(_described())
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    def _behavior(self, method: str):
        def behave(request: Message, context: grpc.ServicerContext) -> Message:
            try:
                return self.answer(method, request, context.time_remaining() if context.is_active() else 0.0)
            except RequestError as error:
                code, message = error.code, str(error)
            context.abort(code, message)

        return behave

    def _Predict(self, request, left: float) -> Message:
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        servable = self.servable(_checked(request))
        outputs = servable.predict(signature, dict(request.inputs), list(request.output_filter), left)
        return predict_pb2.PredictResponse(
            model_spec=model_spec(request.model_spec.name, signature, servable.version), outputs=outputs
        )

    def _GetModelMetadata(self, request, _: float) -> Message:
        _checked(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        servable = self.servable(request.model_spec)
        spec = model_spec(request.model_spec.name, version=servable.version)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        found = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
        response.metadata["signature_def"].Pack(found)
        return response

    def _GetModelStatus(self, request, _: float) -> Message:
        spec = _checked(request)
        statuses = dict(self.models[spec.name].statuses) if spec.name in self.models else {}
        if spec.HasField("version"):
            version = spec.version.value
            statuses = {version: statuses[version]} if version in statuses else {}
        if not statuses:
            which = f"version {spec.version.value}" if spec.HasField("version") else "any versions"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
        found = [status for _, status in sorted(statuses.items(), reverse=True)]
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=found)

    def _Classify(self, request, _: float) -> Message:
        self._refuse_examples(request, "tensorflow/serving/classify", "No signature was found with the name")

    def _Regress(self, request, _: float) -> Message:
        self._refuse_examples(request, "tensorflow/serving/regress", "No signature was found with the name")

    def _MultiInference(self, request, _: float) -> Message:
        method = request.tasks[0].method_name if request.tasks else ""
        self._refuse_examples(request, method, "Requested signature not found in model graph")

    def _refuse_examples(self, request, method: str, absent: str) -> None:
        """Raises what TF Serving says to requests of `tf.Example` for a signature that takes tensors, as all of ours."""
        signature = self.signature(_checked(request), absent + ": {}")
        if method not in _EXAMPLES or method == signature.method_name:
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")
        raise invalid(f"Expected {_EXAMPLES[method]} signature method_name to be {method}. Was: {signature.method_name}")

    def servable(self, spec: model_pb2.ModelSpec) -> Servable:
        """The version that a request asks for. Raises `RequestError` in TF Serving's words."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self.models.get(spec.name)
        version = spec.version.value if spec.HasField("version") else None
        if spec.version_label:
            version = model.labels.get(spec.version_label) if model is not None else None
            if version is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        servable = model.get(version) if model is not None else None
        if servable is None:
            which = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
        return servable

    def signature(self, spec: model_pb2.ModelSpec, absent: str = 'Serving signature name: "{}" not found in signature def'):
        """The SignatureDef that a request asks for. Raises `RequestError` INVALID_ARGUMENT with the text `absent`."""
        name = spec.signature_name or DEFAULT_SIGNATURE
        if (found := self.servable(spec).signature_defs.get(name)) is None:
            raise invalid(absent.format(name))
        return found

    def _known_names(self, spec, method: str) -> tuple[str, str]:
        """What a request is counted under: names come from clients, and one that is not served would make a new series for
        every misspelling."""
        servable = self.models[spec.name].current if spec.name in self.models else None
        if servable is None:
            return "unknown", method
        signature = spec.signature_name or DEFAULT_SIGNATURE
        return spec.name, method if method != "Predict" else signature if signature in servable.signature_defs else "unknown"


def _spec(request):
    """What a request says of its model; in a MultiInference the first task does."""
    if isinstance(request, inference_pb2.MultiInferenceRequest):
        return request.tasks[0].model_spec if request.tasks else model_spec("")
    return request.model_spec


def _checked(request):
    if not isinstance(request, inference_pb2.MultiInferenceRequest) and not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return _spec(request)


def _described() -> descriptor_pb2.FileDescriptorProto:
    """The published modules `prediction_service_pb2` and `model_service_pb2` cannot be imported with today's protobuf, so that
    their services are described here, of the messages that can."""
    described = descriptor_pb2.FileDescriptorProto(name="mmtfrs_services.proto", package=_PACKAGE, syntax="proto3")
    for name, methods in _METHODS.items():
        service = described.service.add(name=name)
        for method, (asks, answers) in methods.items():
            asked, answered = (f".{message.DESCRIPTOR.full_name}" for message in (asks, answers))
            service.method.add(name=method, input_type=asked, output_type=answered)
            if asks.DESCRIPTOR.file.name not in described.dependency:
                described.dependency.append(asks.DESCRIPTOR.file.name)
    return described
