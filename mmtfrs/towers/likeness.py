"""What media are alike by themselves: nothing here is learned from the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.pca import components

_SAMPLE = 4096  # items from which the components are estimated


class Likeness(keras.layers.Layer):
    """Reduced features -> a vector whose inner products add up the cosines of the modalities, as far as D numbers can.

    Each modality's features are brought to the same length, put side by side, or added up where modalities lie in one space,
    and reduced to the leading components of all items. A log with an event or two per item teaches towers little that holds
    on other events, and towers that learned who takes what forget what does not matter for that; this needs no log.

    Args:
        dims: `{modality: r}`, sizes of the reduced features.
        dim: size D of the vectors.

    Call arguments:
        media: `{modality: [B, r]}` reduced features.
        presence: `[B, M]` float32 in the order of the modalities.

    Returns:
        `[B, D] float32`, zeros where nothing is present.

    Reference: Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika 1936.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        self.dims, self.dim = dict(dims), dim
        self.components = {name: self.add_weight(name, (size, dim), trainable=False) for name, size in dims.items()}

    @classmethod
    def of(cls, tables: ModelInputs, dim: int, **kwargs: Any) -> Likeness:
        """With the leading components of the items of a model."""
        rows = np.arange(len(tables.item_ids))
        if len(rows) > _SAMPLE:
            rows = np.sort(np.random.default_rng(0).choice(rows, _SAMPLE, replace=False))
        units = {}
        for name, media in tables.items.items():
            units[name] = _unit(np.asarray(media.matrix)[media.rows[rows + 1]].astype(np.float64))
        first: dict[str, str] = {}  # of the modalities of a space, which are reduced in the same way
        for name, adapter in tables.adapters.items():
            same = (other for other in first if np.array_equal(adapter.projection, tables.adapters[other].projection))
            first[name] = next(same, name)
        spaces = {space: np.zeros_like(units[space]) for space in first.values()}
        for name, space in first.items():
            spaces[space] += units[name]
        leading = components(np.concatenate([*spaces.values()], axis=1))[:, :dim]
        leading = np.pad(leading, [(0, 0), (0, dim - leading.shape[1])])
        ends = np.cumsum([part.shape[1] for part in spaces.values()])[:-1]
        parts = dict(zip(spaces, np.split(leading, ends), strict=True))
        made = cls({name: len(parts[space]) for name, space in first.items()}, dim, **kwargs)
        for name, space in first.items():
            made.components[name].assign(parts[space])
        return made

    def call(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([tf.shape(presence)[0], 1])
        for index, (name, leading) in enumerate(self.components.items()):
            unit = tf.math.l2_normalize(tf.cast(media[name], tf.float32), axis=1, epsilon=1e-12)
            total += tf.matmul(unit * tf.expand_dims(presence[:, index], 1), leading)
        return total

    def get_config(self) -> dict:
        return {**super().get_config(), "dims": dict(self.dims), "dim": self.dim}


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
