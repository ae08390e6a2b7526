"""A TwoTower among Keras models: copies, clones, single batches, policies, layers from their configuration."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from conftest import FAST
from models.test_two_tower import planted

from mmtfrs import Config, TwoTower
from mmtfrs._keras import keras, tf
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.pooling import Bags


def _model(**model):
    catalog, features, events = planted()
    return TwoTower(Config(**FAST).replace(model=model), catalog, features, events), events


@pytest.fixture(scope="module")
def trained():
    model, events = _model()
    model.compile(optimizer="adam")
    model.fit(model.dataset(events), verbose=0)
    return model


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_answer_the_same(trained, copied):
    other = copied(trained)
    np.testing.assert_array_equal(other.candidate_embeddings(), trained.candidate_embeddings())
    other.blend.assign(other.blend * 2.0)
    assert not np.array_equal(other.blend, trained.blend) and other.config == trained.config


def test_a_clone_is_untrained(trained):
    clone = keras.models.clone_model(trained)
    assert [weight.shape for weight in clone.get_weights()] == [weight.shape for weight in trained.get_weights()]
    np.testing.assert_array_equal(clone.candidate_embeddings(), _model()[0].candidate_embeddings())
    assert not np.array_equal(clone.candidate_embeddings(), trained.candidate_embeddings())


def test_single_batches_and_what_a_batch_cannot_have():
    model, events = _model()
    model.compile(optimizer="adam")
    batch = next(iter(model.dataset(events, shuffle=False, batch_size=64)))
    losses = [model.train_on_batch(batch) for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) and np.isfinite(model.test_on_batch(batch)).all()
    for weighed in (
        lambda: model.fit(model.dataset(events), class_weight={0: 1.0}, verbose=0),
        lambda: model.train_on_batch(batch, class_weight={0: 1.0}),
    ):
        with pytest.raises(DataError, match="no classes to weigh"):
            weighed()
    with pytest.raises(DataError, match="targets and weights in it"):
        model.train_on_batch(batch, np.ones(64))


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_a_policy_of_the_process_is_not_the_models(policy):
    """Whatever else a program does with Keras, `training.mixed_precision` decides."""
    catalog, features, events = planted()
    config = Config(**FAST).replace(model={"missing": "generator"})
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = TwoTower(config, catalog, features, events)
        start = model.candidate_embeddings()
        model.compile(optimizer="adam")
        batch = next(iter(model.dataset(events, batch_size=64)))
        assert np.isfinite(model.train_on_batch(batch))
    finally:
        keras.mixed_precision.set_global_policy(before)
    plain = TwoTower(config, catalog, features, events)
    assert [weight.dtype for weight in model.weights] == [weight.dtype for weight in plain.weights]
    np.testing.assert_array_equal(start, plain.candidate_embeddings())


def test_compiled_again_terms_of_the_loss_are_not_those_of_before():
    catalog, features, events = planted()
    model = TwoTower(Config(**FAST).replace(loss={"alignment": 0.1}), catalog, features, events)
    batch = next(iter(model.dataset(events, batch_size=64)))
    for _ in range(2):
        model.compile(optimizer=keras.optimizers.SGD(0.0))
        assert np.isfinite(model.train_on_batch(batch)) and len(model.losses) == 1


def test_layers_are_made_again_from_their_configuration():
    model, events = _model(missing="generator")
    batch = next(iter(model.dataset(events, batch_size=16)))
    media, presence = model.device.item_media(batch["item"])
    past, there = model.device.pooled(Bags.of(batch["history"]))
    own, own_there = model.device.user_media(batch["user"])
    blocks = model.candidate_tower(media, presence, batch["item"])[0]

    def embed(rows):
        return model.candidate_parts(rows).blocks

    queries = model.query_parts(batch["user"], batch["history"]).blocks
    calls = {
        model.candidate_tower: (media, presence, batch["item"]),
        model.query_tower: (own, own_there, past, there, batch["user"], Bags.of(batch["history"])),
        model.likeness: (media, presence),
        model.id_guess: (blocks[:, : model.media_blocks], media),
        model.imputer: (media, presence),
        model.objective: (queries, batch["user"], batch["item"], embed),
        model.objective.negatives: (batch["item"], embed),
    }
    for layer, arguments in calls.items():
        written = json.loads(json.dumps(layer.get_config()))
        again = type(layer).from_config(written)
        again(*arguments)
        again.set_weights(layer.get_weights())
        assert again.name == layer.name and json.loads(json.dumps(again.get_config())) == written
        for one, other in zip(tf.nest.flatten(again(*arguments)), tf.nest.flatten(layer(*arguments)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6, err_msg=layer.name)
