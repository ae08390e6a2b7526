"""Writing a trained model as the next version of a SavedModel."""

from __future__ import annotations

import dataclasses
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmtfrs import encoders as encoder_room
from mmtfrs._keras import tf
from mmtfrs._version import __version__
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import ExportError
from mmtfrs.exporting import versions
from mmtfrs.exporting.signatures import ServingModule
from mmtfrs.exporting.warmup import write_warmup
from mmtfrs.index.build import Found, make_search
from mmtfrs.index.index import Index
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models.run import save_run
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.finite import bad_rows

log = logging.getLogger("mmtfrs")

_QUERIES = 512
_HISTORY = 20


def export(
    model: TwoTower, folder: str | Path, encoders: dict[str, Encoder] | None = None, before: Found | None = None
) -> Path:
    """Writes the next free version below `folder`: towers, index, ids and encoders, all in one folder that can be moved. It
    waits for another export or refresh of the folder to end.

    Args:
        model: trained.
        folder: `saved_models/NAME`; the version appears complete or not at all.
        encoders: of the modalities whose raw media requests may carry; None takes those of the model's features, loaded
            anew from the config if need be. Those that no graph runs are not in the export, which takes their features.
        before: the index of a version that this one differs little from.

    Returns:
        The version's folder.

    Raises:
        ExportError: an encoder is not the one that made the model's features, or the index does not reach its recall.
        EncoderError: an encoder cannot be loaded.
        WriteError: the folder cannot be written.

    Example:
        >>> export(model, "saved_models/shop").as_posix()
        'saved_models/shop/1'
    """
    with versions.alone(folder):
        return export_alone(model, Path(folder), encoders, before)


def export_alone(
    model: TwoTower, folder: Path, encoders: dict[str, Encoder] | None = None, before: Found | None = None
) -> Path:
    """As `export`, in a folder that this process has alone."""
    if encoders is None:
        encoders = _encoders(model)
    for modality, encoder in encoders.items():
        made = model.data.encoders.get(modality, ("", ""))[1]
        if encoder.fingerprint != made:
            raise ExportError(
                f"the {modality} encoder {encoder.name} is not the one that made the model's features "
                f"({encoder.fingerprint[:12]}, not {made[:12]}). Export with that one, or extract and train again."
            )
    index = make_index(model, before)
    module = ServingModule(model, encoders, index)
    facts = {
        "mmtfrs": __version__,
        "modalities": list(model.data.modalities),
        "learned": list(model.data.modalities),
        "histories": model.config.export.histories,
        "items": len(model.data.item_ids),
        "encoders": {name: encoder.name for name, encoder in encoders.items()},
        "features": {name: {"dim": dim} | module.made_by.get(name, {}) for name, dim in module.features.items()},
        "index": {"name": index.search.name, "effort": index.search.effort, "size": index.search.size},
        "attributes": list(model.data.attributes),
    }
    with versions.new_version(folder) as part, ThreadPoolExecutor(1) as beside:
        extra = part / "assets.extra"
        extra.mkdir()
        # The model's own files are written while signatures are traced.
        carried = beside.submit(save_run, model, extra / versions.MODEL, tables=_carried_tables(model))
        (extra / versions.FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        model.config.write(extra / "config.yaml")
        signatures = module.signatures()
        tf.saved_model.save(module, str(part), signatures=signatures, options=_options(index, signatures))
        write_warmup(signatures, part, [name for name in encoders if name not in module.features], folder.name)
        carried.result()
    versions.prune(folder, model.config.export.keep)
    return folder / str(versions.versions(folder)[-1])


def _carried_tables(model: TwoTower) -> ModelInputs:
    """What the export keeps of the model's tables for a refresh, which trains nothing: nothing of what anybody took, where
    `export.histories` says so."""
    tables, nothing = model.data, ItemLists.nothing(len(model.data.user_ids) + 1)
    return dataclasses.replace(tables, seen=nothing, taken=tables.taken if model.config.export.histories else nothing)


def found_index(version: Path) -> Found | None:
    """The index of an exported version; None if it does not say."""
    try:
        return Found(**versions.facts(version)["index"])
    except (KeyError, TypeError):
        return None


def make_index(model: TwoTower, before: Found | None = None) -> Index:
    """The index of a model's catalog, as the `export` section of its config wants it. Raises `ExportError` for embeddings that
    are not finite: nothing is found by them."""
    settings = model.config.export
    vectors = model.candidate_embeddings()
    if len(bad := bad_rows(vectors)):
        raise ExportError(
            f"{len(bad)} of {len(vectors)} items have embeddings that are not finite, the first is "
            f"{model.data.item_ids[bad[0]]}. Look at its features; else train anew with a lower learning rate."
        )
    score = model.score_matrix if model.voting else None
    search = make_search(
        vectors, settings.index, settings.recall, settings.k, sample_queries(model), settings.int8, settings.tpu, score, before
    )
    return Index(model.data.item_ids, search, settings.k, model.data.attributes, inner=score is None)


def sample_queries(model: TwoTower) -> np.ndarray:
    """`[n, W]`: queries such as will be asked, of known users with histories drawn by popularity."""
    rng = np.random.default_rng(model.config.seed)
    users = rng.integers(0, len(model.data.user_ids) + 1, _QUERIES)
    odds = model.data.item_counts[model.data.id_rows] * (np.arange(len(model.data.id_rows)) > 0)
    history = np.zeros((_QUERIES, 1), np.int64)
    if odds.sum() > 0:
        history = rng.choice(len(odds), (_QUERIES, _HISTORY), p=odds / odds.sum())
    return model.query_from_rows(tf.constant(users, tf.int32), tf.constant(history, tf.int32))[0].numpy()


def _options(index: Index, signatures: dict) -> tf.saved_model.SaveOptions:
    custom = ["Scann"] if index.search.name == "scann" else None
    # What converters for TPU serving find functions by; only the dense ones can run there.
    aliases = {name: function for name, function in signatures.items() if name.endswith("_dense")}
    return tf.saved_model.SaveOptions(namespace_whitelist=custom, function_aliases=aliases)


def _encoders(model: TwoTower) -> dict[str, Encoder]:
    found = dict(model.encoders)
    for modality in model.data.modalities:
        name, _ = model.data.encoders[modality]
        if not name:
            log.warning("the %s features were made elsewhere: requests carry %s_features, no raw %s", *[modality] * 3)
        elif modality not in found:
            found[modality] = encoder_room.load(modality, name, model.config.extraction.step(modality))
    return {modality: found[modality] for modality in model.data.modalities if modality in found}
