"""The local server beside the same model called in the process, swaps of versions under load, a refresh beside a full export.

    python -m benchmarks.serving [--parts latency,text,swaps,refresh] [--items 10000] [--catalog 100000] [--image offline]

`latency`: `recommend_user` through gRPC on loopback; the baseline is the exported model called in this process. Client and
server share the machine's cores. `text`: one raw text through the server with MiniLM; the baseline is the bare encoder.
`swaps`: ten new versions appear one after the other under a steady load. `refresh`: 1 % of a catalog of pictures and texts is
new; the baseline is the way without it: every medium encoded, and the export.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tensorflow_serving.apis import predict_pb2

import mmtfrs  # first: it chooses Keras 2
from benchmarks.paraphrases import PAIRS
from mmtfrs._keras import tf
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.request import Query, predict_request, stack
from mmtfrs.features.features import Features
from serving.client import Client
from serving.loadtest import run_load

SWAPS = 10


def exported(items: int, folder: Path) -> Path:
    """An untrained model of the default shape: answering takes as long as with a trained one."""
    rng = np.random.default_rng(0)
    ids = np.array([f"i{row}" for row in range(items)], object)
    values = {name: rng.normal(size=(items, 512)).astype(np.float32) for name in ("image", "text", "audio")}
    config = mmtfrs.Config(model={"modalities": ("image", "text", "audio")})  # random ones, which say nothing
    events = mmtfrs.Events(
        [f"u{row % 1000}" for row in range(20 * items)], ids[rng.integers(0, items, 20 * items)], np.arange(20 * items)
    )
    model = mmtfrs.TwoTower(config, mmtfrs.Catalog.from_dict({"item_id": ids}), Features.from_arrays(values), events)
    mmtfrs.export(model, folder / "bench")
    return folder / "bench"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`HOST:PORT` of a server process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.server", str(folder), "--port", "0", "--poll", "0.2"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def question(rows: int = 1) -> tuple[dict, predict_pb2.PredictRequest]:
    """What is asked: users with a history of 20, as inputs and as a request."""
    asked = [Query(f"u{row}", [f"i{(row * 37 + n) % 500}" for n in range(20)]).request()[1] for row in range(rows)]
    inputs = stack(asked)
    return inputs, predict_request("bench", "recommend_user", inputs)


def median(call: Callable[[], object], times: int = 300) -> float:
    """Milliseconds of the middle one of so many calls."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - start))
    return float(np.median(spent))


def saturation(target: str, inputs: dict, seconds: float = 4.0) -> float:
    """Requests per second that eight clients get who each wait for their answer."""
    end = time.perf_counter() + seconds

    def ask(_: int) -> int:
        count = 0
        with Client(target, "bench") as client:
            while time.perf_counter() < end:
                client.predict("recommend_user", inputs)
                count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(ask, range(8))) / seconds


def latency(folder: Path) -> None:
    one, request = question()
    many, _ = question(32)
    loaded = LoadedModel(folder)
    with serving(folder) as target, Client(target, "bench") as client:
        calls = {
            "in process": lambda: loaded.ask("recommend_user", one),
            "server": lambda: client.predict("recommend_user", one),
            "server, 32 rows": lambda: client.predict("recommend_user", many),
        }
        for call in calls.values():
            median(call, 50)
        rounds = [{name: median(call) for name, call in calls.items()} for _ in range(3)]
        middle = {name: float(np.median([each[name] for each in rounds])) for name in calls}
        top = saturation(target, one)
        run_load(target, request, top / 2, 2)
        found = run_load(target, request, top / 2, 15).summary()
    for name, value in middle.items():
        print(f"p50 {name:<28} {value:8.2f} ms")
    print(f"server - in process              {middle['server'] - middle['in process']:8.2f} ms   (at most 2)")
    print(f"32 rows / 32 requests            {middle['server, 32 rows'] / (32 * middle['server']):8.3f}      (at most 0.25)")
    print(f"saturation                       {top:8.0f} requests/s")
    print(
        f"at half of it: p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms, p99 / p50 "
        f"{found['p99_ms'] / found['p50_ms']:.1f} (at most 4), errors {found['errors']}"
    )


def text(folder: Path) -> None:
    texts = [text for pair in PAIRS for text in pair]
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{row}" for row in range(len(texts))], "text": texts})
    config = mmtfrs.Config(encoders={"text": "minilm"}, model={"modalities": ("text",)})
    events = mmtfrs.Events([f"u{row % 20}" for row in range(len(texts))], catalog.ids, np.arange(len(texts)))
    features = mmtfrs.extract(catalog, config, folder / "texts", progress=False)
    made = mmtfrs.export(mmtfrs.TwoTower(config, catalog, features, events), folder / "text")
    encoder, turn = features.encoders["text"], itertools.cycle(texts)
    with serving(folder / "text") as target, Client(target, "text") as client:
        calls = {
            "bare encoder": lambda: encoder(tf.constant([next(turn)])),
            "server": lambda: client.predict(*Query(text=next(turn)).request()),
        }
        for call in calls.values():
            median(call, 2 * len(texts))
        rounds = [{name: median(call, len(texts)) for name, call in calls.items()} for _ in range(5)]
    for name in calls:
        print(f"p50 of a text of MiniLM, {name:<24} {np.median([each[name] for each in rounds]):8.2f} ms")
    ratio = np.median([each["server"] / each["bare encoder"] for each in rounds])
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 1e6
    print(f"server / bare encoder            {ratio:8.2f}      (at most 1.5); the export has {size:.0f} MB")


def swaps(folder: Path, rate: float = 50.0) -> None:
    _, request = question()
    spans: list[tuple[float, float]] = []
    with serving(folder) as target, Client(target, "bench") as client, ThreadPoolExecutor(1) as pool:
        run_load(target, request, rate, 3)
        begun = time.perf_counter()
        load = pool.submit(run_load, target, request, rate, SWAPS * 8.0)
        for _ in range(SWAPS):
            time.sleep(3)
            version = max(int(path.name) for path in folder.iterdir() if path.name.isdigit()) + 1
            shutil.copytree(folder / "1", folder / ".part")
            start = time.perf_counter() - begun
            (folder / ".part").rename(folder / str(version))
            while (state := client.status().get(version)) != "AVAILABLE":
                if state == "END":
                    raise SystemExit(f"version {version} was not loaded")
                time.sleep(0.05)
            spans.append((start, time.perf_counter() - begun))
        result = load.result()
    inside = np.zeros(len(result.due), bool)
    for start, end in spans:
        inside |= (result.due + result.latencies >= start) & (result.due <= end)
    during, outside = (1000 * np.percentile(result.latencies[part], 99) for part in (inside, ~inside))
    spent = np.mean([end - start for start, end in spans])
    failed, asked = sum(result.errors.values()), len(result.latencies)
    print(f"{SWAPS} swaps at {rate:.0f} requests/s: {failed} of {asked} failed; a swap took {spent:.1f} s")
    print(f"p99 during {during:.2f} ms, outside {outside:.2f} ms: {during / outside:.1f} times (at most 3)")


def refreshing(count: int, image: str, folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "media").mkdir()
    for row in range(count + count // 100):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        small.resize((96, 96), Image.Resampling.BILINEAR).save(folder / "media" / f"{row}.jpg")
    words = rng.integers(0, 5000, (count + count // 100, 12))

    def made(size: int) -> mmtfrs.Catalog:
        texts = [" ".join(f"w{word}" for word in words[row]) for row in range(size)]
        return mmtfrs.Catalog.from_dict(
            {
                "item_id": [f"i{row}" for row in range(size)],
                "text": texts,
                "image": [f"media/{row}.jpg" for row in range(size)],
            },
            folder,
        )

    config = mmtfrs.Config(encoders={"image": image, "text": "offline"}, model={"modalities": ("image", "text")})
    catalog = made(count)
    events = mmtfrs.Events([f"u{row % 1000}" for row in range(count)], catalog.ids[rng.permutation(count)], np.arange(count))
    start = time.perf_counter()
    features = mmtfrs.extract(catalog, config, folder / "store", progress=False)
    encoded = time.perf_counter() - start
    model = mmtfrs.TwoTower(config, catalog, features, events)
    start = time.perf_counter()
    mmtfrs.export(model, folder / "fresh")
    written = time.perf_counter() - start
    more = made(count + count // 100)  # read before the clock starts, as above
    start = time.perf_counter()
    done = refresh(folder / "fresh", more, folder / "store", progress=False)
    spent = time.perf_counter() - start
    print(f"{count} items, {image} pictures: encoding {encoded:.1f} s, export {written:.1f} s")
    print(f"refresh with {done.encoded} new media: {spent:.1f} s, {spent / (encoded + written):.3f} of both (at most 0.1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="latency,text,swaps,refresh")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--catalog", type=int, default=100_000)
    parser.add_argument("--image", default="offline")
    options = parser.parse_args()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"latency", "swaps"} & set(parts):
            model = exported(options.items, folder)
            for part in (latency, swaps):
                if part.__name__ in parts:
                    part(model)
        if "text" in parts:
            text(folder)
        if "refresh" in parts:
            refreshing(options.catalog, options.image, folder)


if __name__ == "__main__":
    main()
