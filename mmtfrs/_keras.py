"""The one place that imports TensorFlow, its Keras 2 and TFRS.

TFRS, TF Hub's KerasLayer and our layers are Keras 2 (`tf_keras`). TensorFlow picks its Keras once, at its first
use, from the environment variable `TF_USE_LEGACY_KERAS`; `mmtfrs/__init__.py` sets it before anything gets here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from mmtfrs._version import stack
from mmtfrs.errors import SetupError, first_line

# How lines of TensorFlow's C++ logging begin, with and without its logging set up, and what it says around them.
_NATIVE = re.compile(
    rb"\d{4}-\d\d-\d\d [\d:.]+: [IWE] |[IWE]\d{4} [\d:.]+ |WARNING: All log messages before absl|To enable the following instr"
)


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Drops what TensorFlow's C++ says while it is loaded: of processor features, absent GPUs, plugins registered twice.

    TensorFlow 2.21 says it before it has read any setting, straight to file descriptor 2. All else that is written there
    meanwhile comes out afterwards, and everything if loading fails.
    """
    try:
        sys.stderr.flush()
        real, told = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
    except (OSError, AttributeError, ValueError):  # there is no standard error to keep clean, or no place for temporary files
        yield
        return
    keep = re.compile(b"")
    with told:
        os.dup2(told.fileno(), 2)
        try:
            yield
            keep = re.compile(b"(?!" + _NATIVE.pattern + b")")
        finally:
            os.dup2(real, 2)
            os.close(real)
            told.seek(0)
            os.write(2, b"".join(line for line in told if keep.match(line)))


try:
    with _without_banner():
        import tensorflow as tf
        import tensorflow_recommenders as tfrs
        import tf_keras as keras
        from tensorflow.python.autograph.core import config as _autograph
        from tf_keras.protobuf import saved_metadata_pb2
except Exception as error:  # packages for other versions of each other fail in more ways than ImportError
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in list(stack().items())[1:5])
    raise SetupError(
        f"TensorFlow cannot be imported ({type(error).__name__}: {first_line(error)}). Here are {found}. "
        "`pip install mmtfrs` brings versions that fit each other."
    ) from error
if tf.__version__.split(".")[:2] != keras.__version__.split(".")[:2]:
    raise SetupError(
        f"TensorFlow {tf.__version__} needs the tf_keras of the same release. Received: {keras.__version__}. "
        f"`pip install tf-keras~={'.'.join(tf.__version__.split('.')[:2])}.0` brings it."
    )

# Newer TensorFlows know tf_keras as a library that AutoGraph need not translate; 2.16 translates all of it: up to 14 s before a
# first step, for nothing.
_autograph.CONVERSION_RULES = (*_autograph.CONVERSION_RULES, _autograph.DoNotConvert("tf_keras"))

__all__ = ["keras", "saved_metadata_pb2", "tf", "tfrs"]
