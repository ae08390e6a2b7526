"""What a search found, as pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from tuning.importance import positions
from tuning.space import Space
from tuning.trials import Row, Trials, short


def curves(trials: Trials) -> Figure:
    """The objective by epoch, a line per trial, the best one on top; and the best value by trial."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    name = trials.objective.name
    leaders, rows = trials.leaders(), trials.rows()
    for row in reversed(leaders):
        values = [logs.get(f"val_{name}") for logs in row.curve]
        if values and None not in values:
            best = row is leaders[0]
            left.plot(
                [logs["epoch"] for logs in row.curve],
                values,
                color="C3" if best else "0.6",
                lw=2 if best else 0.8,
                label=f"trial {row.id}" if best else None,
            )
    left.set(xlabel="epoch", ylabel=f"validation {name}", title="learning curves")
    if left.lines:
        left.legend()
    done = [row for row in rows if row.score is not None]
    scores = np.array([row.score for row in done])
    right.plot(range(1, len(done) + 1), scores, "o", color="0.6", ms=4)
    so_far = np.maximum.accumulate if trials.objective.direction == "max" else np.minimum.accumulate
    right.step(range(1, len(done) + 1), so_far(scores), where="post", color="C3")
    right.axhline(scores[0], ls=":", color="C0", label="the first: the default")
    right.set(xlabel="completed trial", ylabel=name, title="best so far")
    right.legend()
    return figure


def parallel(space: Space, rows: list[Row], name: str) -> Figure:
    """A line per completed trial through its settings, colored by the objective."""
    figure = Figure(figsize=(max(8, 1.1 * len(space.parts)), 5), layout="constrained")
    panel = figure.subplots()
    scores = np.array([row.score for row in rows])
    span = float(np.ptp(scores)) or 1.0
    places = positions(space, rows)
    for place, score in sorted(zip(places.tolist(), scores.tolist(), strict=True), key=lambda each: each[1]):
        share = (score - scores.min()) / span
        panel.plot(place, color=colormaps["viridis"](share), alpha=0.3 + 0.7 * share, lw=1 + share)
    for number, (_, part) in enumerate(space):
        ends = part.ends()
        for value, height in zip(ends, np.linspace(0, 1, len(ends)), strict=True):
            panel.annotate(
                short(value), (number, height), fontsize=7, ha="left", va="center", xytext=(3, 0), textcoords="offset points"
            )
        panel.axvline(number, color="0.8", lw=0.8, zorder=0)
    panel.set_xticks(range(len(space.parts)), [part.replace(".", "\n") for part, _ in space], fontsize=8)
    panel.set_yticks([])
    figure.colorbar(_scale(scores), ax=panel, label=name)
    return figure


def bars(importance: dict[str, float]) -> Figure:
    """How much each setting matters."""
    figure = Figure(figsize=(7, 0.35 * len(importance) + 1), layout="constrained")
    panel = figure.subplots()
    names = sorted(importance, key=importance.get)
    panel.barh(names, [importance[name] for name in names])
    panel.set_xlabel("share of what the settings explain")
    return figure


def inline(figure: Figure) -> str:
    """The picture as the source of an `<img>`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scale(scores: np.ndarray):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(scores.min(), scores.max()), "viridis")
