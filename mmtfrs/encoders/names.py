"""What encoders are called, known without TensorFlow, so that a wrong name is refused at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmtfrs.config.config import Config
from mmtfrs.config.schema import MODALITIES, Modality
from mmtfrs.errors import EncoderError, nearest
from mmtfrs.utils.extensions import is_import_path

OFFLINE, AUTO = "offline", "auto"
HUB = "hf"  # before the name of a model on huggingface.co
JOINT = ("clip", "siglip")  # before a folder that has an encoder of images and one of texts
USE = "https://tfhub.dev/google/universal-sentence-encoder/4"
# The networks of keras.applications, in its own spelling without capitals; a test holds them to what it has.
NETWORK_NAMES = (
    *(f"convnext{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"densenet{depth}" for depth in (121, 169, 201)),
    *(f"efficientnetb{number}" for number in range(8)),
    *(f"efficientnetv2{kind}" for kind in ("b0", "b1", "b2", "b3", "s", "m", "l")),
    *("inceptionresnetv2", "inceptionv3", "mobilenet", "mobilenetv2", "mobilenetv3large", "mobilenetv3small"),
    *("nasnetlarge", "nasnetmobile"),
    *(f"regnet{kind}{flops:03d}" for kind in "xy" for flops in (2, 4, 6, 8, 16, 32, 40, 64, 80, 120, 160, 320)),
    *(f"resnet{depth}{version}" for depth in (50, 101, 152) for version in ("", "v2")),
    *(f"resnetrs{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)),
    *("vgg16", "vgg19", "xception"),
)
# Names that need no file beside them.
NAMES = {
    "image": (*NETWORK_NAMES, "efficientnet-lite0"),
    "text": ("use", "minilm", "tfidf"),
    "audio": ("yamnet", "mfcc", "lstm"),
}
_WITH_FILE = {"image": NETWORK_NAMES, "text": ("tfidf", "vectors"), "audio": ("lstm",)}  # NAME:FILE


def check_name(modality: str, name: str) -> None:
    """Raises `EncoderError` for a modality without encoders, and for what is neither a known name nor a path or an address.

    What is in the file, or behind the address, is for `load` to find out.
    """
    if modality not in MODALITIES:
        raise EncoderError(f"`modality` must be one of {', '.join(MODALITIES)}. Received: {modality!r}.")
    known = (AUTO, *NAMES[modality], *(["vectors:FILE"] if modality == "text" else []), OFFLINE)
    kind, _, path = name.partition(":")
    if name.lower() in known or Path(name).exists() or ("://" in name and modality != "image"):
        return
    if kind == HUB and "/" in path and modality != "audio":
        return
    if kind in JOINT and path and modality != "audio":
        if Path(path).is_dir() or (path.startswith(f"{HUB}:") and "/" in path):
            return
        raise EncoderError(f"{path}: there is no such folder.")
    # NAME:FILE, and random weights for tests of what does not depend on them.
    if kind.lower() in _WITH_FILE[modality] and path:
        if path == "random" or Path(path).is_file():
            return
        raise EncoderError(f"{path}: there is no such weights file.")
    if is_own(modality, name):
        return
    raise EncoderError(
        f"unknown {modality} encoder `{name}`: neither a known name nor an existing path.{nearest(name, known)} "
        f"Known names: {', '.join(known)}."
    )


def code_of(config: Config, encoders: Iterable[tuple[Modality, str]] = ()) -> dict[str, str]:
    """`{setting: import path}` of all code that settings name, and of encoders that made features, as `(modality, name)`."""
    model, named = config.model, [*((name, getattr(config.encoders, name)) for name in MODALITIES), *encoders]
    found = {f"encoders.{modality}": name for modality, name in named if modality in MODALITIES and is_own(modality, name)}
    found |= {f"extraction.preprocess.{modality}": path for modality, path in config.extraction.preprocess.items()}
    parts = (("model.fusion", model.fusion), ("model.score", model.score))
    return found | {setting: name for setting, name in parts if is_import_path(name)}


def is_own(modality: str, name: str) -> bool:
    """Whether a name is the import path of an encoder of the user's own, and no NAME:FILE."""
    names = (*NAMES[modality], *_WITH_FILE[modality], HUB, *JOINT)
    return is_import_path(name) and name.partition(":")[0].lower() not in names
