"""The model: two towers, trained by plain Keras `fit` to score what a user took above what others took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError, RunError
from mmtfrs.model_inputs.pooling import Bags
from mmtfrs.models.bulk import BulkEmbedder
from mmtfrs.models.parts import flat
from mmtfrs.models.training_dataset import TrainingRows
from mmtfrs.towers.history_transformer import Sequences
from mmtfrs.utils.draws import draws_of
from mmtfrs.utils.static_shapes import compiled

_FLAT = ("user", "item", "weight", "rating")  # columns of which the loss asks nothing but the rows


class TwoTower(BulkEmbedder):
    """A query tower and a candidate tower whose inner product is the score.

    Embeddings are `[W]`: blocks of `model.embedding_dim` numbers (a few more where the score needs them), one of the media, or
    one per modality of a late fusion, and one of the ids; then what the media are alike by themselves (see
    `mmtfrs.towers.likeness`); last, the item's popularity. Each block is trained on its own (see `mmtfrs.models.objective`);
    how much each part counts is learned on held-out events (see `mmtfrs.evaluation.blend`) and stands on the query's side.
    An item that nobody took has in the block of the ids what its media say of it (see `mmtfrs.towers.id_guess`).

    Args:
        config: every setting; frozen with the model.
        catalog: the items, in the order of `features`.
        features: from `mmtfrs.extract`; may lack any modality, or all.
        events: the training events, from which ids and item frequencies are taken.
        tables: instead of the three above, the tables of a saved model.

    Example:
        >>> model = TwoTower(config, catalog, features, split.train)
        >>> model.compile(optimizer="adam")
        >>> losses = model.fit(model.dataset(split.train), epochs=2, verbose=0).history["loss"]
        >>> losses[1] < losses[0]
        True
    """

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        if self.reads_order:
            sequences = Sequences.of_parts(inputs["before"], inputs["place"], inputs["part"])
            query = self.sequence_blocks(inputs["user"], sequences, training)
            inputs = {name: tf.reshape(values, [-1]) for name, values in inputs.items() if name in _FLAT}
        else:
            past = (inputs["past"], inputs["item"]) if "past" in inputs and self.device.given else None
            bags = Bags.of(inputs["history"], inputs.get("size"))
            query = self.query_parts(inputs["user"], bags, training=training, past=past).blocks
        asked = query
        if self.id_guess is not None:
            asked = tf.concat([query, query[:, -1:]], axis=1)

        def embed(rows: tf.Tensor) -> tf.Tensor:
            return self.trained_blocks(rows, training)

        losses, candidate = self.objective(asked, inputs["user"], inputs["item"], embed)
        if self.rating is not None:
            candidate = candidate[:, : self.blocks]
            losses += self.config.loss.rating * self.rating.loss(flat(query), flat(candidate), inputs["rating"])
        return tf.reduce_mean(losses * inputs["weight"] if "weight" in inputs else losses)

    def make_train_function(self, force: bool = False) -> Callable[[Iterator], dict[str, tf.Tensor]]:
        """Keras' own. Variables that the optimizer makes in the first step would make TensorFlow trace it twice."""
        if isinstance(getattr(self, "optimizer", None), keras.optimizers.Optimizer):
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras `fit`. Raises `DataError` for weights of classes, of which there are none."""
        _check_no_classes(kwargs)
        return super().fit(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> float | list[float] | dict[str, float]:
        """Keras `train_on_batch`, of one batch of `dataset`. Raises as `fit` does."""
        _check_no_classes(kwargs)
        return super().train_on_batch(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `RunError`: what Keras would write could not be loaded, for the catalog and the log are no part of it."""
        raise RunError("a TwoTower is no Keras file: `save_weights` keeps its weights, `mmtfrs.export` writes a SavedModel.")

    def get_config(self) -> dict:
        """What `from_config` takes: no JSON, for the catalog and the log are in it."""
        return {"config": self.config, "tables": self.data}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> TwoTower:
        """An untrained model of the same settings and data, as `keras.models.clone_model` makes it."""
        return cls(**config)

    def __reduce__(self) -> tuple[Callable[[dict, list[np.ndarray]], TwoTower], tuple[dict, list[np.ndarray]]]:
        """Copies and pickles have the settings, the data and the weights; not the optimizer."""
        return _restored, (self.get_config(), self.get_weights())

    def __deepcopy__(self, memo: dict) -> TwoTower:
        return _restored(self.get_config(), self.get_weights())

    # Nothing here is for AutoGraph to translate: two seconds before the first step, for nothing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: dict[str, tf.Tensor] | tuple) -> dict[str, tf.Tensor]:
        inputs = _batch(data)
        self._clear_losses()  # Keras does where a layer is called, but for layers that others call in turn
        # The gradient too: some of it looks up once more who took what.
        with compiled(self.jit_compile), draws_of(self.config.seed, self.optimizer.iterations):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(inputs, training=True)
                total = loss + tf.add_n([0.0, *self.losses])
                # Gradients of replicas are added up, and each has a part of the batch: the mean is over all of it.
                part = total / tf.distribute.get_strategy().num_replicas_in_sync
            self.optimizer.minimize(part, self.trainable_variables, tape=tape)
        return {metric.name: metric.result() for metric in self.metrics} | {"loss": total}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: dict[str, tf.Tensor] | tuple) -> dict[str, tf.Tensor]:
        with compiled(self.jit_compile):
            return super().test_step(_batch(data))

    def dataset(self, events: Events, shuffle: bool = True, batch_size: int | None = None, epoch: int = 0) -> tf.data.Dataset:
        """Training batches of integer rows: `{user [B], item [B], history [B, H], size [B], weight [B]}`, of a long history a
        draw (see `Windows`), and `past`, what the media of all of it are together; where order is read, each `[R, S]`, several
        users' sequences behind each other in a row, with `before`, the item before, instead of `history`.

        An event's history is taken from `events` itself: everything else its user took, or with `model.history: past` what
        came before it. The last batch of an epoch is left out if it is not full (shapes stay static for XLA). The order is a
        function of the seed and the number of the epoch, `epoch` in the first iteration and one more in each other. The
        model stays as it is: whom not to take for a negative, and the scale of ratings, it knows from the log that it was made
        with.
        """
        return TrainingRows(self.config, self.data, events, self.reads_order).dataset(shuffle, batch_size, epoch)


def _restored(config: dict, weights: list[np.ndarray]) -> TwoTower:
    model = TwoTower(**config)
    model.set_weights(weights)
    return model


def _batch(data: dict[str, tf.Tensor] | tuple) -> dict[str, tf.Tensor]:
    """The inputs of a step, which Keras may hand over as `(x,)`."""
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None or weights is not None:
        raise DataError("a batch of `model.dataset` has its targets and weights in it: give no others.")
    return inputs


def _check_no_classes(arguments: dict) -> None:
    if arguments.get("class_weight") is not None:
        raise DataError("a TwoTower has no classes to weigh. Events are weighed by their `weight` column.")
