"""What one request may be and take, for server and client alike."""

from __future__ import annotations

MAX_MESSAGE = 64 << 20
# Rows of one request: `max_batch_size` of batching.config, beyond which TF Serving refuses a request too.
MAX_ROWS = 32
# Seconds of one request, whatever its client would wait for: a run that never ends must not hold a thread for ever.
MAX_SECONDS = 60.0


def sizes(most: int = MAX_MESSAGE) -> list[tuple[str, int]]:
    """Channel options for messages of at most so many bytes."""
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]
