"""Random numbers of a training step: functions of the seed and of the step, so that a killed training goes on as it would have.

TensorFlow's own draws (`tf.random.uniform`, the dropout of Keras) have a state that begins anew in every process and is in no
checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from mmtfrs._keras import tf

_APART = 1_000_003
_STEP: ContextVar[Iterator[tf.Tensor] | None] = ContextVar("step", default=None)  # a replica's thread has its own


@contextlib.contextmanager
def draws_of(seed: int, step: tf.Tensor | tf.Variable) -> Iterator[None]:
    """Meanwhile each draw is a function of the seed, the number of the step, the replica, and how many draws came before it in
    the step. It is entered where a step is traced, and in each step where nothing is."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    context = tf.distribute.get_replica_context()
    step = tf.cast(step, tf.int32) * replicas + (context.replica_id_in_sync_group if replicas > 1 else 0)
    # Numbers of 31 bits, for XLA takes no more of them; the draws of a step are far from those of the next seed.
    token = _STEP.set(tf.stack([(_APART * seed + number) & 0x7FFFFFFF, step]) for number in itertools.count(1))
    try:
        yield
    finally:
        _STEP.reset(token)


def uniform(
    shape: tf.Tensor | Sequence[int], low: float | None = 0, high: float | None = 1, dtype: tf.DType = tf.float32
) -> tf.Tensor:
    """Numbers in [low, high), or of the whole range of integers where both are None. Out of a step they are drawn from the seed
    of the process."""
    step = _STEP.get()
    seed = tf.random.uniform([2], 0, tf.int32.max, tf.int32) if step is None else next(step)
    return tf.random.stateless_uniform(shape, seed, low, high, dtype)
