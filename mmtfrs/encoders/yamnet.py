"""YAMNet, batched: the published network on a flat list of patches.

Reference: Plakal and Ellis, YAMNet (TensorFlow Model Garden, research/audioset/yamnet), a MobileNet v1 (Howard et al.
2017, arXiv:1704.04861) trained on AudioSet. The published module takes one clip at a time; here the clips of a batch are
cut into patches first, so that one pass serves clips of any lengths.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.encoders.audio import HOP, PATCH, AudioEncoder, cut_patches, in_chunks
from mmtfrs.encoders.base import fingerprint, fingerprint_module, load_hub_module, local_alternative
from mmtfrs.encoders.tunable import keras_blocks, tunable_weights
from mmtfrs.errors import EncoderError, first_line

CHECKPOINT = "https://storage.googleapis.com/audioset/yamnet.h5"
DIM, CLASSES = 1024, 521
_WINDOW, _STEP, _FFT, _BANDS = 400, 160, 512, 64
# (stride, filters) of the separable convolutions, layers 2 to 14
_BLOCKS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (2, 1024),
    (1, 1024),
)


def log_mel(waves: tf.Tensor) -> tf.Tensor:
    """`[B, T] float32, 16 kHz` -> `[B, frames, 64] float32`: log mel magnitudes, 25 ms windows every 10 ms."""
    magnitude = tf.abs(tf.signal.stft(waves, _WINDOW, _STEP, _FFT))
    mel = tf.signal.linear_to_mel_weight_matrix(_BANDS, _FFT // 2 + 1, 16_000, 125.0, 7500.0)
    return tf.math.log(tf.tensordot(magnitude, mel, 1) + 0.001)


class YAMNet:
    """The network itself: patches -> embeddings and class scores.

    Args:
        weights: a checkpoint in the layout of the published `yamnet.h5`, or None for seeded random weights.

    Raises:
        EncoderError: the checkpoint does not fit.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        self.model = _build()
        if weights is not None:
            try:
                self.model.load_weights(weights)
            except Exception as error:
                raise EncoderError(f"{weights}: not a YAMNet checkpoint ({first_line(error)}).") from error
        self.model.trainable = False
        self._classify = tf.function(
            self._run,
            input_signature=[tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )

    def embed(self, patches: tf.Tensor) -> tf.Tensor:
        """`[P, 15600] float32 -> [P, 1024] float32`."""
        return self.model(log_mel(patches), training=False)[0]

    def classify(self, waves: np.ndarray, lengths: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Every patch of every clip of a padded batch.

        Args:
            waves: `[B, T] float32`, 16 kHz mono in [-1, 1].
            lengths: `[B] int32`, samples of each clip.

        Returns:
            `(embeddings, scores)`: per clip `[patches, 1024]` and `[patches, 521]`, the latter in [0, 1].
        """
        both, clips = (value.numpy() for value in self._classify(waves, lengths))
        parts = [both[clips == clip] for clip in range(len(lengths))]
        return [part[:, :DIM] for part in parts], [part[:, DIM:] for part in parts]

    def _run(self, waves: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        patches, clips = cut_patches(waves, lengths)
        both = in_chunks(lambda part: tf.concat(self.model(log_mel(part), training=False), 1), patches, DIM + CLASSES)
        return both, clips


def _build() -> keras.Model:
    """The layers of the published checkpoint, under its names."""
    layers = keras.layers

    def normalized(name: str, x: tf.Tensor) -> tf.Tensor:
        x = layers.BatchNormalization(scale=False, epsilon=1e-4, name=f"{name}/bn")(x)
        return layers.ReLU()(x)

    x = inputs = keras.Input((PATCH // _STEP - 1, _BANDS), name="log_mel")
    x = layers.Reshape((*inputs.shape[1:], 1))(x)
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="layer1/conv")(x)
    x = normalized("layer1/conv", x)
    for number, (stride, filters) in enumerate(_BLOCKS, start=2):
        name = f"layer{number}"
        x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"{name}/depthwise_conv")(x)
        x = normalized(f"{name}/depthwise_conv", x)
        x = layers.Conv2D(filters, 1, 1, "same", use_bias=False, name=f"{name}/pointwise_conv")(x)
        x = normalized(f"{name}/pointwise_conv", x)
    embeddings = layers.GlobalAveragePooling2D()(x)
    scores = layers.Activation("sigmoid")(layers.Dense(CLASSES, name="dense")(embeddings))
    return keras.Model(inputs, [embeddings, scores], name="yamnet")


def load_yamnet(weights: str | Path | None = None) -> AudioEncoder:
    """The batched YAMNet as an encoder.

    Args:
        weights: a local checkpoint; None downloads the published one.

    Raises:
        EncoderError: the download failed, or the checkpoint does not fit.
    """
    name = "yamnet" if weights is None else str(weights)
    if weights is None:
        try:
            weights = keras.utils.get_file("yamnet.h5", CHECKPOINT)
        except Exception as error:
            raise EncoderError(
                f"the audio encoder yamnet could not be downloaded from {CHECKPOINT} ({str(error)[:300]}). "
                + local_alternative("audio")
            ) from error
    network = YAMNet(weights)
    version = fingerprint("yamnet/1", *(np.asarray(value) for value in network.model.get_weights()))
    below = keras.Model(network.model.input, network.model.outputs[0])  # the scores of classes are no part of a feature
    tunable = tunable_weights(network.model, keras_blocks(below))
    return AudioEncoder(name, network.embed, DIM, version, list(network.model.variables), tunable)


def load_audio_module(handle: str) -> AudioEncoder:
    """YAMNet's TF Hub module, or a local SavedModel with its call: `[T] float32 -> (scores, embeddings, log_mel)`.

    Raises:
        EncoderError: it cannot be downloaded or loaded, or answers otherwise.
    """
    module = load_hub_module(handle, "audio")
    try:
        outputs = module(tf.zeros([PATCH]))
        dim = int(outputs[1].shape[-1])
    except Exception as error:
        raise EncoderError(
            f"{handle}: an audio module must map [T] float32 to (scores, embeddings, log_mel) ({first_line(error)})."
        ) from error

    def network(patches: tf.Tensor) -> tf.Tensor:
        # The module takes one clip; a patch alone is a clip of one patch, so the answer is the same.
        spec = tf.TensorSpec([dim], tf.float32)
        return tf.map_fn(lambda patch: module(patch)[1][0], patches, fn_output_signature=spec)

    version = fingerprint("audio module/1", HOP, fingerprint_module(handle))
    return AudioEncoder(handle, network, dim, version, [module])
