"""Resampling to 16 kHz in stock TensorFlow ops, which have no resampler of their own."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.media.decode import SAMPLE_RATE

# Where soxr's filter of high quality falls, from all at 0.91 of the lower Nyquist frequency to nothing (-98 dB) at 1: a normal
# distribution's mean and deviation, and how much faster than its tails. Features see what is left there.
_MIDDLE, _WIDTH, _TAIL = 0.9569, 0.01187, 0.0125
_GUARD = 768  # output samples at either end of a block that the block's wrapping round may reach, and which are thrown away
_KEPT = 8  # a block keeps so many times its guard


def resample(wave: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Band-limited resampling by the discrete Fourier transform of overlapping blocks.

    A block is as many samples as are a whole number of output samples; its spectrum is cut or padded to the output's, and falls
    to nothing as that of soxr, which the host resamples by (overlap-save; Oppenheim and Schafer, Discrete-Time Signal
    Processing, 8.7). So every rate is resampled exactly, at the cost of two transforms.

    Args:
        wave: `[T] float32`, at `rate`.
        rate: `[]` integer, Hz.

    Returns:
        `[round(T * 16000 / rate)] float32`; what lies outside the wave counts as silence.
    """
    rate = tf.cast(rate, tf.int32)
    common = _greatest_common_divisor(rate)
    unit_in, unit_out = rate // common, SAMPLE_RATE // common  # so many samples of either last equally long
    guard = (_GUARD + unit_out - 1) // unit_out
    length = tf.shape(wave)[0]
    # A short clip needs no long block.
    kept = tf.minimum(_KEPT * guard, (length + unit_in - 1) // unit_in)
    kept = tf.maximum(kept, 1)
    block_in, block_out = (2 * guard + kept) * unit_in, (2 * guard + kept) * unit_out
    blocks = tf.maximum((length + kept * unit_in - 1) // (kept * unit_in), 1)
    end = (blocks * kept + guard) * unit_in - length
    padded = tf.pad(wave, [[guard * unit_in, end]])
    framed = tf.signal.frame(padded, block_in, kept * unit_in)
    spectrum = tf.signal.rfft(framed)
    half = tf.minimum(block_in, block_out) // 2 + 1
    place = tf.cast(tf.range(half), tf.float32) / (tf.cast(tf.minimum(block_in, block_out), tf.float32) / 2)
    beyond = (place - _MIDDLE) / _WIDTH
    gain = 0.5 * tf.math.erfc(beyond * (1 + _TAIL * beyond**2) / np.sqrt(2))
    gain *= tf.cast(block_out, tf.float32) / tf.cast(block_in, tf.float32)
    cut = spectrum[:, :half] * tf.cast(gain, tf.complex64)
    cut = tf.pad(cut, [[0, 0], [0, block_out // 2 + 1 - half]])
    made = tf.signal.irfft(cut, [block_out])[:, guard * unit_out : (guard + kept) * unit_out]
    count = tf.cast(tf.round(tf.cast(length, tf.float64) * SAMPLE_RATE / tf.cast(rate, tf.float64)), tf.int32)
    return tf.reshape(made, [-1])[:count]


def _greatest_common_divisor(rate: tf.Tensor) -> tf.Tensor:
    """Of a rate and 16 000: the largest of its divisors that divides the rate."""
    divisors = [number for number in range(1, SAMPLE_RATE + 1) if SAMPLE_RATE % number == 0]
    return tf.reduce_max(tf.where(rate % divisors == 0, divisors, 1))
