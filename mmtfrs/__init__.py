"""mmtfrs: multimodal recommendations from images, text and audio.

A catalog of raw items (images, texts, audio) and a log of events become a two-tower TensorFlow Recommenders
model that TensorFlow Serving answers from. The names below are the whole public surface; they load on first use,
so that commands which need no TensorFlow start at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from mmtfrs._version import __version__
from mmtfrs.errors import Error, SetupError

_PUBLIC = {
    "Catalog": "mmtfrs.data.catalog",
    "Config": "mmtfrs.config.config",
    "Events": "mmtfrs.data.events",
    "Features": "mmtfrs.features.features",
    "TwoTower": "mmtfrs.models.two_tower",
    "Users": "mmtfrs.data.users",
    "ValidationMetrics": "mmtfrs.evaluation.callback",
    "evaluate": "mmtfrs.evaluation.evaluate",
    "export": "mmtfrs.exporting.export",
    "extract": "mmtfrs.features.extract",
    "load_run": "mmtfrs.models.run",
    "save_run": "mmtfrs.models.run",
}
__all__ = ["Error", "__version__", *sorted(_PUBLIC)]


def _check_environment() -> None:
    switch = os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    fix = "Set TF_USE_LEGACY_KERAS=1 in the environment, or `import mmtfrs` before TensorFlow, and start again."
    if switch.lower() not in ("1", "true"):
        raise SetupError(f"mmtfrs needs Keras 2. Received: TF_USE_LEGACY_KERAS={switch!r}. {fix}")
    tensorflow = sys.modules.get("tensorflow")
    # The first touch of tf.keras decides; with the switch just set, an untouched one becomes Keras 2.
    if tensorflow is not None and not tensorflow.keras.Model.__module__.startswith("tf_keras"):
        raise SetupError(f"mmtfrs needs Keras 2, but TensorFlow is already loaded with Keras 3. {fix}")


try:
    _check_environment()
except SetupError as error:
    if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0]) == "mmtfrs":  # a command says it in one line
        sys.exit(f"error: {error}")
    raise


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmtfrs' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
