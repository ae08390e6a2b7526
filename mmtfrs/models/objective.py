"""What a training step minimizes: a loss of each positive against columns of negatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import LossConfig
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models import losses
from mmtfrs.models.negatives import Columns, Embed, Negatives
from mmtfrs.models.seen_items import KnownItems
from mmtfrs.utils.static_shapes import static_shapes

LOGITS = 1 << 26  # of queries and columns that a step keeps at a time: 256 MiB, for each block and operation


class Objective(keras.layers.Layer):
    """The loss of each block of an embedding on its own, added up: what ids say must not be an excuse for what media do not.

    Args:
        config: the loss, its temperature and negatives.
        counts: `[N + 1]` training events per item row.
        seen: what each user took in the training log, which is excluded from the negatives; nothing if None.
        beyond: of `Negatives`.
        taught: number of a block of which the queries teach the items and do not learn themselves, or None.
    """

    def __init__(
        self,
        config: LossConfig | dict,
        counts: Sequence[float] | np.ndarray,
        seen: ItemLists | dict | None = None,
        beyond: str = "in_batch",
        taught: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        config = self.config = LossConfig.model_validate(config)
        self.taught = taught
        self.loss = losses.get(config.name)
        self.negatives = Negatives(config, counts, beyond, name="negatives", dtype=self.dtype_policy)
        self._seen = ItemLists(*map(np.asarray, seen.values())) if isinstance(seen, dict) else seen
        self._known: dict[bool, KnownItems] = {}  # tables on the device, which only a model that is trained needs

    @property
    def known(self) -> KnownItems | None:
        """Who took what in the training log; None where nothing is said of it."""
        static = static_shapes()
        if self._seen is not None and static not in self._known:
            with tf.init_scope():  # it outlives the trace of a step
                usual = self.negatives.trained if self.negatives.kind == "full" else None
                self._known[static] = KnownItems(self._seen, self.negatives.items + 1, usual)
        return self._known.get(static)

    def call(self, queries: tf.Tensor, users: tf.Tensor, items: tf.Tensor, embed: Embed) -> tuple[tf.Tensor, tf.Tensor]:
        """Args:

        queries: `[B, K, D] float32`.
        users, items: `[B] int32` rows.
        embed: item rows -> `[n, K, D]` embeddings.

        Returns:
            `(losses [B] float32, embeddings of the positives [B, K, D])`.
        """
        columns = self.negatives(items, embed)
        rows, width = items.shape[0] or 0, columns.items.shape[0] or 0
        if rows * width <= LOGITS:
            return self._of_rows(queries, users, items, columns.positives, columns), columns.positives
        count = next(count for count in range(-(-rows * width // LOGITS), rows + 1) if rows % count == 0)
        return self._in_parts(count, queries, users, items, columns), columns.positives

    def _in_parts(self, count: int, queries: tf.Tensor, users: tf.Tensor, items: tf.Tensor, columns: Columns) -> tf.Tensor:
        """As `_of_rows`, some rows at a time, whose logits are made once more for the gradient instead of being kept."""
        size = items.shape[0] // count

        def part(place: tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
            return [tf.gather(tf.reshape(each, [count, size, *each.shape[1:]]), place) for each in (*values, users, items)]

        def losses_of(asked: tf.Tensor, own: tf.Tensor, who: tf.Tensor, took: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
            return self._of_rows(asked, who, took, own, columns._replace(embeddings=embeddings))

        @tf.custom_gradient
        def losses(queries: tf.Tensor, positives: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def forward(place: tf.Tensor) -> tf.Tensor:
                asked, own, who, took = part(place, queries, positives)
                return losses_of(asked, own, who, took, embeddings)

            def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
                def step(place: tf.Tensor, made: tf.TensorArray, owns: tf.TensorArray, total: tf.Tensor) -> tuple:
                    asked, own, who, took = part(place, queries, positives)
                    with tf.GradientTape() as tape:
                        tape.watch([asked, own, embeddings])
                        found = losses_of(asked, own, who, took, embeddings)
                    slopes = tape.gradient(found, [asked, own, embeddings], part(place, upstream)[0])
                    return place + 1, made.write(place, slopes[0]), owns.write(place, slopes[1]), total + slopes[2]

                arrays = [
                    tf.TensorArray(tf.float32, count, element_shape=[size, *each.shape[1:]]) for each in (queries, positives)
                ]
                _, made, owns, total = tf.while_loop(
                    lambda place, *_: place < count, step, (0, *arrays, tf.zeros_like(embeddings)), parallel_iterations=1
                )
                return made.concat(), owns.concat(), total

            found = tf.map_fn(forward, tf.range(count), fn_output_signature=tf.TensorSpec([size]), parallel_iterations=1)
            return tf.reshape(found, [-1]), gradients

        return losses(queries, columns.positives, columns.embeddings)

    def _of_rows(
        self, queries: tf.Tensor, users: tf.Tensor, items: tf.Tensor, positives: tf.Tensor, columns: Columns
    ) -> tf.Tensor:
        """`[B]`: as `call`, of these rows and their positives."""
        allowed = (columns.items[None] != items[:, None]) & (columns.items > 0)[None]
        if self.known is not None:
            fixed = self.negatives.kind == "full" and self.known.dense
            allowed &= ~(self.known.of_usual(users) if fixed else self.known(users, columns.items))
        total = tf.zeros(tf.shape(items))
        scaled = queries / self.config.temperature
        parts = (tf.unstack(values, axis=1) for values in (scaled, positives, columns.embeddings))
        for block, (query, own, others) in enumerate(zip(*parts, strict=True)):
            query = query if block != self.taught else tf.stop_gradient(query)
            positive, logits = tf.reduce_sum(query * own, axis=1), tf.matmul(query, others, transpose_b=True)
            total += self.loss(positive, logits, columns.log_counts[None], allowed, self.config.margin)
        return total

    def get_config(self) -> dict:
        seen = None if self._seen is None else {"items": self._seen.items.tolist(), "starts": self._seen.starts.tolist()}
        drawn = self.negatives.get_config()
        mine = {"config": drawn["config"], "counts": drawn["counts"], "seen": seen, "beyond": drawn["beyond"]}
        mine["taught"] = self.taught
        return {**super().get_config(), **mine}
