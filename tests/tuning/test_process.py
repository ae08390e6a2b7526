"""Trials as processes, and the file that puts them on many machines."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, run_cli, wait_until

from mmtfrs._keras import keras, tf
from mmtfrs.errors import TuningError
from mmtfrs.utils.files import write_json
from tuning.distributed import LocalWorkers
from tuning.forks import ERROR, told
from tuning.lifeline import start
from tuning.process import failure_reason, run_trial

_CHILD = "from tuning.lifeline import die_with_parent; die_with_parent(); import time; print('up', flush=True); time.sleep(60)"
_PARENT = f"""
import os, sys, time
from pathlib import Path
from tuning.lifeline import start
child = start([sys.executable, "-c", {_CHILD!r}], Path(sys.argv[1]), dict(os.environ))
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_trial_ends_with_the_search_that_was_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            child = int(parent.stdout.readline())
            wait_until((tmp_path / "log").read_text)
        finally:
            parent.kill()
    wait_until(lambda: not _alive(child))


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "code, log, told",
    [
        (-9, "", "ended by signal 9, as the system does when memory runs out"),
        (-11, "", "ended by signal 11"),
        (3, "note\nerror: no such thing\n\n", "ended with exit code 3; see {folder}/log.txt"),
    ],
)
def test_why_a_trial_failed(tmp_path, code, log, told):
    (tmp_path / "log.txt").write_text(log)
    assert failure_reason(tmp_path, code) == told.format(folder=tmp_path)


def test_a_trial_that_failed_is_told_by_its_error(tmp_path):
    """Keras wraps errors in what was called; the log ends with that, and says nothing."""
    layer = keras.layers.Lambda(lambda x: tf.ones([2, 3]) + tf.ones([2, 4]), name="odd")
    with pytest.raises(tf.errors.InvalidArgumentError) as wrapped:
        layer(tf.ones([1]))
    assert str(wrapped.value).startswith("Exception encountered when calling layer 'odd'")
    line = told(wrapped.value)
    assert line.startswith("InvalidArgumentError: ") and "Incompatible shapes: [2,3] vs. [2,4]" in line and "\n" not in line
    assert told(TuningError("one.\n  two")) == "one. two" and told(KeyError()) == "KeyError: it says no more"
    (tmp_path / "log.txt").write_text("Traceback\n  • training=None\n")
    (tmp_path / ERROR).write_text(line)
    assert failure_reason(tmp_path, 1) == line


@pytest.mark.slow
def test_what_a_forked_trial_raises_is_its_reason(tmp_path):
    write_json(tmp_path / "spec.json", {"data": str(tmp_path / "nowhere")})
    for _ in range(2):
        with pytest.raises(TuningError, match="^.*nowhere: the data of this search cannot be read .*$"):
            run_trial(tmp_path)


def test_what_a_process_prints_is_kept(tmp_path):
    for word in ("one", "two"):
        assert start([sys.executable, "-c", f"print('{word}')"], tmp_path / "log.txt", {}).wait(30) == 0
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_search(tmp_path):
    """There is no search in the folder, so no worker can live."""
    with (
        pytest.raises(TuningError, match=r"worker-0 has died again and again; see .*worker-0.txt"),
        LocalWorkers(tmp_path, 1) as local,
    ):
        local._left = 0
        wait_until(local.check)
    assert "not a search folder" in (tmp_path / "worker-0.txt").read_text()


def test_the_kubernetes_file_starts_a_chief_and_workers_that_find_each_other():
    documents = list(yaml.safe_load_all((ROOT / "tuning" / "kubernetes.yaml").read_text()))
    service, chief, workers = documents
    pods = [document["spec"]["template"] for document in (chief, workers)]
    environments = [{each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]} for pod in pods]
    assert environments[0]["KERASTUNER_TUNER_ID"] == "chief" and environments[1]["KERASTUNER_TUNER_ID"] == "worker-$(INDEX)"
    assert environments[1]["KERASTUNER_ORACLE_IP"] == service["metadata"]["name"]
    ports = {environment["KERASTUNER_ORACLE_PORT"] for environment in environments}
    assert ports == {str(service["spec"]["ports"][0]["port"])}
    assert service["spec"]["selector"].items() <= pods[0]["metadata"]["labels"].items()
    arguments = chief["spec"]["template"]["spec"]["containers"][0]["args"]
    helped = run_cli("--help", module="tuning.search")
    assert all(word in helped.stdout for word in arguments if word.startswith("--"))
    folder = arguments[arguments.index("--out") + 1]
    assert f"python -m tuning.distributed {folder}" in pods[1]["spec"]["containers"][0]["command"][-1]
