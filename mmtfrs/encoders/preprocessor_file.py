"""`preprocessor_config.json`: how an image becomes what a network takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.image import Fit
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.errors import EncoderError


class Preprocessor(NamedTuple):
    """Attributes:

    size: side of the images.
    fit: how they become squares of it.
    scale, shift: `[3] float32`, of the levels 0..255.
    """

    size: int
    fit: Fit
    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """`[B, size, size, 3] float32` in 0..255 -> as the network wants them."""
        return images * self.scale - self.shift


def read_preprocessor(folder: ModelFolder) -> Preprocessor:
    """Raises `EncoderError` where the file is missing, or says what is not known here."""
    told, where = folder.json("preprocessor_config.json"), folder.path / "preprocessor_config.json"
    resample, cropped = told.get("resample", 2), bool(told.get("do_center_crop"))
    if not told.get("do_resize", True) or resample not in (2, 3):
        raise EncoderError(f"{where}: images must be resized, bilinear (2) or bicubic (3).")
    size, crop = (told.get(name) or {} for name in ("size", "crop_size"))
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = crop if cropped else size
    shortest = int(size.get("shortest_edge") or 0) if cropped else 0
    side = int(square.get("height") or 0)
    if side < 1 or square.get("width") != side or (cropped and shortest < side):
        raise EncoderError(f"{where}: an image must become a square, or its shorter side no less than what is cut out of it.")
    scale = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    mean, deviation = np.zeros(3), np.ones(3)
    if told.get("do_normalize", True):
        mean, deviation = (np.array(told[each], np.float64).reshape(3) for each in ("image_mean", "image_std"))
    scales, shifts = ((values / deviation).astype(np.float32) for values in (scale, mean))
    return Preprocessor(side, Fit(shortest, resample == 3), scales, shifts)
