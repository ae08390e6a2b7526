"""Work in threads ahead of its consumer, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[..., Result], tasks: Iterable[tuple[Key, tuple]], limit: int
) -> Iterator[tuple[Key, Result]]:
    """`(key, work(*arguments))` for each task `(key, arguments)`, in their order; at most `limit` are begun and not taken."""
    window: deque[tuple[Key, Future[Result]]] = deque()
    try:
        for key, arguments in tasks:
            window.append((key, pool.submit(work, *arguments)))
            if len(window) >= limit:
                first, future = window.popleft()
                yield first, future.result()
        while window:
            first, future = window.popleft()
            yield first, future.result()
    finally:
        for _, future in window:
            future.cancel()
