"""One loaded version of a SavedModel, answering as TF Serving's RunPredict does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from mmtfrs.exporting.loaded import short_message
from mmtfrs.exporting.versions import reading
from serving.limits import MAX_MESSAGE, MAX_ROWS

DEFAULT_SIGNATURE = "serving_default"
Tensors = dict[str, tensor_pb2.TensorProto]


class RequestError(Exception):
    """A request that is answered with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> RequestError:
    """INVALID_ARGUMENT, the status of everything that is wrong with inputs."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


class Servable:
    """A version of a model.

    Args:
        path: the version's folder; its name is the version.

    Raises:
        mmtfrs.Error, or whatever TensorFlow raises, if it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        with reading(path):
            self._session, meta_graph = _load(path)
        self.version = int(path.name)
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = {
            name: signature for name, signature in meta_graph.signature_def.items() if name != "__saved_model_init_op"
        }
        self._path = path

    def warm_up(self) -> int:
        """Runs the version's warm-up records, as TF Serving does, and returns how many there were.

        Raises:
            RequestError: a record does not fit the signatures; the version is not fit to serve.
        """
        path = self._path / "assets.extra" / "tf_serving_warmup_requests"
        count = 0
        for record in tf.data.TFRecordDataset(str(path)) if path.exists() else ():
            request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
            self.predict(request.model_spec.signature_name or DEFAULT_SIGNATURE, dict(request.inputs), [])
            count += 1
        return count

    def predict(self, signature_name: str, inputs: Tensors, output_filter: list[str], seconds: float | None = None) -> Tensors:
        """Runs a signature, for so many seconds at most.

        Raises:
            RequestError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for missing, extra or unfit
                inputs, more rows than a batch has, unknown outputs, and inputs that the graph refuses, RESOURCE_EXHAUSTED
                for more elements than are taken, DEADLINE_EXCEEDED; the texts are TF Serving's.
        """
        signature = self.signature_defs.get(signature_name)
        if signature is None:
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
        _check_names(inputs, signature)
        values = {name: _array(name, inputs[name], info) for name, info in signature.inputs.items()}
        wanted = _wanted(output_filter, signature)
        feeds = {signature.inputs[name].name: value for name, value in values.items()}
        options = None if seconds is None else config_pb2.RunOptions(timeout_in_ms=max(int(1000 * seconds), 1))
        try:
            # Always all outputs: a session builds an executor, which takes seconds, for each set of them that is new to it.
            found = self._session.run({name: info.name for name, info in signature.outputs.items()}, feeds, options)
        except tf.errors.OpError as error:
            code = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
            raise RequestError(code, short_message(error)) from None
        return {name: _proto(found[name], tf.dtypes.as_dtype(signature.outputs[name].dtype)) for name in wanted}


def _load(path: Path) -> tuple[tf.compat.v1.Session, meta_graph_pb2.MetaGraphDef]:
    """As TF Serving loads it: tag `serve`, the names of tensors, Session.run."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # that this loader is an old one is no news to those who start a server
    try:
        session = tf.compat.v1.Session(graph=tf.Graph())
        return session, tf.compat.v1.saved_model.load(session, ["serve"], str(path))
    finally:
        logger.setLevel(level)


_STRING = 16  # bytes that a string takes at least
# Where Tensor::AsProtoField, by which TF Serving answers, puts the elements of each type.
FIELDS = {
    tf.as_dtype(each): field
    for field, names in {
        "int_val": ("int32", "int16", "int8", "uint16", "uint8"),
        "half_val": ("half", "bfloat16"),
        **{f"{name}_val": (name,) for name in ("float", "double", "bool", "int64", "uint32", "uint64", "string")},
    }.items()
    for each in names
}

_STATUS = {
    tf.errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    tf.errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    tf.errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    tf.errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def _check_names(inputs, signature) -> None:
    sent, known = set(inputs), set(signature.inputs)
    extra = sent - known
    if len(sent) != len(known):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} len({_listed(sent)}) != len({_listed(known)}). "
            f"Sent extra: {_listed(extra)}. Missing but required: {_listed(known - sent)}."
        )
    if extra:
        message = f"input tensor alias not found in signature: {min(extra)}. Inputs expected to be in the set {_listed(known)}."
        raise invalid(message)


def _array(name: str, proto: tensor_pb2.TensorProto, info: meta_graph_pb2.TensorInfo) -> np.ndarray:
    expected = tf.dtypes.as_dtype(info.dtype)
    if proto.dtype != info.dtype:
        received = types_pb2.DataType.Name(proto.dtype) if proto.dtype in types_pb2.DataType.values() else proto.dtype
        raise invalid(f"input `{name}` must be {expected.name}. Received: {received}.")
    shape = [dimension.size for dimension in info.tensor_shape.dim]
    sent = [dimension.size for dimension in proto.tensor_shape.dim]
    if len(sent) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, sent, strict=True)):
        wanted = ", ".join("?" if size == -1 else str(size) for size in shape)
        raise invalid(f"input `{name}` must have the shape [{wanted}]. Received: {sent}.")
    if min(sent, default=0) < 0:
        raise invalid(f"input `{name}` has a negative size. Received: {sent}.")
    if sent and sent[0] > MAX_ROWS:
        raise invalid(f"Task size {sent[0]} is larger than maximum input batch size {MAX_ROWS}")
    if any(
        want == -1 and not have for want, have in zip(shape[1:], sent[1:], strict=True)
    ):  # TF Serving fails the whole batch that such a request falls into
        raise invalid(f'input `{name}` has no entries; a list without entries is one "" (or 0) per row. Received: {sent}.')
    # One value may stand for a tensor of any size: what is sent bounds the message, not what it becomes.
    if _bytes(proto, math.prod(sent), expected) > MAX_MESSAGE:
        message = f"input `{name}` may have {MAX_MESSAGE >> 20} MiB. Received: {sent}."
        raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    try:
        return tf.make_ndarray(proto).reshape(sent)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name} ({str(error)[:200]})") from None


def _bytes(proto: tensor_pb2.TensorProto, count: int, dtype: tf.DType) -> int:
    """What a tensor of so many values takes; the last of those that were sent stands for all that were not."""
    if dtype != tf.string:
        return count * dtype.size
    sizes = list(map(len, proto.string_val))
    return count * _STRING + sum(sizes) + max(count - len(sizes), 0) * (sizes[-1] if sizes else 0)


def _proto(value: np.ndarray, dtype: tf.DType) -> tensor_pb2.TensorProto:
    value = np.asarray(value, dtype.as_numpy_dtype)  # a single string comes as bytes
    made = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in value.shape:
        made.tensor_shape.dim.add(size=size)
    bits = np.frombuffer(value.tobytes(), np.uint16) if FIELDS[dtype] == "half_val" else value.ravel()
    getattr(made, FIELDS[dtype]).extend(bits.tolist())
    return made


def _wanted(output_filter: list[str], signature) -> list[str]:
    for place, name in enumerate(output_filter):
        if name not in signature.outputs:
            known = _listed(signature.outputs)
            raise invalid(f"output tensor alias not found in signature: {name} Outputs expected to be in the set {known}.")
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return output_filter or list(signature.outputs)


def _listed(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"
