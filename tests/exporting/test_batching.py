"""What TF Serving's batching does to requests must not show in their answers. `make fuzz` asks more."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mmtfrs.exporting.request import NO_SCORE, image_bytes, wav_bytes

PAIRS = int(os.environ.get("MMTFRS_PAIRS", "44"))
BATCHES = int(os.environ.get("MMTFRS_BATCHES", "16"))
IDS = [
    b"",
    b"user-0003",
    b"user-0013",
    b"nobody",
    *(b"item-%04d" % number for number in range(0, 600, 7)),
    b"\0",
    b"item-0003\n",
]
ALLOWED = [b"", b"category=space", b"category=food", b"category=nothing"]
BAD = {
    "text": [b"\xff\xfe bytes", b"x" * (2 << 20)],
    "image": [b"junk", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 cut", b"GIF89a" + b"\xff" * 20, b"BM" + b"\xff" * 60],
    "audio": [b"junk", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt " + b"\xff" * 40],
    "allow": [b"color=red", b"category"],
    "boost_attribute": [b"color=red"],
    "boost": [np.nan, np.inf],
    "diversity": [-0.5, np.nan],
    "min_score": [np.nan],
    "embedding": [np.nan, np.inf],
}


@pytest.fixture(scope="module")
def media(small):
    """A few good media of each kind, as a client sends them."""
    catalog = small[2]
    paths = {kind: [catalog.medium(row, kind) for row in range(len(catalog))] for kind in ("text", "image", "audio")}
    found = {kind: [path for path in each if path][:4] for kind, each in paths.items()}
    return {
        "text": [b"", b" ", *(text.encode() for text in found["text"])],
        "image": [b"", *(image_bytes(path) for path in found["image"])],
        "audio": [b"", *(wav_bytes(path) for path in found["audio"])],
    }


class Requests:
    """Draws requests of a signature, whose inputs are `{name: tf.TensorSpec}`."""

    def __init__(self, loaded, media, seed):
        self.specs = {name: function.structured_input_signature[1] for name, function in loaded._module.signatures.items()}
        self.media, self.rng = media, np.random.default_rng(seed)

    def draw(self, signature, rows):
        """Lists begin with "", as those of our client; those of one row need not."""
        plain = rows == 1 and self.rng.random() < 0.5
        widths = {}
        inputs = {}
        for name, spec in self.specs[signature].items():
            kind = "boost" if name.startswith("boost") else name
            width = widths.setdefault(kind, int(self.rng.integers(1, 20)))
            shape = [rows] if spec.shape.rank == 1 else [rows, spec.shape[1] or width]
            inputs[name] = self._values(name, spec, shape)
            if spec.shape.rank == 2 and spec.shape[1] is None and not plain:
                inputs[name][:, 0] = b"" if spec.dtype == "string" else 0.0
        return inputs

    def _values(self, name, spec, shape):
        if name in self.media and spec.dtype == "string":
            return self._pick(self.media[name], shape)
        if spec.dtype == "string":
            return self._pick(ALLOWED if name in ("allow", "boost_attribute") else IDS, shape)
        if spec.dtype == "bool":
            return self.rng.random(shape) < 0.5
        values = self.rng.random(shape).astype(np.float32)
        if name == "min_score":
            return np.where(values < 0.5, np.float32(NO_SCORE), values)
        return (
            np.where(values < 0.5, 0, values)
            if name in ("diversity", "boost")
            else values - np.float32(name == "embedding") / 2
        )

    def _pick(self, values, shape):
        return np.array([*values, None], object)[self.rng.integers(0, len(values), shape)]


def merged(requests):
    """As TF Serving merges them: `PadTensor` in its batching_util.cc appends a tensor's own first element to its lists."""
    whole = {}
    for name in requests[0]:
        parts = [request[name] for request in requests]
        if parts[0].ndim == 2:
            wide = max(part.shape[1] for part in parts)
            parts = [np.pad(part, [(0, 0), (0, wide - part.shape[1])], constant_values=part[0, 0]) for part in parts]
        whole[name] = np.concatenate(parts)
    return whole


def by_item(answer, rows):
    """An answer whose lists have, in these rows, the order of their ids."""
    ids = answer["item_id"]
    order = np.where(rows[:, None], np.argsort(ids, axis=1), np.arange(ids.shape[1]))
    lists = {name: values for name, values in answer.items() if values.shape[:2] == order.shape}
    return answer | {
        name: np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)
        for name, values in lists.items()
    }


def same(together, alone, what):
    if "item_id" in alone:
        # Where items are chosen to be unlike each other, two that are as good at a place may change it with each other.
        unlike = (np.diff(alone["score"], axis=1) > 1e-6).any(axis=1)
        together, alone = (by_item(answer, unlike) for answer in (together, alone))
    for name, expected in alone.items():
        if name == "item_id":
            # A product of more rows rounds otherwise: scores that are equal to the last bits may stand in any order.
            gaps = np.abs(np.diff(alone["score"], axis=1, prepend=np.inf, append=-np.inf))
            decided = np.minimum(gaps[:, :-1], gaps[:, 1:]) > 4e-6
            assert (together[name] == expected)[decided].all(), f"{what}: {name}"
            assert all(set(a) == set(b) for a, b in zip(together[name][:, :-1], expected[:, :-1], strict=True) if b[-1] == b"")
        elif expected.dtype.kind == "f":
            np.testing.assert_allclose(together[name], expected, atol=1e-5, rtol=1e-5, err_msg=f"{what}: {name}")
        else:
            assert together[name].tolist() == expected.tolist(), f"{what}: {name}"


def test_an_answer_does_not_depend_on_who_else_asked(loaded, media):
    requests = Requests(loaded, media, 0)
    names = sorted(requests.specs)
    for number in range(PAIRS):
        name = names[number % len(names)]
        pair = [requests.draw(name, int(rows)) for rows in requests.rng.integers(1, 4, 2)]
        together, place = loaded.ask(name, merged(pair)), 0
        for request in pair:
            rows = len(next(iter(request.values())))
            part = {key: value[place : place + rows] for key, value in together.items()}
            same(part, loaded.ask(name, request), f"{name} {number}")
            place += rows


def test_a_row_with_a_problem_costs_no_other_row(loaded, media):
    requests = Requests(loaded, media, 1)
    names = sorted(name for name, function in loaded._module.signatures.items() if "problem" in function.structured_outputs)
    assert len(names) == 8
    spoiled = set()
    for number in range(BATCHES):
        name = names[number % len(names)]
        rows = int(requests.rng.integers(2, 33))
        inputs = requests.draw(name, rows)
        good = loaded.ask(name, inputs)
        bad = np.zeros(rows, bool)
        for kind in sorted(set(BAD) & set(inputs)):
            row = requests.rng.integers(rows)
            value = BAD[kind][requests.rng.integers(len(BAD[kind]))]
            inputs[kind][(row, -1) if inputs[kind].ndim == 2 else row] = value
            bad[row] = True
            spoiled.add((kind, str(value)[:20]))
        answer = loaded.ask(name, inputs)
        assert ((answer["problem"] != b"") == bad).all(), (name, answer["problem"][bad].tolist())
        same({key: value[~bad] for key, value in answer.items()}, {key: value[~bad] for key, value in good.items()}, name)
    assert {kind for kind, _ in spoiled} == set(BAD)
