"""Adam whose step does not know how large the tables of ids are: rows that a batch does not touch wait for their turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmtfrs._keras import tf
from mmtfrs.models.averaging import AveragedAdam
from mmtfrs.utils.static_shapes import static_shapes

_AT_A_TIME = 1 << 17  # rows that are brought up together: what is made of them is many times as large
ROWS = 4096  # tables of fewer rows are updated as a whole, which is then the faster way


class _Table(NamedTuple):
    """What is kept of a table of weights `[N, D]`: Adam's moments, the average, and after which step each row stands so."""

    weight: tf.Variable | tf.Tensor
    first: tf.Variable | tf.Tensor
    second: tf.Variable | tf.Tensor
    average: tf.Variable | tf.Tensor | None
    since: tf.Variable | tf.Tensor

    def of(self, rows: tf.Tensor) -> _Table:
        """What is kept of these rows."""
        return _Table(*(None if each is None else tf.gather(each, rows) for each in self))

    def write(self, values: _Table, rows: tf.Tensor) -> None:
        """Values for these rows."""
        for variable, value in zip(self, values, strict=True):
            if variable is not None:
                variable.scatter_update(tf.IndexedSlices(value, rows))


class LazyAdam(AveragedAdam):
    """`AveragedAdam`, by rows where a gradient is sparse.

    A row that is touched is first brought to where Adam would have it by now: without gradients its moments fade, what is left
    of its momentum moves it a last bit, and the average follows. These steps are summed in closed form, with Adam's epsilon as
    in the first of them and the correction of its biases as in their middle. `catch_up` does the same for all rows, so that the
    weights can be read. Memory: Adam's two moments, the average, and a number per row.

    Args:
        learning_rate: of Adam.
        momentum: of the average, in [0, 1); 0 keeps none.

    Reference: Kingma and Ba, Adam, ICLR 2015; rows by their turn as in the LazyAdam of TensorFlow Addons, which forgets what
    they missed.
    """

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        built = getattr(self, "_built", False)
        super().build(var_list)
        if not built:
            # The step after which a row is as it stands. Exact in float32 up to 16 million steps.
            self._rows_at = {
                self._var_key(variable): self.add_variable_from_reference(variable, "rows_at", shape=variable.shape[:1])
                for variable in var_list
                if variable.shape.rank == 2 and variable.shape[0] > ROWS
            }
            self._by_row: set[Any] = set()

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        key = self._var_key(variable)
        if not isinstance(gradient, tf.IndexedSlices) or key not in self._rows_at:
            super().update_step(gradient, variable)
            return
        self._by_row.add(key)
        gradient, before = _added_up(gradient, variable.shape[0]), tf.cast(self.iterations, tf.float32)
        rows, table = gradient.indices, self._table(variable)
        weight, first, second, average, _ = self._waited(table.of(rows), before)
        first = self.beta_1 * first + (1.0 - self.beta_1) * gradient.values
        second = self.beta_2 * second + (1.0 - self.beta_2) * tf.square(gradient.values)
        weight -= self._rate(before + 1.0) * first / (tf.sqrt(second) + self.epsilon)
        if average is not None:
            momentum = tf.minimum(self.ema_momentum, (1.0 + before) / (10.0 + before))
            average = momentum * average + (1.0 - momentum) * weight
        table.write(_Table(weight, first, second, average, tf.fill(tf.shape(rows), before + 1.0)), rows)

    def catch_up(self, variables: Sequence[tf.Variable]) -> None:
        """Brings all rows of these variables to where Adam would have them by now."""
        now = tf.cast(self.iterations, tf.float32)
        for variable in variables:
            if self._var_key(variable) in getattr(self, "_by_row", ()):
                table = self._table(variable)
                for start in range(0, variable.shape[0], _AT_A_TIME):
                    rows = tf.range(start, min(start + _AT_A_TIME, variable.shape[0]))
                    table.write(self._waited(table.of(rows), now), rows)

    def finalize_variable_values(self, var_list: Sequence[tf.Variable]) -> None:
        """What Keras calls at the end of `fit`."""
        self.catch_up(var_list)
        super().finalize_variable_values(var_list)

    def _update_model_variables_moving_average(self, var_list: list[tf.Variable]) -> None:
        super()._update_model_variables_moving_average([each for each in var_list if self._var_key(each) not in self._by_row])

    def _table(self, variable: tf.Variable) -> _Table:
        place = self._index_dict[self._var_key(variable)]
        average = self._model_variables_moving_average[place] if self.use_ema else None
        since = self._rows_at[self._var_key(variable)]
        return _Table(variable, self._momentums[place], self._velocities[place], average, since)

    def _waited(self, table: _Table, now: tf.Tensor) -> _Table:
        """Rows after step `now`, as if their gradients had been 0 since they were last touched."""
        since = table.since[:, None]
        idle = now - since
        ratio = self.beta_1 / math.sqrt(self.beta_2)  # each idle step is shorter than the one before by so much
        left = ratio**idle
        steps = ratio * (1.0 - left) / (1.0 - ratio)
        middle = 1.0 / (1.0 - ratio) - idle * left / tf.maximum(1.0 - left, 1e-6)  # of them, by how far they go
        weight = table.weight - self._rate(since + tf.maximum(middle, 1.0)) * steps * table.first / (
            tf.sqrt(table.second) + self.epsilon
        )
        average = table.average
        if average is not None:
            kept = tf.exp(self._log_kept(now) - self._log_kept(since))
            average = kept * average + (1.0 - kept) * weight
        first, second = table.first * self.beta_1**idle, table.second * self.beta_2**idle
        return _Table(weight, first, second, average, tf.fill(tf.shape(table.since), now))

    def _rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate with the corrections of both moments' biases, in a step counted from 1."""
        return self.learning_rate * tf.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)

    def _log_kept(self, steps: tf.Tensor) -> tf.Tensor:
        """Logarithm of what is left of a value that the average had before the first of so many steps."""
        growing = max(
            math.ceil((10.0 * self.ema_momentum - 1.0) / (1.0 - self.ema_momentum)), 0
        )  # then the momentum is reached
        few = tf.minimum(steps, float(growing))
        # The product of (1 + n) / (10 + n) over n < few: of its factors nine are left.
        grown = math.log(math.factorial(9)) - tf.add_n([tf.math.log(few + float(number)) for number in range(1, 10)])
        return grown + (steps - few) * math.log(self.ema_momentum)


def _added_up(gradient: tf.IndexedSlices, size: int) -> tf.IndexedSlices:
    """Rows that come more than once with the sum of their values: once each, or as often, where shapes must be known."""
    rows = gradient.indices
    if static_shapes():  # XLA's `unique` is a loop over the rows
        numbers = tf.range(tf.shape(rows)[0])
        any_of_them = tf.tensor_scatter_nd_update(tf.zeros([size], tf.int32), rows[:, None], numbers)
        places = tf.gather(any_of_them, rows)
        return tf.IndexedSlices(tf.gather(tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows)), places), rows)
    rows, places = tf.unique(rows)
    return tf.IndexedSlices(tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows)), rows)
