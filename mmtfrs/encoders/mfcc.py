"""Classical audio features, by name: statistics of MFCCs, and a small recurrent network over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.encoders.audio import AudioEncoder
from mmtfrs.encoders.base import fingerprint
from mmtfrs.encoders.yamnet import log_mel
from mmtfrs.errors import EncoderError, first_line

COEFFICIENTS, UNITS = 20, 128
_SEED = 7


def load_mfcc() -> AudioEncoder:
    """Per patch the mean, deviation, least and greatest of 20 MFCCs and the mean size of their steps: `[100]`.

    Reference: Davis and Mermelstein, Comparison of Parametric Representations for Monosyllabic Word Recognition, 1980.
    """

    def network(patches: tf.Tensor) -> tf.Tensor:
        frames = mfccs(patches)
        steps = tf.reduce_mean(tf.abs(frames[:, 1:] - frames[:, :-1]), axis=1)
        reduced = [reduce(frames, axis=1) for reduce in (tf.reduce_mean, tf.math.reduce_std, tf.reduce_min, tf.reduce_max)]
        return tf.concat([*reduced, steps], axis=1)

    return AudioEncoder("mfcc", network, 5 * COEFFICIENTS, fingerprint("mfcc/1"), [])


def load_lstm(weights: str | Path | None = None) -> AudioEncoder:
    """An LSTM over the MFCCs of a patch, its last state and the mean of its outputs: `[256]`.

    Args:
        weights: a Keras weights file (`.h5`) of the LSTM, trained elsewhere; None takes fixed random weights, which make it a
            reservoir (Jaeger, The Echo State Approach, 2001): its states tell audio apart without training.

    Raises:
        EncoderError: the weights do not fit.
    """
    inputs = keras.Input((None, COEFFICIENTS))
    normal = keras.initializers.RandomNormal(stddev=0.3, seed=_SEED)
    outputs = keras.layers.LSTM(
        UNITS, return_sequences=True, kernel_initializer=normal, recurrent_initializer=keras.initializers.Orthogonal(seed=_SEED)
    )(inputs)
    model = keras.Model(inputs, outputs)
    if weights is not None:
        try:
            model.load_weights(weights)
        except Exception as error:
            raise EncoderError(
                f"{weights}: these are no weights of an LSTM of {UNITS} units over {COEFFICIENTS} MFCCs ({first_line(error)})."
            ) from error
    model.trainable = False

    def network(patches: tf.Tensor) -> tf.Tensor:
        frames = mfccs(patches)
        scale = tf.math.reduce_std(frames, axis=[1, 2], keepdims=True) + 1e-3
        states = model(frames / scale, training=False)
        return tf.concat([states[:, -1], tf.reduce_mean(states, axis=1)], axis=1)

    label = "lstm" if weights is None else f"lstm:{weights}"
    values = [np.asarray(value) for value in model.get_weights()]
    return AudioEncoder(label, network, 2 * UNITS, fingerprint("lstm/1", *values), list(model.variables))


def mfccs(patches: tf.Tensor) -> tf.Tensor:
    """`[P, 15600] float32` -> `[P, 96, 20]`, without a DC offset."""
    patches -= tf.reduce_mean(patches, axis=1, keepdims=True)
    return tf.signal.mfccs_from_log_mel_spectrograms(log_mel(patches))[..., :COEFFICIENTS]
