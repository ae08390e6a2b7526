"""What quality is measured on: config, catalog, features and a split log, made once."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mmtfrs
from benchmarks._log import rating_like_log
from mmtfrs.data.demo import write_demo
from mmtfrs.data.splits import Split

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"
USUAL = {"image": "efficientnet-lite0", "text": "minilm", "audio": "offline"}  # what `auto` is where nothing is cached
PUBLIC = ("lfm2k", "lastfm")  # what `--data public` stands for


class Dataset(NamedTuple):
    config: mmtfrs.Config
    catalog: mmtfrs.Catalog
    features: mmtfrs.Features
    split: Split


def load(name: str, folder: Path, seed: int = 0, modality: str = "", encoder: str = "", views: int = 0) -> Dataset | None:
    """A data set by name; None where it is not here.

    Names: `demo` and `log` are generated; `digits` are real files beside the repository; `lfm2k` (real features) and `lastfm`
    are public logs; anything else is a folder with items and events as .csv, .npy features with a row per item, and maybe a
    config.yaml. Behind a name: `/2` draws two events per item with the seed, `@time` splits in that way, `+noise` adds a
    modality of pure noise.

    Args:
        name: as above.
        folder: where what is made is kept.
        seed: of what is drawn.
        modality, encoder: another encoder of one modality than usual.
        views: augmented ones of each medium, which the config does not ask for yet.
    """
    base, per_item, split, noise = re.fullmatch(r"(.+?)(?:/(\d+))?(?:@(\w+))?(\+noise)?", name).groups()
    found = _whole(base, folder, modality, encoder, bool(noise), views)
    if found is None:
        return None
    config, catalog, features, events, usual = found
    if per_item:
        count = min(len(events), int(per_item) * len(set(events.item_ids)))
        events = events.take(np.sort(np.random.default_rng(seed).permutation(len(events))[:count]))
    config = config.replace(data={"split": split or usual})
    return Dataset(config, catalog, features, events.split(split or usual, 0.1, 0.2 if base == "log" else 0.1))


@cache
def _whole(name: str, folder: Path, modality: str, encoder: str, noise: bool, views: int):
    """`(config, catalog, features, events, usual split)`."""
    if name == "log":
        catalog, events = rating_like_log()
        return mmtfrs.Config(), catalog, mmtfrs.Features({}), events, "random"
    source, config, usual = _source(name, folder)
    if not (source / "items.csv").exists():
        return None
    if modality:
        config = config.replace(encoders={modality: encoder})
    catalog = mmtfrs.Catalog.read(source / "items.csv", config)
    if noise:
        path = folder / f"noise-{len(catalog)}.npy"
        np.save(path, np.random.default_rng(0).normal(size=(len(catalog), 256)).astype(np.float32))
        config = config.replace(data={"features": {**config.data.features, "noise": str(path)}})
    users = mmtfrs.Users.read(source / "users.csv", config) if (source / "users.csv").exists() else None
    events = mmtfrs.Events.read(source / "events.csv", config, catalog)
    mark = hashlib.sha256(f"{source}{noise}".encode()).hexdigest()[:8]
    more = config.replace(extraction={"augment": {"views": views}})
    features = mmtfrs.extract(catalog, more, folder / f"features-{mark}", users, progress=False)
    return config, catalog, features, events, usual


def _source(name: str, folder: Path) -> tuple[Path, mmtfrs.Config, str]:
    if name == "demo":
        if not (folder / "demo" / "items.csv").exists():
            write_demo(folder / "demo")
        return folder / "demo", mmtfrs.Config(encoders=USUAL), "time"
    if name == "digits":
        return REAL / "digits", mmtfrs.Config(encoders=USUAL | {"audio": str(REAL / "yamnet" / "yamnet.h5")}), "time"
    if name == "lastfm":
        return sequences(REAL / "public" / "LastFM.txt", folder / "lastfm"), mmtfrs.Config(), "user"
    source = REAL / "public" / name if name in PUBLIC else Path(name)
    config = mmtfrs.Config.read(source / "config.yaml") if (source / "config.yaml").exists() else mmtfrs.Config()
    own = {path.stem: str(path) for path in sorted(source.glob("*.npy"))}
    config = config.replace(data={"features": {**own, **config.data.features}})
    return source, config, "random" if name in PUBLIC else config.data.split


def sequences(path: Path, out: Path) -> Path:
    """A log as `user item item ...` lines, oldest first, as our files."""
    if path.exists() and not (out / "events.csv").exists():
        out.mkdir(parents=True, exist_ok=True)
        rows = [line.split() for line in path.read_text().splitlines()]
        items = sorted({item for _, *own in rows for item in own})
        (out / "items.csv").write_text("\n".join(["item_id", *items]) + "\n")
        lines = [f"{user},{item},{time}" for user, *own in rows for time, item in enumerate(own)]
        (out / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    return out


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


def held_out_items(data: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Split, mmtfrs.Events]:
    """Some items as new ones: a random split of the log without them, and all events on them, of users with histories."""
    log = data.split.test.known
    log = log.take(np.arange(len(log)))
    items = data.catalog.rows_of(log.item_ids)
    new = np.random.default_rng(seed).permutation(len(data.catalog))[: round(share * len(data.catalog))]
    hidden = np.isin(items, new)
    rest = log.take(np.flatnonzero(~hidden))
    return rest.split("random", 0.1, 0.0, seed), log.take(np.flatnonzero(hidden), known=rest)
