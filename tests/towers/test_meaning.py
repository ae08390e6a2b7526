"""Texts are found by what they mean: through both towers, in words that no item has."""

from __future__ import annotations

import pytest

from benchmarks.paraphrases import PAIRS, measure


@pytest.mark.long
def test_paraphrases_find_their_items_through_the_towers(tmp_path, monkeypatch, real_encoders):
    """Takes twenty seconds. Towers that only knew who takes what would find any item of the same topic: one time in ten."""
    monkeypatch.chdir(tmp_path)
    found = measure("minilm", 0)
    assert len(PAIRS) == 60 and found["plain cosine"] > 0.8
    for tower in ("query tower", "candidate tower"):
        assert found[tower] >= 0.9 * found["plain cosine"]
