"""Encoders of texts and of images into one space, from folders of CLIP and SigLIP as Hugging Face writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtfrs._keras import tf
from mmtfrs.encoders.base import Encoder, fingerprint
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.preprocessor_file import read_preprocessor
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.encoders.tower_tokens import clip_tokens, siglip_tokens
from mmtfrs.encoders.towers import IMAGE_PARTS, TEXT_PARTS, UNUSED, ImageTower, TextTower
from mmtfrs.errors import EncoderError

_TOKENS = {"clip": clip_tokens, "siglip": siglip_tokens}


def load_tower(modality: str, kind: str, path: Path, name: str) -> Encoder:
    """One of the two encoders of a folder, the one for texts or the one for images.

    Args:
        modality: `text` or `image`.
        kind: `clip` or `siglip`.
        path: the folder.
        name: what the user asked for.

    Raises:
        EncoderError: something is missing, damaged, or of another kind.
    """
    folder = ModelFolder(path)
    with folder.told():
        config = folder.json("config.json")
        found = config.get("model_type")
        if found != kind:
            raise EncoderError(f"{path / 'config.json'}: unknown model_type `{found}`; `{kind}:` takes `{kind}`.")
        encoder = (_text if modality == "text" else _image)(folder, kind, config, name)
    encoder.space = fingerprint("space/1", folder.space)
    return encoder


def _text(folder: ModelFolder, kind: str, config: Mapping[str, Any], name: str) -> TextEncoder:
    weights = folder.weights()
    network = TextTower(config, weights)
    weights.check_empty((*UNUSED, *IMAGE_PARTS))
    tokens = _TOKENS[kind](folder, network.rows, network.longest)

    def encode(texts: tf.Tensor) -> tf.Tensor:
        return network(*tokens(texts))

    return TextEncoder(name, encode, network.dim, fingerprint(f"{kind}-text/1", folder.fingerprint), weights.variables)


def _image(folder: ModelFolder, kind: str, config: Mapping[str, Any], name: str) -> ImageEncoder:
    prepared = read_preprocessor(folder)
    weights = folder.weights()
    network = ImageTower(config, weights, prepared.size)
    weights.check_empty((*UNUSED, *TEXT_PARTS))

    def encode(images: tf.Tensor) -> tf.Tensor:
        return network(prepared(images))

    mark = fingerprint(f"{kind}-image/1", folder.fingerprint)
    return ImageEncoder(name, encode, prepared.size, network.dim, mark, weights.variables, None, prepared.fit)
