"""Warm-up records: one per signature, fit to be run, with media for the encoders."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.servable import Servable


@pytest.mark.slow
def test_every_signature_is_warmed_up(exported):
    """Each of them runs, and servers of the tests run them too: no version whose warm-up fails is served."""
    path = exported / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(path))]
    servable = Servable(exported / "1")
    assert servable.warm_up() == len(servable.signature_defs)
    signatures = [record.predict_log.request.model_spec.signature_name for record in records]
    assert sorted(signatures) == sorted(servable.signature_defs)
    assert len(records) <= 1000  # TF Serving takes no more
    for record in records:
        request = record.predict_log.request
        assert set(request.inputs) == set(servable.signature_defs[request.model_spec.signature_name].inputs)
        if "image" in request.inputs and "user_id" in request.inputs:
            assert tf.make_ndarray(request.inputs["image"])[0].startswith(b"\x89PNG")
            assert tf.make_ndarray(request.inputs["audio"])[0].startswith(b"RIFF")
