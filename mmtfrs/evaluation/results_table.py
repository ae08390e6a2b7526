"""Metrics as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mmtfrs.evaluation.significance import Difference

ROWS = {
    "model": "this model",
    "popularity": "popularity",
    "item_knn": "content, nearest neighbors",
    "recent": "popularity, fading",
    "ease": "EASE",
    "ease_media": "EASE with media",
    "bpr": "matrix factorisation (BPR)",
    "id_only": "ids only",
    "no_media": "ids and histories, no media",
    "image": "image alone",
    "text": "text alone",
    "audio": "audio alone",
}


def overall_table(results: dict[str, dict], k: int = 20) -> Table:
    """Every scorer, overall: the metrics at k that people compare first."""
    names = [f"recall@{k}", f"ndcg@{k}", f"precision@{k}", f"hit_rate@{k}", f"mrr@{k}", f"map@{k}", f"coverage@{k}"]
    table = Table(title=f"{results['model']['users']} users, whole catalog, seen items left out", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for scorer, metrics in results.items():
        style = "bold" if scorer == "model" else None
        table.add_row(ROWS.get(scorer, scorer), *(f"{metrics[name]:.4f}" for name in names), style=style)
    return table


def rating_line(results: dict[str, dict]) -> str | None:
    """What the rating task reached, if there was one."""
    model = results["model"]
    if "rating_mae" not in model:
        return None
    return (
        f"ratings: MAE {model['rating_mae']:.3f}, RMSE {model['rating_rmse']:.3f} "
        f"(always the mean: RMSE {model['rating_rmse_of_mean']:.3f})"
    )


def group_table(results: dict[str, dict], k: int = 20, small: int = 5) -> Table | None:
    """Every scorer on new users and new items; None where there are neither."""
    new = results["model"].get("new_items", {})
    among = results["model"].get("cold_items_only", {})
    users = results["model"].get("new_users", {})
    if not new and not users:
        return None
    table = Table(title=_group_title(new, among, users), title_justify="left")
    table.add_column("")
    columns = []
    if users:
        columns.append((f"new users recall@{k}", "new_users", f"recall@{k}"))
    if new:
        columns += [
            (f"new items recall@{k}", "new_items", f"recall@{k}"),
            ("share of lists", "new_items", "share_of_lists"),
            (f"among themselves recall@{small}", "cold_items_only", f"recall@{small}"),
        ]
    for title, _, _ in columns:
        table.add_column(title, justify="right")
    for scorer, metrics in results.items():
        values = (metrics.get(group, {}).get(name) for _, group, name in columns)
        table.add_row(ROWS.get(scorer, scorer), *("" if value is None else f"{value:.4f}" for value in values))
    return table


def content_table(results: dict[str, dict]) -> Table | None:
    """What the items' own media find; None where there are none."""
    content = results["model"].get("content_queries")
    if not content:
        return None
    names = list(dict.fromkeys(name for metrics in content.values() for name in metrics if "@" in name))
    table = Table(title="asked by a medium: an item by its own, by another one, and for a user", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for modality, metrics in content.items():
        table.add_row(modality, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names))
    return table


def rolling_line(results: dict[str, dict], k: int = 20) -> str | None:
    """What every scorer reaches when it is asked anew before each event; or once per user, if the table is of the former."""
    for group, asked in (("rolling", "anew before each of {} events"), ("static", "once for each of {} users")):
        if group in results["model"]:
            values = ", ".join(f"{ROWS.get(name, name)} {each[group][f'recall@{k}']:.4f}" for name, each in results.items())
            return f"asked {asked.format(results['model'][group]['users'])}, recall@{k}: {values}"
    return None


def _group_title(new: dict, among: dict, users: dict) -> str:
    parts = []
    if users:
        parts.append(f"{users['users']} new users")
    if new:
        parts.append(
            f"{among['items']} new items ({new['share_of_catalog']:.1%} of the catalog), taken by {new['users']} users"
        )
    return "; ".join(parts)


def difference_table(differences: list[Difference], first: str, second: str) -> Table:
    """What a paired bootstrap says, one metric per row."""
    table = Table(title=f"{differences[0].users} users, paired bootstrap", title_justify="left")
    table.add_column("")
    for name in (first, second, "difference", "95 % interval", "p"):
        table.add_column(name, justify="right")
    for each in differences:
        table.add_row(
            each.metric,
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.second - each.first:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            f"{each.p_value:.4f}",
        )
    return table


def missing_table(curve: dict[str, list[float]], shares: Sequence[float], metric: str) -> Table:
    """What is left of a metric as media go missing."""
    table = Table(title=f"{metric} after a share of the media was removed", title_justify="left")
    table.add_column("")
    for share in shares:
        table.add_column(f"{share:.0%}", justify="right")
    for label, values in curve.items():
        left = (f"{value:.4f} ({value / values[0]:.0%})" if values[0] else f"{value:.4f}" for value in values)
        table.add_row(label, *left)
    return table
