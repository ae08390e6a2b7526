"""The media of a batch of requests -> features, whatever the bytes are."""

from __future__ import annotations

from collections.abc import Mapping

from mmtfrs._keras import tf
from mmtfrs.encoders.base import Encoder
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.row_problems import joined, told


class RequestMedia:
    """Encodes the rows that carry a medium, in stock TensorFlow ops.

    A medium that cannot be read, is too large, or of a kind that the model never learned from counts as missing, and its row
    says so.

    Args:
        model: whose features these are.
        encoders: of the modalities whose raw media requests may carry.
    """

    def __init__(self, model: TwoTower, encoders: Mapping[str, Encoder]) -> None:
        self._dims = {name: adapter.dim for name, adapter in model.data.adapters.items()}
        self._encoders = {name: encoders[name] for name in model.data.modalities if name in encoders}
        self._bounds = model.config.extraction

    def __call__(
        self, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """`[B] string` each, "" for none -> `({modality: [B, dim]}, presence [B, M] float32, problems [B] string)`."""
        batch = tf.shape(text)[0]
        features = {name: tf.zeros([batch, dim]) for name, dim in self._dims.items()}
        presence = {name: tf.zeros([batch]) for name in self._dims}
        problems = []
        for name, media in {"text": text, "image": image, "audio": audio}.items():
            given = tf.strings.length(tf.strings.strip(media) if name == "text" else media) > 0
            if name in self._encoders:
                features[name], presence[name], problem = self._encode(self._encoders[name], media, given)
            else:
                learned = ", ".join(self._encoders) or "ids"
                problem = told(given, f"{name}: this model cannot be asked by {name}. It has learned from: {learned}.")
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
            found = tf.where(problems[:, None] == "", found, 0.0)  # not even NaN
            # Strings cannot be scattered: each row looks up its own, those without a medium the one behind them all.
            places = tf.where(read, tf.cumsum(tf.cast(read, tf.int32)) - 1, tf.shape(rows)[0])
            problems = tf.gather(tf.concat([problems, [""]], axis=0), places)
            return tf.ensure_shape(tf.scatter_nd(rows, found, [batch, encoder.dim]), [None, encoder.dim]), problems

        def nothing() -> tuple[tf.Tensor, tf.Tensor]:
            return tf.zeros([batch, encoder.dim]), tf.fill([batch], "")

        features, problems = tf.cond(tf.reduce_any(read), encoded, nothing)
        problems = tf.where(bounded, problems, f"{encoder.modality}: more than {most} bytes")
        return features, tf.cast(given & (problems == ""), tf.float32), problems
