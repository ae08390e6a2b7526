"""Whether a training fits into memory, told before it begins."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mmtfrs.models.objective import LOGITS
from mmtfrs.models.two_tower import TwoTower

log = logging.getLogger("mmtfrs")
_GIB = 1 << 30
_PROCESS = 5 * _GIB // 4  # Python, TensorFlow and its graphs
_COPIES = 6  # of the weights: themselves, Adam's moments, their average, the best so far, and what is being made of them
_PASSES = 6  # matrices of logits that a step holds for each block
_EVALUATION = _GIB  # scores of the users who are asked for, and what is made of them


def needed(model: TwoTower) -> int:
    """Bytes that a training of this model takes at its peak, about."""
    weights = sum(4 * weight.shape.num_elements() for weight in model.weights)
    tables = (*model.data.items.values(), *model.data.users.values())
    media = sum(table.matrix.nbytes + (table.views.nbytes if table.views is not None else 0) for table in tables)
    batch = model.config.training.batch_size
    logits = 4 * min(batch * model.objective.negatives.width(batch), LOGITS) * (model.blocks + 1) * _PASSES
    catalog = 4 * 3 * model.width * len(model.data.item_ids)
    return _PROCESS + _COPIES * weights + 2 * media + logits + catalog + _EVALUATION


def available() -> int | None:
    """Bytes that are free on this machine, and in its control group; None where that is not known."""
    free = []
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if found:
        free.append(1024 * int(found[1]))
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        cached = re.search(r"^inactive_file (\d+)", _read("/sys/fs/cgroup/memory.stat"), re.MULTILINE)  # given back when needed
        free.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return min(free, default=None)


def _held() -> int:
    """Bytes that this process has already."""
    found = re.search(r"VmRSS:\s+(\d+) kB", _read("/proc/self/status"))
    return 1024 * int(found[1]) if found else 0


def tell_memory(model: TwoTower) -> None:
    """Warns where a training takes more memory than there is."""
    free, wanted = available(), needed(model) - _held()
    if free is not None and wanted > free:
        log.warning(
            "the training will need about %.1f GiB more memory, and %.1f GiB are free: it may be stopped by the system. "
            "Smaller `model.embedding_dim`, `model.feature_dim` or `training.batch_size` need less.",
            wanted / _GIB,
            free / _GIB,
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
