"""Every loss and every source of negatives, against hand-worked numbers and the loss over the whole catalog."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs._keras import tf
from mmtfrs.config.schema import LossConfig
from mmtfrs.errors import ConfigError
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models import losses, seen_items
from mmtfrs.models.objective import Objective
from mmtfrs.models.seen_items import KnownItems

ITEMS, DIM, USERS = 12, 6, 5


def _ones(shape):
    return tf.ones(shape, tf.bool)


def test_softmax_by_hand():
    # Positive 2, columns 1 and 0 that were expected 0.5 and 2 times: log(1 + e^(1-2)/0.5 + e^(0-2)/2).
    found = losses.softmax_loss(tf.constant([2.0]), tf.constant([[1.0, 0.0]]), tf.math.log([0.5, 2.0]), _ones([1, 2]))
    np.testing.assert_allclose(found, [np.log(1 + 2 * np.exp(-1) + 0.5 * np.exp(-2))], rtol=1e-6)
    none = losses.softmax_loss(tf.constant([2.0]), tf.constant([[9.0]]), tf.zeros([1]), tf.constant([[False]]))
    assert float(none[0]) == 0.0


def test_pairwise_by_hand():
    arguments = tf.constant([1.0]), tf.constant([[0.0, 2.0]]), tf.math.log([1.0, 3.0]), _ones([1, 2])
    bpr, hinge = losses.bpr_loss(*arguments), losses.hinge_loss(*arguments, 0.5)
    # Weights 3/4 and 1/4.
    np.testing.assert_allclose(bpr, [0.75 * np.log1p(np.exp(-1)) + 0.25 * np.log1p(np.exp(1))], rtol=1e-6)
    np.testing.assert_allclose(hinge, [0.75 * 0.0 + 0.25 * 1.5], rtol=1e-6)
    nothing = losses.bpr_loss(*arguments[:3], tf.zeros([1, 2], tf.bool))
    assert float(nothing[0]) == 0.0


class _Case:
    """A small catalog with fixed embeddings, a skewed log, and what the loss over all items is."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.catalog = tf.Variable(0.7 * rng.normal(size=(ITEMS, DIM)).astype(np.float32))
        self.query = tf.Variable(rng.normal(size=(USERS, DIM)).astype(np.float32))
        self.counts = np.append(0.0, np.round(1000 * rng.dirichlet(np.full(ITEMS, 0.3)) + 15)).astype(np.float32)
        self.shares = self.counts[1:] / self.counts.sum()
        self.rng = rng

    def draw(self, size):
        users = self.rng.integers(0, USERS, size)
        return users, (self.rng.choice(ITEMS, size, p=self.shares) + 1).astype(np.int32)

    def gradient(self, objective, users, items):
        with tf.GradientTape() as tape:
            per_event, _ = objective(
                tf.gather(self.query, users)[:, None], tf.constant(users + 1, tf.int32), tf.constant(items), self._embed
            )
            loss = tf.reduce_mean(per_event)
        return float(loss), tf.convert_to_tensor(tape.gradient(loss, self.query)).numpy()

    def _embed(self, rows):
        return tf.gather(self.catalog, tf.maximum(rows - 1, 0))[:, None]

    def objective(self, seen=None, **settings):
        return Objective(LossConfig(**{"temperature": 1.0, **settings}), self.counts, seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "bpr", "hinge"])
@pytest.mark.parametrize(("negatives", "more"), [("in_batch", {}), ("mixed", {"uniform": 3000})])
def test_corrected_estimate_converges_to_the_whole_catalog(name, negatives, more):
    """Sign and scale: with many draws, value and gradient are those of the loss over all items."""
    case = _Case()
    full = case.objective(name=name, negatives="full")
    sampled = case.objective(name=name, negatives=negatives, **more)
    users, items = case.draw(3000)
    value, gradient = case.gradient(sampled, users, items)
    expected, wanted = case.gradient(full, users, items)
    assert abs(value - expected) < 0.03 * expected
    assert np.linalg.norm(gradient - wanted) < 0.1 * np.linalg.norm(wanted)


def test_full_softmax_is_the_cross_entropy():
    case = _Case()
    users, items = case.draw(64)
    value, _ = case.gradient(case.objective(negatives="full", temperature=0.5), users, items)
    logits = 2 * case.query.numpy()[users] @ case.catalog.numpy().T
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(64), items - 1]
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("negatives", ["full", "in_batch", "mixed"])
def test_logits_that_do_not_fit_are_made_in_parts(negatives, monkeypatch):
    """The same losses and gradients, of the queries and of the columns."""
    case = _Case()
    users, items = case.draw(48)
    seen = ItemLists.of_log(users[:20] + 1, items[:20], np.arange(20), USERS)
    found = []
    for most in (1 << 27, 300):
        monkeypatch.setattr("mmtfrs.models.objective.LOGITS", most)
        tf.random.set_seed(3)
        objective = case.objective(seen, negatives=negatives, uniform=10)

        @tf.function
        def step(objective=objective):
            with tf.GradientTape() as tape:
                losses, _ = objective(
                    tf.gather(case.query, users)[:, None], tf.constant(users + 1, tf.int32), tf.constant(items), case._embed
                )
                loss = tf.reduce_mean(losses)
            return losses, *map(tf.convert_to_tensor, tape.gradient(loss, [case.query, case.catalog]))

        found.append(step())
    assert "while" in str(step.get_concrete_function().graph.as_graph_def()).lower()
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("negatives", ["full", "in_batch"])
def test_known_items_are_no_negatives(negatives):
    case = _Case()
    users, items = case.draw(400)
    known = [(user, item) for user in range(USERS) for item in case.rng.choice(ITEMS, 5, False) + 1]
    pairs = np.array(known)
    seen = ItemLists.of_log(pairs[:, 0] + 1, pairs[:, 1], np.arange(len(pairs)), USERS)
    objective = case.objective(seen, negatives=negatives)
    value, _ = case.gradient(objective, users, items)
    logits = case.query.numpy()[users] @ case.catalog.numpy().T
    total = np.zeros(len(users))
    pools = np.arange(1, ITEMS + 1) if negatives == "full" else items
    counts = np.ones(ITEMS + 1) if negatives == "full" else np.append(1, (len(items) - 1) * case.shares)
    for row, user in enumerate(users):
        columns = [item for item in pools if item != items[row] and (user, item) not in known]
        terms = [np.exp(logits[row, item - 1]) / counts[item] for item in columns]
        total[row] = np.log(np.exp(logits[row, items[row] - 1]) + sum(terms))
        total[row] -= logits[row, items[row] - 1]
    np.testing.assert_allclose(value, total.mean(), rtol=1e-4)


def test_blocks_are_losses_of_their_own():
    """Two blocks have the sum of the losses that each has alone, and each the gradient that it has alone."""
    case, other = _Case(0), _Case(1)
    users, items = case.draw(50)
    objective = case.objective(negatives="full")
    with tf.GradientTape() as tape:
        queries = tf.stack([tf.gather(case.query, users), tf.gather(other.query, users)], axis=1)
        both, _ = objective(
            queries,
            tf.constant(users + 1, tf.int32),
            tf.constant(items),
            lambda rows: tf.concat([case._embed(rows), other._embed(rows)], axis=1),
        )
        loss = tf.reduce_mean(both)
    gradient = tf.convert_to_tensor(tape.gradient(loss, case.query))
    values, gradients = zip(*(each.gradient(objective, users, items) for each in (case, other)), strict=True)
    np.testing.assert_allclose(float(loss), sum(values), rtol=1e-5)
    np.testing.assert_allclose(gradient, gradients[0], atol=1e-6)


def test_known_items_as_a_set_of_pairs(monkeypatch):
    """Looked up, as a table where users took much, and with static shapes, which know of the newest items alone."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 40_000, 50_000), rng.integers(1, 5_000, 50_000)
    taken = ItemLists.of_log(users, items, np.arange(50_000), 40_000)
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    asked = np.concatenate([items[:200], items[:50], [0, 4_999]])  # some twice
    expected = [[(user, item) in pairs for item in asked.tolist()] for user in users[:300].tolist()]
    rows = tf.constant(users[:300], tf.int32), tf.constant(asked, tf.int32)
    known = KnownItems(taken, 5_000)
    assert not known.dense and known(*rows).numpy().tolist() == expected and np.sum(expected) > 250
    assert not known(tf.zeros([3], tf.int32), tf.constant([1, 2], tf.int32)).numpy().any()
    usual = KnownItems(ItemLists.of([[], [2], [1]]), 4, tf.constant([2, 3]))
    assert usual(tf.constant([1, 0]), tf.constant([1, 2, 3])).numpy().tolist() == [[False, True, False], [False] * 3]
    assert usual.of_usual(tf.constant([2, 1, 0])).numpy().tolist() == [[False, False], [True, False], [False, False]]
    monkeypatch.setattr(seen_items, "static_shapes", lambda: True)
    static = KnownItems(taken, 5_000)
    compiled = tf.function(lambda *asked: static(*asked), jit_compile=True)
    assert not static.dense and compiled(*rows).numpy().tolist() == expected


def test_typos_are_answered():
    from mmtfrs import Config

    with pytest.raises(ConfigError, match=r"loss.name.*Did you mean `softmax`\?"):
        Config(loss={"name": "sofmax"})
    with pytest.raises(ConfigError, match=r"loss.negatives.*Did you mean `in_batch`\?"):
        Config(loss={"negatives": "inbatch"})
    with pytest.raises(ConfigError, match=r"model.fusion.*Did you mean `attention`\?"):
        Config(model={"fusion": "attenton"})
    with pytest.raises(ConfigError, match="`loss.name` must be one of"):
        losses.get("nothing")
