"""How much each part of a model counts: learned on events that it was not trained on."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.models.parts import FRESH
from mmtfrs.models.two_tower import TwoTower

_SHARES = (1.0, 0.5, 0.25, 0.0)  # of the media's weight that are tried
_USERS, _ITEMS = 512, 2048  # drawn to learn from
# Where the weights start, and how many users that stands for: a handful of others decides little.
_LEARNED = 10.0
_ALIKE, _POPULAR, _UNLEARNED = 4.0, 0.5, 50.0
_PLAIN = 6.0  # nats by which towers must be better than likeness: they were chosen by these events, likeness was not


class _Choices:
    """Users, the items that they chose among, and the ones that they took.

    Args:
        model: whose scores are to be weighed.
        task: of events that it was not trained on.
        seed: of the users and items drawn.
    """

    def __init__(self, model: TwoTower, task: RankingTask, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        users = np.sort(rng.permutation(len(task.users))[:_USERS])
        relevant = task.relevant.take(users)
        items = len(model.data.item_ids)
        self.columns = np.unique(np.concatenate([rng.permutation(items)[:_ITEMS], relevant.items]))
        self.users, self.pasts = task.users[users], task.pasts.take(users)
        self._wanted = np.zeros((len(users), len(self.columns)), np.float32)
        self._taken = np.zeros(self._wanted.shape, bool)
        place = np.full(items + 1, -1)
        place[self.columns] = np.arange(len(self.columns))
        self._wanted[relevant.owners, place[relevant.items]] = np.repeat(1.0 / relevant.counts, relevant.counts)
        if task.repeats:  # what was taken may be asked for again
            return
        past = place[self.pasts.items - 1]
        self._taken[self.pasts.owners[past >= 0], past[past >= 0]] = True

    def weights(self, scores: np.ndarray, start: np.ndarray, scale: np.ndarray, prior: float) -> tuple[np.ndarray, float]:
        """The weights, 0 or more, by whose sum of `scores [n, C, k]` users are most likely to have taken what they took.

        Args:
            scores: of every item by every part.
            start: `[k]`, the weights without any users.
            scale: `[k]`, what is far from there.
            prior: users that `start` stands for.

        Returns:
            `(weights [k], the negative logarithm of the likelihood in nats)`.
        """

        def unlikely(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = np.where(self._taken, -1e9, scores @ weights.astype(np.float32))
            total = logsumexp(logits, axis=1)
            error = np.exp(logits - total[:, None]) - self._wanted
            return float((total - (self._wanted * logits).sum(axis=1)).sum()), np.einsum("nc,nck->k", error, scores)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = unlikely(weights)
            away = (weights - start) / scale
            return value + 0.5 * prior * float(away @ away), slope.astype(np.float64) + prior * away / scale

        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(start)).x
        return found, unlikely(found)[0]


def fit_blend(model: TwoTower, task: RankingTask, seed: int = 0) -> None:
    """Sets `model.blend`, the weights of the blocks' scores and of popularity, to what makes held-out events most likely.

    Per user, the softmax over the items that the user had not taken; weights are 0 or more. On the events that a model was
    trained on, ids would get all the weight: they remember.

    Args:
        model: whose blocks are to be weighed.
        task: of events that it was not trained on.
        seed: of the users and items drawn.

    Reference: Wolpert, Stacked Generalization, Neural Networks 1992; Breiman, Stacked Regressions, Machine Learning 1996, for
    weights that are not negative.
    """
    if not model.voting:
        choices = _Choices(model, task, seed)
        _blend(model, choices, _scores(model, choices))


def _scores(model: TwoTower, choices: _Choices, hidden: np.ndarray | None = None) -> np.ndarray:
    return model.block_scores(choices.users, choices.pasts, choices.columns, hidden)


def _blend(model: TwoTower, choices: _Choices, scores: np.ndarray, learned: bool = True) -> float:
    """As `fit_blend`, or with likeness and popularity alone; the negative logarithm of the likelihood in nats."""
    count, media = scores.shape[2], model.media_blocks
    if not learned:
        start, where = np.array([_ALIKE, _POPULAR]), np.array([model.blocks, count - 1])
        weights, value = choices.weights(scores[..., where], start, start, _UNLEARNED)
        found = np.zeros(count)
        found[where] = weights
    else:
        one = media if model.combine == "sum" and media else 1  # blocks of media that have one weight
        scores = np.concatenate([scores[..., :one].mean(axis=2, keepdims=True), scores[..., one:]], axis=2)
        start = np.where(np.arange(scores.shape[2]) <= model.blocks - one, 1.0 / model.temperature, 0.0)
        scale = np.full(len(start), max(1.0 / model.temperature, 1.0))
        weights, value = choices.weights(scores, start, scale, _LEARNED)
        found = np.concatenate([np.full(one, weights[0] / one), weights[1:]])
    total = found[:-1].sum() or found[-1]  # nothing but popularity, if nothing else says anything
    if total > 0:
        model.blend.assign(found / total)
    return value


def settle_media(model: TwoTower, task: RankingTask, metric: str) -> None:
    """Decides what the media count, and what counts the guess at the ids of new items.

    Where towers do not plainly make the events more likely than the media's own likeness does alone, they are left out: a
    short log has taught them nothing that holds. Else see `temper_media`.

    Args:
        model: at its best epoch.
        task: of events that it was not trained on.
        metric: `METRIC@K`.
    """
    if model.voting or not model.media_blocks:
        return
    choices = _Choices(model, task)
    scores = _scores(model, choices)  # of whatever weights
    learned, blend = _blend(model, choices, scores), model.blend.numpy()
    if learned < _blend(model, choices, scores, learned=False) - _PLAIN:
        model.blend.assign(blend)
        temper_media(model, task, metric)
    _settle_fresh(model, choices)


def _settle_fresh(model: TwoTower, choices: _Choices) -> None:
    """Sets `model.fresh` to what makes events most likely when half of the items are asked for as if nobody had taken them."""
    ids = model.blocks - 1
    if model.id_guess is None or not model.blend.numpy()[ids]:
        return
    model.fresh.assign(1.0)
    unknown = model.device.item_id_rows.numpy()[choices.columns + 1] == 0
    hidden = unknown | (np.random.default_rng(0).random(len(unknown)) < 0.5)
    scores = _scores(model, choices, hidden) * model.blend.numpy()
    guess = np.where(hidden, scores[..., ids], 0.0)
    start = np.array([1.0, FRESH]) / model.temperature
    (rest, fresh), _ = choices.weights(np.stack([scores.sum(axis=2) - guess, guess], axis=2), start, start, _LEARNED)
    model.fresh.assign(fresh / rest if rest > 0 else FRESH)


def temper_media(model: TwoTower, task: RankingTask, metric: str) -> None:
    """Halves the weight of the media, or takes it away, where the metric is the better for it.

    What makes events likely is not all that makes lists good: on items that many took, media blur what ids know.

    Args:
        model: with the weights of `fit_blend`.
        task: of events that it was not trained on.
        metric: `METRIC@K`.
    """
    if not model.media_blocks or model.media_blocks == model.blocks:
        return
    whole, k = model.blend.numpy(), int(metric.partition("@")[2])
    scorer = ModelScorer(model)  # the weights are the queries'
    tried = {}
    for share in _SHARES:
        weights = whole.copy()
        weights[: model.media_blocks] *= share
        weights[model.blocks : -1] *= share
        if weights[:-1].sum() <= 0:
            continue
        model.blend.assign(weights / weights[:-1].sum())
        tried[share] = task.evaluate(scorer, (k,))[metric], model.blend.numpy()
    model.blend.assign(max(tried.values(), key=lambda each: each[0])[1] if tried else whole)
