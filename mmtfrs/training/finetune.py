"""Fine-tuning: the top of the image encoder learns with the towers, and the features are made anew by what it has become."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.splits import Split
from mmtfrs.encoders.applications import NETWORKS
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.errors import ConfigError, MediaError, RunError
from mmtfrs.evaluation.blend import fit_blend, settle_media
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.features.extract import extract
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.feature_table import reduce_media
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.run_folder import RUN
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.files import replacing


def finetune(
    model: TwoTower, catalog: Catalog, split: Split, features: Features, folder: Path, store: Path, progress: bool = False
) -> TwoTower:
    """Trains the top blocks of the image encoder with the towers, keeps the best epoch, and refreshes the features.

    Pictures are decoded in tf.data and encoded in the step; the batch's items take their features from there, all others
    (histories, negatives) from the table. Batch normalization stays as it was. Afterwards the tuned encoder encodes every
    picture once, and a model on these features is returned; it is the one that went in where no epoch was better.

    Args:
        model: trained on the frozen features.
        catalog, split, features: what it was trained on.
        folder: the run's; keeps the tuned weights, and a checkpoint after each epoch to go on from.
        store: the feature store.
        progress: print a line per epoch on standard error.

    Raises:
        ConfigError: the encoder cannot be trained, or has fewer blocks.
    """
    config = model.config.training.finetune
    if "image" not in model.data.modalities:
        raise ConfigError("`training.finetune` needs items with pictures. Received: none.")
    encoder = encoders.load("image", model.config.encoders.image)
    tuned = _top_variables(encoder, config.blocks)
    stage = _Stage(model, encoder, tuned, catalog, split, folder, progress)
    stage.run(config.epochs, config.learning_rate, config.batch_size)
    if stage.best_epoch == 0:
        return model
    name = _save(encoder, folder)
    fresh = extract(catalog, model.config.replace(encoders={"image": name}), store, progress=progress)
    rows = fresh.items["image"]
    items = dict(model.data.items)
    items["image"] = reduce_media(model.data.adapters["image"], rows, np.arange(1, len(rows) + 1), len(catalog))
    users = {key: value for key, value in model.data.users.items() if key != "image"}
    # The run may be moved, and its encoder with it.
    used = dict(model.data.encoders) | {"image": (name.replace(str(folder.resolve()), RUN), rows.fingerprint)}
    tables: ModelInputs = dataclasses.replace(model.data, items=items, users=users, encoders=used)
    result = TwoTower(model.config, tables=tables)
    result.set_weights(model.get_weights())
    result.keep_encoders({**features.encoders, "image": fresh.encoders["image"]})
    return result


def _save(encoder: ImageEncoder, folder: Path) -> str:
    """Writes what the encoder has become, and returns the name by which it is loaded."""
    network = encoder.name.partition(":")[0]
    if network in NETWORKS:
        path = (folder / "image_encoder.weights.h5").resolve()
        encoder.model.save_weights(path)
        return f"{network}:{path}"
    path = (folder / "image_encoder.h5").resolve()
    encoder.model.save(path)
    return str(path)


class _Stage:
    """The epochs of a fine-tuning."""

    def __init__(self, model, encoder, tuned, catalog, split, folder, progress) -> None:
        self.model: TwoTower = model
        self.encoder: ImageEncoder = encoder
        self.variables = [*model.trainable_variables, *tuned]
        self.tuned = tuned
        self.catalog: Catalog = catalog
        self.split: Split = split
        self.path: Path = folder / "training" / "finetune.npz"
        self.progress: bool = progress
        self.best_epoch = 0
        self.table = model.device.items["image"]
        self.adapter = model.data.adapters["image"]

    def run(self, epochs: int, rate: float, batch_size: int) -> None:
        optimizer = keras.optimizers.Adam(rate)
        monitor = self.model.config.evaluation.monitor
        self.model.alike.assign(0.0)  # what is trained is what is measured
        best, kept, done = self._measure(), self._values(), 0
        if self.path.exists():
            done, self.best_epoch, best, kept = self._resume()
        step = self._step(optimizer)
        dataset = self._dataset(batch_size)
        for epoch in range(done, epochs):
            start, losses = time.monotonic(), []
            for batch in dataset:
                losses.append(float(step(batch)))
            self._refresh_table()
            value = self._measure()
            if value is None or best is None or value > best:
                best, kept, self.best_epoch = value, self._values(), epoch + 1
            if self.progress:
                measured = "" if value is None else f"  val_{monitor} {value:.4f}" + (" (best)" if value == best else "")
                print(
                    f"fine-tuning epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.4f}{measured}  "
                    f"{time.monotonic() - start:.0f} s",
                    file=sys.stderr,
                )
            self._checkpoint(epoch + 1, best, kept)
        for variable, value in zip(self.variables, kept, strict=True):
            variable.assign(value)
        self._refresh_table()
        if best is not None:
            settle_media(self.model, self._task(), monitor)

    def _dataset(self, batch_size: int) -> tf.data.Dataset:
        """The training batches with their items' pictures, `[B, S, S, 3] uint8`, black where there is none."""
        side, bounds = self.encoder.size, self.model.config.extraction
        paths = ["", *self.catalog.media(0, len(self.catalog), "image")]

        def decode(rows: np.ndarray) -> np.ndarray:
            pictures = np.zeros((len(rows), side, side, 3), np.uint8)
            for place, row in enumerate(rows):
                if paths[row]:
                    try:
                        pictures[place] = self.encoder.decode(self.encoder.read(paths[row], bounds), bounds)
                    except MediaError:
                        continue  # it was set aside when features were extracted, so the table has no row of it either
            return pictures

        def add(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            pictures = tf.numpy_function(decode, [batch["item"]], tf.uint8)
            return batch | {"pictures": tf.ensure_shape(pictures, [None, side, side, 3])}

        return self.model.dataset(self.split.train, batch_size=batch_size).map(add, num_parallel_calls=2).prefetch(2)

    def _step(self, optimizer):
        @tf.function(autograph=False)
        def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            with tf.GradientTape() as tape:
                features = self.encoder._encode(batch["pictures"])
                reduced = tf.matmul(features - self.adapter.mean, self.adapter.projection)
                with self.table.replaced(batch["item"], reduced):
                    loss = self.model.compute_loss(batch, training=True) + tf.add_n([0.0, *self.model.losses])
            gradients = tape.gradient(loss, self.variables)
            pairs = [pair for pair in zip(gradients, self.variables, strict=True) if pair[0] is not None]
            optimizer.apply_gradients(pairs)
            return loss

        return step

    def _refresh_table(self) -> None:
        """The table's image features, by the encoder as it is now; so that evaluation sees what serving will."""
        rows, matrix = self.table.rows.numpy(), self.table.matrix.numpy()
        bounds = self.model.config.extraction
        first = {int(media): row for row, media in reversed(list(enumerate(rows))) if media}
        pending = [(media, self.catalog.medium(row - 1, "image")) for media, row in first.items()]
        pending = [(media, path) for media, path in pending if path]  # features of videos stay what they were
        for start in range(0, len(pending), bounds.batch_size):
            part = pending[start : start + bounds.batch_size]
            pictures = [self.encoder.decode(self.encoder.read(path, bounds), bounds) for _, path in part]
            matrix[[media for media, _ in part]] = self.adapter.reduce(self.encoder.encode_batch(pictures))
        self.table.matrix.assign(matrix)

    def _measure(self) -> float | None:
        if not len(self.split.validation):
            return None
        metric, task = self.model.config.evaluation.monitor, self._task()
        fit_blend(self.model, task)  # pictures may say more than they did
        return task.evaluate(ModelScorer(self.model), (int(metric.partition("@")[2]),))[metric]

    def _task(self) -> RankingTask:
        return RankingTask(self.model.data, self.split.validation, self.model.repeats)

    def _values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def _checkpoint(self, epoch: int, best: float | None, kept: list[np.ndarray]) -> None:
        arrays = {f"now-{n}": value for n, value in enumerate(self._values())}
        arrays |= {f"best-{n}": value for n, value in enumerate(kept)}
        state = np.array([epoch, self.best_epoch, np.nan if best is None else best])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            np.savez(file, state=state, **arrays)

    def _resume(self) -> tuple[int, int, float | None, list[np.ndarray]]:
        try:
            with np.load(self.path) as saved:
                epoch, best_epoch, best = saved["state"]
                for number, variable in enumerate(self.variables):
                    variable.assign(saved[f"now-{number}"])
                kept = [saved[f"best-{number}"] for number in range(len(self.variables))]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.path}: the checkpoint is damaged ({error}). Remove it to fine-tune anew.") from error
        return int(epoch), int(best_epoch), None if np.isnan(best) else float(best), kept


def _top_variables(encoder: ImageEncoder, count: int) -> list[tf.Variable]:
    """The weights of the top blocks; batch normalization, which would forget what it knows, is left out.

    A block is a run of layers whose names start alike (`block7a`, `conv5`), as keras.applications names them.
    """
    if encoder.model is None:
        raise ConfigError(
            f"`training.finetune.blocks`: the image encoder {encoder.name} cannot be trained. Use 0 blocks, or a "
            "network of keras.applications."
        )
    blocks: dict[str, list[tf.Variable]] = {}
    for layer in encoder.model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization) and layer.weights:
            blocks.setdefault(layer.name.partition("_")[0], []).extend(layer.variables)
    if count > len(blocks):
        raise ConfigError(f"`training.finetune.blocks` must be at most {len(blocks)} for {encoder.name}. Received: {count}.")
    return [variable for name in list(blocks)[-count:] for variable in blocks[name]]
