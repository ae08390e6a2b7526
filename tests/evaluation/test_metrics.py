"""Metrics by hand, and against a slow loop that follows the definitions word by word."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs import Catalog, Config, Events
from mmtfrs.errors import DataError
from mmtfrs.evaluation.metrics import ListMetrics, ranking_metrics
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import PopularityScorer
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.inputs import ModelInputs


def test_by_hand():
    found = ranking_metrics(np.array([[0, 1, 0, 1, 0]], bool), np.array([3]), (1, 3, 5))
    expected = {
        "recall@1": 0,
        "recall@3": 1 / 3,
        "recall@5": 2 / 3,
        "precision@3": 1 / 3,
        "precision@5": 2 / 5,
        "f1@5": 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5),
        "hit_rate@1": 0,
        "hit_rate@3": 1,
        "mrr@1": 0,
        "mrr@3": 1 / 2,
        "map@5": (1 / 2 + 2 / 4) / 3,
        "map@3": (1 / 2) / 3,
        "ndcg@5": (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4)),
        "ndcg@1": 0,
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value), name


def _slow(ranked, relevant, k):
    top = ranked[:k]
    hits = [item in relevant for item in top]
    recall, precision = sum(hits) / len(relevant), sum(hits) / k
    best = min(k, len(relevant))
    return {
        "recall": recall,
        "precision": precision,
        "hit_rate": float(any(hits)),
        "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
        "ndcg": sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits))
        / sum(1 / np.log2(rank + 2) for rank in range(best)),
        "mrr": next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0),
        "map": sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / best,
    }


class _Fixed:
    def __init__(self, table):
        self.table = table

    def scores(self, user_ids, histories):
        return np.stack([self.table[user] for user in user_ids])


@pytest.mark.parametrize("seed", range(4))
def test_whole_catalog_against_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    items, users, ks = 40, 30, (1, 5, 20)
    pairs = [(f"u{u}", f"i{i}") for u in range(users) for i in rng.choice(items - 6, 9, False)]
    pairs += [(f"u{u}", f"i{items - 1 - u % 6}") for u in range(0, users, 3)]  # six items only ever in the test part
    events = Events([u for u, _ in pairs], [i for _, i in pairs], rng.permutation(len(pairs)))
    test_rows = np.array([row for row, (_, i) in enumerate(pairs) if int(i[1:]) >= items - 6 or row % 4 == 0])
    known = events.take(np.setdiff1d(np.arange(len(pairs)), test_rows))
    test = events.take(test_rows, known=known)
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(items)]})
    tables = ModelInputs.build(Config(), catalog, Features({}), known)
    scores = {f"u{u}": rng.normal(size=items).astype(np.float32) for u in range(users)}
    result = RankingTask(tables, test).evaluate(_Fixed(scores), ks)

    sums: dict[str, list] = {}
    fresh: list = []
    among: list = []
    for user in sorted(set(test.user_ids)):
        seen = {int(i[1:]) for u, i in zip(known.user_ids, known.item_ids, strict=True) if u == user}
        relevant = {int(i[1:]) for u, i in zip(test.user_ids, test.item_ids, strict=True) if u == user} - seen
        ranked = [item for item in np.argsort(-scores[user]) if item not in seen]
        for k in ks:
            for name, value in _slow(ranked, relevant, k).items():
                sums.setdefault(f"{name}@{k}", []).append(value)
        new = {item for item in relevant if tables.item_counts[item + 1] == 0}
        if new:
            fresh.append(_slow(ranked, new, 5)["recall"])
            among.append(_slow([item for item in ranked if tables.item_counts[item + 1] == 0], new, 5)["recall"])
    for name, values in sums.items():
        assert result[name] == pytest.approx(np.mean(values)), name
    assert result["users"] == len(sums["recall@5"])
    assert result["new_items"]["recall@5"] == pytest.approx(np.mean(fresh))
    assert result["cold_items_only"]["recall@5"] == pytest.approx(np.mean(among))


def test_a_scorer_that_knows_nothing_is_at_chance():
    """All scores equal: recall@5 of 50 unseen items must be near 0.1, whatever the catalog's order."""
    users = 3000
    catalog = Catalog.from_dict({"item_id": [f"i{n:02d}" for n in range(50)]})
    known = Events(["someone"], ["i00"], [0])
    test = Events([f"u{n}" for n in range(users)], ["i03"] * users, [1] * users, known=known)
    tables = ModelInputs.build(Config(), catalog, Features({}), known)
    result = RankingTask(tables, test).evaluate(PopularityScorer(np.zeros(50)), (5,))
    assert 0.02 < result["recall@5"] < 0.25


def test_seen_items_are_left_out_and_groups_are_apart():
    catalog = Catalog.from_dict({"item_id": list("abcd")})
    known = Events(["u", "u"], ["a", "b"], [1, 2])
    test = Events(["u", "u", "n"], ["a", "c", "a"], [3, 4, 5], known=known)
    tables = ModelInputs.build(Config(), catalog, Features({}), known)
    result = RankingTask(tables, test).evaluate(PopularityScorer(np.array([9.0, 8, 7, 6])), (1,))
    # u has seen a and b, so c comes first and is right; a was seen and is no question. n sees a first.
    assert result["recall@1"] == 1.0 and result["users"] == 2
    assert result["new_users"] == {"users": 1, **{name: 1.0 for name in result["new_users"] if name != "users"}}
    assert result["known_users"]["users"] == 1
    assert result["new_items"]["share_of_lists"] == 0.5 and result["new_items"]["share_of_catalog"] == 0.5
    with pytest.raises(DataError, match="there is nothing to evaluate"):
        RankingTask(tables, Events(["u"], ["a"], [9], known=known))


def test_rolling_questions_by_hand():
    """Before each event, with all that its user took until then; new users count after their first event."""
    catalog = Catalog.from_dict({"item_id": list("abcde")})
    known = Events(["u", "u"], ["a", "b"], [1, 2])
    test = Events(["n", "u", "n", "u", "n"], ["c", "d", "a", "d", "c"], [7, 3, 8, 4, 9], known=known)
    tables = ModelInputs.build(Config(), catalog, Features({}), known)
    task = RankingTask(tables, test)
    rolling = task.rolling()
    # n takes c, a, c: c is asked for first, a after c; the second c was taken before. u takes d, d after a, b: once.
    found = [
        (user, past.tolist(), wanted.tolist())
        for user, past, wanted in zip(rolling.users, rolling.pasts, rolling.relevant, strict=True)
    ]
    assert found == [("n", [], [2]), ("n", [3], [0]), ("u", [1, 2], [3])]
    result = rolling.evaluate(PopularityScorer(np.array([9.0, 8, 7, 6, 5])), (1,))
    # n sees a first (wrong), then a again (right); of what u has not seen, c comes first (wrong).
    assert result["recall@1"] == pytest.approx(1 / 3) and result["new_users"]["users"] == 1
    repeats = RankingTask(tables, test, repeats=True)
    assert sorted(repeats.relevant[0].tolist()) == [0, 2] and len(repeats.rolling().users) == 5
    everything = repeats.evaluate(PopularityScorer(np.array([9.0, 8, 7, 6, 5])), (1,))
    assert everything["recall@1"] == 0.25  # a comes first for both: one of the two that n takes
    some = rolling.sample(2)
    assert some.users.tolist() == rolling.sample(2).users.tolist() and len(some.users) == len(some.pasts) == 2
    asked = zip(some.users, some.pasts, some.relevant, strict=True)
    assert all((user, past.tolist(), wanted.tolist()) in found for user, past, wanted in asked)
    assert rolling.sample(3) is rolling
    mixed = Events(["u", "u"], ["c", "d"], [0, 5], known=known)
    assert RankingTask(tables, mixed).rolling() is None  # a random split: what is known is not older


def test_lists_by_hand():
    lists = ListMetrics((1, 2), np.array([3.0, 0, 0, 1]), np.array([[1.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]]))
    lists.update(np.array([[0, 1], [0, 2]]))
    found = lists.result()
    assert found["coverage@1"] == 0.25 and found["coverage@2"] == 0.75
    # Counts + 1 over 8: 4/8, 1/8, 1/8, 2/8 -> 1, 3, 3, 2 bits.
    assert found["novelty@1"] == pytest.approx(1.0) and found["novelty@2"] == pytest.approx(2.0)
    assert found["diversity@2"] == pytest.approx(0.5)  # 1 for (0, 1), 0 for (0, 2)
