"""Warm-up records: requests of every signature, which TF Serving runs before a version answers anybody."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from mmtfrs._keras import tf
from mmtfrs.exporting.request import predict_request
from mmtfrs.media.decode import SAMPLE_RATE
from mmtfrs.media.encode import as_png, as_wav

_FILE = "tf_serving_warmup_requests"  # the name that TF Serving looks for in assets.extra


def write_warmup(signatures: dict, folder: Path, modalities: Collection[str], name: str) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`: per signature one of all outputs, and of lists one of `item_id` alone.

    TensorFlow makes ready what it runs anew for each set of outputs.

    Args:
        signatures: `{name: concrete function}`, whose inputs are named.
        folder: the version's folder.
        modalities: those that requests may carry; their encoders are run once.
        name: of the model.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # loads gRPC: only where it is needed

    with tf.io.TFRecordWriter(str(folder / "assets.extra" / _FILE)) as writer:
        for signature, function in signatures.items():
            specs = function.structured_input_signature[1]
            inputs = {key: _example(key, spec, modalities) for key, spec in specs.items()}
            for outputs in ([], ["item_id"]) if "item_id" in function.structured_outputs else ([],):
                record = prediction_log_pb2.PredictionLog()
                record.predict_log.request.CopyFrom(predict_request(name, signature, inputs))
                record.predict_log.request.output_filter.extend(outputs)
                writer.write(record.SerializeToString())


def _example(key: str, spec: tf.TensorSpec, modalities: Collection[str]) -> np.ndarray:
    if spec.dtype == tf.string:
        value = _medium(key) if key in modalities else b""
        return np.array([value], object).reshape([1] * spec.shape.rank)  # np.full would cut off audio's trailing zeros
    return np.zeros([1 if size is None else size for size in spec.shape], spec.dtype.as_numpy_dtype)


def _medium(modality: str) -> bytes:
    if modality == "image":
        return as_png(Image.new("RGB", (32, 32)))
    return as_wav(np.zeros(SAMPLE_RATE, np.float32), "PCM_16") if modality == "audio" else b"warm up"
