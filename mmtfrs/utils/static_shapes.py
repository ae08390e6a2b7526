"""Whether shapes must be known before a step is run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mmtfrs._keras import tf

_compiled = False


def static_shapes() -> bool:
    """Where XLA compiles a step as a whole; elsewhere what depends on the data is the faster way."""
    return _compiled or isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)


@contextlib.contextmanager
def compiled(wanted: bool | None) -> Iterator[None]:
    """Says that what is traced meanwhile is for XLA, where that is wanted."""
    global _compiled
    before, _compiled = _compiled, _compiled or bool(wanted)
    try:
        yield
    finally:
        _compiled = before
