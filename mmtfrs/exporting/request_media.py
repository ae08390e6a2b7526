"""The media of a batch of requests -> features, whatever the bytes are."""

from __future__ import annotations

from collections.abc import Mapping

from mmtfrs._keras import tf
from mmtfrs.config.schema import MODALITIES
from mmtfrs.encoders.base import Encoder
from mmtfrs.exporting.own_features import SUFFIX
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.finite import LARGEST
from mmtfrs.utils.row_problems import are_finite, joined, told


class RequestMedia:
    """Encodes the rows that carry a medium, in stock TensorFlow ops; takes features as they are where no graph makes them.

    A medium that cannot be read, is too large, or of a kind that the model never learned from counts as missing, and its row
    says so; so do features that are no numbers.

    Args:
        model: whose features these are.
        encoders: of the modalities whose raw media requests may carry, where they run in a graph.

    Attributes:
        inputs: `{name: tf.TensorSpec}`: `text`, `image` and `audio [B] string`, "" for none, or in the place of one
            `NAME_features [B, dim] float32`, zeros for none; these also for modalities of the user's own.
        features: `{modality: dim}` of the latter.
    """

    def __init__(self, model: TwoTower, encoders: Mapping[str, Encoder]) -> None:
        self._dims = {name: adapter.dim for name, adapter in model.data.adapters.items()}
        self._encoders = {name: encoders[name] for name in self._dims if name in encoders and encoders[name].in_graph}
        self._bounds = model.config.extraction
        self.features = {name: dim for name, dim in self._dims.items() if name not in self._encoders}
        self.inputs = {name: tf.TensorSpec([None], tf.string) for name in MODALITIES if name not in self.features}
        self.inputs |= {name + SUFFIX: tf.TensorSpec([None, dim], tf.float32) for name, dim in self.features.items()}

    def __call__(self, *media: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """`inputs` in their order -> `({modality: [B, dim]}, presence [B, M] float32, problems [B] string)`."""
        batch = tf.shape(media[0])[0]
        features = {name: tf.zeros([batch, dim]) for name, dim in self._dims.items()}
        presence = {name: tf.zeros([batch]) for name in self._dims}
        problems = []
        for name, given in zip(self.inputs, media, strict=True):
            modality = name.removesuffix(SUFFIX)
            if name in self._encoders:
                features[name], presence[name], problem = self._encode(self._encoders[name], given, _there(name, given))
            elif modality in self.features:
                features[modality], presence[modality], problem = _taken(name, given)
            else:
                learned = ", ".join(self._dims) or "ids"
                problem = told(
                    _there(name, given), f"{name}: this model cannot be asked by {name}. It has learned from: {learned}."
                )
            problems.append(problem)
        stacked = tf.stack(list(presence.values()), axis=1) if presence else tf.zeros([batch, 0])
        return features, stacked, joined(*problems)

    def _encode(self, encoder: Encoder, media: tf.Tensor, given: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`[B]` media and whether they are there -> features `[B, dim]`, presence `[B] float32` and problems `[B]`."""
        most = encoder.max_bytes(self._bounds)
        bounded = tf.strings.length(media) <= most
        read = given & bounded
        rows = tf.where(read)
        batch = tf.shape(media, tf.int64)[0]

        def encoded() -> tuple[tf.Tensor, tf.Tensor]:
            found, problems = encoder.encode_serialized(tf.gather_nd(media, rows), self._bounds)
            good = tf.reduce_all(are_finite(found), axis=1)
            problems = joined(problems, told((problems == "") & ~good, f"{encoder.modality}: its features are not finite"))
            found = tf.where(problems[:, None] == "", found, 0.0)
            # Strings cannot be scattered: each row looks up its own, those without a medium the one behind them all.
            places = tf.where(read, tf.cumsum(tf.cast(read, tf.int32)) - 1, tf.shape(rows)[0])
            problems = tf.gather(tf.concat([problems, [""]], axis=0), places)
            return tf.ensure_shape(tf.scatter_nd(rows, found, [batch, encoder.dim]), [None, encoder.dim]), problems

        def nothing() -> tuple[tf.Tensor, tf.Tensor]:
            return tf.zeros([batch, encoder.dim]), tf.fill([batch], "")

        features, problems = tf.cond(tf.reduce_any(read), encoded, nothing)
        problems = tf.where(bounded, problems, f"{encoder.modality}: more than {most} bytes")
        return features, tf.cast(given & (problems == ""), tf.float32), problems


def _there(name: str, media: tf.Tensor) -> tf.Tensor:
    """`[B] string` -> `[B] bool`: a blank text is none."""
    return tf.strings.length(tf.strings.strip(media) if name == "text" else media) > 0


def _taken(name: str, given: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`[B, dim]` features of requests -> those that are numbers, presence `[B] float32` and problems `[B]`."""
    good = tf.reduce_all(are_finite(given), axis=1)
    features = tf.where(good[:, None], given, 0.0)
    problem = told(~good, f"{name}: numbers must be finite, and {LARGEST:g} at most")
    return features, tf.cast(tf.reduce_any(features != 0.0, axis=1), tf.float32), problem
