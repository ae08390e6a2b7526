"""A log of ids and histories without any media, shaped like public rating logs: 943 users, 1 682 items, about 100 000 events.

What makes such logs hard is planted: activity and popularity are skewed (an active user digs deeper into the tail), tastes have
a decaying spectrum of many dimensions with few strong genres per item, and people meet items through lists that go together for
reasons that tastes do not tell. Strengths are set so that popularity and EASE are about where public logs have them.
"""

from __future__ import annotations

import numpy as np

from mmtfrs import Catalog, Events

USERS, ITEMS, EVENTS = 943, 1682, 100_000
TASTES, DECAY, TASTE = 16, 0.9, 2.5
LISTS, PER_ITEM, VISITED, BOOST = 200, 2, 0.1, 4.0
POPULARITY = 2.6


def rating_like_log(seed: int = 0) -> tuple[Catalog, Events]:
    """The catalog, ids only, and the log, in random order."""
    rng = np.random.default_rng(seed)
    activity = np.clip(np.exp(rng.normal(4.15, 0.95, USERS)), 20, 737)
    activity = np.clip(activity * EVENTS / activity.sum(), 20, 800).astype(int)
    zeal = np.log(activity)
    zeal = (zeal - zeal.mean()) / zeal.std()
    spectrum = DECAY ** np.arange(TASTES)
    users = rng.normal(size=(USERS, TASTES)) * spectrum / np.linalg.norm(spectrum)
    items = rng.normal(size=(ITEMS, TASTES)) * rng.gamma(0.5, 2.0, (ITEMS, TASTES))  # few strong genres each
    items /= items.std()
    mainstream = np.clip(np.exp(rng.normal(0.0, 0.35, USERS)) * (1.0 - 0.15 * zeal), 0.2, 3.0)
    odds = mainstream[:, None] * rng.normal(0.0, POPULARITY, ITEMS) + TASTE * users @ items.T
    odds += BOOST * np.minimum(_through_lists(rng, users, items, zeal), 1.5)
    odds += rng.gumbel(size=odds.shape)  # drawn without replacement, in proportion to exp(odds)
    pairs = [(user, item) for user in range(USERS) for item in np.argsort(-odds[user])[: activity[user]]]
    pairs = rng.permutation(np.array(pairs))
    catalog = Catalog.from_dict({"item_id": [f"i{item}" for item in range(ITEMS)]})
    events = Events([f"u{user}" for user in pairs[:, 0]], [f"i{item}" for item in pairs[:, 1]], np.arange(len(pairs)))
    return catalog, events


def _through_lists(rng, users: np.ndarray, items: np.ndarray, zeal: np.ndarray) -> np.ndarray:
    """`[U, N]`: through how many of the lists that a user went each item was met; users prefer lists near their taste."""
    sizes = rng.gamma(1.0, 1.0, LISTS)
    member = np.zeros((LISTS, ITEMS))
    for _ in range(PER_ITEM):
        member[rng.choice(LISTS, ITEMS, p=sizes / sizes.sum()), np.arange(ITEMS)] = 1.0
    middle = member @ items / np.maximum(member.sum(axis=1, keepdims=True), 1.0)
    affinity = users @ middle.T
    log_odds = np.log(VISITED / (1 - VISITED)) + affinity / affinity.std() + 0.6 * zeal[:, None]
    return (rng.random(affinity.shape) < 1.0 / (1.0 + np.exp(-log_odds))) @ member


def sequence_log(items: int = 200_000, users: int = 100_000, events: int = 1_000_000, seed: int = 0) -> tuple[Catalog, Events]:
    """A large catalog of ids, and sequences whose order tells: what was taken last is followed by one of three items that go
    with it, two times in five; by something popular of the user's three topics, two times in five; or by anything popular."""
    rng = np.random.default_rng(seed)
    topics = items // 100
    topic = rng.integers(0, topics, items)
    by_topic = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[by_topic], np.arange(topics + 1))
    by_topic = by_topic[np.lexsort((rng.random(items), topic[by_topic]))]  # within a topic from popular to rare

    def popular(wanted: np.ndarray) -> np.ndarray:
        sizes = np.maximum(starts[wanted + 1] - starts[wanted], 1)
        return by_topic[np.minimum(starts[wanted] + (sizes * rng.random(len(wanted)) ** 3).astype(int), items - 1)]

    follows = np.stack([popular(topic) for _ in range(3)])
    lengths = np.clip(rng.geometric(users / events, users), 3, 200)
    likes = (topics * rng.random((users, 3)) ** 2).astype(int)
    last = popular(likes[:, 0])
    who, what, when = [np.arange(users)], [last.copy()], [np.zeros(users, int)]
    for step in range(1, lengths.max()):
        going = np.flatnonzero(lengths > step)
        draw = rng.random(len(going))
        chosen = popular(likes[going, rng.integers(0, 3, len(going))])
        anything = np.minimum((topics * rng.random(len(going)) ** 2).astype(int), topics - 1)
        chosen = np.where(draw < 0.2, popular(anything), chosen)
        after = follows[np.minimum((3 * rng.random(len(going)) ** 2).astype(int), 2), last[going]]
        last[going] = np.where(draw > 0.6, after, chosen)
        who.append(going), what.append(last[going]), when.append(np.full(len(going), step))
    rows = [np.concatenate(each) for each in (who, what, when)]
    names = np.array([f"i{item}" for item in range(items)])
    log = Events(np.char.add("u", rows[0].astype(str)), names[rows[1]], rows[2])
    return Catalog.from_dict({"item_id": names.tolist()}), log
