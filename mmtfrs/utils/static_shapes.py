"""Whether shapes must be known before a step is run."""

from __future__ import annotations

from mmtfrs._keras import tf


def static_shapes() -> bool:
    """Under a strategy whose steps XLA compiles as a whole; elsewhere what depends on the data is the faster way."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
