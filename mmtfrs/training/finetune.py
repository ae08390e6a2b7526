"""Fine-tuning: the top of an encoder learns with the towers, and the features are made anew by what it has become."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.config.config import Config
from mmtfrs.config.schema import ExtractionConfig, Modality
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.data.splits import Split
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.errors import ConfigError, MediaError
from mmtfrs.evaluation.blend import settle_media
from mmtfrs.evaluation.callback import ValidationMetrics
from mmtfrs.features.extract import extract
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.media_inputs import item_media
from mmtfrs.models.lazy_adam import LazyAdam
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.training.checkpoint import Checkpoint
from mmtfrs.training.divergence import Divergence
from mmtfrs.training.fit import EpochLines
from mmtfrs.utils.files import writing

_INSTEAD = {
    "image": "a network of keras.applications, a Keras model, or a folder of ViT or DINOv2",
    "text": "a folder of the BERT family",
    "audio": "YAMNet",
}  # what can be trained


def finetune(
    model: TwoTower, catalog: Catalog, split: Split, features: Features, folder: Path, store: Path, progress: bool = False
) -> TwoTower:
    """Trains the top blocks of an encoder with the towers, keeps the best epoch, and refreshes the features.

    Batch normalization stays as it was. Afterwards the tuned encoder encodes every medium once, and a model on these features
    is returned; it is the one that went in where no epoch was better.

    Args:
        model: trained on the frozen features.
        catalog, split, features: what it was trained on.
        folder: the run's; keeps the tuned encoder, and a checkpoint after each epoch to go on from.
        store: the feature store.
        progress: print a line per epoch on standard error.

    Raises:
        ConfigError: the encoder cannot be trained, or has fewer blocks.
    """
    config = model.config
    encoder = _encoder(config)
    job = TunedTower(model, encoder, _top_variables(encoder, config.training.finetune.blocks), catalog)
    if not _fit(job, split, folder / "training" / "finetune", progress):
        return model
    modality = encoder.modality
    place = folder.resolve() / f"{modality}_encoder"
    with writing(place):
        name = _tunable(encoder).save(place)
    fresh = extract(catalog, config.replace(encoders={modality: name}), store, progress=progress)
    rows = fresh.items[modality]
    media = item_media(config, modality, model.data.adapters[modality], rows, len(catalog))
    used = {**model.data.encoders, modality: (name, rows.fingerprint)}
    tables = dataclasses.replace(model.data, items={**model.data.items, modality: media}, encoders=used)
    result = TwoTower(config, tables=tables)
    result.set_weights(model.get_weights())
    result.keep_encoders({**features.encoders, modality: fresh.encoders[modality]})
    return result


def _encoder(config: Config) -> Encoder:
    modality = config.training.finetune.modality
    return encoders.load(modality, getattr(config.encoders, modality), config.extraction.step(modality))


def check_finetune(model: TwoTower) -> None:
    """Raises `ConfigError` for what cannot be tuned, before the training that comes first and takes long."""
    config = model.config
    modality = config.training.finetune.modality
    theirs = model.data.users.get(modality)
    if theirs is not None and np.any(theirs.rows):
        raise ConfigError(
            f"`training.finetune`: users have media of the {modality} encoder too, which would stay as they were. Use 0 blocks."
        )
    if modality not in model.data.items or modality in config.data.features:
        raise _nothing_to_encode(modality)
    _top_variables(model.encoders.get(modality) or _encoder(config), config.training.finetune.blocks)


class TunedTower(keras.Model):
    """A TwoTower and a part of an encoder, trained by one loss in plain Keras `fit`.

    Media are decoded in tf.data and encoded in the step; the batch's items, which are each other's negatives, take their
    features from there, all others (histories) from the table.

    Args:
        towers: trained on the features of the encoder as it was.
        encoder: of the media of the batch's items.
        tuned: its variables that are trained.
        catalog: has the media.
    """

    def __init__(self, towers: TwoTower, encoder: Encoder, tuned: list[tf.Variable], catalog: Catalog) -> None:
        super().__init__(name="tuned_tower")
        self.config = towers.config
        self.towers, self.encoder, self.tuned = towers, encoder, tuned
        self._mean_loss = keras.metrics.Mean(name="loss")
        self._bounds: ExtractionConfig = self.config.extraction
        table = towers.device.items.get(encoder.modality)
        self._media = np.array(["", *catalog.media(0, len(catalog), encoder.modality)], object)  # a list, Keras would track
        if table is not None:
            self._media[table.rows.numpy() == 0] = ""  # what was set aside is not read again
        # Any medium, for batches without one.
        spare = next((each for each in map(self._decoded, range(len(self._media))) if each is not None), None)
        if table is None or spare is None:
            raise _nothing_to_encode(encoder.modality)
        self._table, self._spare = table, spare

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        adapter = self.towers.data.adapters[self.encoder.modality]
        reduced = tf.matmul(self.encoder(*inputs["media"]) - adapter.mean, adapter.projection)
        with self._table.replaced(inputs["shown"], reduced), self.towers.objective.negatives.from_batch():
            return self.towers.compute_loss(inputs, training)

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        self._mean_loss.update_state(TwoTower.train_step(self, data)["loss"])
        return {"loss": self._mean_loss.result()}

    def dataset(self, events: Events, batch_size: int, epoch: int = 0) -> tf.data.Dataset:
        """The batches of `TwoTower.dataset`, with `shown`, those of their item rows that have a medium, and these `media`."""
        specs = (tf.TensorSpec([None], tf.int32), *self.encoder.inputs)

        def decode(rows: np.ndarray) -> tuple:
            decoded = ((row, self._decoded(row)) for row in np.unique(rows))
            found = {row: medium for row, medium in decoded if medium is not None} or {0: self._spare}
            return np.array(list(found), np.int32), *self.encoder.collate(list(found.values()))

        def add(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            values = tf.numpy_function(decode, [batch["item"]], [spec.dtype for spec in specs])
            shown, *media = (tf.ensure_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True))
            return batch | {"shown": shown, "media": tuple(media)}

        return self.towers.dataset(events, batch_size=batch_size, epoch=epoch).map(add, num_parallel_calls=2).prefetch(2)

    def refresh(self) -> None:
        """The table's features, by the encoder as it is now; so that evaluation sees what serving will."""
        rows, matrix = self._table.rows.numpy(), self._table.matrix.numpy()
        first = {media: row for row, media in reversed(list(enumerate(rows))) if media}
        pending = [(media, self._media[row]) for media, row in first.items() if self._media[row]]  # those of videos stay
        for start in range(0, len(pending), self._bounds.batch_size):
            places, paths = zip(*pending[start : start + self._bounds.batch_size], strict=True)
            features, there = self.encoder.encode(paths, self._bounds)
            matrix[np.array(places)[there]] = self.towers.data.adapters[self.encoder.modality].reduce(features[there])
        self._table.matrix.assign(matrix)

    def _decoded(self, row: int) -> np.ndarray | None:
        """The decoded medium of an item row, None where it has none or one that was set aside when features were extracted."""
        with contextlib.suppress(MediaError):
            if medium := self._media[row]:
                return self.encoder.decode(self.encoder.read(medium, self._bounds), self._bounds)
        return None


def _fit(job: TunedTower, split: Split, folder: Path, progress: bool) -> int:
    """Leaves a job at its best epoch, and returns which that is; 0 where none was better than what it began with."""
    towers, config = job.towers, job.config.training.finetune
    metric = towers.config.evaluation.monitor
    job.compile(optimizer=LazyAdam(config.learning_rate, 0.0))
    job.optimizer.build(job.trainable_variables)  # in the first step, TensorFlow would trace it twice
    measure = None
    if len(split.validation):
        measure = ValidationMetrics(split.validation, (int(metric.partition("@")[2]),), towers)
    checkpoint = Checkpoint(folder, f"val_{metric}" if measure else None, config.epochs)
    done = checkpoint.resume(job)
    if done:
        job.refresh()
    elif measure is not None:
        logs: dict[str, float] = {}
        measure.set_model(job)
        measure.on_epoch_end(-1, logs)
        checkpoint.begin(job, logs[f"val_{metric}"])
    refresh = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: job.refresh())
    callbacks = [Divergence(), refresh, measure, checkpoint]
    callbacks += [EpochLines(config.epochs, checkpoint, "fine-tuning epoch")] if progress else []
    if done < config.epochs:
        batches = job.dataset(split.train, config.batch_size, done)
        job.fit(batches, epochs=config.epochs, initial_epoch=done, callbacks=[*filter(None, callbacks)], verbose=0)
    checkpoint.restore_best(job)
    job.refresh()
    if measure is not None:
        settle_media(towers, measure.task(towers), metric)
    return checkpoint.best_epoch


def _top_variables(encoder: Encoder, count: int) -> list[tf.Variable]:
    """The weights of the top blocks."""
    blocks = _tunable(encoder).blocks
    if count > len(blocks):
        raise ConfigError(f"`training.finetune.blocks` must be at most {len(blocks)} for {encoder.name}. Received: {count}.")
    return [variable for block in blocks[-count:] for variable in block]


def _tunable(encoder: Encoder) -> Tunable:
    if encoder.tunable is None:
        step = f" behind {encoder.preprocess}" if encoder.preprocess else ""
        raise ConfigError(
            f"`training.finetune.blocks`: the {encoder.modality} encoder {encoder.name}{step} cannot be trained. "
            f"Use 0 blocks, or {_INSTEAD[encoder.modality]}."
        )
    return encoder.tunable


def _nothing_to_encode(modality: Modality) -> ConfigError:
    return ConfigError(f"`training.finetune` needs items with media of the {modality} encoder. Received: none.")
