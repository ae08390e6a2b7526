"""Encoders of texts and images from folders as Hugging Face and sentence-transformers write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders import vit
from mmtfrs.encoders.base import fingerprint, fingerprint_folder
from mmtfrs.encoders.bert import FAMILIES, HEADS, Bert
from mmtfrs.encoders.characters import bert_characters
from mmtfrs.encoders.image import Fit, ImageEncoder
from mmtfrs.encoders.names import HUB
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.encoders.weights import Weights, read_safetensors
from mmtfrs.encoders.wordpiece import WordPiece
from mmtfrs.errors import EncoderError, first_line

WEIGHTS = "model.safetensors"
_CONVERT = (
    "from transformers import AutoModel; AutoModel.from_pretrained('{0}').save_pretrained('{0}', safe_serialization=True)"
)
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}


def load_text_folder(path: Path, name: str) -> TextEncoder:
    """A folder with `config.json`, `model.safetensors` and the tokenizer's files; pooling and normalization are those of
    `modules.json`, and the mean over tokens where there is none.

    Args:
        path: the folder.
        name: what the user asked for.

    Raises:
        EncoderError: something is missing, damaged, or of a kind that is not known.
    """
    config = read_json(path, "config.json")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise EncoderError(f"{path / 'config.json'}: unknown model_type `{kind}`; text encoders are {', '.join(FAMILIES)}.")
    weights = read_weights(path, FAMILIES[kind].prefixes)
    network = Bert(config, weights)
    weights.check_empty(HEADS)
    pool, extra = _pooling(path)
    most = min(network.longest, _most_tokens(path) or network.longest)
    tokens = read_tokens(path, int(config["vocab_size"]), most)

    def encode(texts: tf.Tensor) -> tf.Tensor:
        ids, there = tokens(texts)
        return pool(network(ids, there), there)

    dim = network.width * extra
    return TextEncoder(name, encode, dim, fingerprint("text-folder/1", fingerprint_folder(path)), weights.variables)


def load_image_folder(path: Path, name: str) -> ImageEncoder:
    """A folder with `config.json`, `model.safetensors` and `preprocessor_config.json`: ViT or DINOv2, of which the first token
    is the feature.

    Args:
        path: the folder.
        name: what the user asked for.

    Raises:
        EncoderError: something is missing, damaged, or of a kind that is not known.
    """
    config, told = read_json(path, "config.json"), read_json(path, "preprocessor_config.json")
    kind = config.get("model_type")
    if kind not in vit.FAMILIES:
        raise EncoderError(
            f"{path / 'config.json'}: unknown model_type `{kind}`; image encoders are {', '.join(vit.FAMILIES)}."
        )
    size, fit = _fit(path, told)
    weights = read_weights(path, (vit.FAMILIES[kind].prefix,))
    network = vit.ViT(config, weights, size)
    weights.check_empty(vit.HEADS)
    scale = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    normal = told.get("do_normalize", True)
    mean, deviation = (
        np.array(told[f"image_{name}"] if normal else usual) for name, usual in (("mean", [0.0]), ("std", [1.0]))
    )

    def encode(images: tf.Tensor) -> tf.Tensor:
        return network(images * np.float32(scale / deviation) - np.float32(mean / deviation))[:, 0]

    mark = fingerprint("image-folder/1", fingerprint_folder(path))
    return ImageEncoder(name, encode, size, network.width, mark, weights.variables, None, fit)


def _fit(path: Path, told: dict) -> tuple[int, Fit]:
    """Side of the images, and how they become squares of it."""

    where = path / "preprocessor_config.json"
    resample, cropped = told.get("resample", 2), bool(told.get("do_center_crop"))
    if not told.get("do_resize", True) or resample not in (2, 3):
        raise EncoderError(f"{where}: images must be resized, bilinear (2) or bicubic (3).")
    size, crop = (told.get(name) or {} for name in ("size", "crop_size"))
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = crop if cropped else size
    shortest = int(size.get("shortest_edge") or 0) if cropped else 0
    side = int(square.get("height") or 0)
    if side < 1 or square.get("width") != side or (cropped and shortest < side):
        raise EncoderError(f"{where}: an image must become a square, or its shorter side no less than what is cut out of it.")
    return side, Fit(shortest, resample == 3)


def hub_folder(name: str) -> Path:
    """Where a model of huggingface.co lies on this machine: `ORGANIZATION/NAME`, or `ORGANIZATION/NAME@REVISION`. It is looked
    for in the cache of `huggingface_hub`, and downloaded if it is not there.

    Raises:
        EncoderError: `huggingface_hub` is not installed, or the model cannot be downloaded.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise EncoderError(f"{HUB}:{name} needs huggingface_hub: pip install 'mmtfrs[hf]'.") from None
    repository, _, revision = name.partition("@")

    def folder(local: bool) -> Path:
        wanted = ["*.json", "*.txt", "*.safetensors", "*.model"]
        found = snapshot_download(repository, revision=revision or None, allow_patterns=wanted, local_files_only=local)
        return Path(found)

    try:
        try:
            return folder(True)
        except LocalEntryNotFoundError:
            return folder(False)
    except Exception as error:  # whatever the network, the server or the disk has to say
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise EncoderError(
            f"{HUB}:{name} could not be downloaded from huggingface.co ({cause[:200]}). "
            "Download it elsewhere and give its folder."
        ) from None


def read_json(path: Path, name: str, default: Any = None) -> Any:
    """Raises `EncoderError` where it is missing and there is no default, or no JSON."""
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        raise EncoderError(f"{path}: has no {name}, so it is no folder of a Hugging Face model.") from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path / name}: cannot be read ({error}).") from None


def read_weights(path: Path, prefixes: Sequence[str] = ()) -> Weights:
    """The tensors of a folder, in one file or in several."""
    if (path / WEIGHTS).exists():
        return Weights(read_safetensors(path / WEIGHTS), path / WEIGHTS, prefixes)
    index = path / f"{WEIGHTS}.index.json"
    if index.exists():
        files = sorted(set(read_json(path, index.name)["weight_map"].values()))
        arrays = {name: values for file in files for name, values in read_safetensors(path / file).items()}
        return Weights(arrays, index, prefixes)
    if (path / "pytorch_model.bin").exists():
        convert = _CONVERT.format(path)
        raise EncoderError(
            f'{path}: has pytorch_model.bin, and no {WEIGHTS}. Convert it where PyTorch is: python -c "{convert}"'
        )
    raise EncoderError(f"{path}: has no {WEIGHTS}.")


def _most_tokens(path: Path) -> int | None:
    """How many tokens of a text are read, special ones included."""
    found = read_json(path, "sentence_bert_config.json", {}).get("max_seq_length")
    return int(found or read_json(path, "tokenizer_config.json", {}).get("model_max_length") or 0) or None


def read_tokens(path: Path, size: int, most: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """The tokenizer of a folder, in the graph: `[B] string -> (ids [B, T] int32, there [B, T] bool)`, T that of the longest.

    Args:
        path: with `tokenizer.json`, or `vocab.txt` and `tokenizer_config.json`.
        size: rows of the embedding.
        most: tokens of a text, special ones included.
    """
    told = read_json(path, "tokenizer_config.json", {})
    made = read_json(path, "tokenizer.json", {})
    if made:
        pieces, normalizer, (begin, end) = _from_tokenizer(path, made)
    elif (path / "vocab.txt").exists():
        pieces = (path / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        normalizer = {"lowercase": told.get("do_lower_case", True), "strip_accents": told.get("strip_accents")}
        normalizer["handle_chinese_chars"] = told.get("tokenize_chinese_chars", True)
        begin, end = (str(told.get(name, usual)) for name, usual in (("cls_token", "[CLS]"), ("sep_token", "[SEP]")))
    else:
        raise EncoderError(f"{path}: has no tokenizer.json and no vocab.txt: copy the tokenizer's files beside the weights.")
    if len(pieces) > size:
        raise EncoderError(
            f"{path}: the tokenizer has {len(pieces)} tokens, and the embedding {size} rows. Are both of one model?"
        )
    unknown = str(told.get("unk_token") or "[UNK]")
    for special in (begin, end, unknown):
        if special not in pieces:
            raise EncoderError(f"{path}: the vocabulary has no `{special}`.")
    lowercase = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    characters = bert_characters(
        lowercase, lowercase if strip is None else bool(strip), normalizer.get("handle_chinese_chars", True)
    )
    cut = WordPiece(pieces, unknown, characters, most - 2)
    first, last = pieces.index(begin), pieces.index(end)

    def tokens(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids = cut(texts)
        column = tf.ones([tf.size(texts), 1], tf.int32)
        ids = tf.concat([first * column, ids, last * column], axis=1)
        return ids.to_tensor(0), tf.sequence_mask(ids.row_lengths())

    return tokens


def _from_tokenizer(path: Path, made: dict) -> tuple[list[str], dict, tuple[str, str]]:
    """`(pieces, normalizer's settings, (first token, last token))` of a `tokenizer.json`."""
    model, normalizer = made["model"], made.get("normalizer") or {}
    kinds = (model.get("type", "WordPiece"), normalizer.get("type"), (made.get("pre_tokenizer") or {}).get("type"))
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise EncoderError(
            f"{path / 'tokenizer.json'}: unknown tokenizer {' / '.join(map(str, kinds))}; known is BERT's WordPiece."
        )
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    added = [each["content"] for each in made.get("added_tokens", ()) if each["content"] not in model["vocab"]]
    if added or [model["vocab"][piece] for piece in pieces] != list(range(len(pieces))):
        raise EncoderError(
            f"{path / 'tokenizer.json'}: tokens were added to the vocabulary ({', '.join(added[:3])}), which no graph can tell "
            "from text. Take the tokenizer as it was before."
        )
    processor = made.get("post_processor") or {}
    if processor.get("type") == "TemplateProcessing":
        around = [each["SpecialToken"]["id"] for each in processor["single"] if "SpecialToken" in each]
    else:
        around = [processor.get(name, [usual])[0] for name, usual in (("cls", "[CLS]"), ("sep", "[SEP]"))]
    if len(around) != 2:
        raise EncoderError(
            f"{path / 'tokenizer.json'}: a text must stand between two special tokens. Found: {', '.join(around)}."
        )
    return pieces, normalizer, (around[0], around[1])


def _pooling(path: Path) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], int]:
    """What makes one vector of those of the tokens, and how many times as wide it is."""
    kinds, normalized = ["mean"], False
    for module in read_json(path, "modules.json", []):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            settings = read_json(path / module["path"], "config.json")
            wanted = [name for name, value in settings.items() if name.startswith("pooling_mode") and value is True]
            unknown = [name for name in wanted if name not in _POOLINGS]
            if unknown or not wanted:
                raise EncoderError(
                    f"{path / module['path']}: unknown pooling {', '.join(unknown)}; known: {', '.join(_POOLINGS)}."
                )
            kinds = [_POOLINGS[name] for name in wanted]
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise EncoderError(f"{path / 'modules.json'}: unknown module {kind}; known are Transformer, Pooling and Normalize.")

    def pool(states: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        weights = tf.cast(there, tf.float32)[..., None]
        made = {
            "cls": lambda: states[:, 0],
            "mean": lambda: tf.reduce_sum(states * weights, axis=1) / tf.reduce_sum(weights, axis=1),
            "max": lambda: tf.reduce_max(tf.where(weights > 0, states, np.float32(-np.inf)), axis=1),
        }
        pooled = tf.concat([made[kind]() for kind in kinds], axis=1)
        return tf.math.l2_normalize(pooled, axis=1, epsilon=1e-24) if normalized else pooled

    return pool, len(kinds)
