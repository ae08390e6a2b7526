"""What an encoder is: a frozen network that turns one kind of raw media into features."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig, Modality
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.errors import EncoderError, MediaError, first_line
from mmtfrs.media.decode import read_file


class Encoder(abc.ABC):
    """Raw media -> `[B, dim]` float32 features.

    A subclass decodes one medium on the host (`decode`, called from many threads), collates decoded media into the
    tensors of one batch (`collate`), encodes a batch (`__call__`), and does all of it from raw bytes in stock
    TensorFlow ops (`encode_serialized`), which is what the exported SavedModel runs.

    Attributes:
        modality: which medium it takes.
        name: what the user asked for.
        dim: size of a feature.
        fingerprint: hexadecimal; changes whenever the output could.
        trackables: what a SavedModel must carry for `encode_serialized`.
        inputs: the tensors of one batch, as `collate` gives them.
        tunable: what of it can be trained further, if anything.
        space: the same for encoders whose features can be compared, those of a text and of an image, and "" for others.
        window: batches that are decoded before one is encoded, so that each can be made of media of like length.
        in_graph: whether `encode_serialized` can run; else an export takes the features themselves.
        preprocess: import path of what is done to a medium before, or "".
    """

    modality: Modality
    in_graph = True
    window = 1
    preprocess = ""
    inputs: tuple[tf.TensorSpec, ...] = ()
    tunable: Tunable | None = None
    space: str = ""
    salt = b""  # tells features of one file apart that are made in different ways within one space

    def __init__(
        self, name: str, network: Callable[..., tf.Tensor], dim: int, fingerprint: str, trackables: Sequence[Any]
    ) -> None:
        """Args:

        name: what the user asked for.
        network: decoded tensors -> `[B, dim]`; each subclass says of what.
        dim: size of a feature.
        fingerprint: hash of the network and its preprocessing.
        trackables: what a SavedModel must carry for the network: variables, tables, loaded SavedModels.
        """
        self.name = name
        self.dim = dim
        self.fingerprint = fingerprint
        self.trackables = list(trackables)
        self._network = network

    @abc.abstractmethod
    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        """One medium's bytes (a text's UTF-8) -> what `collate` takes. Raises `MediaError`. Thread-safe."""

    @abc.abstractmethod
    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        """Decoded media -> the tensors of one batch."""

    @abc.abstractmethod
    def __call__(self, *batch: tf.Tensor) -> tf.Tensor:
        """The tensors of one batch -> `[B, dim]` float32."""

    @abc.abstractmethod
    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        """For the exported graph, in stock ops only: `[B]` string, none empty or larger than `max_bytes`, ->
        `(features [B, dim] float32, problems [B] string)`.

        No row may fail the call, which answers others too: the problem of a row that is no such medium says so, as `image: the
        file is damaged`, and its features count for nothing. "" is no problem.
        """

    def length(self, medium: np.ndarray) -> int:
        """By which decoded media go into the same batch; all the same where it does not matter."""
        return 0

    def encode_batch(self, media: Sequence[np.ndarray]) -> np.ndarray:
        """Decoded media -> `[B, dim]` float32 NumPy features."""
        return np.asarray(self(*self.collate(media)), np.float32)

    def encode(
        self, media: Sequence[str | Path | bytes | None], bounds: ExtractionConfig | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes media; what is absent or cannot be decoded is zero and not present.

        Args:
            media: paths or bytes of images or audio, or texts; None and "" are absent.
            bounds: limits and batch size; the defaults if None.

        Returns:
            `(features [N, dim] float32, present [N] bool)`.
        """
        bounds = bounds or ExtractionConfig()
        features = np.zeros((len(media), self.dim), np.float32)
        present = np.zeros(len(media), bool)
        rows, decoded = [], []
        for row, medium in enumerate(media):
            if medium is not None and medium != "":
                try:
                    decoded.append(self.decode(self.read(medium, bounds), bounds))
                    rows.append(row)
                except MediaError:
                    pass
            if rows and (len(rows) == bounds.batch_size or row == len(media) - 1):
                features[rows] = self.encode_batch(decoded)
                present[rows] = True
                rows, decoded = [], []
        if rows:
            features[rows] = self.encode_batch(decoded)
            present[rows] = True
        return features, present

    def read(self, medium: str | Path | bytes, bounds: ExtractionConfig) -> bytes:
        """The bytes of one medium. Raises `MediaError` if the file is missing, a folder, empty or too large."""
        if isinstance(medium, bytes):
            return medium
        return read_file(Path(medium), self.max_bytes(bounds))

    def max_bytes(self, bounds: ExtractionConfig) -> int:
        """How large a medium may be, on the host and in the exported graph."""
        return bounds.max_bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, dim={self.dim}, fingerprint={self.fingerprint[:12]!r})"


def fingerprint(*parts: Any) -> str:
    """SHA-256 over strings, numbers and arrays, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def fingerprint_folder(folder: Path, files: Iterable[Path] | None = None) -> str:
    """SHA-256 over the names and bytes of every file below a folder, or of these of them."""
    digest = hashlib.sha256()
    for path in sorted(files if files is not None else (path for path in folder.rglob("*") if path.is_file())):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_hub_module(handle: str, what: str) -> Any:
    """Loads a TF Hub handle or a local SavedModel folder.

    Raises:
        EncoderError: the download or the load failed; names the handle and the local alternative.
    """
    remote = "://" in handle
    if not remote and not (Path(handle) / "saved_model.pb").is_file():
        raise EncoderError(f"{handle}: this folder is no SavedModel (it has no saved_model.pb), so no {what} encoder.")
    load = _hub().load if remote else tf.saved_model.load
    try:
        return load(handle)
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise EncoderError(
            f"the {what} encoder {handle} could not be {'downloaded' if remote else 'loaded'} ({cause[:300]}). "
            + local_alternative(what)
        ) from error


def fingerprint_module(handle: str) -> str:
    """SHA-256 of a module's files: of a folder's, or of what a handle was downloaded to."""
    return fingerprint_folder(Path(_hub().resolve(handle) if "://" in handle else handle))


def _hub() -> ModuleType:
    try:
        import tensorflow_hub
    except ImportError as error:  # it imports pkg_resources, which newer setuptools do not have
        raise EncoderError(
            f"TF Hub handles need tensorflow-hub, which needs setuptools below 81 ({error}): "
            "pip install tensorflow-hub 'setuptools<81'. Or download the module and give its folder."
        ) from error
    return tensorflow_hub


def local_alternative(what: str) -> str:
    """What to do where nothing can be downloaded."""
    return (
        f"Without a network, give a local path (`--{what}-encoder PATH`, or encoders.{what} in the config); "
        "`offline` is a small built-in stand-in that knows nothing."
    )
