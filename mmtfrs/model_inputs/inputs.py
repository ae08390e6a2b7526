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

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.config.schema import HistoryEncoder, Modality
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.errors import DataError
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.feature_table import MediaRows
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.log_facts import log_facts, lookup, sorted_ids
from mmtfrs.model_inputs.media_inputs import item_media, media_inputs
from mmtfrs.model_inputs.order import order_told
from mmtfrs.model_inputs.pca import Adapter
from mmtfrs.model_inputs.popularity import best_fade, log_popularity
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
        users = sorted_ids(events.users, known.users, features.user_ids)
        item_rows, user_rows = lookup(catalog.ids), lookup(users)
        facts = log_facts(item_rows, user_rows, events, None if config.data.split != "random" else np.inf)
        taken = facts["seen"]
        if known is not events:
            taken = ItemLists.of_log(
                known.users.looked_up(user_rows), known.items.looked_up(item_rows), known.timestamps, len(users)
            )
        inputs = cls(
            catalog.ids,
            users,
            **facts,
            **media_inputs(config, len(catalog), user_rows, features),
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
        user_ids = sorted_ids(events.users, self.user_ids)
        facts = log_facts(self._item_lookup, lookup(user_ids), events, self.fade if fade is None else fade)
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
            items[modality] = item_media(config, modality, adapter, rows, len(catalog))
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
        return lookup(self.item_ids)

    @functools.cached_property
    def _user_lookup(self) -> dict[str, int]:
        return lookup(self.user_ids)


def _titles(config: Config, catalog: Catalog) -> np.ndarray:
    return catalog.titles(config.data.title, config.data.columns.items)
