"""What a user asks -> the inputs of a signature, for a SavedModel in this process or behind a server alike."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mmtfrs.config.schema import MODALITIES
from mmtfrs.errors import DataError
from mmtfrs.exporting.own_features import SUFFIX
from mmtfrs.exporting.sent_media import image_bytes, wav_bytes
from mmtfrs.utils.text import split_ids

if TYPE_CHECKING:
    from tensorflow_serving.apis import model_pb2, predict_pb2

NO_SCORE = float(np.finfo(np.float32).min)  # a `min_score` that ends no list
_SHOWN, _LETTERS = 5, 80  # values of a list, characters of a text, that are told in words


@dataclasses.dataclass(frozen=True)
class Query:
    """One question: who asks, what it shows, and what may be answered.

    Args:
        user: id, "" for an unknown user.
        history: item ids, oldest first.
        text, image, audio: what the query shows; image and audio are paths of files in any format that can be decoded.
        features: `{modality: [dim] numbers}` that it shows of modalities which the export does not encode.
        exclude: item ids that must not be answered.
        allow: `attribute=value` entries: values of one attribute are alternatives, different attributes must all fit.
        boosts: `{attribute=value: what is added to the scores of such items}`.
        diversity: MMR trade-off, from 0 (by score alone) to 1 (as different as possible).
        min_score: the score below which the list ends; None: nowhere.
        repeats: whether what the user took may be answered.
    """

    user: str = ""
    history: Sequence[str] = ()
    text: str = ""
    image: str | Path = ""
    audio: str | Path = ""
    exclude: Sequence[str] = ()
    allow: Sequence[str] = ()
    boosts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    diversity: float = 0.0
    min_score: float | None = None
    repeats: bool = False
    features: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(
        cls, *, history: str, exclude: str, allow: str, boost: str, features: Sequence[str] | None = None, **rest: Any
    ) -> Query:
        """A query of a command line: its lists comma-separated, its features `NAME=FILE.npy` each. Raises `DataError` for a
        boost or features that are none."""
        boosts = {}
        for entry in split_ids(boost):
            name, _, value = entry.rpartition(":")
            try:
                boosts[name] = float(value)
            except ValueError:
                raise DataError(f"--boost must be attribute=value:NUMBER. Received: {entry}.") from None
        rest |= {"boosts": boosts, "features": dict(map(_vector, features or ()))}
        return cls(**rest, history=split_ids(history), exclude=split_ids(exclude), allow=split_ids(allow))

    def request(self, shown: Mapping[str, np.ndarray] | None = None) -> tuple[str, dict[str, np.ndarray]]:
        """`(signature, {input: array of one row})`: the one that runs least.

        Args:
            shown: `{modality: [dim] float32}` of each that the export does not encode, as `OwnFeatures` finds them.

        Raises:
            DataError: a file cannot be read or decoded.
        """
        inputs = {"user_id": _row(self.user), "history": _list(self.history), "exclude": _list(self.exclude)}
        signature = self.signature
        if signature == "recommend_user":
            return signature, inputs
        if shown is None:
            shown = {name: np.asarray(values, np.float32) for name, values in self.features.items()}
        raw: dict[str, Callable[[], str | bytes]] = {
            "text": lambda: self.text,
            "image": lambda: image_bytes(self.image),
            "audio": lambda: wav_bytes(self.audio),
        }
        inputs |= {name: _row(read()) for name, read in raw.items() if name not in shown}
        inputs |= {name + SUFFIX: values[None] for name, values in shown.items()}
        if signature == "serving_default":
            return signature, inputs
        return signature, inputs | {
            "allow": _list(self.allow),
            "boost_attribute": _list(list(self.boosts)),
            "boost": np.array([[0.0, *self.boosts.values()]], np.float32),
            "diversity": np.array([self.diversity], np.float32),
            "min_score": _least(self.min_score),
            "repeats": np.array([self.repeats]),
        }

    @property
    def signature(self) -> str:
        """The one that answers it and runs least."""
        if self.allow or self.boosts or self.diversity or self.repeats or self.min_score is not None:
            return "recommend_filtered"
        return "serving_default" if self.text or self.image or self.audio or self.features else "recommend_user"

    @property
    def media(self) -> list[str]:
        """The modalities that it shows."""
        return [name for name in MODALITIES if str(getattr(self, name)).strip()]

    def described(self) -> str:
        """What is asked, in words, as `for user u1 with history a, b`."""
        shown = [
            f"user {self.user}" if self.user else "",
            f'text "{" ".join(self.text.split())[:_LETTERS]}"' if self.text.strip() else "",
            f"image {self.image}" if self.image else "",
            f"audio {self.audio}" if self.audio else "",
            f"features of {_listed(list(self.features))}" if self.features else "",
            f"history {_listed(self.history)}" if self.history else "",
        ]
        first, *more = [part for part in shown if part] or ["an unknown user"]
        limits = [
            f"without {_listed(self.exclude)}" if self.exclude else "",
            f"only {_listed(self.allow)}" if self.allow else "",
            "more of " + _listed([f"{name} ({boost:+g})" for name, boost in self.boosts.items()]) if self.boosts else "",
            f"diversity {self.diversity:g}" if self.diversity else "",
            f"scores of at least {self.min_score:g}" if self.min_score is not None else "",
            "repeats too" if self.repeats else "",
        ]
        asked = f"for {first}" + (f" with {' and '.join(more)}" if more else "")
        return "; ".join([asked, *filter(None, limits)])


def list_request(
    *,
    item: str | None = None,
    user: str = "",
    history: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow: Sequence[str] = (),
    min_score: float | None = None,
) -> dict[str, np.ndarray]:
    """The inputs of `popular`, or with an item, which is left out itself, of `similar_items`."""
    inputs = {"user_id": _row(user), "history": _list(history), "allow": _list(allow), "min_score": _least(min_score)}
    if item is None:
        return inputs | {"exclude": _list(exclude)}
    return inputs | {"exclude": _list([item, *exclude]), "item_id": _row(item)}


def stack(requests: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Requests of one signature as one with all their rows; lists are padded with what says nothing."""
    stacked = {}
    for name in requests[0]:
        parts = [request[name] for request in requests]
        if parts[0].ndim == 2:
            width = max(part.shape[1] for part in parts)
            empty = b"" if parts[0].dtype == object else 0
            parts = [np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=empty) for part in parts]
        stacked[name] = np.concatenate(parts)
    return stacked


def model_spec(name: str, signature: str = "", version: int | None = None) -> model_pb2.ModelSpec:
    """What a message says of the model that it is for, or from."""
    from tensorflow_serving.apis import model_pb2

    spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def predict_request(
    model: str, signature: str, inputs: Mapping[str, np.ndarray], version: int | None = None
) -> predict_pb2.PredictRequest:
    """The message that TensorFlow Serving's `Predict` takes."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2  # loads gRPC: only where it is needed

    tensors = {name: tf.make_tensor_proto(value) for name, value in inputs.items()}
    return predict_pb2.PredictRequest(model_spec=model_spec(model, signature, version), inputs=tensors)


def results(answer: dict[str, np.ndarray], row: int = 0, k: int | None = None) -> list[tuple[str, float]]:
    """One row of `item_id` and `score` as `(id, score)`, best first, without the empty rest, cut to k.

    Raises:
        DataError: something is wrong with what the row asked, as an image that cannot be read.
    """
    problem = answer["problem"][row].decode()
    if problem:
        raise DataError(problem)
    pairs = zip(answer["item_id"][row], answer["score"][row], strict=True)
    return [(item.decode(), float(score)) for item, score in pairs if item][:k]


def title_request(items: Sequence[str]) -> tuple[str, dict[str, np.ndarray]]:
    """`(signature, {input: array})` that asks for the titles of items."""
    return "titles", {"item_id": np.array([item.encode() for item in items], dtype=object)}


def title_results(answer: dict[str, np.ndarray]) -> list[str]:
    """The titles of an answer."""
    return [title.decode() for title in answer["title"]]


def _vector(entry: str) -> tuple[str, np.ndarray]:
    """The name and the numbers of `NAME=FILE.npy`."""
    name, _, path = entry.partition("=")
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"--features must be NAME=FILE.npy. Received: {entry} ({error}).") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"--features must be NAME=FILE.npy, of one array. Received: {entry}.")
    return name, found.squeeze()


def _row(value: str | bytes) -> np.ndarray:
    return np.array([value.encode() if isinstance(value, str) else value], dtype=object)


def _listed(values: Sequence[str]) -> str:
    """The first five of a list, and how many more there are."""
    rest = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + rest


def _least(min_score: float | None) -> np.ndarray:
    return np.array([NO_SCORE if min_score is None else min_score], np.float32)


def _list(values: Sequence[str]) -> np.ndarray:
    # What TF Serving pads a batch's shorter lists with is their own first element.
    return np.array([[b"", *(value.encode() for value in values)]], dtype=object)
