"""A folder of a model as Hugging Face writes it: what is read of it, and a hash of exactly that."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs.encoders.base import fingerprint_folder
from mmtfrs.encoders.names import HUB
from mmtfrs.encoders.weights import Weights, read_safetensors
from mmtfrs.errors import EncoderError, first_line

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_CONVERT = (
    "from transformers import AutoModel; AutoModel.from_pretrained('{0}').save_pretrained('{0}', safe_serialization=True)"
)


class ModelFolder:
    """Args:

    path: of the folder. Every method raises `EncoderError` where what is asked for is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: set[Path] = set()
        self._weights: set[Path] = set()
        self._documents: dict[str, Any] = {}  # a tokenizer's is large, and asked for more than once

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def data(self, name: str) -> bytes:
        """A file's bytes."""
        try:
            found = (self.path / name).read_bytes()
        except FileNotFoundError:
            raise EncoderError(f"{self.path}: has no {name}, so it is no folder of a Hugging Face model.") from None
        except OSError as error:
            raise EncoderError(f"{self.path / name}: cannot be read ({error}).") from None
        self._read.add(self.path / name)
        return found

    def text(self, name: str) -> str:
        """A file's UTF-8; lines end in a line feed alone."""
        try:
            return self.data(name).decode().replace("\r\n", "\n")
        except ValueError as error:
            raise EncoderError(f"{self.path / name}: cannot be read ({error}).") from None

    def json(self, name: str, default: Any = None) -> Any:
        """A document of the kind of the default, a mapping if that is None; the default where there is no such file."""
        if default is not None and not self.has(name):
            return default
        if name not in self._documents:
            try:
                self._documents[name] = json.loads(self.text(name))
            except ValueError as error:
                raise EncoderError(f"{self.path / name}: cannot be read ({error}).") from None
        found = self._documents[name]
        if not isinstance(found, type({} if default is None else default)):
            raise EncoderError(f"{self.path / name}: is no {'list' if isinstance(default, list) else 'mapping'}.")
        return found

    def weights(self, prefixes: Sequence[str] = ()) -> Weights:
        """The tensors, in one file or in several."""
        if self.has(WEIGHTS):
            files, told = [WEIGHTS], WEIGHTS
        elif self.has(_INDEX):
            files, told = sorted(set(self.json(_INDEX)["weight_map"].values())), _INDEX
        elif self.has("pytorch_model.bin"):
            raise EncoderError(
                f"{self.path}: has pytorch_model.bin, and no {WEIGHTS}. Convert it where PyTorch is: "
                f'python -c "{_CONVERT.format(self.path)}"'
            )
        else:
            raise EncoderError(f"{self.path}: has no {WEIGHTS}.")
        self._weights |= {self.path / file for file in files}
        arrays = {name: values for file in files for name, values in read_safetensors(self.path / file).items()}
        return Weights(arrays, self.path / told, prefixes)

    def copy(self, place: Path, tensors: Mapping[str, np.ndarray]) -> None:
        """Writes a folder of what was read of this one, with other values of some tensors."""
        from safetensors.numpy import save_file

        arrays = {name: values for file in self._weights for name, values in read_safetensors(file).items()}
        shutil.rmtree(place, ignore_errors=True)  # of a killed attempt
        for file in self._read - {self.path / _INDEX}:
            copied = place / file.relative_to(self.path)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
        # The file is written as memory lies; and transformers asks who wrote it.
        whole = {name: np.ascontiguousarray(values) for name, values in {**arrays, **tensors}.items()}
        save_file(whole, place / WEIGHTS, metadata={"format": "pt"})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of all that was read; other files do not matter."""
        return fingerprint_folder(self.path, self._read | self._weights)

    @property
    def space(self) -> str:
        """SHA-256 over the weights and `config.json`: the same for all encoders that are made of them."""
        return fingerprint_folder(self.path, self._weights | {self.path / "config.json"})

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What a file does not say as it should is an `EncoderError`."""
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise EncoderError(f"{self.path}: a file of the model is not as Hugging Face writes it ({cause[:200]}).") from error


def hub_folder(name: str) -> Path:
    """Where a model of huggingface.co lies on this machine: `ORGANIZATION/NAME`, or `ORGANIZATION/NAME@REVISION`. It is
    completed from there, and taken as it is in the cache of `huggingface_hub` where there is no network.

    Raises:
        EncoderError: `huggingface_hub` is not installed, or the model cannot be downloaded.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise EncoderError(f"{HUB}:{name} needs huggingface_hub: pip install 'mmtfrs[hf]'.") from None
    repository, _, revision = name.partition("@")

    def folder(local: bool) -> Path:
        # Another program may have left a part of the files there, and what is missing has a meaning.
        wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
        found = snapshot_download(repository, revision=revision or None, allow_patterns=wanted, local_files_only=local)
        return Path(found)

    try:
        return folder(False)
    except Exception as error:  # whatever the network, the server or the disk has to say
        with contextlib.suppress(Exception):
            return folder(True)
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise EncoderError(
            f"{HUB}:{name} could not be downloaded from huggingface.co ({cause[:200]}). "
            "Download it elsewhere and give its folder."
        ) from None
