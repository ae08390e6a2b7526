"""Small built-in stand-ins for the pretrained encoders: no download, fixed by a seed, same input and output.

They are classical descriptors (histograms of gradients, hashed n-grams, log-mel statistics) behind fixed random
projections: enough for demos, tests and first experiments, not a replacement for pretrained networks.
"""

from __future__ import annotations

import logging

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.audio import AudioEncoder
from mmtfrs.encoders.base import Encoder, fingerprint
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.encoders.yamnet import log_mel

_SEED = 20240501
_VERSION = "offline/1"
_SIZE, _ORIENTATIONS = 64, 12
_BUCKETS = 1 << 14
log = logging.getLogger("mmtfrs")


def load_offline(modality: str) -> Encoder:
    """The stand-in of one modality: image `[1280]`, text `[512]`, audio `[1024]`."""
    log.info("the %s encoder is the built-in offline stand-in, not a pretrained network", modality)
    version = fingerprint(_VERSION, modality, _SEED)
    if modality == "image":
        network = _ImageNetwork(1280)
        return ImageEncoder("offline", network, _SIZE, 1280, version, [network])
    if modality == "text":
        network = _TextNetwork(512)
        return TextEncoder("offline", network, 512, version, [network])
    network = _AudioNetwork(1024)
    return AudioEncoder("offline", network, 1024, version, [network])


def _projection(rows: int, columns: int, seed: int) -> np.ndarray:
    """A fixed Gaussian matrix that keeps lengths; RandomState's stream is frozen for ever, unlike Generator's."""
    values = np.random.RandomState(_SEED + seed).standard_normal((rows, columns))
    return (values / np.sqrt(columns)).astype(np.float32)


class _Expansion(tf.Module):
    """Descriptor `[B, n]` -> `[B, dim]`: half of it a linear view, half of it rectified random features."""

    def __init__(self, rows: int, dim: int, seed: int) -> None:
        super().__init__()
        self.weights = tf.Variable(_projection(rows, dim, seed), trainable=False)
        self.half = dim // 2

    def __call__(self, descriptor: tf.Tensor) -> tf.Tensor:
        projected = tf.matmul(descriptor, self.weights)
        return tf.concat([projected[:, : self.half], tf.nn.relu(projected[:, self.half :])], axis=1)


class _ImageNetwork(tf.Module):
    """`[B, 64, 64, 3]` in 0..255 -> gradients by orientation (local and global), spectrum, small image, colors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        rows = 64 * _ORIENTATIONS + 2 * _ORIENTATIONS * 2 + 16 * 32 + 256 + 4 * 4 * 3
        self.expand = _Expansion(rows, dim, 1)

    def __call__(self, pictures: tf.Tensor) -> tf.Tensor:
        pictures = pictures / 255.0
        gray = tf.reduce_mean(pictures, axis=-1, keepdims=True)
        gray = tf.nn.avg_pool2d(gray, 3, 1, "SAME")
        gray -= tf.reduce_mean(gray, axis=[1, 2, 3], keepdims=True)
        dy, dx = tf.image.image_gradients(gray)
        size = tf.sqrt(dx * dx + dy * dy + 1e-8)
        # Orientation without sign, so that dark on light is the same as light on dark; soft bins on a circle.
        angle = 2.0 * tf.atan2(dy, dx)
        centers = np.linspace(0, 2 * np.pi, _ORIENTATIONS, endpoint=False, dtype=np.float32)
        bins = size * tf.exp(4.0 * (tf.cos(angle - centers) - 1.0))
        cells = tf.nn.avg_pool2d(bins, 8, 8, "VALID")
        overall = tf.reduce_mean(bins, axis=[1, 2])
        spectrum = tf.abs(tf.signal.fft2d(tf.cast(gray[..., 0], tf.complex64)))[:, :32, :]
        spectrum = tf.nn.avg_pool2d(tf.math.log1p(spectrum)[..., None], 2, 2, "VALID")
        shape = tf.sort(_unit(overall), axis=1)  # how peaked the orientations are, whichever they are
        parts = [
            3.0 * _unit(_flat(cells)),
            2.0 * _unit(overall),
            4.0 * shape,
            2.0 * _unit(tf.sqrt(overall)),
            2.0 * tf.sort(_unit(tf.reduce_max(bins, axis=[1, 2])), axis=1),
            3.0 * _unit(_flat(spectrum)),
            2.0 * _unit(_flat(tf.nn.avg_pool2d(gray, 4, 4, "VALID"))),
            _unit(_flat(tf.nn.avg_pool2d(pictures, 16, 16, "VALID"))),
        ]
        return self.expand(tf.concat(parts, axis=1))


class _TextNetwork(tf.Module):
    """`[B] string` -> hashed words and the three-letter pieces of words, each with its own random direction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.table = tf.Variable(_projection(_BUCKETS, dim, 2), trainable=False)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        texts = tf.strings.regex_replace(tf.strings.lower(texts, "utf-8"), r"[^\pL\pN]+", " ")
        words = tf.strings.split(texts)
        letters = tf.strings.unicode_split(tf.strings.join([" ", tf.strings.strip(texts), " "]), "UTF-8", "replace")
        pieces = tf.strings.ngrams(letters, 3, separator="")
        total = self._embed(words) + 0.3 * self._embed(pieces)
        return _unit(total)

    def _embed(self, tokens: tf.RaggedTensor) -> tf.Tensor:
        buckets = tf.strings.to_hash_bucket_fast(tokens.flat_values, _BUCKETS)
        # Summed as they are read: a book's worth of directions would not fit into memory.
        return tf.sparse.segment_sqrt_n(self.table, buckets, tokens.value_rowids(), tokens.nrows())


class _AudioNetwork(tf.Module):
    """`[P, 15600]` -> per mel band mean, spread, movement and rhythm, with and without loudness."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = _Expansion(64 * 4 + 48 + 64, dim, 3)

    def __call__(self, patches: tf.Tensor) -> tf.Tensor:
        mel = log_mel(patches)
        mean = tf.reduce_mean(mel, axis=1)
        level = tf.reduce_mean(mel, axis=2)
        level -= tf.reduce_mean(level, axis=1, keepdims=True)
        movement = tf.reduce_mean(tf.abs(mel[:, 1:] - mel[:, :-1]), axis=1)
        rhythm = tf.abs(tf.signal.rfft(level))[:, 1:49] / 96.0
        cepstrum = tf.signal.dct(mean, norm="ortho") / 8.0
        parts = [
            0.3 * (mean - tf.reduce_mean(mean, axis=1, keepdims=True)),
            0.3 * tf.reduce_max(mel - level[..., None], axis=1),
            tf.math.reduce_std(mel, axis=1),
            2.0 * movement,
            5.0 * rhythm,
            cepstrum,
        ]
        return self.expand(tf.concat(parts, axis=1))


def _flat(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, int(np.prod(values.shape[1:]))])


def _unit(values: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(values, axis=-1, epsilon=1e-8)
