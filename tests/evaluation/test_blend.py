"""How much blocks and popularity count, learned from planted choices."""

from __future__ import annotations

import types

import numpy as np
import pytest
from conftest import FAST
from models.test_two_tower import planted

from mmtfrs import Config, TwoTower
from mmtfrs._keras import tf
from mmtfrs.evaluation.blend import _Choices, _settle_fresh, fit_blend, temper_media
from mmtfrs.evaluation.content_queries import content_queries
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.model_inputs.item_lists import ItemLists

ITEMS = 60


def _asked(truth, users, temperature=0.17, combine="", media=1, alike=False):
    """A model whose parts score at random, and users who choose by the softmax of planted weights of them."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(users, ITEMS, len(truth))).astype(np.float32) * 0.3
    chances = scores @ np.array(truth)
    past = [rng.permutation(ITEMS)[:5] + 1 for _ in range(users)]
    for row, own in enumerate(past):
        chances[row, own - 1] = 50.0  # what was taken says nothing: it cannot be chosen again
    free = np.where(chances == 50.0, -np.inf, chances)
    relevant = [np.argsort(-(free[row] + rng.gumbel(size=ITEMS)))[:1] for row in range(users)]
    blend = tf.Variable(np.full(len(truth), 0.25, np.float32))
    model = types.SimpleNamespace(
        voting=False,
        combine=combine,
        media_blocks=media,
        blend=blend,
        blocks=len(truth) - 1 - alike,
        temperature=temperature,
        data=types.SimpleNamespace(item_ids=np.arange(ITEMS)),
        block_scores=lambda names, pasts, columns, hidden=None: scores[[int(name) for name in names]][:, columns],
    )
    names = [str(row) for row in range(users)]
    return model, types.SimpleNamespace(
        repeats=False, users=np.array(names), pasts=ItemLists.of(past), relevant=ItemLists.of(relevant)
    )


def test_planted_weights_are_found():
    model, task = _asked([6.0, 2.0, 1.0], 512)
    fit_blend(model, task)
    np.testing.assert_allclose(model.blend.numpy(), np.array([6.0, 2.0, 1.0]) / 8, atol=0.08)
    assert model.blend.numpy()[:-1].sum() == pytest.approx(1.0, abs=1e-6)
    model, task = _asked([4.0, 2.0, 6.0, 1.0], 512, alike=True)  # what media are alike, beside what was learned of them
    fit_blend(model, task)
    np.testing.assert_allclose(model.blend.numpy(), np.array([4.0, 2.0, 6.0, 1.0]) / 12, atol=0.08)


def test_what_was_taken_is_wanted_again_where_repeats_are_allowed():
    """Users take, by planted weights, what they had taken: the same weights are found, and lists know it."""
    rng = np.random.default_rng(1)
    model, task = _asked([6.0, 2.0, 1.0], 512)
    scores = model.block_scores(task.users, None, np.arange(ITEMS))
    took = np.argmax(scores @ np.array([6.0, 2.0, 1.0]) + rng.gumbel(size=scores.shape[:2]), axis=1) + 1
    vars(task).update(repeats=True, pasts=ItemLists.of(took[:, None]), relevant=ItemLists.of(took[:, None] - 1))
    fit_blend(model, task)
    np.testing.assert_allclose(model.blend.numpy(), np.array([6.0, 2.0, 1.0]) / 8, atol=0.08)


def test_a_block_that_says_nothing_gets_nothing_and_a_handful_decides_little():
    model, task = _asked([6.0, -4.0, 0.0], 512)
    fit_blend(model, task)
    np.testing.assert_allclose(model.blend.numpy(), [1.0, 0.0, 0.0], atol=0.06)
    few, asked = _asked([6.0, -4.0, 0.0], 3)
    fit_blend(few, asked)
    assert 0.3 < few.blend.numpy()[0] < 0.85  # beside the ten users that stand for equal weights
    nothing, asked = _asked([-9.0, -9.0, 5.0], 512)
    fit_blend(nothing, asked)
    np.testing.assert_allclose(nothing.blend.numpy(), [0.0, 0.0, 1.0], atol=1e-6)  # popularity is all there is


def test_what_the_guess_at_new_items_counts_is_found():
    """Half of the items are hidden, as the seed says; users choose by media and, of hidden ones, by 0.4 of the guess."""
    hidden = np.random.default_rng(0).random(ITEMS) < 0.5
    parts = np.random.default_rng(3).normal(size=(2000, ITEMS, 3)).astype(np.float32) * 0.5
    blend = np.array([0.3, 0.7, 0.0], np.float32)
    chances = 6.0 * (parts * blend * np.where(hidden[:, None], [1.0, 0.4, 1.0], 1.0)).sum(axis=2)
    took = np.argmax(chances + np.random.default_rng(4).gumbel(size=chances.shape), axis=1)
    model = types.SimpleNamespace(
        voting=False,
        media_blocks=1,
        blocks=2,
        blend=tf.Variable(blend),
        fresh=tf.Variable(0.9),
        id_guess=object(),
        temperature=0.17,
        data=types.SimpleNamespace(item_ids=np.arange(ITEMS)),
        device=types.SimpleNamespace(item_id_rows=tf.range(ITEMS + 1)),
        block_scores=lambda names, pasts, columns, hidden: parts[[int(name) for name in names]][:, columns],
    )
    users = np.arange(2000).astype(str)
    asked = types.SimpleNamespace(
        repeats=False, users=users, pasts=ItemLists.nothing(2000), relevant=ItemLists.of(took[:, None])
    )
    _settle_fresh(model, _Choices(model, asked))
    assert model.fresh.numpy() == pytest.approx(0.4, abs=0.12)


def test_modalities_of_a_sum_count_the_same():
    model, task = _asked([5.0, 1.0, 3.0, 0.0], 512, combine="sum", media=2)
    fit_blend(model, task)
    first, second, ids, _ = model.blend.numpy()
    assert first == second and abs(ids - 1 / 3) < 0.1
    model, task = _asked([5.0, 1.0, 3.0, 0.0], 512, combine="stacking", media=2)
    fit_blend(model, task)
    assert model.blend.numpy()[0] > 2 * model.blend.numpy()[1]


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 1.0), (3.0, 0.0)])
def test_media_are_tempered_where_lists_are_better_without(noise, kept):
    """Ids that find every user's item, and media that say the same, or noise as loud as they are."""
    rng = np.random.default_rng(0)
    ids = rng.normal(size=(50, 60)).astype(np.float32)
    media = ids + noise * rng.normal(size=ids.shape).astype(np.float32)
    blend = tf.Variable([0.5, 0.5, 0.0])

    class Model:
        voting, media_blocks, blocks = False, 1, 2

        def candidate_embeddings(self):
            return np.zeros((1, 1), np.float32)

        def query_embeddings(self, users, pasts):
            return [int(user) for user in users]

        def score_matrix(self, queries, candidates):
            weights = blend.numpy()
            return tf.constant((weights[0] * media + weights[1] * ids)[np.asarray(queries)])

    model = Model()
    model.blend = blend
    tables = types.SimpleNamespace(item_counts=np.ones(61), items={})
    asked = RankingTask.__new__(RankingTask)
    vars(asked).update(
        tables=tables,
        repeats=False,
        users=np.arange(50).astype(str),
        pasts=ItemLists.nothing(50),
        relevant=ItemLists.of(ids[n].argsort()[-3:] for n in range(50)),
        new_items=np.zeros(60, bool),
        content=None,
    )
    temper_media(model, asked, "recall@3")
    np.testing.assert_allclose(blend.numpy(), np.array([0.5 * kept, 0.5, 0.0]) / (0.5 + 0.5 * kept), atol=1e-6)


def test_content_queries_by_hand():
    """Items of planted media, asked by the model's own scores: ranks are those of a slow loop, and ties share places."""
    catalog, features, events = planted()
    split = events.split("user")
    model = TwoTower(Config(**FAST), catalog, features, split.train)
    found = content_queries(model, RankingTask(model.data, split.test))
    assert set(found) == {"image", "text"}
    rows = tf.range(1, 61)
    presence = model.device.item_media(rows)[1].numpy()
    for index, name in enumerate(model.data.modalities):
        there = np.flatnonzero(presence[:, index])
        alone = np.eye(2, dtype=np.float32)[index][None]
        media = {other: tf.constant(features.items[other][there]) for other in ("image", "text")}
        query = model.query_from_media(media, np.repeat(alone, len(there), axis=0))[0].numpy()
        scores = query @ model.candidate_embeddings().T
        ranks = [(scores[row] > scores[row, item] + 1e-6).sum() for row, item in enumerate(there)]
        assert found[name]["items"] == len(there)
        assert found[name]["itself@1"] == pytest.approx(np.mean(np.array(ranks) < 1), abs=0.02)
        assert found[name]["itself@20"] == pytest.approx(np.mean(np.array(ranks) < 20), abs=0.02)
        assert 0 <= found[name]["cross-modal@20"] <= 1 and found[name]["users"] > 50
    late = TwoTower(Config(**FAST).replace(model={"fusion": "late_voting"}), catalog, features, split.train)
    assert content_queries(late, RankingTask(late.data, split.test)) == {}
