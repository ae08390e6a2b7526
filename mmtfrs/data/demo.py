"""The demo catalog: real files with planted tastes, of which each modality tells a different part.

Every item has a shape that only its image shows, a topic that only its text tells and a timbre that only its sound
carries. Every user likes two of the six values of each, and takes an item with probability proportional to
`popularity * exp(strength * matches)`. So a model that fuses all three must beat one that sees any one of them, and
an item's media must be enough to recommend it before anyone took it. `truth.json` holds what was planted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmtfrs.config.schema import MODALITIES
from mmtfrs.data import demo_media
from mmtfrs.errors import DataError
from mmtfrs.utils.files import writing

ITEMS = 600
USERS = 3000
EVENTS_PER_USER = 20  # 60 000 events
ABSENT = 0.15  # share of media that are absent
LATE = 60  # items that appear only late in the log
LATE_START = 0.84
NEWCOMERS = 0.1  # share of users who join late in the log
STRENGTH = 2.0  # how much one match multiplies the odds, as a logarithm
START, SPAN = 1_760_000_000, 90 * 24 * 3600  # first timestamp; ninety days


def write_demo(folder: str | Path, seed: int = 42) -> dict[str, int]:
    """Writes `items.csv`, `events.csv`, `users.csv`, `truth.json` and the media folders.

    Args:
        folder: created if missing; must not hold an items file yet.
        seed: fixes every byte of every file.

    Returns:
        Counts: `items`, `users`, `events`, and the number of files of each modality.

    Raises:
        DataError: the folder already holds a catalog.
        WriteError: it cannot be written.
    """
    folder = Path(folder)
    if (folder / "items.csv").exists():
        raise DataError(f"{folder}: already holds an items.csv. Choose another folder, or remove this one first.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return _write_demo(folder, seed)


def _write_demo(folder: Path, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    factors = {name: rng.integers(0, demo_media.VALUES, ITEMS) for name in MODALITIES}
    present = {name: rng.random(ITEMS) >= ABSENT for name in MODALITIES}
    late = np.zeros(ITEMS, bool)
    late[rng.choice(ITEMS, LATE, replace=False)] = True
    # Two different liked values of each modality per user.
    tastes = {name: np.argsort(rng.random((USERS, demo_media.VALUES)), axis=1)[:, :2].astype(int) for name in MODALITIES}
    item_ids = np.array([f"item-{row:04d}" for row in range(ITEMS)])
    user_ids = np.array([f"user-{row:04d}" for row in range(USERS)])
    joins = np.where(rng.random(USERS) < NEWCOMERS, rng.uniform(0.86, 0.98, USERS), 0.0)
    events = _draw_events(rng, factors, tastes, late, joins)
    counts = _write_items(folder, seed, item_ids, factors, present)
    _write_csv(
        folder / "events.csv",
        ("user_id", "item_id", "timestamp"),
        ((user_ids[user], item_ids[item], START + int(second)) for user, item, second in events),
    )
    told = (rng.random(USERS) < 0.3) | (joins > 0)  # users who say what they like to read about
    _write_csv(
        folder / "users.csv",
        ("user_id", "text"),
        ((user_ids[row], demo_media.profile(tastes["text"][row])) for row in np.flatnonzero(told)),
    )
    truth = {
        "factors": {name: dict(zip(item_ids, map(int, factors[name]), strict=True)) for name in MODALITIES},
        "tastes": {name: dict(zip(user_ids, tastes[name].tolist(), strict=True)) for name in MODALITIES},
        "late": item_ids[late].tolist(),
    }
    # Last, so that a folder with an items.csv is a finished one.
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    (folder / "items.csv.part").rename(folder / "items.csv")
    return {"items": ITEMS, "users": USERS, "events": len(events), **counts}


def _draw_events(
    rng: np.random.Generator, factors: dict[str, np.ndarray], tastes: dict[str, np.ndarray], late: np.ndarray, joins: np.ndarray
) -> list[tuple[int, int, int]]:
    """`(user, item, second)` in the order of time; nobody takes an item twice or before it appears."""
    popularity = rng.lognormal(0.0, 0.3, ITEMS)
    matches = sum((factors[name][None, :, None] == tastes[name][:, None, :]).any(-1).astype(float) for name in factors)
    log_odds = np.log(popularity) + STRENGTH * matches
    appears = np.where(late, rng.uniform(LATE_START, 0.92, ITEMS), 0.0)
    events = []
    for user in range(USERS):
        # The Gumbel trick draws without replacement; one sample per event, of what has appeared by then.
        moments = np.sort(rng.uniform(joins[user], 1.0, EVENTS_PER_USER))
        keys = log_odds[user] + rng.gumbel(size=(EVENTS_PER_USER, ITEMS))
        taken = np.zeros(ITEMS, bool)
        for moment, key in zip(moments, keys, strict=True):
            item = int(np.where(taken | (appears > moment), -np.inf, key).argmax())
            taken[item] = True
            events.append((user, item, int(moment * SPAN)))
    events.sort(key=lambda event: event[2])
    return events


def _write_items(
    folder: Path, seed: int, item_ids: np.ndarray, factors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> dict[str, int]:
    for name in ("image", "audio"):
        (folder / name).mkdir(exist_ok=True)
    rows = []
    counts = dict.fromkeys(MODALITIES, 0)
    for row, item_id in enumerate(item_ids):
        rng = np.random.default_rng([seed, row])  # an item's files depend on the item alone
        values = dict.fromkeys(MODALITIES, "")
        if present["text"][row]:
            values["text"] = demo_media.sentence(rng, factors["text"][row])
        if present["image"][row]:
            values["image"] = f"image/{item_id}.{('png', 'jpg')[row % 2]}"
            demo_media.picture(rng, factors["image"][row]).save(folder / values["image"])
        if present["audio"][row]:
            values["audio"] = f"audio/{item_id}.{('wav', 'flac')[row % 2]}"
            demo_media.write_sound(folder / values["audio"], rng, factors["audio"][row])
        for name in MODALITIES:
            counts[name] += bool(values[name])
        rows.append((item_id, *(values[name] for name in ("text", "image", "audio"))))
    _write_csv(folder / "items.csv.part", ("item_id", "text", "image", "audio"), rows)
    return counts


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[tuple]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
