"""What a stranger made runs no code: a malicious one of each kind writes a file when anything of it is run."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from conftest import FAST, ROOT, run_cli
from models.test_two_tower import planted

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.encoders.weights import read_torch
from mmtfrs.errors import Error
from mmtfrs.features.precomputed import load_own
from mmtfrs.models.run import load_run
from mmtfrs.utils.files import write_json
from mmtfrs.utils.sums import SUMS
from tuning.job import Job
from tuning.outcome import best_config
from tuning.search_data import SearchData
from tuning.search_objective import Objective
from tuning.trials import Trials


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    yield tmp_path / "it-ran"
    assert not (tmp_path / "it-ran").exists(), "a stranger's code was run"


@pytest.fixture
def evil(own, marker):
    """A module that writes the file when it is imported."""
    return own(f"import os\nos.mkdir({str(marker)!r})\nclass F: pass\ndef f(x): return x\n")


CODE = {
    "model.fusion": "F",
    "model.score": "F",
    "encoders.text": "f",
    "encoders.image": "F",
    "extraction.preprocess.audio": "f",
}


def _copied(source: Path, target: Path) -> None:
    """Without sums, of which whoever writes such a thing has no need."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(SUMS))


def _names(run: Path, setting: str, path: str) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    *sections, last = setting.split(".")
    section = settings
    for name in sections:
        section = section[name]
    section[last] = path
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize("setting", CODE)
def test_code_that_a_run_names(setting, small_run, tmp_path, evil, marker):
    _copied(small_run, tmp_path / "run")
    path = f"{evil}:{CODE[setting]}"
    _names(tmp_path / "run", setting, path)
    with pytest.raises(Error, match=rf"names code that .*{path} \(`{setting}`\).*--trust-code"):
        load_run(tmp_path / "run")


def test_code_that_made_the_features_of_a_run(small_run, tmp_path, evil, marker):
    _copied(small_run, tmp_path / "run")
    file = next((tmp_path / "run" / "tables").glob("text*adapter*"))
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "encoder": np.array([f"{evil}:f", "mark"])})
    with pytest.raises(Error, match="names code"):
        load_run(tmp_path / "run")


COMMANDS = (
    ("evaluate", "{run}", "--baselines", "none"),
    ("missing", "{run}"),
    ("compare", "{run}", "{good}"),
    ("compare", "{good}", "{run}"),
    ("index-report", "{run}"),
    ("export", "{run}", "{folder}/m"),
    ("refresh", "{folder}/shop", "--items", "{folder}/items.csv", "--store", "{folder}/s"),
)


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_command_that_loads_what_others_made(trusted, small_run, exported, tmp_path, own):
    """And with --trust-code it is imported: a command that never looked would pass for a careful one."""
    run, shop = tmp_path / "run", tmp_path / "shop"
    _copied(small_run, run), _copied(exported, shop)
    (tmp_path / "items.csv").write_text("item_id,category\na,x\n")
    for number, command in enumerate(COMMANDS):
        ran = tmp_path / f"ran-{number}"
        named = own(f"import os\nos.mkdir({str(ran)!r})\nclass F: pass\n")
        for folder in (run, shop / "1" / "assets.extra" / "model"):
            _names(folder, "model.fusion", f"{named}:F")
        done = run_cli(
            *(word.format(run=run, good=small_run, folder=tmp_path) for word in command), *["--trust-code"] * trusted
        )
        said = "must be a subclass" if trusted else "--trust-code"
        assert done.returncode == 1 and said in done.stderr.splitlines()[-1], (command, done.stderr)
        assert ran.exists() == trusted, command
    assert trusted or run_cli("recommend", shop, "--user", "u1", "-k", "1").returncode == 0  # its graph needs none of it


def test_code_that_an_export_names_for_what_is_shown(exported, tmp_path, evil, marker):
    _copied(exported, tmp_path / "shop")
    path = tmp_path / "shop" / "1" / "assets.extra" / "mmtfrs.json"
    facts = json.loads(path.read_text())
    facts["features"]["text"] = {"dim": 8, "encoder": f"{evil}:f", "preprocess": "", "fingerprint": "x"}
    path.write_text(json.dumps(facts))
    done = run_cli("recommend", tmp_path / "shop", "--text", "a shoe")
    assert done.returncode == 1 and "--trust-code" in done.stderr


@pytest.mark.slow
def test_a_search_folder(tmp_path, evil, marker):
    catalog, features, events = planted()
    data = SearchData(catalog, features, events.split("random", 0.2, 0.2, 1))
    space = {"defaults": False, "space": {"model.fusion": ["concat", "gated"], "model.dropout": [0.1, 0.2]}}
    job = Job.of(mmtfrs.Config(**FAST, tuning=space), data, "random", "recall@20", 2)
    job.claim_folder(tmp_path / "s", data)
    # A trial that says that another fusion was the best.
    trial = tmp_path / "s" / "trials" / "trial_0"
    trial.mkdir(parents=True)
    for values in ({"model.fusion": f"{evil}:F", "model.dropout": 0.1}, {"model.fusion": "concat", "model.score": f"{evil}:F"}):
        write_json(trial / "spec.json", {"values": values, "bar": []})
        write_json(trial / "result.json", {"metrics": {"recall@20": 0.9}, "pruned": False})
        with pytest.raises(Error, match="trial 0 is none of this search"):
            best_config(tmp_path / "s", Trials(tmp_path / "s", Objective("recall@20", "max")))
    # The search itself, of which a worker reads the settings.
    document = json.loads((tmp_path / "s" / "search.json").read_text())
    for change in ({"model": {"fusion": f"{evil}:F"}}, {"tuning": {"space": {"model.fusion": ["concat", f"{evil}:F"]}}}):
        changed = {name: {**document["config"][name], **each} for name, each in change.items()}
        write_json(tmp_path / "s" / "search.json", {**document, "config": {**document["config"], **changed}})
        with pytest.raises(Error, match="names code.*--trust-code"):
            Job.read(tmp_path / "s").check_trusted(tmp_path / "s", False)
        Job.read(tmp_path / "s").check_trusted(tmp_path / "s", True)


def test_yaml_and_pickles(small_run, tmp_path, marker):
    run = tmp_path / "run"
    _copied(small_run, run)
    (run / "config.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(Error, match="not valid YAML"):
        load_run(run)
    shutil.copy(small_run / "config.yaml", run)
    bomb = np.array([Bomb(marker)], object)
    for name, save in (("item_ids.npy", np.save), ("attributes.npz", lambda file, value: np.savez(file, category=value))):
        with (run / "tables" / name).open("wb") as file:
            save(file, bomb)
        with pytest.raises(Error, match="damaged.*allow_pickle=False"):
            load_run(run)
        shutil.copy(small_run / "tables" / name, run / "tables")
    np.save(tmp_path / "clip.npy", bomb)
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a"], "text": ["one"]})
    with pytest.raises(Error, match=r"cannot be read as .npy"):
        load_own("clip", tmp_path / "clip.npy", catalog)
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(Bomb(marker)))
    with pytest.raises(Error, match="names posix.mkdir"):
        read_torch(tmp_path / "weights.pth")


# What runs code that it reads; `_Reader` of weights.py, which refuses all names but those of tensors, is the one exception.
READS_CODE = re.compile(
    r"allow_pickle=True|yaml\.(?:load|unsafe_load|full_load)\b|\bmarshal\b|\bjoblib\b|\bshelve\b|\bdill\b|torch\.load\b"
    r"|safe_mode=False|pickle\.(?:load|loads|Unpickler)\b|(?<![.\w])(?:eval|exec)\(|models\.load_model\("
)


def test_nothing_else_reads_code():
    found = {
        (path.relative_to(ROOT).as_posix(), match[0])
        for room in ("mmtfrs", "serving", "tuning")
        for path in (ROOT / room).rglob("*.py")
        for match in READS_CODE.finditer(path.read_text())
    }
    assert found == {
        ("mmtfrs/encoders/weights.py", "pickle.Unpickler"),
        ("mmtfrs/encoders/applications.py", "models.load_model("),
    }


def _model(layer) -> keras.Model:
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(layer(image))))


@pytest.fixture
def networks(marker):
    """A model with a lambda that writes the file when it is called, and a plain one, in which code may be hidden."""
    where = str(marker)

    def run(x):
        __import__("os").makedirs(where, exist_ok=True)
        return x

    made = _model(keras.layers.Lambda(run)), _model(keras.layers.Rescaling(1 / 255))
    marker.rmdir()  # it was called to find its shape
    yield made
    keras.backend.clear_session()


@pytest.mark.parametrize("kind", ["e.h5", "e.keras", "e"])
def test_a_lambda_in_a_keras_model(kind, networks, tmp_path, marker):
    networks[0].save(tmp_path / kind)
    shutil.rmtree(marker, ignore_errors=True)  # it was traced
    with pytest.raises(Error, match="the model has a lambda"):
        encoders.load("image", str(tmp_path / kind))
    networks[1].save(tmp_path / f"plain-{kind}")
    assert encoders.load("image", str(tmp_path / f"plain-{kind}")).dim == 2


def test_a_module_that_a_keras_model_names(networks, tmp_path, marker, evil):
    networks[1].save(tmp_path / "plain.keras")
    for name, module in (("eval", "builtins"), ("F", evil), ("Popen", "subprocess")):
        with zipfile.ZipFile(tmp_path / "plain.keras") as plain, zipfile.ZipFile(tmp_path / "e.keras", "w") as packed:
            for each in plain.namelist():
                data = plain.read(each)
                if each == "config.json":
                    config = json.loads(data)
                    function = {"class_name": "function", "module": module, "config": name, "registered_name": name}
                    config["config"]["layers"][-1]["config"]["activation"] = function
                    data = json.dumps(config)
                packed.writestr(each, data)
        with pytest.raises(Error, match="code that would be run"):
            encoders.load("image", str(tmp_path / "e.keras"))
    # An operation of TensorFlow that does more than compute.
    image = keras.Input((8, 8, 3))
    honest = keras.layers.GlobalAveragePooling2D()(tf.nn.relu(image) * 2.0)
    keras.Model(image, honest).save(tmp_path / "honest.h5")
    assert encoders.load("image", str(tmp_path / "honest.h5")).dim == 3
    for name in ("load_library", "io.gfile.makedirs", "io.write_file"):
        shutil.copy(tmp_path / "honest.h5", tmp_path / "calls.h5")
        with h5py.File(tmp_path / "calls.h5", "a") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace('"nn.relu"', f'"{name}"')
        with pytest.raises(Error, match=f"TensorFlow's `{name}`, code"):
            encoders.load("image", str(tmp_path / "calls.h5"))
    # The same in HDF5, under a name that says nothing.
    networks[1].save(tmp_path / "e.h5")
    with h5py.File(tmp_path / "e.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1] = {"class_name": "F", "module": evil, "config": {}, "registered_name": None}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(Error, match=f"`{evil}:F`"):
        encoders.load("image", str(tmp_path / "e.h5"))
