"""Everything about a catalog, its users and its log that a model needs, as arrays: rows instead of ids, and the features
reduced to their principal components.

Rows: item row 0 is "no item" (padding, or an id that nobody knows), the catalog follows from 1. User row 0 is the
unknown user. Feature matrices have an all-zero row 0 for absent media.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmtfrs.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError, nearest
from mmtfrs.features.adapter import Adapter
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.features.graph import smooth
from mmtfrs.features.media import MediaRows
from mmtfrs.features.popularity import best_fade, faded_counts, log_popularity
from mmtfrs.features.taken import TakenItems
from mmtfrs.features.telling import told
from mmtfrs.sections import MODALITIES, Modality

log = logging.getLogger("mmtfrs")

_CHUNK = 1024  # small enough for the cache
_COUNTS = ("item_counts", "user_counts")
_ADAPTER = ".adapter.npz"
_TITLES = "titles.txt"
_FADED, _TAKEN, _SEEN = "faded.npz", "taken.npz", "seen.npz"


@dataclasses.dataclass(frozen=True)
class Tables:
    """Attributes:

    item_ids: `[N] object`, the catalog; row `i + 1`.
    user_ids: `[M] object`, users of the training log and of the users file, sorted; row `i + 1`.
    item_counts: `[N + 1] float32`, training events per item row.
    user_counts: `[M + 1] float32`, training events per user row.
    adapters: how raw features of each modality become rows of the matrices.
    items, users: reduced features per modality.
    encoders: `{modality: (name, fingerprint)}` of what made the features.
    attributes: `{column: [N] object}` of what requests can filter by.
    id_rows: `[N + 1] int32`, where the ids of the items stand in `item_counts` and in the model's tables of ids, 0 for items
        that came to the catalog after the training.
    titles: `[N] object`, what a list of recommendations shows of each item; "" where there is nothing.
    faded: `[N + 1] float32`, training events per item row, of which old ones count less.
    fade: after what share of the log's time an event counts half.
    taken: what each user took, as an export knows it.
    seen: what each user took in the training log.
    ratings: mean and standard deviation of the training log's ratings; NaN without.
    """

    item_ids: np.ndarray
    user_ids: np.ndarray
    item_counts: np.ndarray
    user_counts: np.ndarray
    adapters: dict[Modality, Adapter]
    items: dict[Modality, MediaRows]
    users: dict[Modality, MediaRows]
    encoders: dict[Modality, tuple[str, str]]
    attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    id_rows: np.ndarray | None = None
    titles: np.ndarray | None = None
    faded: np.ndarray | None = None
    fade: float = np.inf
    taken: TakenItems | None = None
    seen: TakenItems | None = None
    ratings: tuple[float, float] = (np.nan, np.nan)

    def __post_init__(self) -> None:
        if self.id_rows is None:
            object.__setattr__(self, "id_rows", np.arange(len(self.item_ids) + 1, dtype=np.int32))
        if self.titles is None:
            object.__setattr__(self, "titles", np.full(len(self.item_ids), "", object))
        if self.faded is None:
            object.__setattr__(self, "faded", self.item_counts.copy())
        for name in ("taken", "seen"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, TakenItems.nothing(len(self.user_ids)))

    @classmethod
    def build(cls, config: Config, catalog: Catalog, features: Features, events: Events, known: Events | None = None) -> Tables:
        """Args:

        config, catalog, features: what the model is of.
        events: the training log.
        known: what users took, as an export will know it; the training log if None.

        Raises:
            DataError: features and catalog differ in length, or no event is on an item.
        """
        item_ids = catalog.ids
        known = events if known is None else known
        user_ids = np.array(sorted({*events.user_ids, *known.user_ids, *features.user_ids}), dtype=object)
        tables = cls(item_ids, user_ids, *(np.zeros(len(ids) + 1, np.float32) for ids in (item_ids, user_ids)),
                     {}, {}, {}, {}, catalog.attributes(config.data.attributes), titles=_titles(config, catalog))  # fmt: skip
        tables.count(events, fades=config.data.split != "random")
        for modality in config.model.modalities or ():
            if modality not in features.items or not features.items[modality].present.any():
                have = ", ".join(name for name, rows in features.items.items() if rows.present.any())
                raise DataError(
                    f"`model.modalities` names `{modality}`, but no item has any.{nearest(modality, features.items)} "
                    f"Items have: {have or 'none'}."
                )
        media_users = tables.user_rows(features.user_ids)
        for modality in _wanted(config, features):
            rows = features.items[modality]
            if not rows.present.any():
                continue  # a catalog without this modality has no such part of the towers
            if len(rows) != len(item_ids):
                raise DataError(
                    f"`features` has {len(rows)} rows of {modality}, the catalog {len(item_ids)} items. "
                    "Extract them from this catalog."
                )
            adapter = Adapter.fit(rows, config.model.feature_dim, config.seed)
            tables.adapters[modality] = adapter
            media = reduce_media(adapter, rows, np.arange(1, len(rows) + 1), len(item_ids))
            tables.items[modality] = smooth(media, modality, config.model.graph) if config.model.graph.neighbors else media
            own = features.users.get(modality)
            if own is not None:
                tables.users[modality] = reduce_media(adapter, own, media_users, len(user_ids))
            encoder = features.encoders.get(modality)
            tables.encoders[modality] = (encoder.name if encoder else "", rows.fingerprint)
        if config.model.modalities is None:
            tables.leave_out_silent(config.seed)
        if known is events:
            return dataclasses.replace(tables, taken=tables.seen)
        users, items = tables.user_rows(known.user_ids), tables.item_rows(known.item_ids)
        return dataclasses.replace(tables, taken=TakenItems.of(users, items, known.timestamps, len(user_ids)))

    def leave_out_silent(self, seed: int) -> None:
        """Leaves out modalities of which the log shows that they say nothing of what users take: a model would learn them by
        heart. Those that users have media of are kept, for these were not looked at."""
        users = self.seen.users
        for modality in [name for name in self.adapters if name not in self.users]:
            found = told(users, self.seen.items, self.items[modality], seed)
            if found.nothing:
                log.warning("%s says nothing of what users take together (%.4f +- %.4f; 0.02 and more is usual) and is left "
                            "out. `model.modalities` can name what is kept.", modality, *found)  # fmt: skip
                for part in (self.adapters, self.items, self.encoders):
                    del part[modality]

    def fade_for(self, known: Events, asked: Events) -> float:
        """The half-life, as `best_fade` gives it, by which the popularity of a log tells what is asked."""
        rows, held = self.item_rows(known.item_ids), self.item_rows(asked.item_ids)
        return best_fade(rows[rows > 0], known.timestamps[rows > 0], len(self.item_counts), held[held > 0])

    def on(self, events: Events, fade: float | None = None) -> Tables:
        """The same catalog, media and users with the counts, and new users, of another log; and another half-life of events."""
        user_ids = np.array(sorted({*events.user_ids, *self.user_ids}), dtype=object)
        counts = (np.zeros(len(ids) + 1, np.float32) for ids in (self.item_ids, user_ids))
        fade = self.fade if fade is None else fade
        more = dict(zip(_COUNTS, counts, strict=True))
        tables = dataclasses.replace(self, user_ids=user_ids, users={}, faded=None, fade=fade, **more)
        tables.count(events)
        old = self.user_rows(user_ids)
        tables = dataclasses.replace(tables, taken=self.taken.of_users(old))
        for modality, media in self.users.items():
            rows = np.append(0, media.rows[old]).astype(np.int32)
            tables.users[modality] = MediaRows(media.matrix, rows)
        return tables

    def of_catalog(self, config: Config, catalog: Catalog, features: Features) -> Tables:
        """What was learned, on another catalog: what the old one had keeps its id, the rest is known by its media alone.

        Raises:
            DataError: features that another encoder made.
        """
        old = self.item_rows(catalog.ids)
        id_rows = np.append(0, self.id_rows[old]).astype(np.int32)
        items = {}
        for modality, adapter in self.adapters.items():
            rows = features.items.get(modality)
            if rows is None:
                items[modality] = MediaRows(np.zeros((1, adapter.reduced_dim), np.float32), np.zeros(len(id_rows), np.int32))
                continue
            made = self.encoders[modality][1]
            if rows.fingerprint != made:
                raise DataError(
                    f"the {modality} features are of another encoder than the model's "
                    f"({rows.fingerprint[:12]}, not {made[:12]})."
                )
            media = reduce_media(adapter, rows, np.arange(1, len(rows) + 1), len(catalog))
            items[modality] = smooth(media, modality, config.model.graph) if config.model.graph.neighbors else media
        attributes, titles = catalog.attributes(config.data.attributes), _titles(config, catalog)
        places = np.zeros(len(self.item_ids) + 1, np.int32)
        places[old] = np.arange(1, len(old) + 1)
        places[0] = 0
        return dataclasses.replace(
            self, item_ids=catalog.ids, items=items, attributes=attributes, id_rows=id_rows, titles=titles,
            taken=self.taken.of_items(places), seen=self.seen.of_items(places),
        )  # fmt: skip

    def count(self, events: Events, fades: bool = False) -> None:
        """Adds up the events of each item and user, and finds how fast they fade, if they are said to. Raises `DataError` where
        none is on an item of the catalog."""
        rows = self.item_rows(events.item_ids)
        if not (rows > 0).any():
            raise DataError("no training event is on an item of the catalog. Check the item ids of both files.")
        items, timestamps = rows[rows > 0], events.timestamps[rows > 0]
        if fades:
            object.__setattr__(self, "fade", best_fade(items, timestamps, len(self.item_counts)))
        np.add.at(self.item_counts, items, 1.0)
        self.faded[:] = faded_counts(items, timestamps, len(self.item_counts), self.fade)
        users = self.user_rows(events.user_ids)
        np.add.at(self.user_counts, users, 1.0)
        object.__setattr__(self, "seen", TakenItems.of(users, rows, events.timestamps, len(self.user_ids)))
        if events.ratings is not None:
            object.__setattr__(self, "ratings", (float(np.mean(events.ratings)), float(np.std(events.ratings))))

    @property
    def popularity(self) -> np.ndarray:
        """`[N + 1] float32`, the popularity of each catalog row, as part of a score."""
        return log_popularity(np.where(self.item_counts > 0, self.faded, 0.0))[self.id_rows]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those of the config that at least one item has."""
        return tuple(self.adapters)

    def item_rows(self, ids) -> np.ndarray:
        """`[n] int32`, 0 for ids that the catalog does not have."""
        return self._rows("_item_lookup", self.item_ids, ids)

    def user_rows(self, ids) -> np.ndarray:
        """`[n] int32`, 0 for unknown users."""
        return self._rows("_user_lookup", self.user_ids, ids)

    def _rows(self, name: str, known: np.ndarray, ids) -> np.ndarray:
        if name not in self.__dict__:  # a frozen dataclass still has a dictionary for what can be derived
            object.__setattr__(self, name, {each: row for row, each in enumerate(known, start=1)})
        lookup = self.__dict__[name]
        return np.fromiter((lookup.get(each, 0) for each in ids), np.int32, len(ids))

    def save(self, folder: Path) -> None:
        """Writes one `.npy` per array, so that loading can map them into memory; titles, which differ in length, as lines."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("item_ids", "user_ids"):
            np.save(folder / f"{name}.npy", getattr(self, name).astype(str))
        np.save(folder / "item_counts.npy", self.item_counts)
        np.savez(folder / _FADED, counts=self.faded, fade=self.fade)
        np.savez(folder / _TAKEN, items=self.taken.items, starts=self.taken.starts)
        np.savez(folder / _SEEN, items=self.seen.items, starts=self.seen.starts, ratings=self.ratings)
        np.save(folder / "id_rows.npy", self.id_rows)
        np.savez(folder / "attributes.npz", **{name: values.astype(str) for name, values in self.attributes.items()})
        (folder / _TITLES).write_bytes("".join(f"{title}\n" for title in self.titles).encode())
        np.save(folder / "user_counts.npy", self.user_counts)
        for modality, adapter in self.adapters.items():
            np.savez(folder / f"{modality}{_ADAPTER}", mean=adapter.mean, projection=adapter.projection,
                     encoder=np.array(self.encoders[modality]))  # fmt: skip
            for name, media in (("items", self.items), ("users", self.users)):
                if modality in media:
                    np.save(folder / f"{modality}.{name}.matrix.npy", media[modality].matrix)
                    np.save(folder / f"{modality}.{name}.rows.npy", media[modality].rows)

    @classmethod
    def load(cls, folder: Path) -> Tables:
        """What `save` wrote. Raises `ValueError` for titles of another catalog."""

        def ids(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy").astype(object)

        titles = np.array((folder / _TITLES).read_bytes().decode().split("\n")[:-1], object)
        with np.load(folder / _FADED) as faded, np.load(folder / _TAKEN) as taken, np.load(folder / _SEEN) as seen:
            more = {"faded": faded["counts"], "fade": float(faded["fade"]),
                    "taken": TakenItems(taken["items"], taken["starts"]), "seen": TakenItems(seen["items"], seen["starts"]),
                    "ratings": tuple(seen["ratings"].tolist())}  # fmt: skip
        tables = cls(ids("item_ids"), ids("user_ids"), np.load(folder / "item_counts.npy"), np.load(folder / "user_counts.npy"),
                     {}, {}, {}, {}, id_rows=np.load(folder / "id_rows.npy"), titles=titles, **more)  # fmt: skip
        if len(tables.titles) != len(tables.item_ids):
            raise ValueError(f"{_TITLES} has {len(tables.titles)} lines, for {len(tables.item_ids)} items")
        with np.load(folder / "attributes.npz") as saved:
            tables.attributes.update({name: saved[name].astype(object) for name in saved.files})
        saved_names = {path.name.removesuffix(_ADAPTER) for path in folder.glob(f"*{_ADAPTER}")}
        for modality in _ordered(saved_names):
            with np.load(folder / f"{modality}{_ADAPTER}") as saved:
                tables.adapters[modality] = Adapter(saved["mean"], saved["projection"])
                tables.encoders[modality] = tuple(str(value) for value in saved["encoder"])
            for name, media in (("items", tables.items), ("users", tables.users)):
                if (folder / f"{modality}.{name}.matrix.npy").exists():
                    media[modality] = MediaRows(
                        np.load(folder / f"{modality}.{name}.matrix.npy", mmap_mode="r"),
                        np.load(folder / f"{modality}.{name}.rows.npy"),
                    )
        return tables


def _titles(config: Config, catalog: Catalog) -> np.ndarray:
    return catalog.titles(config.data.title, config.data.columns.items)


def _wanted(config: Config, features: Features) -> list[Modality]:
    """The modalities of the features that the config does not leave out."""
    return [name for name in _ordered(features.items) if config.model.modalities is None or name in config.model.modalities]


def _ordered(names: Iterable[str]) -> list[Modality]:
    """Those with raw media first, then by name."""
    return sorted(names, key=lambda name: (MODALITIES.index(name) if name in MODALITIES else len(MODALITIES), name))


def reduce_media(adapter: Adapter, features: FeatureRows, rows: np.ndarray, count: int) -> MediaRows:
    """Reduces each distinct medium once, a chunk at a time.

    Args:
        adapter: of this modality.
        features: `[n]` media.
        rows: `[n]`, the item or user row of each.
        count: number of items or users.
    """
    used, inverse = np.unique(features.rows[features.present], return_inverse=True)
    matrix = np.zeros((len(used) + 1, adapter.reduced_dim), np.float32)
    for start in range(0, len(used), _CHUNK):
        part = used[start : start + _CHUNK]
        matrix[start + 1 : start + 1 + len(part)] = adapter.reduce(features.matrix[part])
    table_rows = np.zeros(count + 1, np.int32)
    table_rows[rows[features.present]] = inverse + 1
    table_rows[0] = 0
    return MediaRows(matrix, table_rows)
