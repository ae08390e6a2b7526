"""What the SavedModel answers: every signature, in stock TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable

from mmtfrs._keras import tf
from mmtfrs.encoders.base import Encoder
from mmtfrs.exporting.own_features import FACTS
from mmtfrs.exporting.past import PastItems
from mmtfrs.exporting.request_media import RequestMedia
from mmtfrs.index.base import LOWEST
from mmtfrs.index.index import Index
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.finite import LARGEST
from mmtfrs.utils.row_problems import are_finite, joined, told
from mmtfrs.utils.untracked import Untracked

_TEXTS = tf.TensorSpec([None], tf.string)
_LISTS = tf.TensorSpec([None, None], tf.string)
_NUMBERS = tf.TensorSpec([None], tf.float32)
_ROWS = tf.TensorSpec([None, None], tf.int32)


class ServingModule(tf.Module):
    """A trained model with its index and encoders, ready to be saved.

    Every input has the batch as its first dimension; absent is the empty string, or features of zeros. Encoders run only on
    the rows that carry a medium. Nothing that a row may hold fails the others: what is wrong with it stands in the output
    `problem`, a medium that cannot be read counts as missing, and the list of a row whose limits or numbers cannot be
    understood is empty. The functions close over the model's layers; what the SavedModel must carry hangs on this module.

    Args:
        model: trained.
        encoders: of the modalities whose raw media requests may carry, in the graph or by a client that runs their code.
        index: of its catalog.

    Attributes:
        features: `{modality: dim}` of those whose features requests carry, as no graph makes them.
        made_by: `{modality: {fact: text}}` of those of them that code has made.
    """

    def __init__(self, model: TwoTower, encoders: dict[str, Encoder], index: Index) -> None:
        super().__init__(name="mmtfrs")
        self._model = Untracked(model)
        self.index = index
        settings = model.config
        self.past = PastItems(model.data, settings.export.histories, settings.model.history_length)
        self._leave_out = not model.repeats
        self._worth = tf.constant(model.data.faded[model.data.id_rows][1:], tf.float32)
        self._titles = tf.constant(model.data.titles, tf.string)
        # Layers themselves are not attached: their variables are all that the functions need.
        self.model_variables = [*model.weights, *model.device.variables]
        # What several signatures do is one function of theirs: traced, saved and loaded once.
        media = RequestMedia(model, encoders)
        self._media, self.features = media.inputs, media.features
        code = {name: encoders[name] for name in self.features if name in encoders}
        self.made_by = {
            name: {"encoder": each.name, "preprocess": each.preprocess, "fingerprint": each.fingerprint}
            for name, each in code.items()
        }
        self._encoded = _shared(media, *self._media.values())
        self._query = _shared(self._embed, tf.TensorSpec([None], tf.int32), _ROWS, *self._media.values())
        self._answer = _shared(self._recommend, tf.TensorSpec([None, model.width], tf.float32), _ROWS)
        self.encoder_parts = [part for encoder in encoders.values() for part in encoder.trackables]

    def signatures(self) -> dict[str, Callable]:
        """`{name: tf.function with its input signature}`."""
        who = {"user_id": _TEXTS, "history": _LISTS}
        media = self._media
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
        if self.made_by:
            specs["encoded_by"] = (self.encoded_by, {"modality": _TEXTS})
        return {name: _function(method, inputs) for name, (method, inputs) in specs.items()}

    def recommend(self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor, **media: tf.Tensor) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query, _, problem = self._query(users, self.past.history(users, sent), *self._ordered(media))
        answer = self._answer(query, self._left_out(users, sent, exclude))
        return answer | {"known": users > 0, "problem": problem}

    def recommend_user(self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query = self._model.value.query_from_rows(users, self.past.history(users, sent))[0]
        answer = self._answer(query, self._left_out(users, sent, exclude))
        return answer | {"known": users > 0, "problem": tf.fill(tf.shape(users), "")}

    def recommend_filtered(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        min_score: tf.Tensor,
        boost_attribute: tf.Tensor,
        boost: tf.Tensor,
        diversity: tf.Tensor,
        repeats: tf.Tensor,
        **media: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        query, _, problem = self._query(users, self.past.history(users, sent), *self._ordered(media))
        excluded = self._left_out(users, sent, exclude, repeats)
        boosted = _unpadded(boost_attribute), boost
        ids, scores, limited = self.index.filtered(query, excluded, allow, *boosted, diversity, min_score)
        return _listed(ids, scores) | {"known": users > 0, "problem": joined(problem, limited)}

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
        ids, scores, problem = self.index.filtered(
            self._model.value.query_like(vectors),
            excluded,
            allow,
            tf.fill(tf.shape(nothing), ""),
            nothing,
            nothing[:, 0],
            min_score,
        )
        # An item that nobody knows is similar to nothing: an empty list, so that the rest of the batch is answered.
        return _listed(ids, scores, known) | {"problem": problem}

    def popular(
        self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, min_score: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        excluded = self._left_out(*self._asked(user_id, history), exclude)
        ids, scores, problem = self.index.ranked(self._worth, excluded, allow, min_score)
        return _listed(ids, scores) | {"problem": problem}

    def recommend_from_embedding(self, embedding: tf.Tensor, exclude: tf.Tensor) -> dict[str, tf.Tensor]:
        finite = tf.reduce_all(are_finite(embedding), axis=1)
        answer = self._answer(tf.where(finite[:, None], embedding, 0.0), self.index.rows_of(exclude))
        return _listed(answer["item_id"], answer["score"], finite) | {
            "problem": told(~finite, f"embedding: numbers must be finite, and {LARGEST:g} at most")
        }

    def embed_query(self, user_id: tf.Tensor, history: tf.Tensor, **media: tf.Tensor) -> dict[str, tf.Tensor]:
        users, sent = self._asked(user_id, history)
        embedding, weights, problem = self._query(users, self.past.history(users, sent), *self._ordered(media))
        return {"embedding": embedding, "weights": weights, "known": users > 0, "problem": problem}

    def embed_candidate(self, **media: tf.Tensor) -> dict[str, tf.Tensor]:
        features, presence, problem = self._encoded(*self._ordered(media))
        embedding, weights = self._model.value.candidate_from_media(features, presence)
        return {"embedding": embedding, "weights": weights, "problem": problem}

    def titles(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self.index.rows.lookup(item_id)
        return {"title": tf.where(rows >= 0, tf.gather(self._titles, tf.maximum(rows, 0)), "")}

    def encoded_by(self, modality: tf.Tensor) -> dict[str, tf.Tensor]:
        same = modality[:, None] == tf.constant(list(self.made_by))[None, :]
        known, place = tf.reduce_any(same, axis=1), tf.argmax(tf.cast(same, tf.int32), axis=1)
        facts = {fact: tf.constant([made[fact] for made in self.made_by.values()]) for fact in FACTS}
        return {fact: tf.where(known, tf.gather(values, place), "") for fact, values in facts.items()}

    def embed_query_dense(self, presence: tf.Tensor, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._model.value.query_from_media(*self._dense(features, presence))[0]}

    def embed_candidate_dense(self, presence: tf.Tensor, **features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": self._model.value.candidate_from_media(*self._dense(features, presence))[0]}

    def _dense(self, features: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Features of which those that are no finite numbers are missing, as there is no `problem` to tell it by."""
        names = list(self._model.value.data.modalities)
        presence = tf.where(are_finite(presence), presence, 0.0)
        if not names:
            return features, presence
        good = {name: tf.reduce_all(are_finite(features[name]), axis=1) for name in names}
        features = {name: tf.where(good[name][:, None], features[name], 0.0) for name in names}
        return features, presence * tf.cast(tf.stack(list(good.values()), axis=1), tf.float32)

    def _recommend(self, embedding: tf.Tensor, excluded: tf.Tensor) -> dict[str, tf.Tensor]:
        return _listed(*self.index(embedding, excluded))

    def _asked(self, user_id: tf.Tensor, history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """User rows, and the item rows of the request; unknown ids and padding become row 0."""
        return self.past.rows(user_id), self.index.rows_of(_unpadded(history)) + 1

    def _left_out(self, users: tf.Tensor, sent: tf.Tensor, exclude: tf.Tensor, repeats: tf.Tensor | None = None) -> tf.Tensor:
        """`[B, E]` rows of the index that must not be answered: `exclude` and, unless repeats are wanted, what was taken."""
        excluded = self.index.rows_of(exclude)
        if not self._leave_out:
            return excluded
        taken = self.past.taken(users, sent) - 1
        if repeats is not None:
            taken = tf.where(repeats[:, None], -1, taken)
        return tf.concat([excluded, taken], axis=1)

    def _ordered(self, media: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        return [media[name] for name in self._media]

    def _embed(self, users: tf.Tensor, history: tf.Tensor, *media: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features, presence, problem = self._encoded(*media)
        return *self._model.value.query_from_rows(users, history, features, presence), problem


def _listed(ids: tf.Tensor, scores: tf.Tensor, rows: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Lists as outputs; those of other rows than `rows [B] bool` are empty."""
    if rows is not None:
        ids, scores = tf.where(rows[:, None], ids, ""), tf.where(rows[:, None], scores, LOWEST)
    return {"item_id": ids, "score": scores}


def _unpadded(values: tf.Tensor) -> tf.Tensor:
    """`[B, L]` lists of requests without what TF Serving's batching appended; `exclude` and `allow` may hold a thing twice.

    It makes the lists of a batch equally wide by the first element of each request's tensor. That is "" where lists begin with
    it, as our client's do. Else a trailing run of a row's own first element counts as padding: right for requests of one row.
    """
    run = tf.cumsum(tf.cast(values != values[:, :1], tf.int32), axis=1, reverse=True) == 0
    return tf.where(run & (tf.range(tf.shape(values)[1]) > 0), "", values)


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
