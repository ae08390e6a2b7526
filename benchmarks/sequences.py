"""What comes next: public leave-one-out logs, by the shipped defaults.

The last event of each user is asked for; all others are the log, trained on as `mmtfrs train --split none` does, which chooses
by itself how many epochs, and whether order is read. The whole catalog is ranked, what a user took left out. A finished seed is
written down and not repeated; a seed that was killed goes on.

    python -m benchmarks.sequences [--data Beauty,LastFM] [--seeds 3] [--encoders auto,bag] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import mmtfrs
from benchmarks._datasets import REAL, sequences
from mmtfrs.data.splits import Split
from mmtfrs.evaluation.evaluate import evaluate
from mmtfrs.evaluation.significance import mean_interval
from mmtfrs.training.train import train

METRICS = ("recall@10", "ndcg@10")


def measure(folder: Path, run: Path, seed: int, encoder: str) -> dict[str, float]:
    """Metrics on the last events, and the seconds of the whole training."""
    config = mmtfrs.Config(seed=seed, data={"split": "none"}, model={"history_encoder": encoder})
    catalog = mmtfrs.Catalog.read(folder / "items.csv", config)
    split = mmtfrs.Events.read(folder / "events.csv", config, catalog).split("user", 0.0, 0.5)
    start = time.perf_counter()
    nothing = split.train.take(np.array([], np.int64), split.train)
    model, history = train(config, catalog, mmtfrs.Features({}), Split("none", split.train, nothing, nothing), run)
    seconds = time.perf_counter() - start
    found = evaluate(model, split.test, ks=(10,))
    row = {name: found["model"][name] for name in METRICS}
    row |= {f"popularity {name}": found["popularity"][name] for name in METRICS}
    return row | {"reads order": model.reads_order, "epochs tried": len(history), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Beauty,LastFM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoders", default="auto,bag")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    for name in options.data.split(","):
        folder = sequences(REAL / "public" / f"{name}.txt", options.out / name)
        if not (folder / "items.csv").exists():
            print(f"{name} is not here: left out")
            continue
        for encoder in options.encoders.split(","):
            rows = []
            for seed in range(options.seeds):
                done = folder / f"{encoder}-{seed}.json"
                if not done.exists():
                    done.write_text(json.dumps(measure(folder, folder / f"{encoder}-{seed}", seed, encoder)))
                rows.append(json.loads(done.read_text()))
                print(name, encoder, seed, rows[-1], flush=True)
            cells = ["{:.4f} +- {:.4f}".format(*mean_interval([row[metric] for row in rows])) for metric in METRICS]
            print(
                f"| {name} | {encoder} | {' | '.join(cells)} | {np.mean([row['seconds'] for row in rows]):.0f} s |", flush=True
            )


if __name__ == "__main__":
    main()
