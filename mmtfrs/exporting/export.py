"""Writing a trained model as the next version of a SavedModel."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mmtfrs import encoders as encoder_room
from mmtfrs._keras import tf
from mmtfrs._version import __version__
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import ExportError
from mmtfrs.exporting.signatures import ServingModule
from mmtfrs.exporting.versions import new_version, versions
from mmtfrs.models.two_tower import TwoTower

log = logging.getLogger("mmtfrs")


def export(model: TwoTower, folder: str | Path, encoders: dict[str, Encoder] | None = None) -> Path:
    """Writes the next free version below `folder`: towers, index, ids and encoders, all in one folder that can be moved.

    Args:
        model: trained.
        folder: `saved_models/NAME`; the version appears complete or not at all.
        encoders: of the modalities whose raw media requests may carry; None takes those of the model's features, loaded
            anew from the config if need be.

    Returns:
        The version's folder.

    Raises:
        ExportError: an encoder is not the one that made the model's features, or the folder cannot be written.
        EncoderError: an encoder cannot be loaded.
    """
    if encoders is None:
        encoders = _encoders(model)
    for modality, encoder in encoders.items():
        made = model.data.encoders.get(modality, ("", ""))[1]
        if encoder.fingerprint != made:
            raise ExportError(
                f"the {modality} encoder {encoder.name} is not the one that made the model's features "
                f"({encoder.fingerprint[:12]}, not {made[:12]}). Export with that one, or extract and train again."
            )
    module = ServingModule(model, encoders, model.config.export.k)
    facts = {"mmtfrs": __version__, "modalities": list(model.data.modalities), "items": len(model.data.item_ids),
             "encoders": {name: encoder.name for name, encoder in encoders.items()}}  # fmt: skip
    with new_version(folder) as part:
        tf.saved_model.save(module, str(part), signatures=module.signatures())
        (part / "assets.extra").mkdir(exist_ok=True)
        (part / "assets.extra" / "mmtfrs.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        model.config.write(part / "assets.extra" / "config.yaml")
    return Path(folder) / str(versions(folder)[-1])


def _encoders(model: TwoTower) -> dict[str, Encoder]:
    found = dict(model.encoders)
    for modality in model.data.modalities:
        name, _ = model.data.encoders[modality]
        if not name:
            log.warning("the %s features were made elsewhere: requests cannot carry raw %s", modality, modality)
        elif modality not in found:
            found[modality] = encoder_room.load(modality, name)
    return {modality: found[modality] for modality in model.data.modalities if modality in found}
