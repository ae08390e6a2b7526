"""Features of one modality -> their principal components: what the towers are trained on.

Pretrained features are wide (512 to 2816 numbers), far from centered and strongly correlated. A fixed linear map to their
leading components keeps what tells items apart, makes the device tables several times smaller and a training step
several times cheaper; being linear, it is one more matrix product in front of the towers at serving time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mmtfrs.features.features import FeatureRows

_SAMPLE = 20_000  # media from which the components are estimated


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Attributes:

    mean: `[dim] float32`, subtracted first.
    projection: `[dim, r] float32`; scaled so that the reduced features have mean square 1 over all components.
    """

    mean: np.ndarray
    projection: np.ndarray

    @classmethod
    def fit(cls, features: FeatureRows, dim: int | None, seed: int) -> Adapter:
        """Estimates mean and components on a sample of the distinct media.

        Args:
            features: at least one present.
            dim: components to keep, at most; None keeps the features as they are, centered and scaled.
            seed: of the sample.
        """
        return cls.fit_shared({"": features}, dim, seed)[""]

    @classmethod
    def fit_shared(cls, features: Mapping[str, FeatureRows], dim: int | None, seed: int) -> dict[str, Adapter]:
        """As `fit`, of modalities whose features lie in one space: one projection, of which each is as much a reason as the
        others, and a mean each, for in such spaces texts lie apart from images.

        Reference: Liang et al., Mind the Gap, NeurIPS 2022.
        """
        means, parts = {}, []
        for name, rows in features.items():
            used, _ = rows.distinct()
            if len(used) > _SAMPLE:
                used = used[np.sort(np.random.default_rng(seed).choice(len(used), _SAMPLE, replace=False))]
            sample = np.asarray(rows.matrix[used], np.float64)
            means[name] = sample.mean(axis=0)
            parts.append(sample - means[name])
        together = np.concatenate(parts)
        if dim is None or len(together) < 2:
            projection = np.eye(together.shape[1])
        else:
            sizes = [np.linalg.norm(part) or 1.0 if len(parts) > 1 else 1.0 for part in parts]
            projection = components(np.concatenate([part / size for part, size in zip(parts, sizes, strict=True)]))[:, :dim]
        scale = np.sqrt(np.mean((together @ projection) ** 2))
        projection = (projection / (scale if scale > 1e-12 else 1.0)).astype(np.float32)
        return {name: cls(mean.astype(np.float32), projection) for name, mean in means.items()}

    @property
    def dim(self) -> int:
        """Size of a raw feature."""
        return self.projection.shape[0]

    @property
    def reduced_dim(self) -> int:
        return self.projection.shape[1]

    def reduce(self, features: np.ndarray) -> np.ndarray:
        """`[n, dim] -> [n, r] float32`."""
        return (np.asarray(features, np.float32) - self.mean) @ self.projection


def components(centered: np.ndarray) -> np.ndarray:
    """The directions in which rows differ: `[n, dim] -> [dim, min(n, dim)]`, the strongest first, signs fixed so that the same
    data give the same model."""
    if centered.shape[0] > centered.shape[1]:
        vectors = np.linalg.eigh(centered.T @ centered)[1][:, ::-1]
    else:
        vectors = np.linalg.svd(centered, full_matrices=False)[2].T
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)
