"""What the SavedModel answers: every signature, in stock TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.base import Encoder
from mmtfrs.index.index import Index
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.sections import MODALITIES

_TEXTS = tf.TensorSpec([None], tf.string)
_LISTS = tf.TensorSpec([None, None], tf.string)


class ServingModule(tf.Module):
    """A trained model with its index and encoders, ready to be saved.

    Every input has the batch as its first dimension; absent is the empty string. Encoders run only on the rows that carry a
    medium. The functions close over the model's layers; what the SavedModel must carry hangs on this module.

    Args:
        model: trained.
        encoders: of the modalities whose raw media requests may carry.
        index: of its catalogue.
    """

    def __init__(self, model: TwoTower, encoders: dict[str, Encoder], index: Index) -> None:
        super().__init__(name="mmtfrs")
        self._model = _Hidden(model)
        self._encoders = _Hidden(encoders)
        self.index = index
        users = model.data.user_ids if len(model.data.user_ids) else np.array([""], object)
        self.user_rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(users, tf.string), tf.range(1, len(users) + 1, dtype=tf.int32)),
            default_value=0,
        )
        self._titles = tf.constant(model.data.titles, tf.string)
        # Layers themselves are not attached: their variables are all that the functions need.
        self.model_variables = [*model.weights, *model.device.variables]
        # What several signatures do is one function of theirs: traced, saved and loaded once.
        self._encoded = _shared(self._encode, _TEXTS, _TEXTS, _TEXTS)
        self._query = _shared(self._embed, _TEXTS, _LISTS, _TEXTS, _TEXTS, _TEXTS)
        self._answer = _shared(self._recommend, tf.TensorSpec([None, model.width], tf.float32), _LISTS)
        self.encoder_parts = [part for encoder in encoders.values() for part in encoder.trackables]

    def signatures(self) -> dict[str, Callable]:
        """`{name: tf.function with its input signature}`."""
        query = {"user_id": _TEXTS, "history": _LISTS, "text": _TEXTS, "image": _TEXTS, "audio": _TEXTS}
        media = {name: query[name] for name in ("text", "image", "audio")}
        exclude = {"exclude": _LISTS}
        model = self._model.value
        dense = {name: tf.TensorSpec([None, adapter.dim], tf.float32) for name, adapter in model.data.adapters.items()}
        dense["presence"] = tf.TensorSpec([None, len(dense)], tf.float32)
        specs = {
            "serving_default": (self.recommend, query | exclude),
            "recommend_filtered": (self.recommend_filtered, query | exclude | {
                "allow": _LISTS, "boost_attribute": _LISTS, "boost": tf.TensorSpec([None, None], tf.float32),
                "diversity": tf.TensorSpec([None], tf.float32),
            }),
            "recommend_user": (self.recommend_user, {"user_id": _TEXTS, "history": _LISTS} | exclude),
            "similar_items": (self.similar_items, {"item_id": _TEXTS} | exclude),
            "embed_query": (self.embed_query, query),
            "embed_candidate": (self.embed_candidate, media),
            "recommend_from_embedding": (
                self.recommend_from_embedding, {"embedding": tf.TensorSpec([None, model.width], tf.float32)} | exclude
            ),
            "titles": (self.titles, {"item_id": _TEXTS}),
            "embed_query_dense": (self.embed_query_dense, dense),
            "embed_candidate_dense": (self.embed_candidate_dense, dense),
        }  # fmt: skip
        return {name: _function(method, inputs) for name, (method, inputs) in specs.items()}

    def recommend(self, user_id, history, text, image, audio, exclude):
        return self._answer(self._query(user_id, history, text, image, audio)[0], exclude)

    def recommend_filtered(self, user_id, history, text, image, audio, exclude, allow, boost_attribute, boost, diversity):
        query = self._query(user_id, history, text, image, audio)[0]
        ids, scores = self.index.filtered(query, exclude, allow, boost_attribute, boost, diversity)
        return {"item_id": ids, "score": scores}

    def recommend_user(self, user_id, history, exclude):
        rows, items = self._rows(user_id, history)
        return self._answer(self._model.value.query_from_rows(rows, items)[0], exclude)

    def similar_items(self, item_id, exclude):
        embeddings, known = self.index.embeddings_of(item_id)
        answer = self._answer(embeddings, exclude)
        # An item that nobody knows is similar to nothing: an empty list, so that the rest of the batch is answered.
        return {
            "item_id": tf.where(known[:, None], answer["item_id"], ""),
            "score": tf.where(known[:, None], answer["score"], tf.float32.min),
        }

    def recommend_from_embedding(self, embedding, exclude):
        return self._answer(embedding, exclude)

    def embed_query(self, user_id, history, text, image, audio):
        embedding, weights = self._query(user_id, history, text, image, audio)
        return {"embedding": embedding, "weights": weights}

    def embed_candidate(self, text, image, audio):
        embedding, weights = self._model.value.candidate_from_media(*self._encoded(text, image, audio))
        return {"embedding": embedding, "weights": weights}

    def titles(self, item_id):
        rows = self.index.rows.lookup(item_id)
        return {"title": tf.where(rows >= 0, tf.gather(self._titles, tf.maximum(rows, 0)), "")}

    def embed_query_dense(self, presence, **features):
        return {"embedding": self._model.value.query_from_media(features, presence)[0]}

    def embed_candidate_dense(self, presence, **features):
        return {"embedding": self._model.value.candidate_from_media(features, presence)[0]}

    def _recommend(self, embedding, exclude):
        ids, scores = self.index(embedding, exclude)
        return {"item_id": ids, "score": scores}

    def _rows(self, user_id, history):
        items = self.index.rows.lookup(history) + 1  # unknown ids and padding become row 0
        return self.user_rows.lookup(user_id), self._newest(items)

    def _newest(self, items):
        """The newest items of each history, as many as the model was trained with; padding may stand anywhere."""
        length = self._model.value.config.model.history_length
        if not length:
            return items[:, :0]
        position = tf.range(tf.shape(items)[1])
        # Known items sort by position, padding before all of them; then the last ones are the newest known.
        order = tf.argsort(tf.where(items > 0, position[None, :], -1), axis=1, stable=True)
        return tf.gather(items, order, batch_dims=1)[:, -length:]

    def _embed(self, user_id, history, text, image, audio):
        rows, items = self._rows(user_id, history)
        features, presence = self._encoded(text, image, audio)
        return self._model.value.query_from_rows(rows, items, features, presence)

    def _encode(self, text, image, audio):
        """Raw media of a batch -> `{modality: [B, dim]}` and presence `[B, M]`."""
        given = {"text": tf.strings.strip(text), "image": image, "audio": audio}
        modalities = self._model.value.data.modalities
        checks = [
            tf.Assert(
                tf.reduce_all(tf.strings.length(given[name]) == 0),
                [f"{name}: this model has no {name} encoder; the input must be empty"],
            )
            for name in MODALITIES
            if name not in self._encoders.value
        ]
        features, presence = {}, []
        with tf.control_dependencies(checks):
            batch = tf.identity(tf.shape(text)[0])
        for name in modalities:
            dim = self._model.value.data.adapters[name].dim
            if name in self._encoders.value:
                features[name], present = self._encode_present(name, text if name == "text" else given[name], batch)
            else:
                features[name], present = tf.zeros([batch, dim]), tf.zeros([batch])
            presence.append(present)
        return features, tf.stack(presence, axis=1) if presence else tf.zeros([batch, 0])

    def _encode_present(self, name: str, data: tf.Tensor, batch: tf.Tensor):
        encoder = self._encoders.value[name]
        stripped = tf.strings.strip(data) if name == "text" else data
        present = tf.strings.length(stripped) > 0
        rows = tf.where(present)

        def run():
            encoded = encoder.encode_serialized(tf.gather_nd(data, rows))
            return tf.ensure_shape(tf.scatter_nd(rows, encoded, tf.cast([batch, encoder.dim], tf.int64)), [None, encoder.dim])

        features = tf.cond(tf.reduce_any(present), run, lambda: tf.zeros([batch, encoder.dim]))
        return features, tf.cast(present, tf.float32)


def _function(method: Callable, inputs: dict[str, tf.TensorSpec]) -> Callable:
    """A tf.function over keyword arguments whose signature names its inputs, as many rows of each."""
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()}

    @tf.function(autograph=False)
    def call(**arguments):
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


class _Hidden:
    """Keeps Python objects that TensorFlow should not try to save."""

    def __init__(self, value) -> None:
        self.value = value
