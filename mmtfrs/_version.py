"""The version of the package, and of what it stands on."""

from __future__ import annotations

import importlib.metadata
import platform

__version__ = "0.1.0"

# Packages whose versions have to fit each other, and what the extras bring.
_STACK = (
    *("tensorflow", "tf-keras", "tensorflow-recommenders", "tensorflow-hub", "tensorflow-serving-api", "tensorboard"),
    *("numpy", "protobuf", "pyarrow", "grpcio", "setuptools"),
    *("tensorflow-io", "keras-tuner", "scikit-learn", "scipy", "av", "scann"),
)


def stack() -> dict[str, str | None]:
    """`{package: version}` of mmtfrs, Python and the stack; None for what is not installed."""
    found: dict[str, str | None] = {"mmtfrs": __version__, "python": platform.python_version()}
    for package in _STACK:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
