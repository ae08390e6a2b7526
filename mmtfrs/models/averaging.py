"""Adam that keeps a moving average of the weights: what is evaluated and kept, while training goes on from the raw ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mmtfrs._keras import keras, tf


class AveragedAdam(keras.optimizers.Adam):
    """Adam whose average follows every step: `average = m average + (1 - m) weight`, `m = min(momentum, (1 + n) / (10 + n))`.

    The momentum grows with the number of steps `n`, so that where training began is soon forgotten. A variable takes one of
    TensorFlow's own operations for Adam and two for its average, where Keras takes about twenty: a model of many small layers
    would be mostly that.

    Args:
        learning_rate: of Adam.
        momentum: in [0, 1); 0 keeps no average.

    Reference: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; the growing momentum as in
    `tf.train.ExponentialMovingAverage(num_updates=...)`.
    """

    ema_momentum: float | tf.Tensor

    def __init__(self, learning_rate: float = 0.001, momentum: float = 0.99, **kwargs: Any) -> None:
        # Where there is a GPU, Keras has XLA compile each variable's update: anew for each number of rows that a step touches.
        kwargs["jit_compile"] = False
        super().__init__(learning_rate, use_ema=momentum > 0, ema_momentum=momentum, **kwargs)

    def get_config(self) -> dict:
        config = super().get_config()
        averaged, momentum = config.pop("use_ema"), config.pop("ema_momentum")
        return {**config, "momentum": momentum if averaged else 0.0}

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        place, steps = self._index_dict[self._var_key(variable)], tf.cast(self.iterations, tf.float32) + 1.0
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].handle,
            v=self._velocities[place].handle,
            beta1_power=self.beta_1**steps,
            beta2_power=self.beta_2**steps,
            lr=tf.cast(self.learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )

    def _deduplicate_sparse_grad(self, grads: list[Any]) -> list[Any]:
        """As they are: rows that come more than once are added up where they are used."""
        return grads

    def _update_model_variables_moving_average(self, var_list: list[tf.Variable]) -> None:
        steps = tf.cast(self.iterations, tf.float32)
        share = 1.0 - tf.minimum(self.ema_momentum, (1.0 + steps) / (10.0 + steps))

        def follow(average: tf.Variable, variable: tf.Variable) -> None:
            tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=average - variable)

        for variable in var_list if self.use_ema else ():
            average = self._model_variables_moving_average[self._index_dict[self._var_key(variable)]]
            self._distribution_strategy.extended.update(average, follow, args=(variable,), group=False)

    @property
    def averages(self) -> list[tf.Variable]:
        """One per trainable variable, in their order; none before the first step, or without momentum."""
        return list(getattr(self, "_model_variables_moving_average", [])) if self.use_ema else []


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Gives a model in training its averaged weights for a while; those it has where its optimizer keeps no average."""
    if hasattr(model.optimizer, "catch_up"):
        model.optimizer.catch_up(model.trainable_variables)
    averages = getattr(model.optimizer, "averages", [])
    pairs = list(zip(model.trainable_variables if averages else [], averages, strict=True))

    def swap() -> None:  # one variable at a time: a copy of all of them could be all the memory that there is
        for variable, average in pairs:
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)

    swap()
    try:
        yield
    finally:
        swap()
