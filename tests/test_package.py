"""The package as a whole: what is public, which way imports run, what environment it takes."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT, run_python

import mmtfrs

ROOMS = ("data", "encoders", "features", "fusion", "towers", "models", "evaluation", "training", "index", "exporting")
GROUND = ("errors", "config", "sections", "_keras", "_version", "options", "console", "files")


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    allowed = {*GROUND, *ROOMS[: ROOMS.index(room) + 1]}
    for path in (ROOT / "mmtfrs" / room).glob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "mmtfrs" and len(parts) > 1:
                assert parts[1] in allowed or parts[1] in dir(mmtfrs), f"{path.name} imports {name}: a backward arrow"
            assert parts[0] not in ("serving", "tuning"), f"{path.name} imports {name}"


def test_every_room_is_checked():
    rooms = {path.parent.name for path in (ROOT / "mmtfrs").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_one_file_imports_keras():
    for path in [path for room in ("mmtfrs", "serving", "tuning") for path in (ROOT / room).rglob("*.py")]:
        if path.name != "_keras.py":
            names = {name.split(".")[0] for name in _imports(path)}
            assert not names & {"tf_keras", "keras", "tensorflow_recommenders"}, path


def test_all_names_exist():
    for name in mmtfrs.__all__:
        assert getattr(mmtfrs, name) is not None
    assert callable(mmtfrs.export) and callable(mmtfrs.evaluate) and callable(mmtfrs.extract)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmtfrs.nothing


def test_import_needs_no_tensorflow():
    code = "import sys, mmtfrs.cli; print('tensorflow' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"


def test_keras_3_is_refused_with_the_fix():
    result = run_python("import tensorflow as tf; tf.keras.Model; import mmtfrs")
    assert "TensorFlow is already loaded with Keras 3" in result.stderr
    assert "Set TF_USE_LEGACY_KERAS=1" in result.stderr
    result = run_python("import mmtfrs", TF_USE_LEGACY_KERAS="0")
    assert "Received: TF_USE_LEGACY_KERAS='0'" in result.stderr


def test_tensorflow_first_is_fine_with_the_switch():
    code = "import tensorflow as tf; tf.keras.Model; import mmtfrs; print('ok')"
    assert run_python(code, TF_USE_LEGACY_KERAS="1").stdout.strip() == "ok"
    # Imported but not yet used, Keras can still be chosen.
    assert run_python("import tensorflow, mmtfrs; print('ok')").stdout.strip() == "ok"
