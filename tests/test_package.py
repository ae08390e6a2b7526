"""The package as a whole: what is public, which way imports run, what environment it takes."""

from __future__ import annotations

import ast
import doctest
import graphlib
import re
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import pytest
from conftest import FAST, ROOT, run_python
from models.test_two_tower import planted
from processes import run_interpreter

import mmtfrs

ROOMS = (
    "utils",
    "config",
    "data",
    "media",
    "encoders",
    "features",
    "model_inputs",
    "fusion",
    "towers",
    "models",
    "evaluation",
    "training",
    "index",
    "exporting",
    "cli",
)
GROUND = ("errors", "_keras", "_version")


def _imports(path):
    tree = ast.parse(path.read_text())
    # What only types need is not imported when the program runs.
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    left_out = {id(node) for each in typing for node in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _backward(package: Path, room: str) -> list[str]:
    """What a room's files import that stands behind it in the flow, or outside the package."""
    allowed = {*GROUND, *ROOMS[: ROOMS.index(room) + 1], "__version__"}
    found = []
    for path in (package / room).rglob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            around = parts[0] in ("serving", "tuning") and room != "cli"  # the command line has their commands too
            if around or (parts[0] == "mmtfrs" and len(parts) > 1 and parts[1] not in allowed):
                found.append(f"{path.name} imports {name}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    assert not _backward(ROOT / "mmtfrs", room)


@pytest.mark.parametrize(
    "line",
    [
        "import mmtfrs.models.run",
        "from mmtfrs import TwoTower",
        "from mmtfrs import evaluation",
        "from mmtfrs.evaluation.metrics import recall",
        "import serving.client",
    ],
)
def test_a_backward_arrow_is_seen(tmp_path, line):
    import mmtfrs.evaluation  # noqa: F401  a room that was loaded is an attribute of the package

    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "planted.py").write_text(f"def later():\n    {line}\n")
    assert _backward(tmp_path, "features")
    (tmp_path / "features" / "planted.py").write_text("from mmtfrs import encoders\nfrom mmtfrs.data.catalog import Catalog\n")
    assert not _backward(tmp_path, "features")


def test_no_files_import_each_other():
    """Nor in a circle, wherever in a file an import stands."""
    paths = [path for folder in ("mmtfrs", "serving", "tuning") for path in (ROOT / folder).rglob("*.py")]
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graphlib.TopologicalSorter({name: {*_imports(path)} & {*files} - {name} for name, path in files.items()}).prepare()
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


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


@pytest.fixture(scope="module")
def at_hand():
    """What the examples of docstrings may name."""
    catalog, features, events = planted()
    split, config = events.split("random"), mmtfrs.Config(**FAST)
    model = mmtfrs.TwoTower(config, catalog, features, split.train)
    model.compile(optimizer="adam")
    return {"mmtfrs": mmtfrs, "catalog": catalog, "features": features, "split": split, "config": config, "model": model}


@pytest.mark.parametrize("name", sorted({*mmtfrs.__all__} - {"__version__"}))
def test_every_public_name_has_an_example_that_runs(name, at_hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thing = getattr(mmtfrs, name)
    assert "Example:" in thing.__doc__, name
    around = vars(sys.modules[thing.__module__]) | at_hand
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs=around):
        printed = []
        assert doctest.DocTestRunner(verbose=False).run(test, out=printed.append).failed == 0, "".join(printed)


# What has to answer before TensorFlow is loaded, which takes seconds: help, the check of two small files, and refusals of what is not
# there or not known. `{f}` is a folder with items.csv and events.csv.
QUICK = [
    "mmtfrs.cli --help",
    "mmtfrs.cli tune --help",
    "mmtfrs.cli serve /nowhere",
    "mmtfrs.cli loadtest --help",
    "mmtfrs.cli train --help",
    "mmtfrs.cli version",
    "mmtfrs.cli check --items {f}/items.csv --events {f}/events.csv",
    "mmtfrs.cli train --items none.csv --events none.csv --out {f}/r",
    "mmtfrs.cli train --items {f}/items.csv --events {f}/events.csv --out {f}/r --text-encoder nowhere",
    "mmtfrs.cli extract --items {f}/items.csv --store {f}/s --text-encoder nowhere",
    "mmtfrs.cli evaluate /nowhere --baselines ease",
    "mmtfrs.cli compare /nowhere /nowhere --metrics recal@5",
    "mmtfrs.cli export /nowhere {f}/m --index exakt",
    "mmtfrs.cli index-report /nowhere",
    "mmtfrs.cli missing /nowhere",
    "mmtfrs.cli recommend /nowhere --text x",
    "mmtfrs.cli refresh /nowhere --items {f}/items.csv --store {f}/s",
    "serving.server /nowhere",
    "serving.client recommend --image none.png",
    "serving.loadtest --help",
    "tuning.search --items {f}/items.csv --events {f}/events.csv --out {f}/t --method bayes",
    "tuning.report /nowhere",
    "tuning.distributed --help",
]


_AMONG_STRANGERS = """
import os, sys
os.chdir(sys.argv[1])
sys.path[:] = [path for path in sys.path if path]
sys.argv = ["mmtfrs", "version"]
from mmtfrs.cli.app import main
try:
    main()
except SystemExit:
    pass
before = os.getcwd() in sys.path
from mmtfrs.utils.extensions import imported
print("found", before, imported("mine:thing", "encoders.text"))
"""


def test_the_working_folder_is_no_place_of_modules_before_one_is_asked_for(tmp_path):
    """What lies there may be a stranger's, and libraries look for something optional by its name."""
    (tmp_path / "mine.py").write_text("thing = 7")
    done = run_python(_AMONG_STRANGERS, tmp_path)
    assert done.stdout.splitlines()[-1] == "found False 7", done.stderr[-500:]


@pytest.mark.slow
def test_help_checks_and_refusals_come_before_tensorflow(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,text\na,one\nb,two\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1760000000\nu,b,1760000001\n")
    flags = ["-X", "importtime", "-m"]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda line: run_interpreter(*flags, *line.format(f=tmp_path).split()), QUICK))
    for line, result in zip(QUICK, done, strict=True):
        imported = {text.rpartition("|")[2].strip() for text in result.stderr.splitlines() if text.startswith("import time:")}
        assert "mmtfrs.cli.console" in imported, result.stderr[-500:]
        assert not {"tensorflow", "tf_keras", "keras", "sklearn", "matplotlib"} & imported, line
        assert result.returncode == (0 if result.stdout else 1) and "Traceback" not in result.stderr, (line, result.stdout)


def test_train_extract_and_recommend_say_something_before_tensorflow(tmp_path):
    """Their first line is there when TensorFlow's import begins, which here ends the process."""
    (tmp_path / "items.csv").write_text("item_id,text\na,one\nb,two\n")
    code = """
import runpy, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            sys.exit("TensorFlow")
sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
    result = run_python(
        code, "mmtfrs.cli", "extract", "--items", tmp_path / "items.csv", "--store", tmp_path / "s", "--text-encoder", "offline"
    )
    assert result.stderr.splitlines() == [f"reading {tmp_path / 'items.csv'} ...", "TensorFlow"]


@pytest.mark.slow
def test_importing_changes_one_variable_and_no_logger():
    code = """
import logging, os
before = dict(os.environ)
import mmtfrs
assert {name: value for name, value in os.environ.items() if before.get(name) != value} == {"TF_USE_LEGACY_KERAS": "1"}
assert [name for name in logging.root.manager.loggerDict if not name.startswith("mmtfrs")] == []
import mmtfrs._keras
assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ and logging.getLogger("tensorflow").level == 0 and not logging.root.handlers
os.write(2, b"said")
"""
    assert run_python(code).stderr == "said"  # and what TensorFlow says while it is loaded is not passed on


def test_wheels_have_no_pins_no_test_tools_and_what_the_commands_read(tmp_path):
    for name in ("mmtfrs", "serving", "tuning"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path]
    done = run_interpreter(*command)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        meta = next(wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    needed = [line.removeprefix("Requires-Dist: ") for line in meta.splitlines() if line.startswith("Requires-Dist: ")]
    users = [line for line in needed if "extra ==" not in line]
    assert len(users) > 20 and not [line for line in users if re.search(r"==\s*\d|^(pytest|ruff|keras-tuner|av|scann)", line)]
    assert set(re.findall(r"^Provides-Extra: (.*)$", meta, re.M)) == {"dev", "video", "tuning", "tfio", "scann", "gpu", "hf"}
    assert any(line.startswith("tensorflow[and-cuda]") and '"gpu"' in line.replace("'", '"') for line in needed)
    for file in (
        "serving/batching.config",
        "serving/models.config",
        "serving/compose.yaml",
        "serving/kubernetes/cpu/deployment.yaml",
        "serving/examples/recommend.js",
        "tuning/kubernetes.yaml",
        "mmtfrs/cli/app.py",
    ):
        assert file in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


@pytest.mark.slow
def test_keras_3_is_refused_with_the_fix():
    result = run_python("import tensorflow as tf; tf.keras.Model; import mmtfrs")
    assert "TensorFlow is already loaded with Keras 3" in result.stderr
    assert "Set TF_USE_LEGACY_KERAS=1" in result.stderr
    result = run_python("import mmtfrs", TF_USE_LEGACY_KERAS="0")
    assert "Received: TF_USE_LEGACY_KERAS='0'" in result.stderr


@pytest.mark.long
def test_tensorflow_first_is_fine_with_the_switch():
    code = "import tensorflow as tf; tf.keras.Model; import mmtfrs; print('ok')"
    assert run_python(code, TF_USE_LEGACY_KERAS="1").stdout.strip() == "ok"
    # Imported but not yet used, Keras can still be chosen.
    assert run_python("import tensorflow, mmtfrs; print('ok')").stdout.strip() == "ok"


def test_what_is_imported_is_declared():
    """Each package that code imports is one of the project's dependencies, or of the extra that brings it: a wheel that is
    installed alone has no test tools to lend it any."""
    text = (ROOT / "pyproject.toml").read_text()  # Python 3.10 has no tomllib

    def names(key: str) -> set[str]:
        lines = re.search(rf"^{key} = \[(.*?)\]$", text, re.M | re.S)[1]
        return {name.lower().replace("_", "-") for name in re.findall(r'"([\w-]+)', lines)}

    homes: dict[str, set[str]] = {}  # Python 3.10's packages_distributions does not know them all
    for distribution in distributions():
        for top in {file.parts[0].partition(".")[0] for file in distribution.files or ()}:
            homes.setdefault(top, set()).add(distribution.metadata["Name"])
    always = names("dependencies")
    optional = {
        "tuning": names("tuning"),
        "mmtfrs": names("video") | names("tfio") | names("scann") | names("hf"),
        "serving": set(),
    }
    # Parts of TensorFlow, of which the same distribution says more than one thing.
    own = {"mmtfrs", "serving", "tuning", "tensorflow", "google"}
    for room, more in optional.items():
        for path in (ROOT / room).rglob("*.py"):
            for top in {name.partition(".")[0] for name in _imports(path)} - own - sys.stdlib_module_names:
                brought = {name.lower().replace("_", "-") for name in homes.get(top, [top])}
                assert brought & (always | more), f"{path.relative_to(ROOT)} imports {top}"
