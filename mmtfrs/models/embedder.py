"""Parts in, embeddings out: what an item is, what a user likes, and what a request shows, each as one vector."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.models.parts import PartedModel, Parts

# Of what a request shows counts as it is, at least; the rest is what was learned of it. With less, paraphrases are missed; with
# more, what a log teaches of a medium, as the digit that a text means (benchmarks/README.md). Of who asks, likes are known:
# what is shown says which of them is meant.
_ALONE, _BESIDE = 0.36, 0.2


class Embedder(PartedModel):
    """Embeddings whose inner product is the score; what they are made of, says `TwoTower`."""

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
        """`{user [B], history [B, H], item [B]}` int32 rows -> `{query [B, W], candidate [B, W]}`."""
        return {
            "query": self.query_from_rows(inputs["user"], inputs["history"], training=training)[0],
            "candidate": self.candidate_from_rows(inputs["item"])[0],
        }

    def candidate_from_rows(self, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B] int32` item rows -> `(embedding [B, W], weights [B, M])`."""
        parts = self.candidate_parts(items)
        return parts.embedding(tf.gather(self.device.popularity, items)), parts.weights

    def candidate_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> as `candidate_from_rows`, for a new item."""
        parts = self._candidate(self.device.reduced(media, presence), presence)
        return parts.embedding(), parts.weights

    def query_from_rows(
        self,
        users: tf.Tensor,
        history: tf.Tensor,
        media: dict[str, tf.Tensor] | None = None,
        presence: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries of known or unknown users.

        What a request shows is embedded as an item would be, and looked for beside what the user likes; where nobody is known
        to ask, alone.

        Args:
            users: `[B] int32` user rows, 0 for unknown.
            history: `[B, H] int32` item rows, 0 for padding, anywhere.
            media: `{modality: [B, dim]}` raw features of what the request shows, or None.
            presence: `[B, M]`, which of them are there.
            training: whether to drop out.

        Returns:
            `(embedding [B, W] float32, weights [B, M] float32)`, whose inner product with candidates' is the score.
        """
        parts = self.query_parts(users, history, training).weighted(self.blend[:-1])
        embedding = parts.embedding(tf.fill([tf.shape(users)[0]], self.blend[-1]))
        if media is None or not self.media_blocks:
            return embedding, parts.weights
        there = tf.reduce_max(presence, axis=1, keepdims=True)
        somebody = tf.cast((users > 0) | tf.reduce_any(history > 0, axis=1), tf.float32)[:, None]
        shown = self._shown(self.device.reduced(media, presence), presence, _ALONE + (_BESIDE - _ALONE) * somebody)
        embedding = embedding * (1.0 - there * (1.0 - somebody)) + shown.embedding() * there
        return embedding, tf.where(there > 0, shown.weights, parts.weights)

    def query_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> a query of an unknown user without history."""
        shown = self._shown(self.device.reduced(media, presence), presence)
        return shown.embedding(), shown.weights

    def query_from_items(self, items: tf.Tensor, presence: tf.Tensor, beside: tf.Tensor | None = None) -> tf.Tensor:
        """`[B] int32` item rows, `[B, M]` which of their media are shown -> `[B, W]`: a query by these alone, or beside
        `[B, W]` queries of users."""
        media, there = self.device.item_media(items)
        shown = self._shown(*_masked(media, there * presence), _ALONE if beside is None else _BESIDE).embedding()
        return shown if beside is None else beside + shown

    def candidate_from_items(self, items: tf.Tensor, presence: tf.Tensor, ids: bool = True) -> tf.Tensor:
        """As `query_from_items`, the embeddings of items that have no other media, and with or without what their ids know."""
        media, there = self.device.item_media(items)
        known = tf.gather(self.device.item_id_rows, items) if ids else None
        return self._candidate(*_masked(media, there * presence), known).embedding()

    def query_like(self, candidates: tf.Tensor) -> tf.Tensor:
        """`[B, W]` embeddings of candidates -> queries for what is like them, however popular."""
        sizes = [self.block] * self.blocks + ([self.likeness.dim] if self.likeness is not None else [])
        return candidates * tf.concat([tf.repeat(self.blend[:-1], sizes), tf.zeros([1])], axis=0)

    def _shown(self, reduced: dict[str, tf.Tensor], presence: tf.Tensor, least: tf.Tensor | float = _ALONE) -> Parts:
        """Media as a query for what is like them, nothing in the block of the ids; of likeness `least` at least, `[B, 1]` or
        the same for all."""
        blocks, weights, _ = self._fused(reduced, presence)
        parts = Parts(self.score.query(blocks), self._alike((reduced, presence)), weights)
        if self.likeness is None:
            media = self.blend[: self.media_blocks] + 1e-6
            return parts.weighted(tf.pad(media / tf.reduce_sum(media), [[0, self.blocks - self.media_blocks]]))
        # What is asked for is told by what it is, not only by who likes it.
        learned, alike = self.blend[: self.media_blocks] + 1e-6, self.blend[self.blocks] + 1e-6
        least = tf.maximum(alike / (tf.reduce_sum(learned) + alike), tf.reshape(least, [-1, 1]))
        learned = tf.pad(learned / tf.reduce_sum(learned), [[0, self.blocks - self.media_blocks]])
        return parts.weighted(tf.concat([learned * (1.0 - least), least], axis=1))


def _masked(media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Reduced features, zeros where they are not present."""
    return {name: value * presence[:, index, None] for index, (name, value) in enumerate(media.items())}, presence
