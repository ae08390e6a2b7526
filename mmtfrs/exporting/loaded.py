"""Asking an exported SavedModel in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.errors import DataError, ExportError
from mmtfrs.exporting.own_features import OwnFeatures
from mmtfrs.exporting.request import Query, results, title_request, title_results
from mmtfrs.exporting.versions import facts, reading


class LoadedModel:
    """The newest version of an exported model.

    Args:
        folder: `saved_models/NAME`, or a version folder.
        trust_code: whether functions of Python that the export names may be imported and run for what queries show.

    Raises:
        ExportError: there is no version, it is damaged, or it cannot be loaded.
    """

    def __init__(self, folder: str | Path, trust_code: bool = False) -> None:
        with reading(folder) as self.path:
            self.facts = facts(self.path)
            self.own = OwnFeatures.of_facts(self.facts, trust_code)
            try:
                self._module = tf.saved_model.load(str(self.path))
            except Exception as error:
                raise ExportError(f"{self.path}: the SavedModel cannot be loaded ({str(error)[:300]}).") from error

    def recommend(self, query: Query, k: int | None = None) -> list[tuple[str, float]]:
        """`(item id, score)`, best first. Raises `mmtfrs.Error` where something is wrong with what is asked."""
        return results(self.ask(*self.own.requests([query])[0]), 0, k)

    def ask(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one signature on arrays. Raises `DataError` with the graph's own message for bad inputs."""
        try:
            tensors = {name: tf.constant(value) for name, value in inputs.items()}
            outputs = self._module.signatures[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise DataError(f"the request was refused: {short_message(error)}") from None
        return {name: value.numpy() for name, value in outputs.items()}

    def titles(self, items: Sequence[str]) -> list[str]:
        """The title of each item; "" where it has none, is unknown, or the export was made by a release without titles."""
        if not items or "titles" not in self._module.signatures:
            return [""] * len(items)
        return title_results(self.ask(*title_request(items)))


def short_message(error: Exception) -> str:
    """TensorFlow's message without the names of graph nodes."""
    text = getattr(error, "message", None) or str(error)
    text = text.split("\n\t [[")[0].split(" [Op:")[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    asserted = [line for line in lines if "assertion failed" in line]
    return (asserted or lines or ["unknown error"])[-1].removeprefix("assertion failed: ")[:500]
