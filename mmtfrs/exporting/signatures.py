"""What the SavedModel answers: every signature, in stock TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable

from mmtfrs._keras import tf
from mmtfrs.encoders.base import Encoder
from mmtfrs.exporting.past import PastItems
from mmtfrs.index.index import Index
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.untracked import Untracked

_TEXTS = tf.TensorSpec([None], tf.string)
_LISTS = tf.TensorSpec([None, None], tf.string)
_NUMBERS = tf.TensorSpec([None], tf.float32)
_ROWS = tf.TensorSpec([None, None], tf.int32)


class ServingModule(tf.Module):
    """A trained model with its index and encoders, ready to be saved.

    Every input has the batch as its first dimension; absent is the empty string. Encoders run only on the rows that carry a
    medium. The functions close over the model's layers; what the SavedModel must carry hangs on this module.

    Args:
        model: trained.
        encoders: of the modalities whose raw media requests may carry.
        index: of its catalog.
    """

    def __init__(self, model: TwoTower, encoders: dict[str, Encoder], index: Index) -> None:
        super().__init__(name="mmtfrs")
        self._model = Untracked(model)
        self._encoders = Untracked(encoders)
        self.index = index
        settings = model.config
        self.past = PastItems(model.data, settings.export.histories, settings.model.history_length)
        self._leave_out = not model.repeats
        self._worth = tf.constant(model.data.faded[model.data.id_rows][1:], tf.float32)
        self._titles = tf.constant(model.data.titles, tf.string)
        # Layers themselves are not attached: their variables are all that the functions need.
        self.model_variables = [*model.weights, *model.device.variables]
        # What several signatures do is one function of theirs: traced, saved and loaded once.
        self._encoded = _shared(self._encode, _TEXTS, _TEXTS, _TEXTS)
        self._query = _shared(self._embed, tf.TensorSpec([None], tf.int32), _ROWS, _TEXTS, _TEXTS, _TEXTS)
        self._answer = _shared(self._recommend, tf.TensorSpec([None, model.width], tf.float32), _ROWS)
        self.encoder_parts = [part for encoder in encoders.values() for part in encoder.trackables]

    def signatures(self) -> dict[str, Callable]:
        """`{name: tf.function with its input signature}`."""
        who = {"user_id": _TEXTS, "history": _LISTS}
        media = dict.fromkeys(("text", "image", "audio"), _TEXTS)
        exclude, limits = {"exclude": _LISTS}, {"allow": _LISTS, "min_score": _NUMBERS}
        model = self._model.value
        dense = {name: tf.TensorSpec([None, adapter.dim], tf.float32) for name, adapter in model.data.adapters.items()}
        dense["presence"] = tf.TensorSpec([None, len(dense)], tf.float32)
        specs: dict[str, tuple[Callable[..., dict[str, tf.Tensor]], dict[str, tf.TensorSpec]]] = {
            "serving_default": (self.recommend, who | media | exclude),
            "recommend_filtered": (
                self.recommend_filtered,
                who
                | media
                | exclude
                | limits
                | {
                    "boost_attribute": _LISTS,
                    "boost": tf.TensorSpec([None, None], tf.float32),
                    "diversity": _NUMBERS,
                    "repeats": tf.TensorSpec([None], tf.bool),
                },
            ),
            "recommend_user": (self.recommend_user, who | exclude),
            "similar_items": (self.similar_items, {"item_id": _TEXTS} | who | exclude | limits),
            "popular": (self.popular, who | exclude | limits),
            "embed_query": (self.embed_query, who | media),
            "embed_candidate": (self.embed_candidate, media),
            "recommend_from_embedding": (
                self.recommend_from_embedding,
                {"embedding": tf.TensorSpec([None, model.width], tf.float32)} | exclude,
            ),
            "titles": (self.titles, {"item_id": _TEXTS}),
            "embed_query_dense": (self.embed_query_dense, dense),
            "embed_candidate_dense": (self.embed_candidate_dense, dense),
        }
        return {name: _function(method, inputs) for name, (method, inputs) in specs.items()}

    def recommend(
        self, user_id: tf.Tensor, history: tf.Tensor, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor, exclude: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query = self._query(users, self.past.history(users, sent), text, image, audio)[0]
        return self._answer(query, self._left_out(users, sent, exclude)) | {"known": users > 0}

    def recommend_user(self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query = self._model.value.query_from_rows(users, self.past.history(users, sent))[0]
        return self._answer(query, self._left_out(users, sent, exclude)) | {"known": users > 0}

    def recommend_filtered(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        text: tf.Tensor,
        image: tf.Tensor,
        audio: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        min_score: tf.Tensor,
        boost_attribute: tf.Tensor,
        boost: tf.Tensor,
        diversity: tf.Tensor,
        repeats: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query = self._query(users, self.past.history(users, sent), text, image, audio)[0]
        excluded = self._left_out(users, sent, exclude, repeats)
        found = self.index.filtered(query, excluded, allow, boost_attribute, boost, diversity, min_score)
        return _listed(*found) | {"known": users > 0}

    def similar_items(
        self,
        item_id: tf.Tensor,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        min_score: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        vectors, known = self.index.embeddings_of(item_id)
        nothing = tf.zeros([tf.shape(item_id)[0], 1])
        excluded = self._left_out(*self._asked(user_id, history), exclude)
        ids, scores = self.index.filtered(
            self._model.value.query_like(vectors),
            excluded,
            allow,
            tf.fill(tf.shape(nothing), ""),
            nothing,
            nothing[:, 0],
            min_score,
        )
        # An item that nobody knows is similar to nothing: an empty list, so that the rest of the batch is answered.
        return _listed(tf.where(known[:, None], ids, ""), tf.where(known[:, None], scores, tf.float32.min))

    def popular(
        self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, min_score: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        excluded = self._left_out(*self._asked(user_id, history), exclude)
        return _listed(*self.index.ranked(self._worth, excluded, allow, min_score))

    def recommend_from_embedding(self, embedding: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answer(embedding, self.index.rows_of(exclude))

    def embed_query(
        self, user_id: tf.Tensor, history: tf.Tensor, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        embedding, weights = self._query(users, self.past.history(users, sent), text, image, audio)
        return {"embedding": embedding, "weights": weights, "known": users > 0}

    def embed_candidate(self, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding, weights = self._model.value.candidate_from_media(*self._encoded(text, image, audio))
        return {"embedding": embedding, "weights": weights}

    def titles(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self.index.rows.lookup(item_id)
        return {"title": tf.where(rows >= 0, tf.gather(self._titles, tf.maximum(rows, 0)), "")}

    def embed_query_dense(self, presence: tf.Tensor, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._model.value.query_from_media(features, presence)[0]}

    def embed_candidate_dense(self, presence: tf.Tensor, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._model.value.candidate_from_media(features, presence)[0]}

    def _recommend(self, embedding: tf.Tensor, excluded: tf.Tensor) -> dict[str, tf.Tensor]:
        return _listed(*self.index(embedding, excluded))

    def _asked(self, user_id: tf.Tensor, history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """User rows, and the item rows of the request; unknown ids and padding become row 0."""
        return self.past.rows(user_id), self.index.rows_of(history) + 1

    def _left_out(self, users: tf.Tensor, sent: tf.Tensor, exclude: tf.Tensor, repeats: tf.Tensor | None = None) -> tf.Tensor:
        """`[B, E]` rows of the index that must not be answered: `exclude` and, unless repeats are wanted, what was taken."""
        excluded = self.index.rows_of(exclude)
        if not self._leave_out:
            return excluded
        taken = self.past.taken(users, sent) - 1
        if repeats is not None:
            taken = tf.where(repeats[:, None], -1, taken)
        return tf.concat([excluded, taken], axis=1)

    def _embed(
        self, users: tf.Tensor, history: tf.Tensor, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._model.value.query_from_rows(users, history, *self._encoded(text, image, audio))

    def _encode(self, text: tf.Tensor, image: tf.Tensor, audio: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Raw media of a batch -> `{modality: [B, dim]}` and presence `[B, M]`. A medium that the model has not learned from is
        passed over: what refuses it stands before the graph."""
        given = {"text": tf.strings.strip(text), "image": image, "audio": audio}
        modalities = self._model.value.data.modalities
        features, presence = {}, []
        batch = tf.shape(text)[0]
        for name in modalities:
            dim = self._model.value.data.adapters[name].dim
            if name in self._encoders.value:
                features[name], present = self._encode_present(name, text if name == "text" else given[name], batch)
            else:
                features[name], present = tf.zeros([batch, dim]), tf.zeros([batch])
            presence.append(present)
        return features, tf.stack(presence, axis=1) if presence else tf.zeros([batch, 0])

    def _encode_present(self, name: str, data: tf.Tensor, batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoder = self._encoders.value[name]
        stripped = tf.strings.strip(data) if name == "text" else data
        present = tf.strings.length(stripped) > 0
        rows = tf.where(present)

        bounds = self._model.value.config.extraction
        most = encoder.max_bytes(bounds)

        def run() -> tf.Tensor:
            longest = tf.reduce_max(tf.strings.length(data))
            bounded = tf.Assert(longest <= most, [f"{name}: more than {most} bytes; the number is", longest])
            with tf.control_dependencies([bounded]):
                encoded = encoder.encode_serialized(tf.gather_nd(data, rows), bounds)
            return tf.ensure_shape(tf.scatter_nd(rows, encoded, tf.cast([batch, encoder.dim], tf.int64)), [None, encoder.dim])

        features = tf.cond(tf.reduce_any(present), run, lambda: tf.zeros([batch, encoder.dim]))
        return features, tf.cast(present, tf.float32)


def _listed(ids: tf.Tensor, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"item_id": ids, "score": scores}


def _function(method: Callable, inputs: dict[str, tf.TensorSpec]) -> Callable:
    """A tf.function over keyword arguments whose signature names its inputs, as many rows of each."""
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()}

    @tf.function(autograph=False)
    def call(**arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        sizes = tf.stack([tf.shape(value)[0] for value in arguments.values()])
        # Else one row of an input would silently stand for all rows of another.
        same = tf.Assert(
            tf.reduce_all(sizes == sizes[0]), ["inputs must have as many rows each; they have", sizes], summarize=20
        )
        with tf.control_dependencies([same]):
            return method(**{name: tf.identity(value) for name, value in arguments.items()})

    return call.get_concrete_function(**named)


def _shared(method: Callable, *inputs: tf.TensorSpec) -> Callable:
    """A method as one tf.function, behind a plain one: TensorFlow would save a tf.function that hangs on the module itself."""
    function = tf.function(method, input_signature=inputs, autograph=False)
    return lambda *arguments: function(*arguments)
