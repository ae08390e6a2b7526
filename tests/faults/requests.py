"""Malformed requests at a development server, and new versions under saturating load.

    python -m tests.faults.requests [--requests 10000] [--swaps 10] [--seed 0]

A server answers malformed requests of twenty kinds, while others ask it what it should: each gets a proper status, nobody is
answered wrongly or not at all, and its memory stays as it is. Then versions take each other's place while more is asked than it
can answer: each answer is that of the version which it names.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.exporting.request import Query, predict_request
from mmtfrs.media.encode import as_png, as_wav
from serving.client import Client
from serving.limits import sizes
from tests.faults.malformed import KINDS, Fuzzer
from tests.processes import Job, Jobs, started, wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"
# UNKNOWN would be an exception that nobody foresaw. INTERNAL is what gRPC says of bytes that are no message.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}
_AGAIN = 600  # requests, sent again and again to see what leaks
_CLOSE = 1e-5


@dataclasses.dataclass
class Thrown:
    """What malformed requests were answered: codes, what is wrong, and the server's memory (KiB) after each repetition."""

    codes: collections.Counter[str]
    wrong: list[str]
    memory: list[int]

    @property
    def flat(self) -> bool:
        return self.memory[-1] < 1.02 * self.memory[-2]


def throw(server: Job, port: int, fuzzer: Fuzzer, count: int) -> Thrown:
    """Sends `count` malformed requests from four threads, then some of them again until the memory stays as it is."""
    codes: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with grpc.insecure_channel(f"localhost:{port}", options=sizes()) as channel:
        predict = channel.unary_unary(PREDICT)  # bytes in, bytes out

        def ask(number: int) -> None:
            try:
                predict(fuzzer.request(number), timeout=300)
                code = "OK"
            except grpc.RpcError as error:
                code, text = error.code().name, error.details()
                no_message = code == "INTERNAL" and "deserializing" in text
                if (code not in ALLOWED and not no_message) or "Traceback" in text or len(text) > 5000:
                    wrong.append(f"request {number} ({KINDS[number % len(KINDS)]}): {code}: {text[:200]}")
            codes[code] += 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(count)))
            seen, memory = codes.copy(), [resident(server)]
            while len(memory) < 8 and (len(memory) < 2 or memory[-1] > 1.02 * memory[-2]):  # what leaks grows every time
                list(pool.map(ask, range(_AGAIN)))
                memory.append(resident(server))
    if server.poll() is not None:
        wrong.append(f"the server has ended: {server.stderr[-500:]}")
    if "internal error" in server.stderr:
        wrong.append("the server's log has an internal error")
    return Thrown(seen, wrong, memory)


def resident(server: Job) -> int:
    """KiB of memory."""
    with open(f"/proc/{server.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


class Load:
    """Threads that ask as fast as they are answered, and hold every answer against what its version should say.

    Args:
        port: of the server.
        model: its name there.
        expected: `{version: {user: (ids, scores)}}`; versions may be added.
        threads: how many ask at a time.
    """

    def __init__(self, port: int, model: str, expected: dict, threads: int = 8) -> None:
        self.expected, self.wrong, self.answered = expected, list[str](), 0
        self._requests = {user: predict_request(model, *Query(user).request()) for user in next(iter(expected.values()))}
        self._channel = grpc.insecure_channel(f"localhost:{port}", options=sizes())
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._ended, self._count = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _ask(self, number: int) -> None:
        users = sorted(self._requests)
        while not self._ended.is_set():
            number += 1
            user = users[number % len(users)]
            try:
                answer = self._predict(self._requests[user], timeout=60)
            except grpc.RpcError as error:
                self.wrong.append(f"{user}: {error.code().name}: {error.details()[:200]}")
                continue
            version = answer.model_spec.version.value
            if not same(answered(answer), self.expected[version][user]):
                self.wrong.append(f"{user}: the answer is not that of version {version}")
            with self._count:
                self.answered += 1


def answered(answer: predict_pb2.PredictResponse) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of the first row."""
    return tf.make_ndarray(answer.outputs["item_id"])[0], tf.make_ndarray(answer.outputs["score"])[0]


def same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    return one[0].tolist() == other[0].tolist() and bool(np.allclose(one[1], other[1], atol=_CLOSE))


def expected_of(version: Path, users: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an export answers in this process."""
    signatures = tf.saved_model.load(str(version)).signatures
    found = {}
    for user in users:
        name, inputs = Query(user).request()
        outputs = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        found[user] = (outputs["item_id"].numpy()[0], outputs["score"].numpy()[0])
    return found


def swap(jobs: Jobs, exports: list[Path], folder: Path, count: int) -> tuple[Load, list[int]]:
    """Puts the exports in each other's place `count` times under load; returns the load and the memory after each swap."""
    users = [f"u{number}" for number in range(20)]
    answers = [expected_of(path, users) for path in exports]
    shutil.copytree(exports[0], folder / "1")
    server = jobs("serving.server", folder, "--port", 0, "--name", "shop", "--poll", 0.05)
    port, memory = int(server.line("serving shop version 1").rsplit(":", 1)[1]), []
    with Load(port, "shop", {1: answers[0]}) as load, Client(f"localhost:{port}", "shop", timeout=120) as client:
        for version in range(2, count + 2):
            which = (version - 1) % len(exports)
            load.expected[version] = answers[which]
            shutil.copytree(exports[which], folder / ".next")
            (folder / ".next").rename(folder / str(version))
            wait_until(lambda version=version: client.status() == _only(version, client))
            before = load.answered
            wait_until(lambda before=before: load.answered > before + 50)
            memory.append(resident(server))
    if "internal error" in server.stderr or server.poll() is not None:
        load.wrong.append(f"the server: {server.stderr[-500:]}")
    return load, memory


def _only(version: int, client: Client) -> dict[int, str]:
    """The states when this version alone answers."""
    return {number: "AVAILABLE" if number == version else "END" for number in client.status()} | {version: "AVAILABLE"}


def make_exports(folder: Path, seed: int) -> list[Path]:
    """Two exports of one small catalog with texts, images and sounds, which answer differently."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[str]] = {
        "item_id": [f"i{n}" for n in range(60)],
        "text": [f"a text about {n % 7}" for n in range(60)],
    }
    for number in range(60):
        picture = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
        (folder / f"{number}.png").write_bytes(as_png(Image.fromarray(picture), 0))
        (folder / f"{number}.wav").write_bytes(as_wav(rng.uniform(-1, 1, 4000).astype(np.float32)))
    columns |= {"image": [f"{n}.png" for n in range(60)], "audio": [f"{n}.wav" for n in range(60)]}
    catalog = mmtfrs.Catalog.from_dict(columns, folder)
    small = {"embedding_dim": 16, "hidden": (16,), "feature_dim": 16, "history_length": 50}
    config = mmtfrs.Config(encoders=dict.fromkeys(("image", "text", "audio"), "offline"), model=small)
    features = mmtfrs.extract(catalog, config, folder / "store", progress=False)
    users, items = rng.integers(0, 50, 1500), rng.integers(0, 60, 1500)
    rows = [f"u{user},i{item},{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, ""]))
    events = mmtfrs.Events.read(folder / "events.csv")
    made = []
    for number in range(2):
        model = mmtfrs.TwoTower(config.replace(seed=seed + number + 1), catalog, features, events)
        model.compile(optimizer="adam")
        model.fit(model.dataset(events), epochs=1, verbose=0)
        made.append(mmtfrs.export(model, folder / f"export-{number}"))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, started(Path(place)) as jobs:
        folder = Path(place)
        exports = make_exports(folder, options.seed)
        server = jobs("serving.server", exports[0].parent, "--port", 0, "--name", "small")
        port = int(server.line("serving small").rsplit(":", 1)[1])
        with Client(f"localhost:{port}", "small") as client:
            media = [(folder / name).read_bytes() for name in ("0.png", "0.wav")]
            fuzzer = Fuzzer(client.signatures(), media, options.seed)
        with Load(port, "small", {1: expected_of(exports[0], [f"u{n}" for n in range(20)])}, threads=1) as beside:
            thrown = throw(server, port, fuzzer, options.requests)
        wrong = [*thrown.wrong, *beside.wrong]
        print(f"{options.requests} malformed requests of {len(KINDS)} kinds: {dict(thrown.codes)}")
        print(f"  beside them {beside.answered} sound ones, {len(beside.wrong)} lost or wrong")
        print(f"  memory, MiB: {', '.join(str(each >> 10) for each in thrown.memory)}; flat: {thrown.flat}")
        load, memory = swap(jobs, exports, folder / "shop", options.swaps)
        steady = memory[len(memory) // 2]
        print(f"{options.swaps} swaps under load: {load.answered} answers, {len(load.wrong)} lost or wrong")
        print(f"  memory after each, MiB: {', '.join(str(each >> 10) for each in memory)}")
        if not thrown.flat:
            wrong.append("malformed requests take more and more memory")
        if memory and memory[-1] > 1.1 * steady:
            wrong.append("swaps take more and more memory")
        for each in [*wrong, *load.wrong][:20]:
            print(f"wrong: {each}")
        return 1 if wrong or load.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
