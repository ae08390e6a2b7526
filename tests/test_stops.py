"""Ctrl-C and SIGTERM, at moments drawn after an event: every command ends in five seconds, with one line and no process left."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FAST, OFFLINE, ROOT, wait_until
from processes import working

from mmtfrs.cli.console import CommandLine, run_app
from mmtfrs.cli.stops import AGAIN, GOES_ON

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_SECONDS = 5.0
_HERE = {**os.environ, "PYTHONPATH": str(ROOT)}


def announce(module: str, name: str) -> None:
    """Lets a function say that it is at work, which is the event that tests wait for."""
    found = importlib.import_module(module)
    usual = getattr(found, name)

    def said(*arguments, **named):
        print("begun", flush=True)
        return usual(*arguments, **named)

    setattr(found, name, said)


def ends(job, number, advice) -> None:
    """Stops a job within half a second, drawn, and says what is wrong with its end."""
    time.sleep(float(np.random.default_rng(os.getpid() + job.pid).uniform(0, 0.5)))
    begin = time.monotonic()
    job.send(number)
    code, seconds = job.wait(60), time.monotonic() - begin
    said = job.stderr
    assert code == CODES[number] and seconds < _SECONDS, (code, seconds, said)
    assert said.splitlines()[-1] == advice and said.count("stopped: ") == 1 and "Traceback" not in said, said


RUN = "mmtfrs.models.run", "load_run"
COMMANDS = {  # command: when it is at work, how it is stopped, what it says
    "demo-data {t}/d": (("mmtfrs.data.demo", "write_demo"), signal.SIGTERM, AGAIN),
    "check --items {d}/items.csv --events {d}/events.csv": (
        ("mmtfrs.features.media_check", "check_media"),
        signal.SIGINT,
        AGAIN,
    ),
    "extract --items {d}/items.csv --store {t}/s --config {t}/c.yaml": (
        ("mmtfrs.features.extract", "extract"),
        signal.SIGTERM,
        GOES_ON,
    ),
    "evaluate {r} --baselines id_only": (("mmtfrs.training.baselines", "evaluate_run"), signal.SIGINT, AGAIN),
    "missing {r}": (RUN, signal.SIGTERM, AGAIN),
    "compare {r} {r}": (("mmtfrs.training.compare_runs", "compare_runs"), signal.SIGINT, AGAIN),
    "index-report {r}": (RUN, signal.SIGTERM, AGAIN),
    "export {r} {t}/m": (("mmtfrs.exporting.export", "export"), signal.SIGINT, AGAIN),
    "refresh {e} --items {d}/shop.csv --store {t}/s": (("mmtfrs.exporting.refresh", "refresh"), signal.SIGTERM, AGAIN),
    "recommend {e} --user user-0003": (("mmtfrs.exporting.loaded", "LoadedModel"), signal.SIGINT, AGAIN),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_at_work(command, demo, small_run, exported, tmp_path, jobs):
    event, number, advice = COMMANDS[command]
    (tmp_path / "c.yaml").write_text(f"encoders: {OFFLINE}\n")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "1").symlink_to(exported / "1")
    places = {"d": demo, "r": small_run, "e": tmp_path / "e", "t": tmp_path}
    words = command.format(**places).split()
    job = jobs("mmtfrs.cli.app", *words, before=(announce, *event))
    job.line("begun")
    ends(job, number, advice)
    assert not list(tmp_path.rglob(".part-*"))


def counts() -> None:
    """A command in one call of TensorFlow that does not end, as many training steps are."""
    from mmtfrs._keras import tf

    def begun(number: int) -> int:
        print("begun", flush=True)
        return number

    @tf.function
    def count() -> tf.Tensor:
        start = tf.numpy_function(begun, [tf.constant(0, tf.int64)], tf.int64)
        return tf.while_loop(lambda n: n < 10**12, lambda n: [n + 1], [tf.reshape(start, [])])

    app = CommandLine()
    app.command()(lambda: count())
    sys.argv = ["count"]
    run_app(app)


@pytest.mark.slow
def test_what_does_not_come_back_to_python(jobs):
    job = jobs(counts)
    job.line("begun")
    ends(job, signal.SIGINT, AGAIN)


# A thread that cannot be interrupted, as a decoder that reads from a disk that does not answer.
_READS = """
import time
from concurrent.futures import ThreadPoolExecutor
from mmtfrs.cli.console import CommandLine, run_app
app = CommandLine()
@app.command()
def reads():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (print("begun", flush=True), time.sleep(600)))
run_app(app)
"""


@pytest.mark.parametrize(("signals", "most"), [((signal.SIGTERM,), _SECONDS), ((signal.SIGINT, signal.SIGINT), 2.0)])
def test_a_thread_that_does_not_end(signals, most):
    """In an interpreter of its own, which would wait for it; a second signal ends it at once."""
    with subprocess.Popen(
        [sys.executable, "-c", _READS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_HERE
    ) as process:
        assert process.stdout.readline() == "begun\n"
        begin = time.monotonic()
        process.send_signal(signals[0])
        said = process.stderr.readline()  # it is said at once
        for number in signals[1:]:
            process.send_signal(number)
        code = process.wait(60)
        assert time.monotonic() - begin < most and (code, said) == (CODES[signals[0]], f"{AGAIN}\n")
        assert not process.stderr.read()


_PUTS_AWAY = """
import time
from mmtfrs.cli.console import CommandLine, run_app
app = CommandLine()
@app.command()
def works():
    try:
        print("begun", flush=True)
        time.sleep(600)
    finally:
        time.sleep(0.8)
        print("put away", flush=True)
run_app(app)
"""


def test_two_signals_at_once_are_one():
    """`timeout` sends one to its child, and one to the group that the child is in."""
    with subprocess.Popen(
        [sys.executable, "-c", _PUTS_AWAY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_HERE
    ) as process:
        assert process.stdout.readline() == "begun\n"
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("put away\n", f"{AGAIN}\n") and process.returncode == 143


def test_while_it_is_still_imported(tmp_path):
    """In an interpreter of its own: the first import of ours is the event."""
    for module in ("mmtfrs.cli", "serving.client", "tuning.report"):
        hook = tmp_path / "sitecustomize.py"
        hook.write_text(
            "import sys\nclass Hook:\n    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'typer':\n            print('begun', flush=True)\n            import time; time.sleep(600)\n"
            "sys.meta_path.insert(0, Hook())\n"
        )
        environment = {**_HERE, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        with subprocess.Popen(
            [sys.executable, "-m", module], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and said.splitlines() == [AGAIN], said


@pytest.fixture
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(120)
        yield listening


def _closed(connection) -> bool:
    """Whether whoever was at the other end has gone."""
    connection.settimeout(60)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.slow
def test_those_that_wait_for_a_network(silent, tmp_path, jobs, monkeypatch):
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    job = jobs("serving.client", "--target", address, "--model", "m", "recommend", "--user", "u")
    connection, _ = silent.accept()
    ends(job, signal.SIGINT, AGAIN)
    connection.close()
    job = jobs("mmtfrs.cli.app", "encoders", "get", "minilm", before=(_fetching_from, address, str(tmp_path)))
    connection, _ = silent.accept()
    ends(job, signal.SIGTERM, AGAIN)
    assert _closed(connection)  # pip has gone too
    assert not list(tmp_path.rglob(".part-*"))


def _fetching_from(address: str, cache: str) -> None:
    names = {"PIP_INDEX_URL": f"http://{address}/simple", "MMTFRS_CACHE": cache, "NO_PROXY": "*", "no_proxy": "*"}
    os.environ.update(names, PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0")
    os.environ.pop("PIP_EXTRA_INDEX_URL", None)


@pytest.mark.slow
def test_a_server_answers_what_it_has_begun(tiny, jobs):
    from serving.client import Client

    for number in CODES:
        server = jobs("serving.server", tiny, "--port", 0, "--rest-port", 0)
        port = int(server.line("serving").rpartition(":")[2])
        with Client(f"localhost:{port}", "tiny") as client:
            assert client.recommend(user="u1", k=3)
            ends(server, number, AGAIN)


def _settings(folder: Path, **sections) -> Path:
    path = folder / "c.yaml"
    path.write_text(json.dumps({"encoders": OFFLINE, **FAST, **sections}))
    return path


@pytest.mark.long
def test_a_training_goes_on(demo, demo_events, demo_store, tmp_path, jobs):
    shutil.copytree(demo_store, tmp_path / "features")
    config = _settings(tmp_path, training={"epochs": 4, "batch_size": 256, "refit": False})
    command = ("train", "--items", demo / "items.csv", "--events", demo_events, "--out", tmp_path / "r", "--config", config)
    for number in CODES:
        job = jobs("mmtfrs.cli.app", *command)
        wait_until(lambda job=job: job.stderr.count("epoch ") > 0)
        ends(job, number, GOES_ON)
    job = jobs("mmtfrs.cli.app", *command)
    assert job.wait() == 0 and "for 4 epochs" in job.stdout


@pytest.mark.long
@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_search_ends_with_its_workers_and_trials(workers, number, demo, demo_events, demo_store, tmp_path, jobs):
    shutil.copytree(demo_store, tmp_path / "features")
    space = {"defaults": False, "space": {"model.dropout": {"min": 0.0, "max": 0.5}}}
    config = _settings(tmp_path, tuning=space, training={"epochs": 500, "patience": 500, "batch_size": 256})
    command = ("tune", "--items", demo / "items.csv", "--events", demo_events, "--out", tmp_path / "s", "--config", config)
    job = jobs("mmtfrs.cli.app", *command, "--trials", 4, "--workers", workers)
    wait_until(lambda: len(list(tmp_path.glob("s/trials/trial_*/history.jsonl"))) >= max(workers, 1) or job.poll() is not None)
    ends(job, number, GOES_ON)
    wait_until(lambda: not working(tmp_path / "s"), 5)
