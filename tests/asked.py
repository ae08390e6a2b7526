"""An export asked as a shop asks it: by what a request may hold, through a signature."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.exporting.loaded import LoadedModel


def texts(values) -> np.ndarray:
    """`[n]` strings or bytes as an input."""
    return np.array([value if isinstance(value, bytes) else value.encode() for value in values], object)


def ask_default(model: LoadedModel, rows: int, batch: int = 500, **inputs: np.ndarray) -> np.ndarray:
    """`[rows, k]` item ids of `serving_default`, whose other inputs are empty."""
    specs = model._module.signatures["serving_default"].structured_input_signature[1]
    whole = {
        name: texts([""] * rows).reshape([rows, 1][: spec.shape.rank])
        if spec.dtype == tf.string
        else np.zeros([rows, spec.shape[1]], np.float32)
        for name, spec in specs.items()
    }
    whole |= inputs
    parts = [
        model.ask("serving_default", {name: value[start : start + batch] for name, value in whole.items()})["item_id"]
        for start in range(0, rows, batch)
    ]
    return np.concatenate(parts).astype(str)


def recall_by_user_alone(model: LoadedModel, events, k: int = 20) -> float:
    """Recall of a test part over its known users, each asked for by the id and nothing else.

    Fails where a list has an item that its user has already.
    """
    taken: dict[str, set] = {}
    wanted: dict[str, set] = {}
    for part, found in ((events.known, taken), (events, wanted)):
        for user, item in zip(part.user_ids, part.item_ids, strict=True):
            found.setdefault(user, set()).add(item)
    asked = [user for user in wanted if user in taken and wanted[user] - taken[user]]
    lists = ask_default(model, len(asked), user_id=texts(asked))
    recalls = []
    for user, items in zip(asked, lists, strict=True):
        assert not taken[user] & set(items), user
        new = wanted[user] - taken[user]
        recalls.append(len(new & set(items[:k])) / len(new))
    return float(np.mean(recalls))
