"""The search space: what is searched, how a config changes it, and what is refused."""

from __future__ import annotations

import pytest

from mmtfrs import Config
from mmtfrs.errors import TuningError
from tuning.oracles import make_oracle, values_of
from tuning.search_objective import Objective
from tuning.space import DEFAULT, Choice, Range, Space

MEDIA = ("image", "text", "audio")


def _space(space, defaults=False, **sections):
    return Space(Config(tuning={"space": space, "defaults": defaults}, **sections), MEDIA)


def test_the_default_space_has_the_default_in_it_and_all_of_it_is_valid():
    space = Space(Config(), MEDIA)
    assert set(space.parts) == {*DEFAULT, "model.modalities"}
    assert space.config(space.default()).differences(Config()) == ["model.modalities: ['image', 'text', 'audio'] -> None"]
    assert space.parts["model.modalities"].values == (MEDIA, ("image", "text"), ("image", "audio"), ("text", "audio"))
    for name, part in space:
        for end in part.ends():
            space.config({name: end})


def test_a_catalog_without_media_has_no_choice_of_them():
    assert "model.modalities" not in Space(Config()).parts


def test_the_usual_space_is_cut_to_what_the_data_allow():
    def values(name, config=None, modalities=MEDIA, **sizes):
        part = Space(config or Config(), modalities, **sizes).parts.get(name)
        return part and part.values

    every = values("model.fusion")
    assert {name for name in every if name.startswith("late_")} == {"late_sum", "late_stacking"}
    assert values("model.fusion", modalities=("text",)) == tuple(name for name in every if not name.startswith("late_"))
    late = Config(model={"fusion": "late_sum"})
    assert "late_sum" in values("model.fusion", late, ("text",))  # what one starts from stays
    assert {"model.fusion", "model.hidden", "model.feature_dim"}.isdisjoint(Space(Config(), ()).parts)
    assert values("loss.negatives", items=60) == ("auto", "in_batch")
    assert values("loss.negatives", items=1025) == values("loss.negatives") == ("auto", "in_batch", "mixed")
    # Batches of 600 of 600 events, whether 1024 or 2048 are asked for.
    assert values("training.batch_size", events=600) == (512, 1024) and values("training.batch_size", events=500) == (512, 1024)
    assert values("training.batch_size", events=5000) == (512, 1024, 2048)
    for model in ({"use_item_id": False}, {"history_length": 0}):
        assert "transformer" not in values("model.history_encoder", Config(model=model))
    asked = Config(tuning={"space": {"model.fusion": ["late_sum", "concat"]}})
    assert values("model.fusion", asked, ("text",)) == ("late_sum", "concat")  # what is asked for is tried


def test_a_config_narrows_widens_and_fixes():
    space = _space(
        {
            "model.fusion": ["concat", "gated"],
            "model.graph.neighbors": [0, 10],
            "loss.name": "bpr",
            "training.epochs": {"min": 2, "max": 9},
        },
        defaults=True,
    )
    assert space.parts["model.fusion"] == Choice(("concat", "gated"))
    assert space.parts["training.epochs"] == Range(2, 9, "linear", True)
    assert "loss.name" not in space.parts and space.parts["loss.temperature"] == DEFAULT["loss.temperature"]
    made = space.config({"model.graph.neighbors": 10})
    assert made.loss.name == "bpr" and made.model.graph.neighbors == 10 and made.tuning.space == {}
    assert set(_space({"model.dropout": {"min": 0.0, "max": 0.3}}).parts) == {"model.dropout"}
    assert _space({"model.dropout": [0.1, 0.2], "model.embedding_dim": [8]}).fixed == {"model.embedding_dim": 8}


def test_the_first_values_are_the_settings_one_starts_from():
    space = _space(
        {"model.dropout": {"min": 0.3, "max": 0.5}, "model.hidden": [[64], [128]], "model.fusion": ["gated", "graph"]}
    )
    assert space.default() == {"model.dropout": 0.3, "model.hidden": (128,), "model.fusion": "gated"}


@pytest.mark.parametrize(
    "space, message",
    [
        ({"model.fusoin": ["concat"]}, "no setting `model.fusoin` to search. Did you mean `model.fusion`?"),
        ({"fusion": ["concat"]}, "no setting `fusion`"),
        ({"model": ["concat"]}, "`tuning.space.model` is a section"),
        ({"model.fusion": []}, "`tuning.space.model.fusion` is an empty choice"),
        ({"model.fusion": ["concat", "gatd"]}, "cannot be 'gatd'.*Did you mean `gated`"),
        ({"model.dropout": {"min": 0.5, "max": 0.1}}, "must rise from min to max"),
        ({"model.dropout": {"min": 0.0, "max": 1.5}}, "cannot be 1.5"),
        ({"model.dropout": {"min": 0.0, "max": 0.5, "scale": "log"}}, "log with a min above 0"),
        ({"model.dropout": {"low": 0.0, "high": 0.5}}, "must be {min: A, max: B}"),
        ({"model.dropout": {"min": "a", "max": "b"}}, "must rise"),
        ({"model.embedding_dim": {"min": 8.5, "max": 16}}, "takes whole numbers"),
        ({"model.fusion": "concat"}, "nothing to search"),
    ],
)
def test_what_is_refused(space, message):
    with pytest.raises(TuningError, match=message):
        _space(space)


@pytest.mark.parametrize(
    "name, direction", [("recall@20", "max"), ("ndcg@5", "max"), ("loss", "min"), ("seconds", "min"), ("parameters", "min")]
)
def test_directions_are_known_from_the_name(name, direction):
    assert Objective.named(name, Config()).direction == direction


@pytest.mark.parametrize("name", ["recal@20", "recall", "recall@0", "accuracy", "val_recall@20"])
def test_objectives_that_no_metric_has(name):
    with pytest.raises(TuningError, match=f"no trial measures the objective `{name}`"):
        Objective.named(name, Config())


def test_the_rating_objectives_need_ratings():
    with pytest.raises(TuningError, match=r"set `loss.rating`"):
        Objective.named("rating_rmse", Config())
    assert Objective.named("rating_rmse", Config(loss={"rating": 0.5})).direction == "min"


def test_every_value_comes_back_from_kerastuner():
    """Lists, none and mixed types too, which KerasTuner itself does not take."""
    space = _space(
        {
            "model.hidden": [[], [64], [64, 32]],
            "model.feature_dim": [None, 32],
            "model.use_item_id": [True, False],
            "model.modalities": [None, ["text"]],
            "loss.temperature": {"min": 0.1, "max": 1.0, "scale": "log"},
        }
    )
    oracle = make_oracle("random", space, Objective("recall@20", "max"), 40, 9, 1)
    seen = {name: set() for name in space.parts}
    for _ in range(40):
        found = values_of(space, oracle._random_values())
        space.config(found)
        for name, value in found.items():
            seen[name].add(value)
        oracle._tried_so_far.add(oracle._compute_values_hash(oracle.default))
    assert seen["model.hidden"] == {(), (64,), (64, 32)} and seen["model.feature_dim"] == {None, 32}
    assert seen["model.use_item_id"] == {True, False} and seen["model.modalities"] == {None, ("text",)}
    assert len(seen["loss.temperature"]) > 30 and all(0.1 <= value <= 1.0 for value in seen["loss.temperature"])
