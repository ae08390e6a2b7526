"""Functions of the user's own as encoders, in modules of their own files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
from conftest import run_cli
from PIL import Image

import mmtfrs
from mmtfrs import encoders
from mmtfrs.encoders.function import ImageFunction, takes_a_batch
from mmtfrs.encoders.video import FramesEncoder, SoundTrackEncoder
from mmtfrs.errors import EncoderError

LENGTHS = """
import numpy as np

def encode(texts):
    return np.array([[len(text), text.count("e"), 1.0] for text in texts])
"""


def test_texts_come_as_they_are(own):
    encoder = encoders.load("text", f"{own(LENGTHS)}:encode")
    assert encoder.dim == 3 and not encoder.in_graph
    features, present = encoder.encode(["a tree", None, "été", " "])
    assert features.tolist() == [[6, 2, 1], [0, 0, 0], [3, 0, 1], [0, 0, 0]] and present.tolist() == [True, False, True, False]


def test_images_and_sounds_come_decoded(own, tmp_path):
    name = own(
        "def encode(images):\n"
        "    assert all(each.dtype == 'uint8' and each.flags.writeable for each in images)\n"
        "    return [[*each.shape, each[0, 0, 0], each[-1, -1, 2]] for each in images]\n"
        "def hear(sounds):\n"
        "    return [[len(each), abs(each).max()] for each in sounds]\n"
    )
    pixels = np.zeros((40, 90, 3), np.uint8)
    pixels[0, 0, 0], pixels[-1, -1, 2] = 7, 9
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.new("L", (5, 6), 3).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"junk")
    features, present = encoders.load("image", f"{name}:encode").encode([tmp_path / f"{each}.png" for each in "abc"])
    assert features.tolist() == [[40, 90, 3, 7, 9], [6, 5, 3, 3, 3], [0] * 5] and present.tolist() == [True, True, False]
    soundfile.write(tmp_path / "a.wav", np.full((8_000, 2), 0.5), 8_000, subtype="FLOAT")
    features, _ = encoders.load("audio", f"{name}:hear").encode([tmp_path / "a.wav"])
    assert features[0, 0] == 16_000 and abs(features[0, 1] - 0.5) < 0.1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise KeyError('key')", r"own_\d+:encode: failed on a batch of 1 text media \(KeyError: 'key'\)\.$"),
        ("return [1.0] * len(texts)", r"must give \[1, dim\] numbers for 1 media. Received: float64 \[1\]"),
        ("return [[1.0]] * 7", r"must give \[1, dim\] numbers for 1 media. Received: float64 \[7, 1\]"),
        ("return [['x']] * len(texts)", r"Received: <U1 \[1, 1\]"),
        ("return None", r"Received: object \[\]"),
        ("return [[float('nan')]] * len(texts)", r"must give finite float32 numbers. Received: NaN or infinity for 2 of 2"),
        ("return [[1e300]] * len(texts)", "must give finite float32 numbers"),
        ("return [[1.0] * len(texts)] * len(texts)", "must give features of one size. Received: 2 numbers, before 1"),
    ],
)
def test_bad_answers_name_the_function(own, source, message):
    encoder = encoders.load("text", f"{own('def encode(texts):' + chr(10) + '    ' + source)}:encode")
    with pytest.raises(EncoderError, match=message) as caught:
        encoder.encode(["one", "two"])
    assert "\n" not in str(caught.value)


def test_which_functions_are_encoders():
    assert takes_a_batch(lambda texts: texts) and takes_a_batch(lambda texts, size=3: texts)
    assert not takes_a_batch(lambda: 1) and not takes_a_batch(lambda size=3: size)
    assert not takes_a_batch(ImageFunction) and not takes_a_batch(3) and not takes_a_batch(lambda a, b: a)


def test_the_fingerprint_follows_source_and_mark(own, tmp_path):
    name = own(LENGTHS)

    def mark(source):
        (tmp_path / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
        import linecache

        linecache.clearcache()
        return encoders.load("text", f"{name}:encode").fingerprint

    first = mark(LENGTHS)
    assert mark(LENGTHS) == first
    assert mark(LENGTHS + "# other weights") != first
    assert mark(LENGTHS + "encode.fingerprint = 'v2'") not in (first, mark(LENGTHS + "encode.fingerprint = 'v3'"))
    with pytest.raises(EncoderError, match="attribute `fingerprint` must be a text. Received: 3"):
        mark(LENGTHS + "encode.fingerprint = 3")


def test_extraction_stores_resumes_and_sets_aside(own, tmp_path):
    calls = tmp_path / "calls"
    name = own(
        f"import pathlib, numpy as np\n"
        f"def encode(images):\n"
        f"    with open({str(calls)!r}, 'a') as file: file.write(f'{{len(images)}} ')\n"
        f"    if pathlib.Path({str(tmp_path / 'down')!r}).exists() and len(images) < 2: raise TimeoutError('no answer')\n"
        f"    return np.array([each.mean((0, 1)) for each in images])\n"
    )
    for number in range(3):
        Image.new("RGB", (4 + number, 3), (number, 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"junk")
    (tmp_path / "items.csv").write_text("item_id,image\n" + "\n".join(f"i{n},{min(n, 3)}.png" for n in range(5)))
    catalog = mmtfrs.Catalog.read(tmp_path / "items.csv")
    config = mmtfrs.Config(encoders={"image": f"{name}:encode"}, extraction={"batch_size": 2})
    (tmp_path / "down").touch()
    with pytest.raises(EncoderError, match=f"{name}:encode: failed on a batch of 1 image media"):
        mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    (tmp_path / "down").unlink()
    assert calls.read_text() == "1 "  # the size of its features is asked for before anything is encoded
    features = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert features.items["image"][:].tolist() == [[0, 9, 9], [1, 9, 9], [2, 9, 9], [0] * 3, [0] * 3]
    assert features.encoded == 3 and [each.id for each in features.rejects] == ["i3", "i4"]
    again = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert again.encoded == 0 and calls.read_text() == "1 1 2 1 "  # what is stored is not asked for again


def test_videos(own):
    pytest.importorskip("av", reason="videos need PyAV")
    from encoders.test_video import GRAYS, _clip

    name = own(
        "def encode(images):\n    assert len(images) <= 3\n    return [[each.mean(), each.shape[0]] for each in images]\n"
        "def hear(sounds):\n    return [[len(each)] for each in sounds]\n"
    )
    bounds = mmtfrs.Config(extraction={"frames": 4, "batch_size": 3}).extraction
    frames = FramesEncoder(encoders.load("image", f"{name}:encode"), bounds)
    features = frames.encode_batch([frames.decode(_clip(size=size), bounds) for size in (64, 32)])
    np.testing.assert_allclose(features, [[np.mean(GRAYS), 64], [np.mean(GRAYS), 32]], atol=6)
    assert features[:, 1].tolist() == [64, 32]
    sound = SoundTrackEncoder(encoders.load("audio", f"{name}:hear"))
    assert abs(sound.encode_batch([sound.decode(_clip(), bounds)])[0, 0] - 32_000) < 800


def test_the_command_line_finds_it_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths_here.py").write_text(LENGTHS)
    (tmp_path / "items.csv").write_text("item_id,text\na,one\nb,three\n")
    command = "extract", "--items", "items.csv", "--store", "store", "--text-encoder"
    assert "2 media encoded now" in run_cli(*command, "lengths_here:encode").stdout
    (tmp_path / "failing_here.py").write_text("def encode(texts):\n    raise RuntimeError('out of credit')\n")
    refused = run_cli(*command, "failing_here:encode")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].endswith("(RuntimeError: out of credit).")
