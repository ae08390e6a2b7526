"""Guessing absent media from those that are there."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.features.tables import Tables

Media = dict[str, tf.Tensor]


class Imputer(keras.layers.Layer, abc.ABC):
    """Fills in the modalities that an item lacks, where it has another.

    Args:
        modalities: names, in the order of the presence mask.
        dims: size of each one's reduced features.

    Call arguments:
        media: `{modality: [B, r]}` reduced features, zeros where absent.
        presence: `[B, M]` float32.
        extra: takes the imputer's own terms of the loss, in training.

    Returns:
        `(media, standing [B, M] float32)`: what is present untouched, guesses for the rest, and where either stands.
    """

    def __init__(self, modalities: Sequence[str], dims: Sequence[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.modalities = list(modalities)
        self.dims = list(dims)

    def call(self, media: Media, presence: tf.Tensor, extra: list | None = None) -> tuple[Media, tf.Tensor]:
        filled, standing = {}, []
        for index, name in enumerate(self.modalities):
            there = presence[:, index]
            others = tf.minimum(tf.reduce_sum(presence, axis=1) - there, 1.0)
            guess = self.guess(index, self.context(index, media, presence))
            if extra is not None:
                extra += self.losses_of(index, media[name], guess, there * others)
            missing = ((1.0 - there) * others)[:, None]
            filled[name] = media[name] + missing * guess
            standing.append(tf.maximum(there, others))
        return filled, tf.stack(standing, axis=1)

    def context(self, index: int, media: Media, presence: tf.Tensor) -> tf.Tensor:
        """The other modalities side by side, and which of them are there."""
        # `presence[:, n, None]` would be folded into the wrong shape where a graph's presence is a stack of columns.
        there = [tf.expand_dims(presence[:, n], 1) for n in range(len(self.modalities))]
        parts = [media[name] * there[n] for n, name in enumerate(self.modalities) if n != index]
        return tf.concat([*parts, *there[:index], *there[index + 1 :]], axis=1)

    @abc.abstractmethod
    def guess(self, index: int, context: tf.Tensor) -> tf.Tensor:
        """`[B, c]` context -> `[B, r]` features of one modality."""

    def losses_of(self, index: int, real: tf.Tensor, guess: tf.Tensor, both: tf.Tensor) -> list[tf.Tensor]:
        """What guesses are worth where the truth is known (`both [B]` is 1), as terms of the loss."""
        return []

    def get_config(self) -> dict:
        return {**super().get_config(), "modalities": self.modalities, "dims": self.dims}


class RidgeImputer(Imputer):
    """Linear guesses, fitted once on the catalogue and frozen.

    Reference: ridge regression, Hoerl and Kennard 1970, as the imputation of multimodal recommenders in Malitesta et al., Do We
    Really Need to Drop Items with Missing Modalities, 2024, arXiv:2408.11767, compares them.
    """

    def build(self, input_shape) -> None:
        total, count = sum(self.dims), len(self.dims)
        self.kernels = [
            self.add_weight(f"kernel_{name}", (total - dim + count - 1, dim), tf.float32, "zeros", trainable=False)
            for name, dim in zip(self.modalities, self.dims, strict=True)
        ]
        super().build(input_shape)

    def guess(self, index: int, context: tf.Tensor) -> tf.Tensor:
        return tf.matmul(context, self.kernels[index])

    def fit(self, media: dict[str, np.ndarray], presence: np.ndarray) -> None:
        """Least squares over the items that have the modality and another one: `{modality: [n, r]}`, `[n, M]`.

        Each item counts with all its other modalities, and with each of them alone, so that any of them is enough.
        """
        count = len(self.modalities)
        for index, name in enumerate(self.modalities):
            inputs, targets = [], []
            others = [n for n in range(count) if n != index]
            for kept in [others, *[[n] for n in others if len(others) > 1]]:
                shown = presence * np.isin(np.arange(count), kept)
                rows = np.flatnonzero(presence[:, index] * shown.any(axis=1))
                tensors = {key: tf.constant(value[rows], tf.float32) for key, value in media.items()}
                inputs.append(self.context(index, tensors, tf.constant(shown[rows], tf.float32)).numpy())
                targets.append(media[name][rows])
            x, y = np.concatenate(inputs).astype(np.float64), np.concatenate(targets)
            penalty = 1.0 + 0.1 * len(x)
            self.kernels[index].assign(np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y))


class GeneratorImputer(Imputer):
    """Guesses of a generator that is trained beside the towers, against a discriminator that tells guesses from real features.

    Both are trained by one optimizer: between them the gradient changes its sign (Ganin and Lempitsky, Unsupervised Domain
    Adaptation by Backpropagation, ICML 2015). Where the truth is known, guesses are also pulled towards it.

    Args:
        hidden: size of the hidden layers of both.
        adversarial: weight of the discriminator's verdict beside the squared error.

    Reference: Peng and Qi, CM-GANs: Cross-modal Generative Adversarial Networks, TOMM 2019, arXiv:1710.05106; Goodfellow et
    al., Generative Adversarial Networks, 2014.
    """

    def __init__(self, modalities, dims, hidden: int = 128, adversarial: float = 0.1, **kwargs) -> None:
        super().__init__(modalities, dims, **kwargs)
        self.hidden = hidden
        self.adversarial = adversarial

    def build(self, input_shape) -> None:
        def network(name: str, out: int, kind: str) -> keras.Sequential:
            dense = keras.layers.Dense
            return keras.Sequential([dense(self.hidden, "relu"), dense(out)], name=f"{kind}_{name}")

        total, count = sum(self.dims), len(self.dims)
        self.generators, self.judges = [], []
        for name, dim in zip(self.modalities, self.dims, strict=True):
            self.generators.append(network(name, dim, "generator"))
            self.generators[-1].build((None, total - dim + count - 1))
            self.judges.append(network(name, 1, "judge"))
            self.judges[-1].build((None, dim))
        super().build(input_shape)

    def guess(self, index: int, context: tf.Tensor) -> tf.Tensor:
        return self.generators[index](context)

    def losses_of(self, index: int, real: tf.Tensor, guess: tf.Tensor, both: tf.Tensor) -> list[tf.Tensor]:
        judge = self.judges[index]
        verdict = tf.nn.softplus(-judge(real)) + tf.nn.softplus(judge(_reverse(guess)))
        error = tf.reduce_mean(tf.square(real - guess), axis=1)
        losses = error + self.adversarial * verdict[:, 0]
        return [tf.math.divide_no_nan(tf.reduce_sum(both * losses), tf.reduce_sum(both))]

    def get_config(self) -> dict:
        return {**super().get_config(), "hidden": self.hidden, "adversarial": self.adversarial}


@tf.custom_gradient
def _reverse(x: tf.Tensor):
    return tf.identity(x), lambda gradient: -gradient


IMPUTERS: dict[str, type[Imputer]] = {"ridge": RidgeImputer, "generator": GeneratorImputer}


def make_imputer(kind: str, tables: Tables) -> Imputer | None:
    """The imputer of that name, fitted if need be; None for other names, and where there is nothing to guess from."""
    if kind not in IMPUTERS or len(tables.modalities) < 2:
        return None
    dims = [tables.adapters[name].reduced_dim for name in tables.modalities]
    imputer = IMPUTERS[kind](tables.modalities, dims, name="imputer")
    imputer.build(None)
    if isinstance(imputer, RidgeImputer):
        rows = {name: media.rows[1:] for name, media in tables.items.items()}
        media = {name: np.asarray(tables.items[name].matrix)[rows[name]] for name in tables.modalities}
        imputer.fit(media, np.stack([rows[name] > 0 for name in tables.modalities], axis=1).astype(np.float32))
    return imputer
