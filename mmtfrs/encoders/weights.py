"""Weights of other people's networks: read without running anything, and taken one by one, by name and shape."""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.errors import EncoderError, first_line

_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": lambda values: tf.nn.gelu(values, approximate=False),
    "gelu_new": lambda values: tf.nn.gelu(values, approximate=True),
    "gelu_pytorch_tanh": lambda values: tf.nn.gelu(values, approximate=True),
    "quick_gelu": lambda values: values * tf.sigmoid(1.702 * values),
    "relu": tf.nn.relu,
}


_Origin = Callable[[np.ndarray], dict[str, np.ndarray]]  # a variable's values -> the file's tensors that it was made of


class Weights:
    """The tensors of a file, until each has found its place.

    Args:
        arrays: by name.
        path: of the file, for what is told.
        prefixes: that all names may begin with, and which are left out.

    Attributes:
        variables: what a SavedModel must carry.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], path: Path, prefixes: Sequence[str] = ()) -> None:
        self.variables: list[tf.Variable] = []
        self._origins: list[_Origin | None] = []
        self._path = path
        self._arrays, self._names = {}, {}
        for full, values in arrays.items():
            prefix = next((prefix for prefix in prefixes if full.startswith(prefix)), "")
            name = (
                full[len(prefix) :].replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            )
            self._arrays[name], self._names[name] = values, full

    def setting(self, config: Mapping[str, Any], *names: str) -> Any:
        """A setting of the network by any of its names."""
        for name in names:
            if name in config:
                return config[name]
        raise EncoderError(f"{self._path.parent / 'config.json'}: has no `{names[0]}`.")

    def check_heads(self, heads: int, width: int) -> None:
        if heads < 1 or width % heads:
            raise EncoderError(f"{self._path.parent / 'config.json'}: {heads} heads do not divide a width of {width}.")

    def activation(self, name: str) -> Callable[[tf.Tensor], tf.Tensor]:
        if name not in _ACTIVATIONS:
            raise EncoderError(
                f"{self._path.parent / 'config.json'}: unknown activation `{name}`; known are {', '.join(_ACTIVATIONS)}."
            )
        return _ACTIVATIONS[name]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._arrays:
            raise EncoderError(
                f"{self._path}: the weights have no `{name}`. Is the file of the model that config.json describes?"
            )
        return self._arrays[name].shape

    def take(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """One tensor, which is not there any more then. Raises `EncoderError` where it is missing or of another shape."""
        found = self.shape(name)
        if found != tuple(shape):
            raise EncoderError(f"{self._path}: `{name}` has the shape {found}, and config.json says {tuple(shape)}.")
        return self._arrays.pop(name).astype(np.float32)

    def keep(self, values: np.ndarray, origin: _Origin | None = None) -> tf.Variable:
        """A variable; it can be trained where it is known which tensors it came from."""
        self.variables.append(tf.Variable(values, trainable=origin is not None))
        self._origins.append(origin)
        return self.variables[-1]

    def tensors(self) -> dict[str, np.ndarray]:
        """What the file would hold of the variables that can be trained, as they are now."""
        pairs = zip(self.variables, self._origins, strict=True)
        made = [origin(variable.numpy()) for variable, origin in pairs if origin is not None]
        return {self._names[name]: values for tensors in made for name, values in tensors.items()}

    def dense(self, names: Sequence[str], inputs: int, outputs: int, scale: str = "") -> tuple[tf.Variable, tf.Variable]:
        """`(kernel [I, n O], bias [n O])` of layers that take the same, side by side; their outputs scaled by a tensor."""
        factor = self.take(scale, (outputs,)) if scale else np.float32(1.0)
        kernels = [self.take(f"{name}.weight", (outputs, inputs)).T * factor for name in names]
        biases = [self.take(f"{name}.bias", (outputs,)) * factor for name in names]
        scales = {scale: np.ones(outputs, np.float32)} if scale else {}  # they are in the kernels

        def written(kind: str) -> _Origin:
            def origin(values: np.ndarray) -> dict[str, np.ndarray]:
                parts = np.split(values, len(names), axis=-1)
                return {f"{name}.{kind}": part.T for name, part in zip(names, parts, strict=True)} | scales

            return origin

        return self.keep(np.concatenate(kernels, axis=1), written("weight")), self.keep(np.concatenate(biases), written("bias"))

    def matrix(self, name: str, inputs: int, outputs: int) -> tf.Variable:
        """The kernel `[I, O]` of a layer without a bias."""
        return self.keep(self.take(f"{name}.weight", (outputs, inputs)).T.copy())

    def patches(self, name: str, width: int, patch: int) -> tf.Variable:
        """The kernel `[patch * patch * 3, width]` of a layer that makes a token of each square of an image."""
        kernel = self.take(f"{name}.weight", (width, 3, patch, patch))
        return self.keep(kernel.transpose(2, 3, 1, 0).reshape(-1, width))

    def norm(self, name: str, width: int) -> tuple[tf.Variable, tf.Variable]:
        """`(scale, shift)`."""
        scale, shift = f"{name}.weight", f"{name}.bias"
        return (
            self.keep(self.take(scale, (width,)), lambda values: {scale: values}),
            self.keep(self.take(shift, (width,)), lambda values: {shift: values}),
        )

    def check_empty(self, known: Sequence[str] = ()) -> None:
        """Raises `EncoderError` where tensors are left that do not begin with what is known to be of no use here."""
        left = [name for name in self._arrays if not name.startswith(tuple(known))]
        if left:
            some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            raise EncoderError(
                f"{self._path}: {len(left)} tensors have no place in this network: {some}. Does config.json fit?"
            )
        self._arrays.clear()


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file. Raises `EncoderError` where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{path}: not a readable safetensors file ({first_line(error)}). Download it again.") from None


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state that PyTorch has written, zipped or as an old pickle, without PyTorch and without running
    anything that the file names: it may hold tensors, numbers, texts and dictionaries of these.

    Raises:
        EncoderError: it is damaged, or names anything else.
    """
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
        return {name: values.copy() for name, values in state.items() if isinstance(values, np.ndarray)}
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(f"{path}: not a readable PyTorch file ({first_line(error)}). Download it again.") from None


class _Storage:
    """A run of numbers that tensors are views of; read when all names are known."""

    def __init__(self, dtype: np.dtype, key: str, size: int) -> None:
        self.dtype, self.key, self.size = dtype, key, size
        self.values = np.zeros(size, dtype)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a storage has no state")  # a pickle could set its size to another one


_DTYPES = {
    **{f"{name}Storage": dtype for name, dtype in (("Float", "f4"), ("Double", "f8"), ("Half", "f2"), ("Long", "i8"))},
    **{
        f"{name}Storage": dtype
        for name, dtype in (("Int", "i4"), ("Short", "i2"), ("Char", "i1"), ("Byte", "u1"), ("Bool", "?"))
    },
}


def _tensor(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A view of its storage, which is filled later."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if all(size) else -1
    if not isinstance(storage, _Storage) or offset < 0 or min(stride, default=0) < 0 or last >= storage.values.size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * storage.dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.values[offset:], size, strides, writeable=False)


class _Reader(pickle.Unpickler):
    """Refuses every name but those of tensors."""

    def __init__(self, file: IO[bytes], storages: dict[str, _Storage], most: int) -> None:
        super().__init__(file)
        self._storages, self._most = storages, most

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise EncoderError(
            f"the file names {module}.{name}, which is no tensor: nothing of it was run. "
            "Convert it to safetensors if you trust it."
        )

    def persistent_load(self, found: tuple) -> _Storage:
        kind, dtype, key, _, size, *_ = found
        if kind != "storage" or not isinstance(dtype, np.dtype) or not 0 <= size * dtype.itemsize <= self._most:
            raise ValueError("unknown storage")
        if key not in self._storages:
            self._storages[key] = _Storage(dtype, key, size)
        return self._storages[key]


def _read_zip(path: Path) -> Mapping[str, Any]:
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(path) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith("/data.pkl"))
        with packed.open(name) as file:
            state = _Reader(file, storages, path.stat().st_size).load()
        for storage in storages.values():
            member = f"{name[: -len('data.pkl')]}data/{storage.key}"
            if packed.getinfo(member).file_size != storage.values.nbytes:
                raise ValueError("a storage has another size than said")
            data = packed.read(member)
            storage.values[:] = np.frombuffer(data, storage.dtype, storage.size)
    return state


def _read_old(path: Path) -> Mapping[str, Any]:
    """Three pickles of little worth, the state, the names of its storages, and each one's size and numbers."""
    storages: dict[str, _Storage] = {}
    most = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(3):
            _Reader(file, {}, most).load()
        state = _Reader(file, storages, most).load()
        for key in _Reader(file, {}, most).load():
            (size,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            if size != storage.size:
                raise ValueError("a storage has another size than said")
            storage.values[:] = np.frombuffer(file.read(size * storage.dtype.itemsize), storage.dtype, size)
    return state
