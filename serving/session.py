"""A SavedModel through TensorFlow's C API: loaded and run as TF Serving does it, without holding the interpreter.

What TensorFlow offers in Python imports a graph under the interpreter's lock, so that requests to the version that serves stand
still while the next one is loaded, and it gives a running request no deadline of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import weakref
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

_STRING = tf.string.as_datatype_enum
_STRING_BYTES = 24  # of a TF_TString, which is an empty one when all of them are zero


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (("data", c_char_p), ("length", c_size_t), ("deallocator", c_void_p))


class Session:
    """One SavedModel; many threads may run it at once.

    Args:
        path: folder of a SavedModel with the tag `serve`.

    Raises:
        tensorflow.errors.OpError: it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        c = _library()
        options, tags = c.TF_NewSessionOptions(), (c_char_p * 1)(b"serve")
        self._graph = c.TF_NewGraph()
        try:
            with _status() as status:
                self._session = c.TF_LoadSessionFromSavedModel(
                    options, None, str(path).encode(), tags, 1, self._graph, None, status
                )
        except tf.errors.OpError:
            c.TF_DeleteGraph(self._graph)
            raise
        finally:
            c.TF_DeleteSessionOptions(options)
        weakref.finalize(self, _delete, self._session, self._graph)
        self._found: dict[str, _Output] = {}

    def run(
        self, feeds: Sequence[tuple[str, np.ndarray]], fetches: Sequence[str], seconds: float | None = None
    ) -> list[np.ndarray]:
        """The values of tensors; strings are object arrays of bytes, here as in the feeds.

        Args:
            feeds: `(tensor, value)`, tensors by names as `op:0`.
            fetches: tensors by names.
            seconds: when they are over the run is given up; None for no bound.

        Raises:
            tensorflow.errors.OpError: the graph refuses the inputs; `DeadlineExceededError`: the seconds were over.
        """
        c = _library()
        inputs = (c_void_p * len(feeds))(*(_tensor(value) for _, value in feeds))
        outputs = (c_void_p * len(fetches))()
        try:
            with _status() as status:
                c.TF_SessionRun(self._session, _run_options(seconds), self._outputs([name for name, _ in feeds]), inputs,
                                len(feeds), self._outputs(fetches), outputs, len(fetches), None, 0, None, status)  # fmt: skip
            return [_array(tensor) for tensor in outputs]
        finally:
            for tensor in outputs:
                if tensor:
                    c.TF_DeleteTensor(tensor)
            for tensor, (_, value) in zip(inputs, feeds, strict=True):
                _release(tensor, value)

    def _outputs(self, names: Sequence[str]) -> ctypes.Array:
        return (_Output * len(names))(*(self._found.get(name) or self._find(name) for name in names))

    def _find(self, name: str) -> _Output:
        operation, _, index = name.partition(":")
        found = _library().TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise tf.errors.NotFoundError(None, None, f"the graph has no operation {operation}")
        return self._found.setdefault(name, _Output(found, int(index or 0)))


@functools.cache
def _library() -> ctypes.CDLL:
    """TensorFlow's own library, which is loaded already, with the types of what is called in it."""
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    c = ctypes.CDLL(str(next(folder.glob("libtensorflow_cc*"))))
    pointer, pointers = c_void_p, POINTER(c_void_p)
    for name, result, *arguments in (
        ("TF_NewGraph", pointer),
        ("TF_DeleteGraph", None, pointer),
        ("TF_NewSessionOptions", pointer),
        ("TF_DeleteSessionOptions", None, pointer),
        ("TF_LoadSessionFromSavedModel", pointer, pointer, pointer, c_char_p, POINTER(c_char_p), c_int, pointer,
         pointer, pointer),
        ("TF_DeleteSession", None, pointer, pointer),
        ("TF_SessionRun", None, pointer, POINTER(_Buffer), POINTER(_Output), pointers, c_int, POINTER(_Output), pointers, c_int,
         pointer, c_int, pointer, pointer),
        ("TF_GraphOperationByName", pointer, pointer, c_char_p),
        ("TF_NewStatus", pointer),
        ("TF_DeleteStatus", None, pointer),
        ("TF_GetCode", c_int, pointer),
        ("TF_Message", c_char_p, pointer),
        ("TF_AllocateTensor", pointer, c_int, POINTER(c_int64), c_int, c_size_t),
        ("TF_DeleteTensor", None, pointer),
        ("TF_TensorType", c_int, pointer),
        ("TF_TensorData", pointer, pointer),
        ("TF_TensorByteSize", c_size_t, pointer),
        ("TF_NumDims", c_int, pointer),
        ("TF_Dim", c_int64, pointer, c_int),
        ("TF_StringCopy", None, pointer, c_char_p, c_size_t),
        ("TF_StringDealloc", None, pointer),
        ("TF_StringGetDataPointer", pointer, pointer),
        ("TF_StringGetSize", c_size_t, pointer),
    ):  # fmt: skip
        function = getattr(c, name)
        function.restype, function.argtypes = result, arguments
    return c


@contextlib.contextmanager
def _status() -> Iterator[int]:
    """A status to hand over; raises what it says."""
    c = _library()
    status = c.TF_NewStatus()
    try:
        yield status
        code = c.TF_GetCode(status)
        if code:
            kind = tf.compat.v1.errors.exception_type_from_error_code(code)
            raise kind(None, None, c.TF_Message(status).decode(errors="replace"))
    finally:
        c.TF_DeleteStatus(status)


def _run_options(seconds: float | None) -> ctypes._Pointer | None:
    if seconds is None:
        return None
    data = config_pb2.RunOptions(timeout_in_ms=max(int(1000 * seconds), 1)).SerializeToString()
    return ctypes.pointer(_Buffer(data, len(data), None))


def _tensor(value: np.ndarray) -> int:
    """A TF_Tensor with a copy of an array."""
    c = _library()
    shape = (c_int64 * value.ndim)(*value.shape)
    if value.dtype != object:
        tensor = c.TF_AllocateTensor(tf.as_dtype(value.dtype).as_datatype_enum, shape, value.ndim, value.nbytes)
        ctypes.memmove(c.TF_TensorData(tensor), np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return tensor
    tensor = c.TF_AllocateTensor(_STRING, shape, value.ndim, value.size * _STRING_BYTES)
    place = c.TF_TensorData(tensor)
    ctypes.memset(place, 0, value.size * _STRING_BYTES)
    for number, text in enumerate(value.ravel().tolist()):
        if text:
            c.TF_StringCopy(place + number * _STRING_BYTES, text, len(text))
    return tensor


def _release(tensor: int, value: np.ndarray) -> None:
    """Deletes a tensor that `_tensor` made; its strings are ours to let go."""
    c = _library()
    if value.dtype == object:
        place = c.TF_TensorData(tensor)
        for number, text in enumerate(value.ravel().tolist()):
            if text:
                c.TF_StringDealloc(place + number * _STRING_BYTES)
    c.TF_DeleteTensor(tensor)


def _array(tensor: int) -> np.ndarray:
    """A copy of a tensor's values."""
    c = _library()
    shape = [c.TF_Dim(tensor, axis) for axis in range(c.TF_NumDims(tensor))]
    place, kind = c.TF_TensorData(tensor), c.TF_TensorType(tensor)
    if kind != _STRING:
        data = ctypes.string_at(place, c.TF_TensorByteSize(tensor))
        return np.frombuffer(data, tf.as_dtype(kind).as_numpy_dtype).reshape(shape)
    data = ctypes.string_at(place, c.TF_TensorByteSize(tensor))
    values = np.empty(len(data) // _STRING_BYTES, object)
    for number in range(len(values)):
        start = number * _STRING_BYTES
        head = data[start]
        if head & 3 == 0:  # up to 22 bytes stand in place, behind four times their count (ctstring_internal.h)
            values[number] = data[start + 1 : start + 1 + (head >> 2)]
        else:
            values[number] = ctypes.string_at(c.TF_StringGetDataPointer(place + start), c.TF_StringGetSize(place + start))
    return values.reshape(shape)


def _delete(session: int, graph: int) -> None:
    with contextlib.suppress(tf.errors.OpError), _status() as status:
        _library().TF_DeleteSession(session, status)
    _library().TF_DeleteGraph(graph)
