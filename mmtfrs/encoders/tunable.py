"""What of an encoder can be trained further, and how it is saved once it has become another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmtfrs._keras import keras, tf

Blocks = list[list[tf.Variable]]


class Tunable(NamedTuple):
    """The part of an encoder that can be trained further.

    Attributes:
        blocks: the variables of each, from what is next to the media to the top.
        save: writes the encoder with what its variables are now to a path, whose suffix it chooses, and returns the name by
            which `encoders.load` finds it.
    """

    blocks: Blocks
    save: Callable[[Path], str]


def keras_blocks(model: keras.Model) -> Blocks:
    """A block is a run of layers whose names start alike (`block7a`, `conv5`, `layer14`), as keras.applications and YAMNet name
    them. Batch normalization, which would forget what it knows, is left out."""
    blocks: dict[str, list[tf.Variable]] = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization) and layer.weights:
            blocks.setdefault(re.split("[_/]", layer.name)[0], []).extend(layer.variables)
    return list(blocks.values())


def tunable_model(model: keras.Model) -> Tunable:
    """Of a Keras model that is the whole encoder; it is saved as one file."""

    def save(path: Path) -> str:
        file = path.with_suffix(".h5")
        model.save(file)
        return str(file)

    return Tunable(keras_blocks(model), save)


def tunable_weights(model: keras.Model, blocks: Blocks, network: str = "") -> Tunable:
    """Of a model that is built by name; its weights are saved, and loaded as `FILE`, or as `NETWORK:FILE`."""

    def save(path: Path) -> str:
        file = path.with_suffix(".weights.h5")
        model.save_weights(file)
        return f"{network}:{file}" if network else str(file)

    return Tunable(blocks, save)
