"""Which negatives are best for their time: the metric that each kind has reached after so many seconds of a processor's time.

Each user's last event but one is asked for, on a public leave-one-out log and on one that is generated, of 200 000 items. Only
steps are timed, on one core: `taskset -c 0 python -m benchmarks.negatives`.

    python -m benchmarks.negatives [--data Beauty,large] [--kinds mixed,in_batch,full] [--encoder transformer]
        [--seconds 240] [--seeds 2] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import mmtfrs
from benchmarks._datasets import REAL, sequences
from benchmarks._log import sequence_log
from mmtfrs._keras import keras
from mmtfrs.training.fit import fit

METRICS = ("recall@10", "ndcg@10")


class _Clock(keras.callbacks.Callback):
    """Ends a training when its steps have taken so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._limit, self._begun, self._before = seconds, 0.0, 0.0
        self.spent: list[float] = []  # at the end of each epoch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._begun, self._before = time.process_time(), self.spent[-1] if self.spent else 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.now = self._before + time.process_time() - self._begun
        self.model.stop_training |= self.now >= self._limit

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.spent.append(self.now)


def measure(name: str, out: Path, kind: str, encoder: str, seed: int, seconds: float) -> dict:
    """Seconds and metrics at the end of every epoch."""
    config = mmtfrs.Config(
        seed=seed,
        model={"history_encoder": encoder},
        loss={"negatives": kind},
        training={"epochs": 1000, "patience": 1000},
        evaluation={"monitor": "ndcg@10"},
    )
    if name == "large":
        catalog, events = sequence_log()
    else:
        folder = sequences(REAL / "public" / f"{name}.txt", out / name)
        catalog = mmtfrs.Catalog.read(folder / "items.csv", config)
        events = mmtfrs.Events.read(folder / "events.csv", config, catalog).split("user", 0.0, 0.5).train
    split = events.split("user", 0.1, 0.0)
    model = mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), split.train)
    clock = _Clock(seconds)
    history = fit(model, split, more=[clock])
    return {"seconds": clock.spent} | {metric: [logs[f"val_{metric}"] for logs in history] for metric in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Beauty,large")
    parser.add_argument("--kinds", default="mixed,in_batch,full")
    parser.add_argument("--encoder", default="transformer")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    for name in options.data.split(","):
        for kind in options.kinds.split(","):
            for seed in range(options.seeds):
                row = measure(name, options.out, kind, options.encoder, seed, options.seconds)
                cells = [_by(row, share * options.seconds) for share in (0.25, 0.5, 1.0)]
                print(f"| {name} | {options.encoder} | {kind} | {seed} | {' | '.join(cells)} |", json.dumps(row), flush=True)


def _by(row: dict, seconds: float) -> str:
    """The best epoch that was over by then."""
    places = [place for place, spent in enumerate(row["seconds"]) if spent <= seconds * 1.02]
    best = max(places, key=lambda place: row[METRICS[1]][place], default=None)
    return "-" if best is None else " / ".join(f"{row[metric][best]:.4f}" for metric in METRICS)


if __name__ == "__main__":
    main()
