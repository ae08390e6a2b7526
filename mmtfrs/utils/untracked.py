"""Attributes that a Keras model or a tf.Module is not to see."""

from __future__ import annotations

from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Untracked(Generic[_Value]):
    """Holds a `value` that Keras and TensorFlow would else save in every checkpoint, or turn into their own list types."""

    def __init__(self, value: _Value) -> None:
        self.value = value
