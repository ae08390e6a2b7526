"""What a query shows of modalities that no graph encodes: features, ready ones or made here as the model's were."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtfrs import encoders
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.errors import DataError, MediaError, nearest
from mmtfrs.utils.finite import LARGEST, bad_rows

if TYPE_CHECKING:
    from mmtfrs.encoders.base import Encoder
    from mmtfrs.exporting.request import Query

SUFFIX = "_features"  # of the inputs
FACTS = ("encoder", "preprocess", "fingerprint")  # what an export says of the code that made a modality's features


@dataclasses.dataclass
class OwnFeatures:
    """Makes requests to one export.

    Args:
        dims: `{modality: size}` of those whose features a request carries.
        made_by: `{modality: {"encoder": its name, "preprocess": import path or "", "fingerprint": ...}}` of those that Python
            code made.
        trust_code: whether the code that the export names may be imported and run here.
    """

    dims: Mapping[str, int]
    made_by: Mapping[str, Mapping[str, str]]
    trust_code: bool = False
    _loaded: dict[str, Encoder] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], trust_code: bool = False) -> OwnFeatures:
        """As the facts of an exported version say."""
        said = facts.get("features", {})
        made_by = {name: each for name, each in said.items() if "encoder" in each}
        return cls({name: each["dim"] for name, each in said.items()}, made_by, trust_code)

    def requests(self, queries: Sequence[Query]) -> list[tuple[str, dict[str, np.ndarray]]]:
        """`(signature, inputs)` of each query; what several of them show goes through its code together.

        Raises:
            DataError: a medium cannot be decoded, features do not fit, or code is not trusted or not that of the model.
            EncoderError, ConfigError: the code fails, or is not here.
        """
        shown = [self._ready(query) for query in queries]
        for modality in self.dims:
            rows = [row for row, query in enumerate(queries) if modality in query.media and modality not in shown[row]]
            if rows:
                found = self._encoded(modality, [getattr(queries[row], modality) for row in rows])
                for row, features in zip(rows, found, strict=True):
                    shown[row][modality] = features
        absent = {modality: np.zeros(dim, np.float32) for modality, dim in self.dims.items()}
        return [query.request(absent | each) for query, each in zip(queries, shown, strict=True)]

    def _ready(self, query: Query) -> dict[str, np.ndarray]:
        """The features that a query has already."""
        found = {}
        for name, given in query.features.items():
            if name not in self.dims:
                takes = f"takes those of {', '.join(self.dims)}" if self.dims else "takes none"
                raise DataError(f"features of `{name}`: this model {takes}.{nearest(name, self.dims)}")
            try:
                values = np.asarray(given)
            except ValueError:  # rows of several lengths
                values = np.asarray(given, object)
            if values.shape != (self.dims[name],) or values.dtype.kind not in "fiu" or len(bad_rows(values[None])):
                raise DataError(
                    f"features of `{name}`: must be [{self.dims[name]}] finite numbers, {LARGEST:g} at most. "
                    f"Received: {values.dtype} {list(values.shape)}."
                )
            found[name] = values.astype(np.float32)
        return found

    def _encoded(self, modality: str, media: list) -> np.ndarray:
        encoder, bounds = self._encoder(modality), ExtractionConfig()
        decoded = []
        for medium in media:
            try:
                decoded.append(encoder.decode(encoder.read(medium, bounds), bounds))
            except MediaError as error:
                raise DataError(f"{medium if modality != 'text' else modality}: {error}.") from None
        parts = [decoded[first : first + bounds.batch_size] for first in range(0, len(decoded), bounds.batch_size)]
        features = np.concatenate([encoder.encode_batch(part) for part in parts])
        if len(bad := bad_rows(features)):
            shown = media[bad[0]] if modality != "text" else modality
            raise DataError(f"{shown}: {encoder.name} makes features of it that are not finite.")
        return features

    def _encoder(self, modality: str) -> Encoder:
        if modality in self._loaded:
            return self._loaded[modality]
        ready = f"give ready features: --features {modality}=FILE.npy (in Python: features={{{modality!r}: ...}})"
        made = self.made_by.get(modality)
        if made is None:
            raise DataError(f"{modality}: the features of this model were made elsewhere, not by an encoder; {ready}.")
        code = " and ".join(filter(None, (made["preprocess"], made["encoder"])))
        if not self.trust_code:
            raise DataError(
                f"{modality}: this model's {modality} is encoded by {code}, code that would be imported and run "
                f"here. If you trust the export, say --trust-code (in Python: trust_code=True); or {ready}."
            )
        encoder = encoders.load(modality, made["encoder"], made["preprocess"])
        if encoder.fingerprint != made["fingerprint"]:
            marks = f"{encoder.fingerprint[:12]}, not {made['fingerprint'][:12]}"
            raise DataError(
                f"{modality}: {code} here is not the one that made the model's features ({marks}): its source or "
                "its `fingerprint` is another. Take that of the export."
            )
        encoder.dim = self.dims[modality]  # it need not be called for it
        self._loaded[modality] = encoder
        return encoder
