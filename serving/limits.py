"""What one request may be and take, for server and client alike, and the way that it goes."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
import urllib.request

MAX_MESSAGE = 64 << 20
# Rows of one request: `max_batch_size` of batching.config, beyond which TF Serving refuses a request too.
MAX_ROWS = 32
# Seconds of one request, whatever its client would wait for: a run that never ends must not hold a thread for ever.
MAX_SECONDS = 60.0


def sizes(most: int = MAX_MESSAGE) -> list[tuple[str, int]]:
    """Channel options for messages of at most so many bytes."""
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]


def proxy(target: str) -> tuple[str, list[tuple[str, int]]]:
    """The proxy that gRPC takes to a target, as `http_proxy=HOST:PORT`, "" for none, and channel options for it.

    gRPC takes one to the machine itself too, which no proxy can reach: there it is told not to.
    """
    host = urllib.parse.urlsplit(f"//{target.rpartition('/')[2]}").hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host in ("", "localhost") or target.startswith("unix:")
    if here:
        return "", [("grpc.enable_http_proxy", 0)]
    if urllib.request.proxy_bypass_environment(host):  # it stands in no_proxy
        return "", []
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):  # the first that is set, as gRPC has it
        if value := os.environ.get(name):
            return f"{name}={value.rpartition('@')[2]}", []  # without its password
    return "", []
