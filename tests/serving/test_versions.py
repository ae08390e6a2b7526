"""Which versions answer, as TF Serving's policies have it: the newest, several, all, labels, and what becomes of them when folders
come and go."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mmtfrs._keras import tf
from serving.client import Client, ServingError
from serving.grpc_server import Server
from serving.model_list import read_models
from serving.servable import Servable
from serving.served_model import ServedModel


class Doubler(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def double(self, number):
        return {"doubled": number * 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    module, path = Doubler(), tmp_path_factory.mktemp("doubler") / "saved"
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.double})
    return path


@pytest.fixture
def put(saved, tmp_path):
    """`put(3)` makes version 3 in one step; `put(3, lacks="saved_model.pb")` makes one that cannot be loaded."""

    def put(version, lacks=None):
        shutil.copytree(saved, tmp_path / "part")
        if lacks is not None:
            (tmp_path / "part" / lacks).unlink()
        folder = tmp_path / "m"
        folder.mkdir(exist_ok=True)
        (tmp_path / "part").rename(folder / str(version))
        return folder

    return put


def _answering(model, upto=9):
    return [version for version in range(upto) if model.get(version) is not None]


def _states(model):
    names = type(next(iter(model.statuses.values()))).State.Name
    return {version: names(status.state) for version, status in model.statuses.items()}


@pytest.mark.parametrize(
    ("policy", "answering"),
    [
        ("", [4]),
        ("latest { num_versions: 1 }", [4]),
        ("latest { num_versions: 2 }", [3, 4]),
        ("latest { num_versions: 9 }", [1, 3, 4]),
        ("specific { versions: 1 versions: 3 versions: 7 }", [1, 3]),
        ("all {}", [1, 3, 4]),
    ],
)
def test_policies(put, tmp_path, policy, answering):
    for version in (1, 3, 4):
        put(version)
    folder = put(2, lacks="saved_model.pb")
    (tmp_path / "models.config").write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{folder}" model_version_policy {{ {policy} }} }} }}'
    )
    (model,) = read_models(tmp_path / "models.config")
    model.refresh()
    assert _answering(model) == answering and model.current.version == answering[-1]


def test_a_newest_version_that_is_deleted_gives_way_to_the_one_before(put):
    folder = put(1)
    put(2)
    model = ServedModel("m", folder)
    assert model.refresh() and _answering(model) == [2]
    shutil.rmtree(folder / "2")
    assert model.refresh() and _answering(model) == [1] and _states(model) == {1: "AVAILABLE", 2: "END"}
    put(2)
    assert model.refresh() and _answering(model) == [2] and _states(model) == {1: "END", 2: "AVAILABLE"}
    shutil.rmtree(folder / "1")
    shutil.rmtree(folder / "2")
    assert model.refresh() and _answering(model) == []  # an empty folder says that nothing is to serve
    put(1)
    assert model.refresh() and _answering(model) == [1]
    folder.rename(folder.with_name("away"))
    assert not model.refresh() and _answering(model) == [1]  # one that is not there, as of a lost volume, says nothing


@pytest.mark.parametrize("lacks", ["saved_model.pb", "variables/variables.index"])
def test_a_broken_newest_version_neither_keeps_a_server_from_starting_nor_takes_its_place(put, lacks):
    folder = put(1)
    put(2, lacks)
    model = ServedModel("m", folder, latest=1)
    assert model.refresh() and _answering(model) == [1] and _states(model) == {1: "AVAILABLE", 2: "END"}
    shutil.rmtree(folder / "1")
    assert not model.refresh() and _answering(model) == [1]  # nothing else could answer
    put(3)
    assert model.refresh() and _answering(model) == [3]


def test_the_old_version_answers_until_the_new_one_is_warm(put, monkeypatch):
    model, seen = ServedModel("m", put(1)), []
    warm_up = Servable.warm_up
    monkeypatch.setattr(Servable, "warm_up", lambda self: seen.append((_answering(model), _states(model))) or warm_up(self))
    model.refresh()
    put(2)
    model.refresh()
    assert seen == [([], {1: "LOADING"}), ([1], {1: "AVAILABLE", 2: "LOADING"})] and _answering(model) == [2]


def test_versions_and_labels_are_asked_for_by_requests(put):
    folder = put(1)
    put(2)
    model = ServedModel("m", folder, latest=2, labels={"stable": 1, "gone": 7})
    server = Server([model], port=0).start()
    try:
        number = {"number": np.array([1.5], np.float32)}
        answered = {}
        for version in (None, 1, 2):
            with Client(f"localhost:{server.port}", "m", version) as client:
                assert client.predict("serving_default", number)["doubled"] == [3.0]
        for label in ("stable", "gone", "none"):
            answered[label] = _asked_by_label(server.port, label, number)
    finally:
        server.stop(0)
    assert answered == {
        "stable": 1,
        "gone": "NOT_FOUND: Servable not found for request: Specific(m, 7)",
        "none": "INVALID_ARGUMENT: Unrecognized servable version label: none",
    }


def _asked_by_label(port, label, inputs):
    from mmtfrs.exporting.request import predict_request

    request = predict_request("m", "", inputs)
    request.model_spec.version_label = label
    with Client(f"localhost:{port}", "m") as client:
        try:
            return client._call(client._prediction.Predict, request).model_spec.version.value
        except ServingError as error:
            return str(error)
