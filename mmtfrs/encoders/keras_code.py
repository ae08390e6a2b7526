"""Keras model files that would run somebody's Python when they are loaded.

tf_keras unmarshals and runs the lambdas of `.h5` files and SavedModel folders, and imports whatever module a configuration
names, its `safe_mode` notwithstanding, which is for lambdas in `.keras` files alone.
"""

from __future__ import annotations

import builtins
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtfrs.errors import EncoderError

_LAMBDAS = ("Lambda", "__lambda__")
# Operations of TensorFlow that a layer may name: what computes. Others read and write files and load libraries.
_CALLS = ("TFOpLambda", "SlicingOpLambda")
_ROOMS = ("math", "nn", "image", "linalg", "signal", "__operators__")
_PLAIN = (
    *("cast", "clip_by_value", "concat", "expand_dims", "identity", "ones_like", "pad", "reshape", "shape", "split"),
    *("squeeze", "stack", "tile", "transpose", "unstack", "where", "zeros_like"),
)
_METHODS = ("ClassMethod", "InstanceMethod", "InstanceProperty")
_OWN_MODULES = ("keras", "tf_keras")


def refuse_code(path: Path) -> None:
    """Raises `EncoderError` where a model has a lambda, or names something that is not Keras's own; nothing of it is run.

    Args:
        path: a `.keras` or HDF5 file, or a SavedModel folder.
    """
    for config in _configs(path):
        for part in _parts(config):
            named = _code(part)
            if named:
                raise EncoderError(
                    f"{path}: the model has {named}, code that would be run here; nothing of it was. Give a model of "
                    "Keras's own layers, or load it in code of your own and give that one's import path."
                )


def _configs(path: Path) -> Iterator[Any]:
    """What Keras would build a model by. A file may be of both kinds; which one Keras takes, its name decides."""
    import h5py

    if path.is_dir():
        yield from map(json.loads, _metadata(path))
        return
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (json.loads(packed.read(name)) for name in packed.namelist() if name == "config.json")
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                yield json.loads(file.attrs["model_config"])


def _metadata(folder: Path) -> Iterator[str]:
    from tensorflow.core.protobuf import saved_model_pb2

    from mmtfrs._keras import saved_metadata_pb2

    kept = folder / "keras_metadata.pb"
    if kept.exists():
        yield from (node.metadata for node in saved_metadata_pb2.SavedMetadata.FromString(kept.read_bytes()).nodes)
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for graph in model.meta_graphs:  # where older releases kept it
        for node in graph.object_graph_def.nodes:
            if node.user_object.metadata:
                yield node.user_object.metadata


def _parts(config: Any) -> Iterator[dict]:
    """Every mapping in a configuration."""
    if isinstance(config, dict):
        yield config
    for each in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _parts(each)


def _code(part: dict) -> str:
    name, module = part.get("class_name"), part.get("module")
    if name in _LAMBDAS:
        return "a lambda"
    if name in _METHODS:
        return f"a `{name}`"
    if name in _CALLS:
        function = str((part.get("config") or {}).get("function"))
        return "" if function.partition(".")[0] in _ROOMS or function in _PLAIN else f"TensorFlow's `{function}`"
    if not isinstance(module, str):
        return ""
    if module == "builtins":  # functions of Keras, too, are written so
        return f"Python's `{part.get('config')}`" if hasattr(builtins, str(part.get("config"))) else ""
    return "" if module.partition(".")[0] in _OWN_MODULES else f"`{module}:{name}`"
