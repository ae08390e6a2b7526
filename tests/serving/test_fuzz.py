"""Seeded malformed requests: a proper status for each, no crash, no hang, and the same answers afterwards. `make fuzz` sends 20 000."""

from __future__ import annotations

import os

import pytest
from processes import started

from mmtfrs.exporting.request import image_bytes, wav_bytes
from serving.client import Client
from serving.servable import Servable
from tests.faults.malformed import KINDS, Fuzzer
from tests.faults.requests import make_exports, swap, throw

REQUESTS = int(os.environ.get("MMTFRS_FUZZ", "1500"))


@pytest.fixture(scope="module")
def process(exported, tmp_path_factory):
    with started(tmp_path_factory.mktemp("jobs")) as jobs:
        job = jobs("serving.server", exported, "--port", "0", "--name", "small")
        yield job, int(job.line("serving").rsplit(":", 1)[1])


@pytest.mark.slow
def test_malformed_requests(process, demo):
    made, port = process
    media = [image_bytes(next((demo / "image").glob(f"*.{kind}"))) for kind in ("png", "jpg")]
    media.append(wav_bytes(next((demo / "audio").glob("*.flac"))))
    with Client(f"localhost:{port}", "small") as client:
        before = client.recommend(user="user-0003", k=20)
        fuzzer = Fuzzer(client.signatures(), media, seed=7)
    thrown = throw(made, port, fuzzer, REQUESTS)
    assert not thrown.wrong, thrown.wrong[:5]
    seen = thrown.codes
    assert sum(seen.values()) == REQUESTS and seen["OK"] > 0 and seen["INVALID_ARGUMENT"] > REQUESTS / 3, seen
    assert thrown.flat, f"the same requests again and again take more and more memory: {thrown.memory}"
    with Client(f"localhost:{port}", "small") as client:
        assert client.recommend(user="user-0003", k=20) == before


@pytest.mark.long
def test_versions_that_take_each_others_place_under_load(tmp_path):
    """`python -m tests.faults.requests` does so ten times."""
    (tmp_path / "made").mkdir()
    exports = make_exports(tmp_path / "made", 3)
    with started(tmp_path) as jobs:
        load, memory = swap(jobs, exports, tmp_path / "shop", 3)
    assert not load.wrong and load.answered > 150 and len(memory) == 3, load.wrong[:5]


def test_the_fuzzer_repeats_itself(exported):
    signatures = Servable(exported / "1").signature_defs
    assert len(KINDS) == len(set(KINDS)) == 20
    made = [Fuzzer(signatures, [b"x" * 50], seed=3) for _ in range(2)]
    assert [made[0].request(n) for n in range(50)] == [made[1].request(n) for n in range(50)]
