"""Model inputs on disk: one `.npy` per array, so that loading can map them into memory; titles, of any length, as lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtfrs.model_inputs.feature_table import MediaRows, in_order
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.pca import Adapter
from mmtfrs.utils.files import make_folder, replacing, save_array, save_arrays

_ADAPTER = ".adapter.npz"
_TITLES = "titles.txt"
_FADED, _TAKEN, _SEEN = "faded.npz", "taken.npz", "seen.npz"
_COUNTS = ("item_counts", "user_counts", "id_rows")


def save_inputs(inputs: ModelInputs, folder: Path) -> None:
    """Writes model inputs into a folder, which may exist. Raises `WriteError`."""
    make_folder(folder)
    for name in ("item_ids", "user_ids"):
        save_array(folder / f"{name}.npy", getattr(inputs, name).astype(str))
    for name in _COUNTS:
        save_array(folder / f"{name}.npy", getattr(inputs, name))
    save_arrays(folder / _FADED, {"counts": inputs.faded, "fade": inputs.fade}.items())
    save_arrays(folder / _TAKEN, {"items": inputs.taken.items, "starts": inputs.taken.starts}.items())
    seen = {"items": inputs.seen.items, "starts": inputs.seen.starts, "ratings": inputs.ratings, "ordered": inputs.ordered}
    save_arrays(folder / _SEEN, seen.items())
    save_arrays(folder / "attributes.npz", ((name, values.astype(str)) for name, values in inputs.attributes.items()))
    with replacing(folder / _TITLES) as file:
        file.write("".join(f"{title}\n" for title in inputs.titles).encode())
    for modality, adapter in inputs.adapters.items():
        parts = {"mean": adapter.mean, "projection": adapter.projection, "encoder": np.array(inputs.encoders[modality])}
        save_arrays(folder / f"{modality}{_ADAPTER}", parts.items())
        for name, media in (("items", inputs.items), ("users", inputs.users)):
            if modality in media:
                save_array(folder / f"{modality}.{name}.matrix.npy", media[modality].matrix)
                save_array(folder / f"{modality}.{name}.rows.npy", media[modality].rows)


def load_inputs(folder: Path) -> ModelInputs:
    """What `save_inputs` wrote. Raises `ValueError` for titles of another catalog."""
    ids = {name: np.load(folder / f"{name}.npy").astype(object) for name in ("item_ids", "user_ids")}
    counts = {name: np.load(folder / f"{name}.npy") for name in _COUNTS}
    titles = np.array((folder / _TITLES).read_bytes().decode().split("\n")[:-1], object)
    if len(titles) != len(ids["item_ids"]):
        raise ValueError(f"{_TITLES} has {len(titles)} lines, for {len(ids['item_ids'])} items")
    with np.load(folder / _FADED) as saved:
        faded, fade = saved["counts"], float(saved["fade"])
    with np.load(folder / _TAKEN) as saved:
        taken = ItemLists(saved["items"], saved["starts"])
    with np.load(folder / _SEEN) as saved:
        seen, (mean, deviation) = ItemLists(saved["items"], saved["starts"]), saved["ratings"].tolist()
        ordered = bool(saved["ordered"])
    with np.load(folder / "attributes.npz") as saved:
        attributes = {name: saved[name].astype(object) for name in saved.files}
    adapters: dict[str, Adapter] = {}
    encoders: dict[str, tuple[str, str]] = {}
    media: dict[str, dict[str, MediaRows]] = {"items": {}, "users": {}}
    for modality in in_order(path.name.removesuffix(_ADAPTER) for path in folder.glob(f"*{_ADAPTER}")):
        with np.load(folder / f"{modality}{_ADAPTER}") as saved:
            adapters[modality] = Adapter(saved["mean"], saved["projection"])
            name, fingerprint = saved["encoder"].tolist()
            encoders[modality] = (name, fingerprint)
        for name, tables in media.items():
            if (folder / f"{modality}.{name}.matrix.npy").exists():
                tables[modality] = MediaRows(
                    np.load(folder / f"{modality}.{name}.matrix.npy", mmap_mode="r"),
                    np.load(folder / f"{modality}.{name}.rows.npy"),
                )
    return ModelInputs(
        item_ids=ids["item_ids"],
        user_ids=ids["user_ids"],
        item_counts=counts["item_counts"],
        user_counts=counts["user_counts"],
        adapters=adapters,
        items=media["items"],
        users=media["users"],
        encoders=encoders,
        attributes=attributes,
        id_rows=counts["id_rows"],
        titles=titles,
        faded=faded,
        fade=fade,
        taken=taken,
        seen=seen,
        ratings=(mean, deviation),
        ordered=ordered,
    )
