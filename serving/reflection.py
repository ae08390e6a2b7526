"""What grpcurl asks for: the services, described.

The published modules `prediction_service_pb2` and `model_service_pb2` cannot be imported with today's protobuf, so that their
services are described here, of the messages that can.
"""

from __future__ import annotations

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

_PACKAGE = "tensorflow.serving"
_METHODS = {
    "PredictionService": {"Predict": predict_pb2, "GetModelMetadata": get_model_metadata_pb2},
    "ModelService": {"GetModelStatus": get_model_status_pb2},
}
SERVICES = tuple(f"{_PACKAGE}.{name}" for name in _METHODS)


def add_reflection(server: grpc.Server) -> None:
    """Lets clients ask the server what it answers."""
    described = descriptor_pb2.FileDescriptorProto(name="mmtfrs_services.proto", package=_PACKAGE, syntax="proto3")
    for name, methods in _METHODS.items():
        service = described.service.add(name=name)
        for method, module in methods.items():
            stem = f".{_PACKAGE}.{method}"
            service.method.add(name=method, input_type=f"{stem}Request", output_type=f"{stem}Response")
            if module.DESCRIPTOR.name not in described.dependency:
                described.dependency.append(module.DESCRIPTOR.name)
    descriptor_pool.Default().Add(described)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
