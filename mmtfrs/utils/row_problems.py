"""What is wrong with single rows of a batch, as a column of texts: in a graph that serves many, no row may fail the others."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.utils.finite import LARGEST


def told(wrong: tf.Tensor, text: str | tf.Tensor) -> tf.Tensor:
    """`[B] bool`, and a text or one per row -> `[B] string`, "" where all is well."""
    return tf.where(wrong, text, "")


def are_finite(values: tf.Tensor) -> tf.Tensor:
    """`[...]` floating -> `[...] bool`: neither NaN nor beyond `LARGEST`, in operations that ONNX has."""
    return ~((values > LARGEST) | (values < -LARGEST) | ~tf.math.is_finite(values))


def joined(*problems: tf.Tensor) -> tf.Tensor:
    """Columns of problems as one, those of a row behind one another."""
    first, *rest = problems
    for other in rest:
        both = tf.strings.join([first, other], "; ")
        first = tf.where(first == "", other, tf.where(other == "", first, both))
    return first
