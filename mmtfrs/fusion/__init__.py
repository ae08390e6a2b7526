"""Modality vectors -> one vector, one file per method, all behind one contract."""

from __future__ import annotations

from functools import partial

from mmtfrs.errors import ConfigError, nearest
from mmtfrs.fusion.attention import AttentionFusion
from mmtfrs.fusion.base import Fusion, masked_share
from mmtfrs.fusion.capsule import CapsuleFusion
from mmtfrs.fusion.coattention import CoattentionFusion
from mmtfrs.fusion.concat import ConcatFusion
from mmtfrs.fusion.gated import GatedFusion
from mmtfrs.fusion.graph import GraphFusion
from mmtfrs.fusion.hierarchical import HierarchicalFusion
from mmtfrs.fusion.late import LateFusion
from mmtfrs.fusion.transformer import TransformerFusion
from mmtfrs.fusion.weighted import WeightedFusion
from mmtfrs.utils.extensions import imported, is_import_path

FUSIONS: dict[str, type[Fusion] | partial] = {
    "concat": ConcatFusion,
    "weighted": WeightedFusion,
    "gated": GatedFusion,
    "hierarchical": HierarchicalFusion,
    "attention": AttentionFusion,
    "coattention": CoattentionFusion,
    "transformer": TransformerFusion,
    "graph": GraphFusion,
    "capsule": CapsuleFusion,
    # Decision level: how the scores of the modalities become one is up to the model.
    "late_sum": partial(LateFusion, combine="sum"),
    "late_stacking": partial(LateFusion, combine="stacking"),
    "late_voting": partial(LateFusion, combine="voting"),
}

__all__ = ["FUSIONS", "Fusion", "get", "masked_share"]


def get(name: str) -> type[Fusion] | partial:
    """What makes a fusion layer of this name, or of this import path (`package.module:Name`).

    Raises:
        ConfigError: it is unknown, cannot be imported, or is no `Fusion`.
    """
    if is_import_path(name):
        found = imported(name, "model.fusion")
        if not (isinstance(found, type) and issubclass(found, Fusion)):
            raise ConfigError(f"`model.fusion` {name}: must be a subclass of mmtfrs.fusion.Fusion. Received: {found!r}.")
        return found
    if name not in FUSIONS:
        raise ConfigError(f"`model.fusion` must be one of {', '.join(FUSIONS)}. Received: {name!r}.{nearest(name, FUSIONS)}")
    return FUSIONS[name]
