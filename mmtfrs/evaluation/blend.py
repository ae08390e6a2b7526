"""How much each part of a model counts: learned on events that it was not trained on."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from mmtfrs.evaluation.evaluate import Questions
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.models.two_tower import TwoTower

_SHARES = (1.0, 0.5, 0.25, 0.0)  # of the media's weight that are tried
_USERS, _ITEMS = 512, 2048  # drawn to learn from
# Where the weights start, and how many users that stands for: a handful of others decides little.
_LEARNED = 10.0
_ALIKE, _POPULAR, _UNLEARNED = 4.0, 0.5, 50.0
_PLAIN = 6.0  # nats by which towers must be better than likeness: they were chosen by these events, likeness was not


def fit_blend(model: TwoTower, questions: Questions, seed: int = 0) -> float:
    """Sets `model.blend`, the weights of the blocks' scores and of popularity, to what makes held-out events most likely.

    Per user, the softmax over the items that the user had not taken; weights are 0 or more. On the events that a model was
    trained on, ids would get all the weight: they remember.

    Args:
        model: whose blocks are to be weighed.
        questions: of events that it was not trained on.
        seed: of the users and items drawn.

    Returns:
        The negative logarithm of the events' likelihood, in nats.

    Reference: Wolpert, Stacked Generalization, Neural Networks 1992; Breiman, Stacked Regressions, Machine Learning 1996, for
    weights that are not negative.
    """
    if model.voting:
        return 0.0
    rng = np.random.default_rng(seed)
    users = np.sort(rng.permutation(len(questions.users))[:_USERS])
    relevant = [questions.relevant[row] for row in users]
    items = len(model.data.item_ids)
    columns = np.unique(np.concatenate([rng.permutation(items)[:_ITEMS], *relevant]))
    names = np.array([questions.users[row] for row in users], object)
    pasts = [questions.pasts[row] for row in users]
    scores = model.block_scores(names, pasts, columns)  # [n, C, K + 1]
    alike = bool(model.alike.numpy())
    together = model.combine == "sum" and not alike  # media blocks that have one weight
    if together:
        media = scores[..., : model.media_blocks].mean(axis=2, keepdims=True)
        scores = np.concatenate([media, scores[..., model.media_blocks :]], axis=2)
    wanted = np.zeros(scores.shape[:2], np.float32)
    taken = np.zeros(scores.shape[:2], bool)
    place = np.full(items + 1, -1)
    place[columns] = np.arange(len(columns))
    for row, (own, past) in enumerate(zip(relevant, pasts, strict=True)):
        wanted[row, place[own]] = 1.0 / len(own)
        past = place[past - 1]
        taken[row, past[past >= 0]] = True
    start, scale, prior = _start(model, scores.shape[2], alike)
    bounds = [(0.0, None if each else 0.0) for each in scale]

    def unlikely(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(taken, -1e9, scores @ weights.astype(np.float32))
        total = logsumexp(logits, axis=1)
        error = np.exp(logits - total[:, None]) - wanted
        return float((total - (wanted * logits).sum(axis=1)).sum()), np.einsum("nc,nck->k", error, scores).astype(np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = unlikely(weights)
        away = (weights - start) / np.maximum(scale, 1e-9)
        return value + 0.5 * prior * float(away @ away), slope + prior * away / np.maximum(scale, 1e-9)

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    value = unlikely(found)[0]
    if together:
        found = np.concatenate([np.full(model.media_blocks, found[0] / max(model.media_blocks, 1)), found[1:]])
    total = found[:-1].sum() or found[-1]  # nothing but popularity, if no block says anything
    if total > 0:
        model.blend.assign(found / total)
    return value


def _start(model: TwoTower, count: int, alike: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Where weights start, `[count]`, what counts as far from there, `[count]`, 0 for those that stay, and how many users that
    stands for: blocks by their training, or likeness and popularity alone where nothing was learned."""
    learned = 1.0 / model.config.loss.temperature
    if not alike:
        return np.append(np.full(count - 1, learned), 0.0), np.full(count, max(learned, 1.0)), _LEARNED
    start = np.zeros(count)
    start[0], start[-1] = _ALIKE, _POPULAR
    return start, start.copy(), _UNLEARNED


def settle_media(model: TwoTower, questions: Questions, metric: str) -> None:
    """Decides what the media's block holds, and what it counts.

    Where towers do not plainly make the events more likely than the media's own likeness does, likeness is taken: a short log
    has taught them nothing that holds. Else see `temper_media`.

    Args:
        model: at its best epoch.
        questions: of events that it was not trained on.
        metric: `METRIC@K`.
    """
    if model.voting or not model.media_blocks:
        return
    model.alike.assign(0.0)
    learned, blend = fit_blend(model, questions), model.blend.numpy()
    model.alike.assign(1.0)
    if learned < fit_blend(model, questions) - _PLAIN:
        model.alike.assign(0.0)
        model.blend.assign(blend)
        temper_media(model, questions, metric)


def temper_media(model: TwoTower, questions: Questions, metric: str) -> None:
    """Halves the weight of the media, or takes it away, where the metric is the better for it.

    What makes events likely is not all that makes lists good: on items that many took, media blur what ids know.

    Args:
        model: with the weights of `fit_blend`.
        questions: of events that it was not trained on.
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
        if weights[:-1].sum() <= 0:
            continue
        model.blend.assign(weights / weights[:-1].sum())
        tried[share] = questions.ask(scorer, (k,))[metric], model.blend.numpy()
    model.blend.assign(max(tried.values(), key=lambda each: each[0])[1] if tried else whole)
