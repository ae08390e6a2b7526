"""A function of the user's own as an encoder: a language model's API, sentence-transformers, whatever runs in Python."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.audio import AudioEncoder
from mmtfrs.encoders.base import Encoder, fingerprint
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.errors import EncoderError, first_line
from mmtfrs.media.decode import SAMPLE_RATE, open_image


def takes_a_batch(found: Any) -> bool:
    """Whether what stands at an import path is a function of a batch, and no class or function that makes an `Encoder`."""
    if inspect.isclass(found) or not callable(found):
        return False
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # written in C
        return True
    return not _fits(signature) and _fits(signature, [])


def _fits(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def code_fingerprint(path: str, function: Any) -> str:
    """Hash of what a function is known by: its import path, the source of its module, and `fingerprint`, a text that its author
    sets where something changes that the source does not say, as a model's weights.

    Raises:
        EncoderError: the attribute `fingerprint` is no text.
    """
    mark = getattr(function, "fingerprint", "")
    if not isinstance(mark, str):
        raise EncoderError(f"{path}: the attribute `fingerprint` must be a text. Received: {mark!r}.")
    while isinstance(function, functools.partial):
        function = function.func
    names = (path.partition(":")[0], getattr(function, "__module__", None), type(function).__module__)
    modules = [name for name in names if name and name not in ("builtins", "functools")]
    return fingerprint("function/1", path, mark, *(_source(sys.modules.get(name)) for name in dict.fromkeys(modules)))


def _source(module: ModuleType | None) -> str:
    try:
        return inspect.getsource(module) if module is not None else ""
    except (OSError, TypeError):
        return ""


class FunctionEncoder(Encoder):
    """Encodes by a function from a list of decoded media to `[n, dim]` numbers.

    A text comes as a `str`, an image as `[h, w, 3] uint8` RGB of its own size, a sound as `[T] float32`, 16 kHz mono in
    [-1, 1]. No graph can run it: an export has an input for the features instead of the raw media.

    Args:
        path: where the function is imported from.
        function: called from one thread, with up to `extraction.batch_size` media.
    """

    in_graph = False
    probe: Any  # a medium by which the size of the features is found
    _dim: int

    def __init__(self, path: str, function: Callable[[list], Any]) -> None:
        super().__init__(path, function, 0, code_fingerprint(path, function), [])

    @property
    def dim(self) -> int:
        """Found by a first call, which an export, that only compares fingerprints, does without."""
        if not self._dim:
            self._dim = self._answer([self.probe]).shape[1]
        return self._dim

    @dim.setter
    def dim(self, dim: int) -> None:
        self._dim = dim

    def encode_batch(self, media: Sequence[np.ndarray]) -> np.ndarray:
        features = self._answer([self.given(medium) for medium in media])
        if features.shape[1] != self.dim:
            raise EncoderError(
                f"{self.name}: must give features of one size. Received: {features.shape[1]} numbers, before {self.dim}."
            )
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise EncoderError(
                f"{self.name}: must give finite float32 numbers. Received: NaN or infinity for {bad.sum()} of {len(bad)} media."
            )
        return features

    def prepared(self, medium: np.ndarray, bounds: ExtractionConfig) -> np.ndarray:
        """A medium that is decoded already, as a video's frame -> what `encode_batch` takes."""
        return medium

    def given(self, medium: np.ndarray) -> Any:
        """A decoded medium as the function takes it."""
        return medium

    def _answer(self, media: list) -> np.ndarray:
        """`[n, dim] float32` of what the function gives, if it has this shape."""
        try:
            answer = np.asarray(self._network(media))
        except Exception as error:  # whatever the user's function does
            raise EncoderError(
                f"{self.name}: failed on a batch of {len(media)} {self.modality} media ({type(error).__name__}: "
                f"{first_line(error)})."
            ) from error
        if answer.ndim != 2 or len(answer) != len(media) or not answer.shape[1] or answer.dtype.kind not in "fiu":
            raise EncoderError(
                f"{self.name}: must give [{len(media)}, dim] numbers for {len(media)} media. "
                f"Received: {answer.dtype} {list(answer.shape)}."
            )
        with np.errstate(over="ignore"):  # beyond float32 is infinity, which is refused
            return answer.astype(np.float32)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        raise self._no_graph()

    def __call__(self, *batch: tf.Tensor) -> tf.Tensor:
        raise self._no_graph()

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        raise self._no_graph()

    def _no_graph(self) -> EncoderError:
        return EncoderError(f"{self.name}: a function in Python, which no graph can run.")


class TextFunction(FunctionEncoder, TextEncoder):
    """Of texts."""

    probe = "probe"

    def given(self, medium: np.ndarray) -> str:
        return medium.item().decode()


class ImageFunction(FunctionEncoder):
    """Of images."""

    modality = "image"
    probe = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        return np.array(open_image(data, bounds.max_pixels))


class AudioFunction(FunctionEncoder, AudioEncoder):
    """Of sounds."""

    probe = (0.1 * np.random.RandomState(0).uniform(-1, 1, SAMPLE_RATE)).astype(np.float32)


FUNCTIONS: dict[str, type[FunctionEncoder]] = {"text": TextFunction, "image": ImageFunction, "audio": AudioFunction}
