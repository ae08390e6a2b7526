"""What quality is measured on: each as `(config, catalog, features, split)`, made once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mmtfrs
from benchmarks._log import rating_like_log
from mmtfrs.data.demo import write_demo
from mmtfrs.data.splits import Split

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
OFFLINE = {"image": "offline", "text": "offline", "audio": "offline"}


class Dataset(NamedTuple):
    config: mmtfrs.Config
    catalog: mmtfrs.Catalog
    features: mmtfrs.Features
    split: Split


@cache
def load(name: str, folder: Path, modality: str = "", encoder: str = "") -> Dataset | None:
    """`demo` (generated), `digits` (real files beside the repository; None where absent) or `log` (generated, no media).

    A modality's encoder may be another one than usual.
    """
    if name == "log":
        catalog, events = rating_like_log()
        return Dataset(mmtfrs.Config(), catalog, mmtfrs.Features({}), events.split("random", 0.1, 0.2))
    source, encoders = folder / "demo", OFFLINE
    if name == "digits":
        source, encoders = REAL / "digits", OFFLINE | {"audio": str(REAL / "yamnet" / "yamnet.h5")}
        if not (source / "items.csv").exists():
            return None
    elif not (source / "items.csv").exists():
        write_demo(source)
    config = mmtfrs.Config(encoders=encoders | ({modality: encoder} if modality else {}))
    catalog = mmtfrs.Catalog.read(source / "items.csv")
    users = mmtfrs.Users.read(source / "users.csv") if (source / "users.csv").exists() else None
    events = mmtfrs.Events.read(source / "events.csv", catalog=catalog)
    features = mmtfrs.extract(catalog, config, folder / "features", users, progress=False)
    return Dataset(config, catalog, features, events.split("time"))


def newcomers(split: Split, events: int = 3, share: float = 0.25, seed: int = 0) -> tuple[Split, mmtfrs.Events]:
    """Some users as new ones: the split without them, and their test events, of which only their last few before are known."""
    rng = np.random.default_rng(seed)
    users = np.unique(split.train.user_ids.astype(str))
    new = set(rng.permutation(users)[: round(share * len(users))])

    def part(source: mmtfrs.Events, wanted: bool, known=None) -> mmtfrs.Events:
        return source.take(np.flatnonzero([(user in new) == wanted for user in source.user_ids]), known)

    before = part(split.test.known, True)
    order = np.argsort(before.timestamps, kind="stable")
    seen: dict[str, list[int]] = {}
    for row in order:
        seen.setdefault(before.user_ids[row], []).append(row)
    last = before.take(np.array(sorted(row for rows in seen.values() for row in rows[-events:]), np.int64))
    old = part(split.train, False)
    rest = Split(
        split.kind, old, part(split.validation, False, known=old), part(split.test, False, part(split.test.known, False))
    )
    asked = part(split.test, True)
    there = set(last.user_ids)
    asked = asked.take(np.flatnonzero([user in there for user in asked.user_ids]), known=last)
    return rest, asked
