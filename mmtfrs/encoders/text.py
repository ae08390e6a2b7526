"""Texts -> features, by the Universal Sentence Encoder or any SavedModel with the same call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder, fingerprint, fingerprint_module, load_hub_module
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.errors import EncoderError, MediaError, first_line
from mmtfrs.utils.row_problems import told

_MAX_BYTES = 1 << 20  # of one text: a book; what tokenizers make of it must fit into memory


class TextEncoder(Encoder):
    """Encodes whole texts.

    Args:
        name: what the user asked for.
        network: `[B] string -> [B, dim] float32`.
        dim: size of a feature.
        fingerprint: hash of the network.
        trackables: what a SavedModel must carry for the network.
        tunable: what of it can be trained further, if anything.
    """

    modality = "text"
    window = 16  # the longest text of a batch says how many tokens all others have

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
        self.inputs = (tf.TensorSpec([None], tf.string),)
        self._run = tf.function(self._encode, input_signature=self.inputs, autograph=False)

    def read(self, medium: str | Path | bytes, bounds: ExtractionConfig) -> bytes:
        data = medium if isinstance(medium, bytes) else str(medium).encode("utf-8", "surrogatepass")
        if len(data) > self.max_bytes(bounds):
            raise MediaError(f"the text has {len(data)} bytes, more than {self.max_bytes(bounds)}")
        return data

    def max_bytes(self, bounds: ExtractionConfig) -> int:
        return min(bounds.max_bytes, _MAX_BYTES)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise MediaError("the text is not UTF-8") from None
        if not text.strip():
            raise MediaError("the text is blank")
        return np.array(data, object)

    def length(self, medium: np.ndarray) -> int:
        return len(medium.item())

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return (tf.constant([text.item() for text in media], tf.string),)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """`[B] string -> [B, dim] float32`."""
        return self._run(texts)

    def _encode(self, texts: tf.Tensor) -> tf.Tensor:
        features = tf.cast(self._network(texts), tf.float32)
        return tf.ensure_shape(features, [None, self.dim])

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        whole = tf.strings.unicode_transcode(data, "UTF-8", "UTF-8", errors="replace")  # what is valid stays as it is
        return self._encode(whole), told(whole != data, "text: the bytes are not UTF-8")


def load_text_module(handle: str) -> TextEncoder:
    """A TF Hub handle or a local SavedModel folder, called with `[B] string`.

    Raises:
        EncoderError: it cannot be downloaded or loaded, or does not map texts to vectors.
    """
    module = load_hub_module(handle, "text")
    network = _callable(module, handle)
    try:
        probe = network(tf.constant(["probe"]))
    except Exception as error:
        raise EncoderError(f"{handle}: the module fails on a text ({first_line(error)}).") from error
    if len(probe.shape) != 2 or not probe.dtype.is_floating:
        raise EncoderError(
            f"{handle}: a text encoder must give [B, dim] numbers. Received: {probe.dtype.name} {tuple(probe.shape)}."
        )
    return TextEncoder(handle, network, int(probe.shape[1]), _fingerprint(handle), [module])


def _callable(module: Any, handle: str) -> Callable[[tf.Tensor], tf.Tensor]:
    if callable(module):
        return module
    signature = getattr(module, "signatures", {}).get("serving_default")
    arguments = signature.structured_input_signature[1] if signature is not None else {}
    if signature is None or len(arguments) != 1 or len(signature.structured_outputs) != 1:
        raise EncoderError(
            f"{handle}: the module is not callable and has no `serving_default` signature of one input and one output."
        )
    (name,), (output,) = arguments, signature.structured_outputs
    return lambda texts: signature(**{name: texts})[output]


def _fingerprint(handle: str) -> str:
    return fingerprint("text/1", fingerprint_module(handle))
