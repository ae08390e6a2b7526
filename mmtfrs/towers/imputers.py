"""Guessing absent media from those that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmtfrs._keras import keras, tf
from mmtfrs.model_inputs.inputs import ModelInputs

Media = dict[str, tf.Tensor]


class GeneratorImputer(keras.layers.Layer):
    """Fills in the modalities that an item lacks, where it has another: guesses of a generator that is trained beside the
    towers, against a discriminator that tells guesses from real features.

    Both are trained by one optimizer: between them the gradient changes its sign (Ganin and Lempitsky, Unsupervised Domain
    Adaptation by Backpropagation, ICML 2015). Where the truth is known, guesses are also pulled towards it.

    Args:
        modalities: names, in the order of the presence mask.
        dims: size of each one's reduced features.
        hidden: size of the hidden layers of both.
        adversarial: weight of the discriminator's verdict beside the squared error.

    Call arguments:
        media: `{modality: [B, r]}` reduced features, zeros where absent.
        presence: `[B, M]` float32.
        training: whether to add the imputer's own terms to the losses.

    Returns:
        `(media, available [B, M] float32)`: what is present untouched, guesses for the rest, and where either stands.

    Reference: Peng and Qi, CM-GANs: Cross-modal Generative Adversarial Networks, TOMM 2019, arXiv:1710.05106; Goodfellow et
    al., Generative Adversarial Networks, 2014.
    """

    def __init__(
        self, modalities: Sequence[str], dims: Sequence[int], hidden: int = 128, adversarial: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.modalities = list(modalities)
        self.dims = list(dims)
        self.hidden = hidden
        self.adversarial = adversarial

    def build(self, input_shape: tf.TensorShape | None) -> None:
        def network(name: str, out: int, kind: str) -> keras.Sequential:
            dense = keras.layers.Dense
            policy = self.dtype_policy
            return keras.Sequential([dense(self.hidden, "relu", dtype=policy), dense(out, dtype=policy)], name=f"{kind}_{name}")

        total, count = sum(self.dims), len(self.dims)
        self.generators, self.discriminators = [], []
        for name, dim in zip(self.modalities, self.dims, strict=True):
            self.generators.append(network(name, dim, "generator"))
            self.generators[-1].build((None, total - dim + count - 1))
            self.discriminators.append(network(name, 1, "discriminator"))
            self.discriminators[-1].build((None, dim))
        super().build(input_shape)

    def call(self, media: Media, presence: tf.Tensor, training: bool | None = None) -> tuple[Media, tf.Tensor]:
        filled, available = {}, []
        for index, name in enumerate(self.modalities):
            there = presence[:, index]
            others = tf.minimum(tf.reduce_sum(presence, axis=1) - there, 1.0)
            guess = self.guess(index, self.context(index, media, presence))
            if training:
                self.add_loss(self.loss_of(index, media[name], guess, there * others))
            missing = ((1.0 - there) * others)[:, None]
            filled[name] = media[name] + missing * guess
            available.append(tf.maximum(there, others))
        return filled, tf.stack(available, axis=1)

    def context(self, index: int, media: Media, presence: tf.Tensor) -> tf.Tensor:
        """The other modalities side by side, and which of them are there."""
        # `presence[:, n, None]` would be folded into the wrong shape where a graph's presence is a stack of columns.
        there = [tf.expand_dims(presence[:, n], 1) for n in range(len(self.modalities))]
        parts = [media[name] * there[n] for n, name in enumerate(self.modalities) if n != index]
        return tf.concat([*parts, *there[:index], *there[index + 1 :]], axis=1)

    def guess(self, index: int, context: tf.Tensor) -> tf.Tensor:
        """`[B, c]` context -> `[B, r]` features of one modality."""
        return self.generators[index](context)

    def loss_of(self, index: int, real: tf.Tensor, guess: tf.Tensor, both: tf.Tensor) -> tf.Tensor:
        """The imputation loss on observed entries (`both [B]` is 1), a scalar."""
        discriminator = self.discriminators[index]
        verdict = tf.nn.softplus(-discriminator(real)) + tf.nn.softplus(discriminator(_reverse(guess)))
        error = tf.reduce_mean(tf.square(real - guess), axis=1)
        losses = error + self.adversarial * verdict[:, 0]
        return tf.math.divide_no_nan(tf.reduce_sum(both * losses), tf.reduce_sum(both))

    def get_config(self) -> dict:
        names = ("modalities", "dims", "hidden", "adversarial")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@tf.custom_gradient
def _reverse(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    return tf.identity(x), lambda gradient: -gradient


def make_imputer(kind: str, tables: ModelInputs) -> GeneratorImputer | None:
    """None where nothing is to be guessed, or there is nothing to guess from."""
    if kind != "generator" or len(tables.modalities) < 2:
        return None
    dims = [tables.adapters[name].reduced_dim for name in tables.modalities]
    imputer = GeneratorImputer(tables.modalities, dims, name="imputer", dtype="float32")
    imputer.build(None)
    return imputer
