"""Filters, boosts and diversity against a brute force in NumPy."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from mmtfrs._keras import tf
from mmtfrs.index.diversity import mmr_order
from mmtfrs.index.exact import ExactSearch
from mmtfrs.index.index import Index
from mmtfrs.index.partitions import PartitionSearch

N, D, K = 9000, 8, 10
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(N, D)).astype(np.float32)
IDS = np.array([f"i{row}" for row in range(N)], object)
COLORS = np.array(["red", "green", "blue", "", "gold"], object)[RNG.choice(5, N, p=[0.3, 0.3, 0.3, 0.09, 0.01])]
SIZES = np.array(["s", "m=x", "l"], object)[RNG.integers(0, 3, N)]
SEARCHES = {
    "exact": lambda: ExactSearch(VECTORS),
    "partitions": lambda: PartitionSearch(VECTORS, 3, 32),
    "int8": lambda: PartitionSearch(VECTORS, 3, 32, int8=True),
}


@pytest.fixture(scope="module", params=SEARCHES)
def index(request):
    return Index(IDS, SEARCHES[request.param](), K, {"color": COLORS, "size": SIZES})


@functools.cache
def _traced(index, width):
    """Traced once, for lists of any length, as an export is."""
    lists = tf.TensorSpec([None, None], tf.string)
    specs = [
        tf.TensorSpec([None, width], tf.float32),
        lists,
        lists,
        lists,
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([None], tf.float32),
    ]
    return tf.function(index.filtered, input_signature=specs, autograph=False)


def ask(index, queries, exclude=(), allow=(), boosts=(), diversity=0.0):
    """One query or several, the same request for all."""
    rows = len(queries)

    def table(values, dtype):
        return tf.constant([list(values)] * rows, dtype, shape=[rows, len(values)])

    return _traced(index, len(queries[0]))(
        tf.constant(queries),
        table(exclude, tf.string),
        table(allow, tf.string),
        table([name for name, _ in boosts], tf.string),
        table([value for _, value in boosts], tf.float32),
        tf.fill([rows], diversity),
        tf.fill([rows], tf.float32.min),
    )


def brute(query, fits, boost=0.0, k=K):
    scores = np.where(fits, query @ VECTORS.T + boost, -np.inf)
    order = np.argsort(-scores, kind="stable")[:k]
    order = order[np.isfinite(scores[order])]
    return list(IDS[order]), scores[order]


@pytest.mark.parametrize(
    "allow, fits",
    [
        (["color=gold"], COLORS == "gold"),
        (["color=gold", "size=m=x"], (COLORS == "gold") & (SIZES == "m=x")),
        (["color=red", "", "color=gold"], (COLORS == "red") | (COLORS == "gold")),
        (["size=l", "color=blue"], (COLORS == "blue") & (SIZES == "l")),
        (["size=l", "size=s", "size=m=x"], np.ones(N, bool)),
        (["color=pink"], np.zeros(N, bool)),
    ],
)
def test_the_best_of_what_fits(index, allow, fits):
    queries = RNG.normal(size=(3, D)).astype(np.float32)
    found, scores, _ = ask(index, queries, ["i1", "", "nobody"], allow)
    for row, query in enumerate(queries):
        names, expected = brute(query, fits & (IDS != "i1"))
        if all(fits) and not isinstance(index.search, ExactSearch):  # nothing filtered: an approximate answer, but a full one
            assert (found.numpy()[row] != b"").all()
            continue
        assert [name.decode() for name in found.numpy()[row] if name] == names
        np.testing.assert_allclose(scores[row, : len(names)], expected, atol=2e-3)
        assert (scores.numpy()[row, len(names) :] == tf.float32.min).all()


def test_rows_of_a_batch_have_their_own_filters(index):
    queries = RNG.normal(size=(2, D)).astype(np.float32)
    nothing = tf.zeros([2, 0], tf.string)
    found, _, _ = index.filtered(
        tf.constant(queries),
        nothing,
        tf.constant([["color=gold", ""], ["color=red", "size=s"]]),
        nothing,
        tf.zeros([2, 0]),
        tf.zeros([2]),
        tf.fill([2], tf.float32.min),
    )
    assert [name.decode() for name in found.numpy()[0]] == brute(queries[0], COLORS == "gold")[0]
    assert [name.decode() for name in found.numpy()[1]] == brute(queries[1], (COLORS == "red") & (SIZES == "s"))[0]


@pytest.mark.parametrize("allow", [(), ("color=gold",), ("size=s",)])
def test_boosts_are_added(index, allow):
    query = RNG.normal(size=(1, D)).astype(np.float32)
    boost = 1.5 * (COLORS == "gold") - 0.7 * (SIZES == "s") + 0.5 * (COLORS == "gold")
    fits = np.ones(N, bool) if not allow else (COLORS == "gold") if "color" in allow[0] else (SIZES == "s")
    found, scores, _ = ask(index, query, (), allow, [("color=gold", 1.5), ("size=s", -0.7), ("color=gold", 0.5), ("", 9.0)])
    names, expected = brute(query[0], fits, boost)
    assert [name.decode() for name in found.numpy()[0]] == names
    np.testing.assert_allclose(scores[0], expected, atol=2e-3)


def test_a_row_is_answered_as_if_it_were_alone(index):
    """Whatever the others of its batch filter, exclude, or want to be diverse; lists padded as TF Serving pads them."""
    rng = np.random.default_rng(5)
    queries = rng.normal(size=(8, D)).astype(np.float32)
    allow = [[b"color=gold"] if row % 3 == 0 else [b""] for row in range(8)]
    exclude = [[b"i%d" % number for number in rng.integers(0, N, size)] for size in (1, 2, 40, 3, 1, 5, 300, 1)]
    diversity = np.float32([0, 0.5, 0, 0, 0, 0, 0.9, 0])
    width = max(map(len, exclude))
    padded = [each + [each[0]] * (width - len(each)) for each in exclude]

    def asked(rows, excluded):
        count = len(rows)
        return _traced(index, D)(
            tf.constant(queries[rows]),
            tf.constant(excluded),
            tf.constant([allow[row] for row in rows]),
            tf.constant([[b""]] * count),
            tf.zeros([count, 1]),
            tf.constant(diversity[rows]),
            tf.fill([count], tf.float32.min),
        )

    together = asked(list(range(8)), padded)
    plain = index(tf.constant(queries), tf.constant(padded))
    for row in range(8):
        alone = asked([row], [exclude[row]])
        assert alone[0].numpy()[0].tolist() == together[0].numpy()[row].tolist()
        np.testing.assert_allclose(alone[1][0], together[1][row], atol=1e-5)
        single = index(tf.constant(queries[row : row + 1]), tf.constant([exclude[row]]))
        assert single[0].numpy()[0].tolist() == plain[0].numpy()[row].tolist()


def test_without_requests_it_is_the_plain_call(index):
    queries = RNG.normal(size=(2, D)).astype(np.float32)
    plain = index(tf.constant(queries), tf.constant([["i3"], [""]]))
    found, scores, _ = ask(index, queries, ["i3"])
    assert (found.numpy()[0] == plain[0].numpy()[0]).all()
    np.testing.assert_allclose(scores[0], plain[1][0], atol=1e-6)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"allow": ["weight=5"]}, "attribute=value, of the attributes this model knows .color, size."),
        ({"allow": ["color"]}, "allow: every entry must be"),
        ({"allow": ["color="]}, "allow: every entry must be"),
        ({"boosts": [("shape=x", 1.0)]}, "boost_attribute: every entry must be"),
        ({"boosts": [("color=red", float("nan"))]}, "boost: must be finite"),
        ({"diversity": 1.5}, r"diversity: must lie in \[0, 1\]"),
        ({"diversity": float("nan")}, r"diversity: must lie in \[0, 1\]"),
    ],
)
def test_bad_requests(index, bad, message):
    found, scores, problem = ask(index, VECTORS[:1], **bad)
    assert re.search(message, problem.numpy()[0].decode())
    assert not b"".join(found.numpy()[0]) and (scores.numpy() == tf.float32.min).all()


def test_a_catalog_without_attributes():
    plain = Index(["a", "b"], np.eye(2), 2)
    assert ask(plain, np.float32([[0, 1]]))[0].numpy().tolist() == [[b"b", b"a"]]
    assert ask(plain, np.float32([[0, 1]]), exclude=["b"])[0].numpy().tolist() == [[b"a", b""]]
    assert b"knows (none)" in ask(plain, np.float32([[0, 1]]), allow=["color=red"])[2].numpy()[0]


def greedy(scores, vectors, diversity, count):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen = []
    while len(chosen) < count:
        worth = (1 - diversity) * relevance - diversity * (
            np.max(units @ units[chosen].T, axis=1) if chosen else np.zeros(len(scores))
        )
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_mmr_against_the_definition(diversity):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(2, 30, 6)).astype(np.float32)
    scores = -np.sort(-rng.normal(size=(2, 30)).astype(np.float32), axis=1)
    found = mmr_order(tf.constant(scores), tf.constant(vectors), tf.constant([diversity, 0.0]), 8).numpy()
    assert found[0].tolist() == greedy(scores[0], vectors[0], diversity, 8)
    assert found[1].tolist() == list(range(8))


def test_diverse_lists_are_less_alike_and_keep_their_filter(index):
    query = VECTORS[COLORS == "red"][:1]
    lists = [ask(index, query, (), ["color=red"], diversity=value)[0].numpy()[0] for value in (0.0, 0.7)]

    def likeness(names):
        rows = [int(name[1:]) for name in names]
        units = VECTORS[rows] / np.linalg.norm(VECTORS[rows], axis=1, keepdims=True)
        return (units @ units.T)[np.triu_indices(K, 1)].mean()

    assert likeness(lists[1]) < likeness(lists[0]) - 0.1
    assert all(COLORS[int(name[1:])] == "red" for names in lists for name in names)
    assert len(set(lists[1])) == K
