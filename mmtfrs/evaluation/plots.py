"""Pictures of what was measured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure  # no pyplot: no display, no global state

from mmtfrs.evaluation.results_table import ROWS
from mmtfrs.utils.files import replacing


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Figure, path: str | Path) -> None:
    """Writes a figure in the format that the name ends with. Raises `WriteError`."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format=Path(path).suffix[1:] or None)
    with replacing(path) as file:
        file.write(drawn.getbuffer())


def metrics_picture(results: dict[str, dict], path: str | Path, names: Sequence[str]) -> None:
    """Every scorer as bars, one panel per metric."""
    figure = _figure(3.6 * len(names), 0.5 + 0.35 * len(results))
    labels = [ROWS.get(scorer, scorer) for scorer in results]
    for panel, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        values = [metrics[name] for metrics in results.values()]
        bars = panel.barh(labels, values, color=["#1f77b4", *["#b0b0b0"] * (len(values) - 1)])
        panel.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        panel.set_title(name, fontsize=10)
        panel.margins(x=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    panel.invert_yaxis()
    save_picture(figure, path)


def curve_picture(curve: dict[str, list[float]], shares: Sequence[float], path: str | Path, metric: str) -> None:
    """A line per modality over the share of media that is missing."""
    figure = _figure(6, 4)
    panel = figure.subplots()
    for label, values in curve.items():
        panel.plot([100 * share for share in shares], values, marker="o", label=label)
    panel.set_xlabel("media removed, %")
    panel.set_ylabel(metric)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend()
    save_picture(figure, path)
