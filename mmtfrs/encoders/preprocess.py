"""A step of the user's own between a medium's decoding and its encoder, as one that takes noise out of audio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig, Modality
from mmtfrs.encoders.base import Encoder, fingerprint
from mmtfrs.encoders.function import FUNCTIONS
from mmtfrs.errors import EncoderError, MediaError, first_line
from mmtfrs.media.encode import as_png, as_wav

_KINDS = {"text": "a str", "image": "[h, w, 3] uint8", "audio": "[T] finite float32"}


class Step:
    """A function from one decoded medium, as `FunctionEncoder` has them, to one of the same kind.

    Args:
        modality: of the media.
        path: where the function is imported from.
        function: never called twice at a time. A `mmtfrs.errors.MediaError` of its own sets the medium aside.
    """

    def __init__(self, modality: Modality, path: str, function: Callable[[Any], Any]) -> None:
        self.path, self._modality, self._function, self._lock = path, modality, function, threading.Lock()

    def __call__(self, medium: Any) -> Any:
        """Raises `EncoderError` where the function fails or gives another kind."""
        text = self._modality == "text"
        try:
            with self._lock:
                made = self._function(medium)
            array = np.zeros(0) if text else np.asarray(made)
        except MediaError:
            raise
        except Exception as error:  # whatever the user's function does
            raise EncoderError(
                f"{self.path}: failed on a medium of {self._modality} ({type(error).__name__}: {first_line(error)})."
            ) from error
        if text:
            good = isinstance(made, str)
        elif self._modality == "image":
            good = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0
        else:
            good = array.dtype.kind == "f" and array.ndim == 1 and bool(np.isfinite(array).all())
        if not good:
            received = type(made).__name__ if text else f"{array.dtype} {list(array.shape)}"
            raise EncoderError(f"{self.path}: must give {_KINDS[self._modality]}. Received: {received}.")
        return made if text else array


class Preprocessed(Encoder):
    """An encoder of what a function makes of each medium. It runs in Python, so that no graph can do what it does.

    Args:
        encoder: of what the function gives.
        path, function: as a `Step` takes them.
    """

    in_graph = False

    def __init__(self, encoder: Encoder, path: str, function: Callable[[Any], Any]) -> None:
        self._encoder, self._step = encoder, Step(encoder.modality, path, function)
        self._kind = FUNCTIONS[encoder.modality](path, function)  # decodes, and hashes its code
        mark = fingerprint("preprocess/1", encoder.fingerprint, self._kind.fingerprint)
        self.modality, self.preprocess, self.space = encoder.modality, path, encoder.space
        self.name, self.fingerprint, self.trackables, self._network = encoder.name, mark, [], encoder
        self.window = encoder.window

    @property
    def dim(self) -> int:
        return self._encoder.dim

    @dim.setter
    def dim(self, dim: int) -> None:
        self._encoder.dim = dim

    def read(self, medium: Any, bounds: ExtractionConfig) -> bytes:
        return self._encoder.read(medium, bounds)

    def max_bytes(self, bounds: ExtractionConfig) -> int:
        return self._encoder.max_bytes(bounds)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        return self.prepared(self._kind.decode(data, bounds), bounds)

    def prepared(self, medium: np.ndarray, bounds: ExtractionConfig) -> np.ndarray:
        """A medium that is decoded already, as a video's frame, through the function -> what `encode_batch` takes."""
        return self._encoder.decode(self._serialized(self._step(self._kind.given(medium))), bounds)

    def _serialized(self, made: Any) -> bytes:
        """As bytes, which every encoder decodes in its own way, without loss."""
        if self.modality == "text":
            return made.encode("utf-8", "surrogatepass")
        return as_png(Image.fromarray(made), 0) if self.modality == "image" else as_wav(made.astype(np.float32))

    def length(self, medium: np.ndarray) -> int:
        return self._encoder.length(medium)

    def encode_batch(self, media: Sequence[np.ndarray]) -> np.ndarray:
        return self._encoder.encode_batch(media)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return self._encoder.collate(media)

    def __call__(self, *batch: tf.Tensor) -> tf.Tensor:
        return self._encoder(*batch)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        raise EncoderError(f"{self.preprocess}: a function in Python, which no graph can run.")
