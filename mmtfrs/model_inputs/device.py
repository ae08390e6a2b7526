"""The tables of a model on the device, where rows are looked up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.model_inputs.feature_table import MediaRows
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.pooling import DENSE, Bags, sum_rows
from mmtfrs.utils.draws import uniform


class DeviceTable:
    """Reduced features of one modality, gathered by item or user row.

    Deliberately no `tf.Module`: the table is data that the model was given, not weights to save in every checkpoint.
    """

    def __init__(self, table: MediaRows, name: str) -> None:
        self.matrix = tf.Variable(np.asarray(table.matrix), trainable=False, name=f"{name}_features")
        self.rows = tf.Variable(np.asarray(table.rows), trainable=False, name=f"{name}_rows")
        self.dim = table.matrix.shape[1]
        self._views: tf.Variable | None = None
        if table.views is not None:
            views = np.concatenate([table.matrix[None], table.views])
            self._views = tf.Variable(views, trainable=False, name=f"{name}_views")
        self._override: tf.Tensor | None = None

    @contextlib.contextmanager
    def replaced(self, rows: tf.Tensor, features: tf.Tensor) -> Iterator[None]:
        """Looks up `features [B, r]`, and their gradient, for these item rows `[B]` instead of what the table holds."""
        media = tf.gather(self.rows, rows)
        # Two events on one item bring its features twice: their mean is the same, and both get their gradient.
        places, counts = media[:, None], tf.math.unsorted_segment_sum(tf.ones_like(media), media, self.matrix.shape[0])
        total = tf.scatter_nd(places, features, tf.shape(self.matrix))
        mean = total / tf.cast(tf.maximum(counts, 1), tf.float32)[:, None]
        kept = tf.range(self.matrix.shape[0]) > 0
        self._override = tf.where(((counts > 0) & kept)[:, None], mean, self.matrix)
        try:
            yield
        finally:
            self._override = None

    @property
    def given(self) -> bool:
        return self._override is None

    @property
    def _features(self) -> tf.Tensor | tf.Variable:
        return self.matrix if self._override is None else self._override

    def __call__(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[...] int32` -> `(features [..., r] float32, zeros where absent; presence [...] float32)`."""
        media = tf.gather(self.rows, rows)
        return tf.gather(self._features, media), tf.cast(media > 0, tf.float32)

    def drawn(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As when called, of each medium itself or one of its views, each as likely."""
        if self._views is None or not self.given:
            return self(rows)
        media = tf.gather(self.rows, rows)
        view = uniform(tf.shape(media), 0, self._views.shape[0], tf.int32)
        return tf.gather_nd(self._views, tf.stack([view, media], axis=-1)), tf.cast(media > 0, tf.float32)

    def sums(self, bags: Bags) -> tuple[tf.Tensor, tf.Tensor]:
        """Of bags of item rows `(sum of the features [B, r], how many are present [B, 1])`, both float32."""
        media = tf.gather(self.rows, bags.items)  # row 0, of an item without, is all zeros
        count = bags.total(tf.cast(media > 0, tf.float32))[:, None]
        if self.rows.shape[0] <= DENSE:  # a row per item: then all modalities and ids share one count of the rows
            return sum_rows(tf.gather(self._features, self.rows), bags), count
        return sum_rows(self._features, bags._replace(items=media)), count

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.matrix, self.rows]


class DeviceTables:
    """All tables of a model: item and user features per modality, and which ids were trained."""

    def __init__(self, tables: ModelInputs) -> None:
        # Mean and projection as tensors, which an export keeps once; arrays would be in each of its functions.
        self._adapters = {
            name: (tf.constant(tables.adapters[name].mean), tf.constant(tables.adapters[name].projection))
            for name in tables.modalities
        }
        self.items = {name: DeviceTable(table, f"item_{name}") for name, table in tables.items.items()}
        self.users = {name: DeviceTable(table, f"user_{name}") for name, table in tables.users.items()}
        # An id that no training event has seen has learned nothing: it shares the row of the unknown.
        self.item_id_rows = tf.Variable(_trained_rows(tables.item_counts)[tables.id_rows], trainable=False, name="item_id_rows")
        self.popularity = tf.Variable(tables.popularity, trainable=False, name="popularity")
        self.user_id_rows = tf.Variable(_trained_rows(tables.user_counts), trainable=False, name="user_id_rows")

    def item_media(self, rows: tf.Tensor, drawn: bool | None = False) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """`[B] int32` item rows -> `{modality: [B, r]}` reduced features and presence `[B, M]`; `drawn`: of any of the views
        that a medium has."""
        return self._media(self.items, rows, drawn)

    def user_media(self, rows: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """As `item_media`, of users; a modality that no user has is absent."""
        return self._media(self.users, rows)

    def pooled(self, bags: Bags) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Of bags of item rows the mean reduced features over the items that have the modality, and presence `[B, M]`."""
        media, presence = {}, []
        for name in self._adapters:
            total, count = self.items[name].sums(bags)
            media[name] = total / tf.maximum(count, 1.0)
            presence.append(tf.cast(count[:, 0] > 0, tf.float32))
        return media, _stacked(presence, bags.number)

    def pooled_but(self, past: tf.Tensor, items: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """As `pooled`, of sums and counts of each modality over items of which one is left out again.

        Args:
            past: `[B, all r + M + 1] float32`: the sums, the counts, and whether the item is in them.
            items: `[B] int32` item rows.
        """
        sizes = [self.items[name].dim for name in self._adapters]
        *sums, counts, inside = tf.split(past, [*sizes, len(sizes), 1], axis=1)
        own, there = self.item_media(items)
        counts = counts - inside * there
        means = {
            name: tf.math.divide_no_nan(total - inside * own[name], counts[:, index, None])
            for index, (name, total) in enumerate(zip(self._adapters, sums, strict=True))
        }
        return means, tf.cast(counts > 0, tf.float32)

    @property
    def given(self) -> bool:
        """Whether features are those that the model was given; else others are looked up for a while (see `replaced`)."""
        return all(table.given for table in self.items.values())

    def pooled_visible(self, items: tf.Tensor, visible: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """`[R, S] int32` item rows, `[R, S, S] bool` which of them each may look at -> as `pooled`, `[R * S, r]` and
        `[R * S, M]`."""
        media, presence = {}, []
        seen = tf.cast(visible, tf.float32)
        for name in self._adapters:
            features, there = self.items[name](items)
            count = tf.reshape(tf.matmul(seen, there[..., None]), [-1, 1])
            media[name] = tf.reshape(tf.matmul(seen, features), [-1, self.items[name].dim]) / tf.maximum(count, 1.0)
            presence.append(tf.cast(count[:, 0] > 0, tf.float32))
        return media, _stacked(presence, tf.size(items))

    def reduced(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> dict[str, tf.Tensor]:
        """`{modality: [B, dim]}` features as an encoder gives them, `[B, M]` presence -> `{modality: [B, r]}`."""
        reduced = {}
        for index, (name, (mean, projection)) in enumerate(self._adapters.items()):
            features = tf.matmul(media[name] - mean, projection)
            reduced[name] = features * tf.expand_dims(presence[:, index], 1)
        return reduced

    def _media(
        self, tables: dict[str, DeviceTable], rows: tf.Tensor, drawn: bool | None = False
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        media, presence = {}, []
        for name in self._adapters:
            if name in tables:
                media[name], present = tables[name].drawn(rows) if drawn else tables[name](rows)
            else:
                media[name] = tf.zeros([tf.shape(rows)[0], self.items[name].dim])
                present = tf.zeros(tf.shape(rows))
            presence.append(present)
        return media, _stacked(presence, tf.shape(rows)[0])

    @property
    def variables(self) -> list[tf.Variable]:
        media = [*self.items.values(), *self.users.values()]
        return [self.item_id_rows, self.user_id_rows, self.popularity] + [
            variable for table in media for variable in table.variables
        ]


def _stacked(presence: list[tf.Tensor], batch: int | tf.Tensor) -> tf.Tensor:
    return tf.stack(presence, axis=1) if presence else tf.zeros([batch, 0])


def _trained_rows(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, np.arange(len(counts)), 0).astype(np.int32)
