"""Evaluation over a whole catalog, beside the bare product and `top_k` that it cannot do without.

python -m benchmarks.evaluation [--users 10000] [--items 100000]
"""

from __future__ import annotations

import argparse

import numpy as np

import mmtfrs  # first: it chooses Keras 2
from benchmarks._measure import compare
from mmtfrs._keras import tf
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.features.features import Features

KS = (5, 10, 20, 100)
AT_A_TIME = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(options.items)]

    def log(each: int, known: mmtfrs.Events | None = None) -> mmtfrs.Events:
        users = np.repeat(np.arange(options.users), each)
        items = rng.integers(0, options.items, len(users))
        return mmtfrs.Events([f"u{row}" for row in users], [ids[row] for row in items], np.arange(len(users)), known=known)

    train = log(20)
    model = mmtfrs.TwoTower(mmtfrs.Config(), mmtfrs.Catalog.from_dict({"item_id": ids}), Features({}), train)
    task, scorer = RankingTask(model.data, log(3, train)), ModelScorer(model)
    queries = tf.constant(model.query_embeddings(task.users, task.pasts))
    candidates = tf.constant(model.candidate_embeddings())

    def ours() -> int:
        task.evaluate(scorer, KS)
        return len(task.users)

    def bare() -> int:
        for start in range(0, len(queries), AT_A_TIME):
            tf.math.top_k(tf.matmul(queries[start : start + AT_A_TIME], candidates, transpose_b=True), max(KS))[1].numpy()
        return len(queries)

    print(f"{options.users} users, {options.items} items, all metrics at {', '.join(map(str, KS))}")
    compare(f"matmul and top_k, {AT_A_TIME} users at a time", ours, bare, "users", rounds=2)


if __name__ == "__main__":
    main()
