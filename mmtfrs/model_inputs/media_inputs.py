"""The media of a catalog and its users as rows of reduced features, one modality at a time."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.config.schema import Modality
from mmtfrs.data.id_column import IdColumn
from mmtfrs.errors import DataError, nearest
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.model_inputs.feature_table import MediaRows, in_order, reduce_media
from mmtfrs.model_inputs.item_graph import smooth
from mmtfrs.model_inputs.pca import Adapter


class MediaInputs(TypedDict):
    """Of `ModelInputs`, which says what each is."""

    adapters: dict[Modality, Adapter]
    items: dict[Modality, MediaRows]
    users: dict[Modality, MediaRows]
    encoders: dict[Modality, tuple[str, str]]


def media_inputs(config: Config, count: int, user_rows: dict[str, int], features: Features) -> MediaInputs:
    """Adapters, reduced features and encoders of the modalities that the config does not leave out and some item has."""
    wanted = config.model.modalities
    for modality in wanted or ():
        if modality not in features.items or not features.items[modality].present.any():
            have = ", ".join(name for name, rows in features.items.items() if rows.present.any())
            raise DataError(
                f"`model.modalities` names `{modality}`, but no item has any.{nearest(modality, features.items)} "
                f"Items have: {have or 'none'}."
            )
    made: MediaInputs = {"adapters": {}, "items": {}, "users": {}, "encoders": {}}
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
        made["items"][modality] = item_media(config, modality, adapter, rows, count)
        if (theirs := features.users.get(modality)) is not None:
            made["users"][modality] = reduce_media(adapter, theirs, places, len(user_rows))
        encoder = features.encoders.get(modality)
        made["encoders"][modality] = (encoder.name if encoder else "", rows.fingerprint)
    return made


def item_media(config: Config, modality: Modality, adapter: Adapter, rows: FeatureRows, count: int) -> MediaRows:
    media = reduce_media(adapter, rows, np.arange(1, len(rows) + 1), count, config.extraction.augment.views)
    return smooth(media, modality, config.model.graph) if config.model.graph.neighbors else media
