"""Audio -> features: the mean over a clip's patches of what a network makes of each patch.

A patch is 0.975 s of sound (96 spectrogram frames of 25 ms every 10 ms), one every 0.48 s. Patches depend on nothing
outside themselves, so clips of any lengths are encoded as one flat list of patches, and padding can never leak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.media import decode_host
from mmtfrs.media.decode import decode_audio
from mmtfrs.media.decode_graph import decode_wav

PATCH = 15_600  # samples of one patch: 96 frames
HOP = 7_680  # samples between the starts of two patches
_CHUNK = 64  # patches that go through the network at once, which bounds the memory


class AudioEncoder(Encoder):
    """Encodes whole clips.

    Args:
        name: what the user asked for.
        network: `[P, 15600] float32` patches (16 kHz, in [-1, 1]) -> `[P, dim] float32`.
        dim: size of a feature.
        fingerprint: hash of the network.
        trackables: what a SavedModel must carry for the network.
        tunable: what of it can be trained further, if anything.
    """

    modality = "audio"

    def __init__(
        self,
        name: str,
        network: Callable[[tf.Tensor], tf.Tensor],
        dim: int,
        fingerprint: str,
        trackables: list[Any],
        tunable: Tunable | None = None,
    ) -> None:
        super().__init__(name, network, dim, fingerprint, trackables)
        self.tunable = tunable
        self.inputs = (tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32))
        self._run = tf.function(self._encode, input_signature=self.inputs, autograph=False)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        decoded = decode_host.decode_audio if bounds.decoder == "tensorflow-io" else decode_audio
        return decoded(data, bounds.max_seconds)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        lengths = np.array([len(wave) for wave in media], np.int32)
        waves = np.zeros((len(media), max(int(lengths.max()), 1)), np.float32)
        for row, wave in enumerate(media):
            waves[row, : len(wave)] = wave
        return tf.constant(waves), tf.constant(lengths)

    def __call__(self, waves: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """`[B, T] float32` (16 kHz mono in [-1, 1], zeros behind each end) and `[B] int32` -> `[B, dim] float32`."""
        return self._run(waves, lengths)

    def _encode(self, waves: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        patches, clips = cut_patches(waves, lengths)
        return tf.math.segment_mean(in_chunks(self._network, patches, self.dim), clips)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        def one(clip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            wave, problem = decode_wav(clip, bounds.max_seconds)
            return self._encode(wave[None, :], tf.shape(wave))[0], problem

        specs = tf.TensorSpec([self.dim], tf.float32), tf.TensorSpec([], tf.string)
        return tf.map_fn(one, data, fn_output_signature=specs)


def patch_counts(lengths: tf.Tensor) -> tf.Tensor:
    """How many patches clips of these numbers of samples have: as the original YAMNet pads, at least one."""
    beyond = tf.maximum(lengths - PATCH, 0)
    return 1 + (beyond + HOP - 1) // HOP


def cut_patches(waves: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Padded clips -> their patches, in order, and nothing of the padding beyond a clip's last patch.

    Args:
        waves: `[B, T] float32`; what lies behind a clip's length is ignored.
        lengths: `[B] int32`.

    Returns:
        `(patches [P, 15600] float32, clips [P] int32)`: the patches of all clips and the clip of each.
    """
    counts = patch_counts(lengths)
    room = PATCH + HOP * (tf.reduce_max(counts) - 1)
    waves = tf.where(tf.sequence_mask(lengths, tf.shape(waves)[1]), waves, 0.0)
    waves = tf.pad(waves, [[0, 0], [0, tf.maximum(room - tf.shape(waves)[1], 0)]])
    framed = tf.signal.frame(waves, PATCH, HOP)
    mask = tf.sequence_mask(counts, tf.shape(framed)[1])
    clips = tf.repeat(tf.range(tf.shape(waves)[0]), counts)
    return tf.boolean_mask(framed, mask), clips


def in_chunks(network: Callable[[tf.Tensor], tf.Tensor], patches: tf.Tensor, dim: int) -> tf.Tensor:
    """`network` over `[P, ...]` patches, 64 at a time -> `[P, dim]`."""
    count = tf.shape(patches)[0]
    chunks = (count + _CHUNK - 1) // _CHUNK

    def step(number: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        part = patches[number * _CHUNK : (number + 1) * _CHUNK]
        return number + 1, results.write(number, network(part))

    results = tf.TensorArray(tf.float32, chunks, infer_shape=False, element_shape=[None, dim])
    _, results = tf.while_loop(lambda number, _: number < chunks, step, (0, results), parallel_iterations=1)
    return tf.ensure_shape(results.concat(), [None, dim])
