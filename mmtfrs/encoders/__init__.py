"""Frozen pretrained networks: raw media -> features, one class per modality."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmtfrs.encoders.names import AUTO, HUB, JOINT, NETWORK_NAMES, OFFLINE, USE, check_name, is_own
from mmtfrs.errors import EncoderError, first_line
from mmtfrs.utils.extensions import imported

if TYPE_CHECKING:
    from mmtfrs.encoders.base import Encoder

__all__ = ["check_name", "choose", "load", "preprocessed"]


def load(modality: str, name_or_path: str | Path, preprocess: str = "") -> Encoder:
    """Loads the encoder of one modality.

    Args:
        modality: `image`, `text` or `audio`.
        name_or_path: `auto` (see `choose`), `offline`, or
            image: `efficientnet-lite0`, a keras.applications name (`efficientnetb0`, `vgg16`, ...; pretrained on ImageNet),
            `NAME:random` or `NAME:WEIGHTS.h5`, a Keras model file or folder, a weights file named after its network, a folder
            of Hugging Face (ViT or DINOv2);
            text: `minilm`, `use`, a TF Hub handle, a folder of Hugging Face (BERT, DistilBERT, MPNet or XLM-R), a local
            SavedModel folder that maps `[B] string` to `[B, dim]`, or `tfidf:FILE` and `vectors:FILE.npz`, as `extract` has
            fitted them to a catalog (there `tfidf`, and `vectors:FILE` of GloVe or word2vec);
            audio: `yamnet`, a checkpoint file in YAMNet's layout, a TF Hub handle, a local SavedModel folder, `mfcc`
            (statistics), `lstm` (a small recurrent reservoir) or `lstm:WEIGHTS.h5`.

            image and text: `clip:FOLDER` and `siglip:FOLDER`, the two encoders of one folder of Hugging Face, whose features
            lie in one space; `clip:hf:ORGANIZATION/NAME` of huggingface.co.

            Any modality: `package.module:name` of your own: a function from a list of media to an array, or what is called
            without arguments and gives an `Encoder`.
        preprocess: `package.module:name` of a function that each decoded medium goes through before, or "".

    Raises:
        EncoderError: there is no such encoder, or it cannot be downloaded or loaded.
    """
    if preprocess:
        return preprocessed(load(modality, name_or_path), preprocess)
    name = str(name_or_path)
    check_name(modality, name)
    if name.lower() == AUTO:
        name = choose(modality)
    if name == OFFLINE:
        from mmtfrs.encoders.offline import load_offline

        return load_offline(modality)
    if is_own(modality, name):
        return _load_own(modality, name)
    # Downloads write their progress to standard output, which belongs to results.
    with contextlib.redirect_stdout(sys.stderr):
        return _joint(modality, name) or {"image": _load_image, "text": _load_text, "audio": _load_audio}[modality](name)


def preprocessed(encoder: Encoder, path: str) -> Encoder:
    """An encoder behind the function at an import path; as it is where there is none."""
    if not path:
        return encoder
    from mmtfrs.encoders.preprocess import Preprocessed

    return Preprocessed(encoder, path, imported(path, f"extraction.preprocess.{encoder.modality}"))


def choose(modality: str) -> str:
    """What `auto` is on this machine: the Universal Sentence Encoder or EfficientNet-B0 where it was downloaded, else MiniLM
    or EfficientNet-Lite0, which a package index has; for audio YAMNet, which no package index has."""
    from mmtfrs.encoders import published

    usual, packaged = {"image": ("efficientnetb0", "efficientnet-lite0"), "text": ("use", "minilm"), "audio": ("yamnet", "")}[
        modality
    ]
    return packaged if packaged and not published.here(usual) else usual


def _load_own(modality: str, path: str) -> Encoder:
    from mmtfrs.encoders.base import Encoder
    from mmtfrs.encoders.function import FUNCTIONS, takes_a_batch

    found = imported(path, f"encoders.{modality}")
    if takes_a_batch(found):
        return FUNCTIONS[modality](path, found)
    try:
        encoder = found()
    except Exception as error:  # whatever the user's function does
        raise EncoderError(
            f"`encoders.{modality}` {path}: called without arguments, it failed ({type(error).__name__}: {first_line(error)}). "
            "A function of a batch has one argument, without a default."
        ) from error
    if not isinstance(encoder, Encoder) or encoder.modality != modality:
        raise EncoderError(
            f"`encoders.{modality}` {path}: must give a mmtfrs.encoders.base.Encoder of {modality}. Received: {encoder!r}."
        )
    return encoder


def _hub(name: str) -> Path | None:
    """The folder of a model of huggingface.co; None for other names."""
    kind, _, repository = name.partition(":")
    if kind != HUB:
        return None
    from mmtfrs.encoders.model_folder import hub_folder

    return hub_folder(repository)


def _joint(modality: str, name: str) -> Encoder | None:
    """One of the two encoders of a folder of CLIP or SigLIP; None for other names."""
    kind, _, path = name.partition(":")
    if kind not in JOINT:
        return None
    from mmtfrs.encoders.two_towers import load_tower

    return load_tower(modality, kind, _hub(path) or Path(path), name)


def _load_image(name: str) -> Encoder:
    from mmtfrs.encoders.applications import load_application, load_path

    if name.lower() in NETWORK_NAMES:
        return load_application(name.lower())
    if name.lower() == "efficientnet-lite0":
        from mmtfrs.encoders.efficientnet_lite import load_efficientnet_lite0
        from mmtfrs.encoders.published import get

        return load_efficientnet_lite0(get(name.lower()))
    network, _, weights = name.partition(":")
    if network.lower() in NETWORK_NAMES:
        return load_application(network.lower(), weights)
    folder = _hub(name) or Path(name)
    if (folder / "config.json").exists():
        from mmtfrs.encoders.hugging_face import load_image_folder

        return load_image_folder(folder, name)
    return load_path(Path(name))


def _load_text(name: str) -> Encoder:
    from mmtfrs.encoders.text import load_text_module

    if name.lower() == "use":
        name = USE
    if name.lower() == "minilm":
        from mmtfrs.encoders.published import get

        folder, name = get("minilm"), "minilm"
    else:
        folder = _hub(name) or Path(name)
    if (folder / "config.json").exists():
        from mmtfrs.encoders.hugging_face import load_text_folder

        return load_text_folder(folder, name)
    kind, _, path = name.partition(":")
    if kind == "tfidf":
        from mmtfrs.encoders.tfidf import load_tfidf

        if not path:
            raise EncoderError("`tfidf` is fitted on a catalog by `mmtfrs extract`; elsewhere give the file: `tfidf:FILE`.")
        return load_tfidf(path)
    if kind == "vectors":
        from mmtfrs.encoders.word_vectors import load_vectors

        return load_vectors(path)
    return load_text_module(name)


def _load_audio(name: str) -> Encoder:
    from mmtfrs.encoders.yamnet import load_audio_module, load_yamnet

    kind, _, path = name.partition(":")
    if kind in ("mfcc", "lstm"):
        from mmtfrs.encoders.mfcc import load_lstm, load_mfcc

        return load_mfcc() if kind == "mfcc" else load_lstm(path or None)
    if name.lower() == "yamnet":
        return load_yamnet()
    if Path(name).is_file():
        return load_yamnet(name)
    return load_audio_module(name)
