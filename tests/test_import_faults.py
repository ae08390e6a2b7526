"""Packages that are missing, of a wrong version or loaded too early, and folders that cannot be written: one line each."""

from __future__ import annotations

import json

import pytest
from conftest import run_python
from processes import run_interpreter

# Runs command lines one after the other in one fresh process, each with packages blocked: `{package: what its import raises}`.
_COMMANDS = """
import contextlib, io, json, sys
class Blocker:
    names = {}
    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise eval(self.names[name])
sys.meta_path.insert(0, Blocker())
from importlib import util
found = util.find_spec
util.find_spec = lambda name, *more: None if name in Blocker.names else found(name, *more)
from mmtfrs.cli.__main__ import main
for blocked, command in json.loads(sys.argv[1]):
    for name in blocked:
        for each in [each for each in sys.modules if each == name or each.startswith(name + ".")]:
            del sys.modules[each]
    Blocker.names, sys.argv, err = blocked, ["mmtfrs", *command], io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            main()
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, err.getvalue().splitlines()[-1:]]), flush=True)
"""
MISSING = "ModuleNotFoundError(f'No module named {name!r}')"


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    for name, column, value in (("texts", "text", "one"), ("films", "video", "film.mp4"), ("sounds", "audio", "film.mp4")):
        (tmp_path / f"{name}.csv").write_text(f"item_id,{column}\na,{value}\nb,\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1760000000\nu,b,1760000001\n")
    (tmp_path / "tfio.yaml").write_text("extraction: {decoder: tensorflow-io}\n")
    return tmp_path


def _run(cases, shop):
    asked = [[blocked, [word.format(f=shop) for word in line.split()]] for blocked, line, _ in cases]
    done = run_python(_COMMANDS, json.dumps(asked))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases) and "Traceback" not in done.stderr, done.stderr
    for (blocked, line, expected), (code, (said,)) in zip(cases, answers, strict=True):
        assert code == 1 and said.startswith("error: ") and expected in said, (blocked, line, code, said)


@pytest.mark.slow
def test_every_extra(shop):
    tune = "tune --items {f}/texts.csv --events {f}/events.csv --out {f}/t --text-encoder offline"
    extract = "extract --store {f}/s --text-encoder offline --audio-encoder offline --image-encoder offline --items {f}/"
    _run(
        [
            ({"keras_tuner": MISSING}, tune, "tuning needs keras_tuner: pip install 'mmtfrs[tuning]'"),
            ({"sklearn": MISSING}, tune, "tuning needs sklearn: pip install 'mmtfrs[tuning]'"),
            ({"av": MISSING}, extract + "films.csv", "videos need PyAV: pip install 'mmtfrs[video]'"),
            (
                {"av": MISSING},
                "check --items {f}/films.csv --events {f}/events.csv",
                "videos need PyAV: pip install 'mmtfrs[video]'",
            ),
            (
                {"huggingface_hub": MISSING},
                "extract --store {f}/s --text-encoder hf:a/b --items {f}/texts.csv",
                "needs huggingface_hub: pip install 'mmtfrs[hf]'",
            ),
            (
                {"tensorflow_io": MISSING},
                extract + "sounds.csv --config {f}/tfio.yaml",
                "pip install 'mmtfrs[tfio]' (Python 3.10 or 3.11)",
            ),
        ],
        shop,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "raised", "expected"),
    [
        ("tensorflow", MISSING, "TensorFlow cannot be imported (ModuleNotFoundError: No module named 'tensorflow'). Here are"),
        ("tf_keras", "TypeError('Descriptors cannot be created directly.')", "TensorFlow cannot be imported (TypeError: Desc"),
        ("typer", MISSING, "a package cannot be imported (ModuleNotFoundError: No module named 'typer'). `pip install mmtfrs`"),
        ("pyarrow", "AttributeError('_ARRAY_API not found')", "a package cannot be imported (AttributeError: _ARRAY_API not"),
    ],
)
def test_what_is_always_needed(package, raised, expected, shop):
    """Each in a process of its own: what was imported once does not go away."""
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise {raised}
sys.meta_path.insert(0, Blocker())
sys.argv[0] = "mmtfrs"
from mmtfrs.cli.__main__ import main
main()
"""
    command = ("extract", "--items", shop / "texts.csv", "--store", shop / "s", "--text-encoder", "offline")
    done = run_python(code, *command)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: " + expected), done.stderr
    assert "Traceback" not in done.stderr


def test_keras_3(shop):
    for command in (("-m", "mmtfrs.cli", "version"), ("-m", "serving.client", "status"), ("-m", "tuning.report", "x")):
        done = run_interpreter(*command, TF_USE_LEGACY_KERAS="0")
        assert done.returncode == 1 and done.stderr.startswith("error: mmtfrs needs Keras 2."), done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("nowhere", ["/sys/x", "/dev/null/x"])  # where not even root can write
def test_folders_that_cannot_be_written(nowhere, shop):
    """The home, the cache and temporary files: what needs none of them works, and what does says which."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME", "TFHUB_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME")
    folders = dict.fromkeys(names, nowhere)
    quick = ("import sys\nfrom mmtfrs.cli.__main__ import main\nsys.argv[0] = 'mmtfrs'\nmain()",)
    listed = run_python(*quick, "encoders", "list", **folders)
    assert listed.returncode == 0 and not listed.stderr, listed.stderr
    fetched = run_python(*quick, "encoders", "get", "minilm", **folders)
    assert fetched.returncode == 1 and fetched.stderr.startswith(f"error: {nowhere}/mmtfrs/encoders"), fetched.stderr
    assert "$MMTFRS_CACHE names another folder." in fetched.stderr and len(fetched.stderr.splitlines()) == 1
    command = ("extract", "--items", shop / "texts.csv", "--store", shop / "s", "--text-encoder", "offline")
    done = run_python(*quick, *command, **folders)
    assert done.returncode == 0 and done.stderr.startswith("reading"), done.stderr
    assert nowhere not in done.stderr and "Traceback" not in done.stderr, done.stderr
