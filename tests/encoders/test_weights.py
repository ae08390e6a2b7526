"""Files of weights are read without running anything that they name."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from mmtfrs.encoders.weights import read_safetensors, read_torch
from mmtfrs.errors import EncoderError


def _rebuild_tensor_v2(*_):
    """Stands for PyTorch's, by name."""


class FloatStorage:
    """Stands for PyTorch's, by name."""


class _Tensor:
    def __init__(self, key, values, offset, size, stride):
        self.key, self.values = key, np.asarray(values, np.float32)
        self.view = offset, size, stride

    def __reduce__(self):
        return _rebuild_tensor_v2, (_Storage(self.key, len(self.values)), *self.view, False, collections.OrderedDict())


class _Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class _Pickler(pickle.Pickler):
    def persistent_id(self, found):
        return ("storage", FloatStorage, found.key, "cpu", found.size) if isinstance(found, _Storage) else None


def _pickled(value, monkeypatch):
    """As PyTorch pickles it, which is not here: its names are given to the stand-ins."""
    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    modules["torch"].FloatStorage, modules["torch._utils"]._rebuild_tensor_v2 = FloatStorage, _rebuild_tensor_v2
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(FloatStorage, "__module__", "torch")
        patch.setattr(_rebuild_tensor_v2, "__module__", "torch._utils")
        data = io.BytesIO()
        _Pickler(data, protocol=2).dump(value)
    return data.getvalue()


def _old(path, state, storages, monkeypatch):
    parts = [pickle.dumps(each, protocol=2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [_pickled(state, monkeypatch), pickle.dumps(list(storages), protocol=2)]
    for values in storages.values():
        parts.append(struct.pack("<q", len(values)) + np.asarray(values, np.float32).tobytes())
    path.write_bytes(b"".join(parts))


def _zipped(path, state, storages, monkeypatch):
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("archive/data.pkl", _pickled(state, monkeypatch))
        for key, values in storages.items():
            packed.writestr(f"archive/data/{key}", np.asarray(values, np.float32).tobytes())


@pytest.mark.parametrize("write", [_old, _zipped])
def test_tensors_are_views_of_what_was_stored(write, tmp_path, monkeypatch):
    values = np.arange(12.0)
    state = collections.OrderedDict(
        whole=_Tensor("0", values, 0, (3, 4), (4, 1)),
        turned=_Tensor("0", values, 1, (2, 3), (1, 4)),
        one=_Tensor("7", [5], 0, (), ()),
    )
    write(tmp_path / "w.pth", state, {"0": values, "7": [5.0]}, monkeypatch)
    found = read_torch(tmp_path / "w.pth")
    np.testing.assert_array_equal(found["whole"], values.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], values.reshape(3, 4)[:, 1:3].T)
    assert found["one"] == 5.0 and all(each.dtype == np.float32 for each in found.values())


class _Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [_old, _zipped])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(write, tmp_path, monkeypatch):
    write(tmp_path / "w.pth", {"a": _Harm(str(tmp_path / "harm"))}, {}, monkeypatch)
    with pytest.raises(EncoderError, match=r"names posix\.mkdir, which is no tensor: nothing of it was run"):
        read_torch(tmp_path / "w.pth")
    first = pickle.dumps(_Harm(str(tmp_path / "harm")))  # where a number is expected
    (tmp_path / "w.pth").write_bytes(first)
    with pytest.raises(EncoderError, match="nothing of it was run"):
        read_torch(tmp_path / "w.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("view", [(0, (3, 5), (5, 1)), (11, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,))])
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(view, tmp_path, monkeypatch):
    _old(tmp_path / "w.pth", {"a": _Tensor("0", np.zeros(12), *view)}, {"0": np.zeros(12)}, monkeypatch)
    with pytest.raises(EncoderError, match="a tensor reaches beyond its storage"):
        read_torch(tmp_path / "w.pth")


def test_a_storage_cannot_be_given_another_size(tmp_path, monkeypatch):
    """By a `BUILD` on what stands for it: tensors would be of memory that is not theirs."""
    state = {"a": _Tensor("0", np.zeros(4), 0, (4,), (1,))}
    _old(tmp_path / "w.pth", state, {"0": np.zeros(4)}, monkeypatch)
    data = (tmp_path / "w.pth").read_bytes()
    # Behind the persistent id (opcode Q) of the first storage: a dictionary with the size, and BUILD.
    grown = data.replace(b"Q", b"Q}X\x04\x00\x00\x00sizeM\xff\xffsb", 1)
    assert grown != data
    (tmp_path / "w.pth").write_bytes(grown)
    with pytest.raises(EncoderError, match="a storage has no state"):
        read_torch(tmp_path / "w.pth")


def test_a_storage_larger_than_the_file_is_refused(tmp_path, monkeypatch):
    state = {"a": _Tensor("0", np.zeros(1), 0, (1,), (1,))}
    monkeypatch.setattr(
        _Storage, "__init__", lambda self, key, size: setattr(self, "key", key) or setattr(self, "size", 1 << 40)
    )
    _old(tmp_path / "w.pth", state, {"0": [0.0]}, monkeypatch)
    with pytest.raises(EncoderError, match="not a readable PyTorch file"):
        read_torch(tmp_path / "w.pth")


def test_a_file_that_is_cut_off_says_so(tmp_path, monkeypatch):
    _old(tmp_path / "w.pth", {"a": _Tensor("0", np.ones(12), 0, (12,), (1,))}, {"0": np.ones(12)}, monkeypatch)
    data = (tmp_path / "w.pth").read_bytes()
    for size in (0, 5, len(data) // 2, len(data) - 1):
        (tmp_path / "w.pth").write_bytes(data[:size])
        with pytest.raises(EncoderError, match="not a readable PyTorch file.*Download it again"):
            read_torch(tmp_path / "w.pth")
        with pytest.raises(EncoderError, match="not a readable safetensors file.*Download it again"):
            read_safetensors(tmp_path / "w.pth")
