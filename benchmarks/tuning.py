"""A search's own costs: memory of the parent over many trials, a trial before its first step, two workers beside one.

    python -m benchmarks.tuning [--parts memory,workers] [--trials 50]

The trials train a small model for three epochs. `memory`: the parent after five trials, which is the baseline, and after all.
`workers`: the same search by one worker, which is the baseline, and by two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import mmtfrs  # first: it chooses Keras 2
from mmtfrs.features.features import Features
from tuning.search import search
from tuning.search_data import SearchData

SPACE = {"model.dropout": {"min": 0.0, "max": 0.5}, "loss.temperature": {"min": 0.1, "max": 0.5}}
CONFIG = mmtfrs.Config(training={"epochs": 3}, model={"modalities": ("image",)}, tuning={"defaults": False, "space": SPACE})


def small_data(users: int = 500, items: int = 400, each: int = 20) -> SearchData:
    """Users who take items at random; how good the model gets is of no matter here."""
    rng = np.random.default_rng(0)
    ids = np.array([f"i{row}" for row in range(items)], object)
    taken = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    events = mmtfrs.Events([f"u{row}" for row in np.repeat(np.arange(users), each)], ids[taken], np.arange(len(taken)))
    features = Features.from_arrays({"image": rng.normal(size=(items, 64)).astype(np.float32)})
    return SearchData(mmtfrs.Catalog.from_dict({"item_id": ids}), features, events.split("random", 0.1, 0.1, 0))


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def memory(data: SearchData, folder: Path, trials: int) -> None:
    search(CONFIG, data, folder, 5, "random")
    few = resident()
    search(CONFIG, data, folder, trials, "random")
    many = resident()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("trials/*/result.json")]
    first = [each["first_step"] for each in found]
    print(f"parent after 5 trials {few:.0f} MiB, after {len(found)} {many:.0f} MiB: {many / few:.3f} times (at most 1.1)")
    print(f"start to first step of a trial: median {statistics.median(first):.1f} s, longest {max(first):.1f} s (under 12)")


def workers(data: SearchData, folder: Path, trials: int = 10) -> None:
    hourly = {}
    for count in (1, 2):
        start = time.perf_counter()
        search(CONFIG, data, folder / str(count), trials, "random", workers=count)
        hourly[count] = 3600 * trials / (time.perf_counter() - start)
        print(f"{count} worker{'s' * (count > 1)}: {hourly[count]:.0f} trials an hour")
    print(f"two workers beside one: {hourly[2] / hourly[1]:.2f} times (at least 1.6 where cores allow)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="memory,workers")
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    data = small_data()
    with tempfile.TemporaryDirectory() as name:
        if "memory" in options.parts:
            memory(data, Path(name) / "memory", options.trials)
        if "workers" in options.parts:
            workers(data, Path(name) / "workers")


if __name__ == "__main__":
    main()
