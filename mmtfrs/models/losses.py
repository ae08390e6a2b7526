"""Losses of a query's positive against columns of negatives.

Every loss takes the columns as a sample of the catalog. `log_counts` says how often each column's item was to be expected
in the sample; dividing by that makes the sum over the columns an estimate of the sum over all items, so each loss converges to
what it is over the whole catalog. The positive itself is known exactly and stands beside the sample uncorrected.
"""

from __future__ import annotations

from collections.abc import Callable

from mmtfrs._keras import tf
from mmtfrs.errors import ConfigError, nearest

_MASKED = -1e9  # finite, so that no difference of two masked logits is NaN


def softmax_loss(
    positive: tf.Tensor, logits: tf.Tensor, log_counts: tf.Tensor, allowed: tf.Tensor, _: float = 0.0
) -> tf.Tensor:
    """`log(1 + sum_j exp(s_j - log n_j - s_+))`: the sampled softmax.

    Reference: Bengio and Senecal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model, 2008; for two towers Yi et al., Sampling-Bias-Corrected Neural Modeling, RecSys 2019. That the positive must not be
    corrected: Khrylchenko et al., Correcting the LogQ Correction, RecSys 2025.

    Args:
        positive: `[B] float32`, logit of what each query took.
        logits: `[B, C] float32` of the columns.
        log_counts: `[C]` or `[B, C] float32`, log n of each column.
        allowed: `[B, C] bool`, which columns are negatives of a row.

    Returns:
        `[B] float32`.
    """
    return tf.nn.softplus(_log_sum(logits, log_counts, allowed) - positive)


def _log_sum(logits: tf.Tensor, log_counts: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """`[B]`: the logarithm of the sum of exponentials of what is allowed. Its gradient is what it has made of them already,
    where TensorFlow's own would pass over the whole of `[B, C]` six times more."""

    @tf.custom_gradient
    def log_sum(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        corrected = logits + tf.where(allowed, -log_counts, _MASKED)  # the latter is the same for all blocks
        highest = tf.reduce_max(corrected, axis=1, keepdims=True)
        parts = tf.exp(corrected - highest)
        total = tf.reduce_sum(parts, axis=1, keepdims=True)
        return (highest + tf.math.log(total))[:, 0], lambda upstream: parts * (upstream[:, None] / total)

    return log_sum(logits)


def bpr_loss(positive: tf.Tensor, logits: tf.Tensor, log_counts: tf.Tensor, allowed: tf.Tensor, _: float = 0.0) -> tf.Tensor:
    """Mean over negatives of `-log sigmoid(s_+ - s_j)` (Rendle et al., BPR, UAI 2009); see `softmax_loss`."""
    return _mean(tf.nn.softplus(logits - positive[:, None]), log_counts, allowed)


def hinge_loss(positive: tf.Tensor, logits: tf.Tensor, log_counts: tf.Tensor, allowed: tf.Tensor, margin: float) -> tf.Tensor:
    """Mean over negatives of `max(0, margin + s_j - s_+)` (Weston et al., WSABIE, IJCAI 2011, without its ranks)."""
    return _mean(tf.nn.relu(margin + logits - positive[:, None]), log_counts, allowed)


def _mean(values: tf.Tensor, log_counts: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    weights = tf.where(allowed, tf.exp(-log_counts), 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights, axis=1), tf.reduce_sum(weights, axis=1))


LOSSES: dict[str, Callable[..., tf.Tensor]] = {"softmax": softmax_loss, "bpr": bpr_loss, "hinge": hinge_loss}


def get(name: str) -> Callable[..., tf.Tensor]:
    """Raises `ConfigError` for an unknown name, with the nearest known one."""
    if name not in LOSSES:
        raise ConfigError(f"`loss.name` must be one of {', '.join(LOSSES)}. Received: {name!r}.{nearest(name, LOSSES)}")
    return LOSSES[name]
