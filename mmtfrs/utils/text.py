"""Lists as words of a command line."""

from __future__ import annotations


def split_ids(text: str) -> list[str]:
    """`A,B` -> `["A", "B"]`."""
    return [part for part in text.split(",") if part]
