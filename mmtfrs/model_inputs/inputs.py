"""Everything about a catalog, its users and its log that a model needs, as arrays: rows instead of ids, and the features
reduced to their principal components. Built once and never changed after: what differs is a new object.

Rows: item row 0 is "no item" (padding, or an id that nobody knows), the catalog follows from 1. User row 0 is the
unknown user. Feature matrices have an all-zero row 0 for absent media.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping
from typing import TypedDict

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.config.schema import HistoryEncoder, Modality
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.errors import DataError, nearest
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.model_inputs.feature_table import MediaRows, in_order, reduce_media
from mmtfrs.model_inputs.item_graph import smooth
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.order import order_told
from mmtfrs.model_inputs.pca import Adapter
from mmtfrs.model_inputs.popularity import best_fade, faded_counts, log_popularity
from mmtfrs.model_inputs.telling import told

log = logging.getLogger("mmtfrs")


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """What a model is built from; its arrays cannot be written to.

    Attributes:
        item_ids: `[N] object`, the catalog; row `i + 1`.
        user_ids: `[M] object`, users of the training log and of the users file, sorted; row `i + 1`.
        item_counts: `[N + 1] float32`, training events per item row.
        user_counts: `[M + 1] float32`, training events per user row.
        adapters: how raw features of each modality become rows of the matrices.
        items, users: reduced features per modality.
        encoders: `{modality: (name, fingerprint)}` of what made the features.
        attributes: `{column: [N] object}` of what requests can filter by.
        id_rows: `[N + 1] int32`, where the ids of the items stand in `item_counts` and in the model's tables of ids, 0 for
            items that came to the catalog after the training.
        titles: `[N] object`, what a list of recommendations shows of each item; "" where there is nothing.
        faded: `[N + 1] float32`, training events per item row, of which old ones count less.
        fade: after what share of the log's time an event counts half.
        taken: what each user took, as an export knows it.
        seen: what each user took in the training log.
        ratings: mean and standard deviation of the training log's ratings; NaN without.
        ordered: whether the order of the training log tells what comes next.
    """

    item_ids: np.ndarray
    user_ids: np.ndarray
    item_counts: np.ndarray
    user_counts: np.ndarray
    adapters: Mapping[Modality, Adapter]
    items: Mapping[Modality, MediaRows]
    users: Mapping[Modality, MediaRows]
    encoders: Mapping[Modality, tuple[str, str]]
    attributes: Mapping[str, np.ndarray]
    id_rows: np.ndarray
    titles: np.ndarray
    faded: np.ndarray
    fade: float
    taken: ItemLists
    seen: ItemLists
    ratings: tuple[float, float]
    ordered: bool

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    @classmethod
    def build(
        cls, config: Config, catalog: Catalog, features: Features, events: Events, known: Events | None = None
    ) -> ModelInputs:
        """From what a model is of.

        Args:
            config, catalog, features: what the model is of.
            events: the training log.
            known: what users took, as an export will know it; the training log if None.

        Raises:
            DataError: features and catalog differ in length, or no event is on an item.
        """
        known = events if known is None else known
        users = _sorted(events.users, known.users, features.user_ids)
        item_rows, user_rows = _lookup(catalog.ids), _lookup(users)
        facts = _log_facts(item_rows, user_rows, events, None if config.data.split != "random" else np.inf)
        taken = facts["seen"]
        if known is not events:
            taken = ItemLists.of_log(
                known.users.looked_up(user_rows), known.items.looked_up(item_rows), known.timestamps, len(users)
            )
        inputs = cls(
            catalog.ids,
            users,
            **facts,
            **_media(config, len(catalog), user_rows, features),
            taken=taken,
            attributes=catalog.attributes(config.data.attributes),
            titles=_titles(config, catalog),
            id_rows=np.arange(len(catalog) + 1, dtype=np.int32),
            ordered=order_told(facts["seen"], config.seed).matters,
        )
        return inputs if config.model.modalities is not None else inputs.without_silent(config.seed)

    def without_silent(self, seed: int) -> ModelInputs:
        """Without the modalities of which the log shows that they say nothing of what users take: a model would learn them by
        heart. Those that users have media of are kept, for these were not looked at."""
        silent = set()
        for modality in [name for name in self.adapters if name not in self.users]:
            found = told(self.seen.owners, self.seen.items, self.items[modality], seed)
            if found.nothing:
                silent.add(modality)
                log.warning(
                    "%s says nothing of what users take together (%.4f +- %.4f; 0.02 and more is usual) and is left "
                    "out. `model.modalities` can name what is kept.",
                    modality,
                    *found,
                )
        if not silent:
            return self
        kept = [name for name in self.adapters if name not in silent]
        return dataclasses.replace(
            self,
            adapters={name: self.adapters[name] for name in kept},
            items={name: self.items[name] for name in kept},
            encoders={name: self.encoders[name] for name in kept},
        )

    def fade_for(self, known: Events, asked: Events) -> float:
        """The half-life, as `best_fade` gives it, by which the popularity of a log tells what is asked."""
        rows, held = self.item_rows(known.items), self.item_rows(asked.items)
        return best_fade(rows[rows > 0], known.timestamps[rows > 0], len(self.item_counts), held[held > 0])

    def on(self, events: Events, fade: float | None = None) -> ModelInputs:
        """The same catalog, media and users with the counts, and new users, of another log; and another half-life of events."""
        user_ids = _sorted(events.users, self.user_ids)
        facts = _log_facts(self._item_lookup, _lookup(user_ids), events, self.fade if fade is None else fade)
        old = self.user_rows(user_ids)
        users = {
            name: MediaRows(media.matrix, np.append(0, media.rows[old]).astype(np.int32)) for name, media in self.users.items()
        }
        return dataclasses.replace(self, user_ids=user_ids, users=users, taken=self.taken.take(np.append(0, old)), **facts)

    def of_catalog(self, config: Config, catalog: Catalog, features: Features) -> ModelInputs:
        """What was learned, on another catalog: what the old one had keeps its id, the rest is known by its media alone.

        Raises:
            DataError: features that another encoder made.
        """
        old = self.item_rows(catalog.ids)
        items = {}
        for modality, adapter in self.adapters.items():
            rows = features.items.get(modality)
            if rows is None:
                items[modality] = MediaRows(np.zeros((1, adapter.reduced_dim), np.float32), np.zeros(len(old) + 1, np.int32))
                continue
            made = self.encoders[modality][1]
            if rows.fingerprint != made:
                raise DataError(
                    f"the {modality} features are of another encoder than the model's "
                    f"({rows.fingerprint[:12]}, not {made[:12]})."
                )
            items[modality] = _item_media(config, modality, adapter, rows, len(catalog))
        places = np.zeros(len(self.item_ids) + 1, np.int32)
        places[old] = np.arange(1, len(old) + 1)
        places[0] = 0
        return dataclasses.replace(
            self,
            item_ids=catalog.ids,
            items=items,
            id_rows=np.append(0, self.id_rows[old]).astype(np.int32),
            attributes=catalog.attributes(config.data.attributes),
            titles=_titles(config, catalog),
            taken=self.taken.of_items(places),
            seen=self.seen.of_items(places),
        )

    def reads_order(self, encoder: HistoryEncoder) -> bool:
        """Whether a setting of the history's encoder means a transformer on this log."""
        return encoder == "transformer" or (encoder == "auto" and self.ordered)

    @property
    def popularity(self) -> np.ndarray:
        """`[N + 1] float32`, the popularity of each catalog row, as part of a score."""
        return log_popularity(np.where(self.item_counts > 0, self.faded, 0.0))[self.id_rows]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those of the config that at least one item has."""
        return tuple(self.adapters)

    def item_rows(self, ids: IdColumn | Iterable[str]) -> np.ndarray:
        """`[n] int32`, 0 for ids that the catalog does not have."""
        return IdColumn.of(ids).looked_up(self._item_lookup)

    def user_rows(self, ids: IdColumn | Iterable[str]) -> np.ndarray:
        """`[n] int32`, 0 for unknown users."""
        return IdColumn.of(ids).looked_up(self._user_lookup)

    @functools.cached_property
    def _item_lookup(self) -> dict[str, int]:
        return _lookup(self.item_ids)

    @functools.cached_property
    def _user_lookup(self) -> dict[str, int]:
        return _lookup(self.user_ids)


def _lookup(ids: np.ndarray) -> dict[str, int]:
    return {each: row for row, each in enumerate(ids, start=1)}


def _sorted(*ids: IdColumn | np.ndarray) -> np.ndarray:
    """`[n] object`: each that is anywhere, once."""
    there = {name for each in ids for name in (each.names[each.used()] if isinstance(each, IdColumn) else each)}
    return np.array(sorted(there), dtype=object)


class _LogFacts(TypedDict):
    item_counts: np.ndarray
    user_counts: np.ndarray
    faded: np.ndarray
    fade: float
    seen: ItemLists
    ratings: tuple[float, float]


class _Media(TypedDict):
    adapters: dict[Modality, Adapter]
    items: dict[Modality, MediaRows]
    users: dict[Modality, MediaRows]
    encoders: dict[Modality, tuple[str, str]]


def _log_facts(item_rows: dict[str, int], user_rows: dict[str, int], events: Events, fade: float | None) -> _LogFacts:
    """What a log says of its items and users; None for the half-life that its newest events choose. Raises `DataError` where no
    event is on an item of the catalog."""
    rows, users = events.items.looked_up(item_rows), events.users.looked_up(user_rows)
    there, size = rows > 0, len(item_rows) + 1
    if not there.any():
        raise DataError("no training event is on an item of the catalog. Check the item ids of both files.")
    items, timestamps = rows[there], events.timestamps[there]
    fade = best_fade(items, timestamps, size) if fade is None else fade
    ratings = events.ratings
    return {
        "item_counts": np.bincount(items, minlength=size).astype(np.float32),
        "user_counts": np.bincount(users, minlength=len(user_rows) + 1).astype(np.float32),
        "faded": faded_counts(items, timestamps, size, fade).astype(np.float32),
        "fade": fade,
        "seen": ItemLists.of_log(users, rows, events.timestamps, len(user_rows)),
        "ratings": (np.nan, np.nan) if ratings is None else (float(np.mean(ratings)), float(np.std(ratings))),
    }


def _media(config: Config, count: int, user_rows: dict[str, int], features: Features) -> _Media:
    """Adapters, reduced features and encoders of the modalities that the config does not leave out and some item has."""
    wanted = config.model.modalities
    for modality in wanted or ():
        if modality not in features.items or not features.items[modality].present.any():
            have = ", ".join(name for name, rows in features.items.items() if rows.present.any())
            raise DataError(
                f"`model.modalities` names `{modality}`, but no item has any.{nearest(modality, features.items)} "
                f"Items have: {have or 'none'}."
            )
    made: _Media = {"adapters": {}, "items": {}, "users": {}, "encoders": {}}
    places = IdColumn.of(features.user_ids).looked_up(user_rows)
    # A catalog without a modality has no such part of the towers.
    there = {name: rows for name, rows in features.items.items() if rows.present.any() and (wanted is None or name in wanted)}
    spaces = {name: encoder.space or name for name, encoder in features.encoders.items()}
    for modality in in_order(there):
        rows = there[modality]
        if len(rows) != count:
            raise DataError(
                f"`features` has {len(rows)} rows of {modality}, the catalog {count} items. Extract them from this catalog."
            )
        if modality not in made["adapters"]:
            same = {name: each for name, each in there.items() if spaces.get(name, name) == spaces.get(modality, modality)}
            made["adapters"] |= Adapter.fit_shared(same, config.model.feature_dim, config.seed)
        adapter = made["adapters"][modality]
        made["items"][modality] = _item_media(config, modality, adapter, rows, count)
        if (theirs := features.users.get(modality)) is not None:
            made["users"][modality] = reduce_media(adapter, theirs, places, len(user_rows))
        encoder = features.encoders.get(modality)
        made["encoders"][modality] = (encoder.name if encoder else "", rows.fingerprint)
    return made


def _item_media(config: Config, modality: Modality, adapter: Adapter, rows: FeatureRows, count: int) -> MediaRows:
    media = reduce_media(adapter, rows, np.arange(1, len(rows) + 1), count, config.extraction.augment.views)
    return smooth(media, modality, config.model.graph) if config.model.graph.neighbors else media


def _titles(config: Config, catalog: Catalog) -> np.ndarray:
    return catalog.titles(config.data.title, config.data.columns.items)
