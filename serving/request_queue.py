"""The requests that wait for a thread: so many and no more; the rest are refused and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import grpc

from serving.prometheus import Metrics

FULL = "the server's queue is full"


class RequestQueue(ThreadPoolExecutor):
    """Threads that know how much they hold.

    Args:
        threads: how many.
        most: calls that may run or wait; `full` says that there are as many, and leaves it to others what follows.
    """

    def __init__(self, threads: int, most: int) -> None:
        super().__init__(threads)
        self.most, self.held = most, 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        return self.held >= self.most

    def submit(self, call: Callable, /, *args, **kwargs) -> Future:
        with self._lock:
            self.held += 1
        future = super().submit(call, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future) -> None:
        with self._lock:
            self.held -= 1


class Admission(grpc.ServerInterceptor):
    """Refuses calls while the queue is full, with RESOURCE_EXHAUSTED on threads of its own, and counts them: those that gRPC's
    `maximum_concurrent_rpcs` refuses are seen by nobody."""

    def __init__(self, queue: RequestQueue, metrics: Metrics) -> None:
        self._queue, self._metrics = queue, metrics

        def refuse(request: bytes, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, FULL)

        refuse.experimental_thread_pool = ThreadPoolExecutor(2)  # where gRPC runs this function
        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        self._metrics.began()
        if handler is None or handler.request_streaming or not self._queue.full:
            return handler
        self._metrics.observe("unknown", details.method.rpartition("/")[2], "RESOURCE_EXHAUSTED")
        return self._refusal
