"""Steps of the user's own between decoding and encoding: in the extraction, for users, videos and exports."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from conftest import FAST
from PIL import Image

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.encoders.preprocess import Step
from mmtfrs.encoders.video import FramesEncoder, SoundTrackEncoder
from mmtfrs.errors import ConfigError, DataError, EncoderError, MediaError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query
from mmtfrs.features.media_column import _bytes

STEPS = """
import numpy as np
from mmtfrs.errors import MediaError

def louder(sound):
    if not sound.any():
        raise MediaError("silence")
    return sound * np.float32(2)

def corner(image):
    return image[:2, :3]

def shout(text):
    return text.upper() + "!"

def encode(texts):
    return [[len(text), text.count("!"), text.isupper()] for text in texts]

def sizes(images):
    return [[*image.shape] for image in images]
"""


def _wave(path, level):
    soundfile.write(path, np.full(16_000, level), 16_000, subtype="FLOAT")
    return path


def test_features_are_those_of_what_the_function_gives(own, tmp_path):
    name = own(STEPS)
    quiet, loud, silent = (_wave(tmp_path / f"{n}.wav", level) for n, level in enumerate((0.2, 0.4, 0.0)))
    plain, before = encoders.load("audio", "mfcc"), encoders.load("audio", "mfcc", f"{name}:louder")
    features, present = before.encode([quiet, silent])
    np.testing.assert_array_equal(features[0], plain.encode([loud])[0][0])
    assert present.tolist() == [True, False] and before.fingerprint != plain.fingerprint and not before.in_graph
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(tmp_path / "whole.png")
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)[:2, :3]).save(tmp_path / "part.png")
    part = encoders.load("image", "offline").encode([tmp_path / "part.png"])[0]
    np.testing.assert_array_equal(encoders.load("image", "offline", f"{name}:corner").encode([tmp_path / "whole.png"])[0], part)
    shown = encoders.load("image", f"{name}:sizes", f"{name}:corner")
    assert shown.encode([tmp_path / "whole.png"])[0].tolist() == [[2, 3, 3]]


def test_the_fingerprint_has_the_functions_code(own):
    marks = [encoders.load("text", "offline", f"{own(STEPS + more)}:shout").fingerprint for more in ("", "#", "#")]
    name = own(STEPS)
    assert len({*marks, encoders.load("text", "offline").fingerprint}) == 4  # the name of a module counts too
    assert encoders.load("text", "offline", f"{name}:shout").fingerprint == (
        encoders.load("text", "offline", f"{name}:shout").fingerprint
    )


@pytest.mark.parametrize(
    ("modality", "function", "medium", "message"),
    [
        ("text", lambda text: 3, "a", "m:f: must give a str. Received: int."),
        ("text", lambda text: text.nothing, "a", r"m:f: failed on a medium of text \(AttributeError: "),
        (
            "audio",
            lambda wave: wave[None],
            np.zeros(3, np.float32),
            r"must give \[T\] finite float32. Received: float32 \[1, 3\]",
        ),
        ("audio", lambda wave: wave + np.nan, np.zeros(3, np.float32), r"must give \[T\] finite float32"),
        (
            "image",
            lambda image: image / 255.0,
            np.zeros((2, 2, 3), np.uint8),
            r"\[h, w, 3\] uint8. Received: float64 \[2, 2, 3\]",
        ),
        ("image", lambda image: image[:0], np.zeros((2, 2, 3), np.uint8), r"Received: uint8 \[0, 2, 3\]"),
    ],
)
def test_what_the_function_must_give(modality, function, medium, message):
    with pytest.raises(EncoderError, match=message):
        Step(modality, "m:f", function)(medium)


def test_a_function_may_set_a_medium_aside(own):
    step = Step("audio", "m:f", __import__(own(STEPS)).louder)
    with pytest.raises(MediaError, match="silence"):
        step(np.zeros(3, np.float32))


def test_settings():
    config = mmtfrs.Config(extraction={"preprocess": {"audio": "mypackage:denoise"}})
    assert config.extraction.step("audio") == "mypackage:denoise" and config.extraction.step("text") == ""
    with pytest.raises(ConfigError, match=r"`extraction.preprocess.audio` must be package.module:name. Received: 'denoise'"):
        mmtfrs.Config(extraction={"preprocess": {"audio": "denoise"}})
    with pytest.raises(ConfigError, match="preprocess"):
        mmtfrs.Config(extraction={"preprocess": {"video": "a:b"}})


def test_items_and_users_go_through_it_and_weights_are_fitted_behind_it(own, tmp_path):
    name = own(STEPS)
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a", "b", "c"], "text": ["one", "three", ""]})
    (tmp_path / "users.csv").write_text("user_id,text\nu,five\n")
    users = mmtfrs.Users.read(tmp_path / "users.csv")
    config = mmtfrs.Config(encoders={"text": f"{name}:encode"}, extraction={"preprocess": {"text": f"{name}:shout"}})
    features = mmtfrs.extract(catalog, config, tmp_path / "store", users, progress=False)
    assert features.items["text"][:].tolist() == [[4, 1, 1], [6, 1, 1], [0, 0, 0]]
    assert features.users["text"][:].tolist() == [[5, 1, 1]]
    (tmp_path / "v.txt").write_text("ONE 1 0\nTHREE 0 1\n")  # what only shouting finds
    words = config.replace(encoders={"text": f"vectors:{tmp_path / 'v.txt'}"})
    assert mmtfrs.extract(catalog, words, tmp_path / "store", progress=False).items["text"][:2].tolist() == [[1, 0], [0, 1]]


def test_videos(own):
    pytest.importorskip("av", reason="videos need PyAV")
    from encoders.test_video import _clip

    name, bounds = own(STEPS), mmtfrs.Config(extraction={"frames": 4}).extraction
    frames = FramesEncoder(encoders.load("image", f"{name}:sizes", f"{name}:corner"), bounds)
    decoded = frames.decode(_clip(), bounds)
    assert frames.encode_batch([decoded]).tolist() == [[2, 3, 3]] and _bytes(decoded) == 4 * 2 * 3 * 3
    plain = encoders.load("image", "offline")
    whole, cut = FramesEncoder(plain, bounds), FramesEncoder(encoders.load("image", "offline", f"{name}:corner"), bounds)
    found = [each.encode_batch([each.decode(_clip(), bounds)]) for each in (whole, cut)]
    np.testing.assert_allclose(found[0], found[1], atol=0.05)  # a frame of one gray is the same, however it is cut
    heard = SoundTrackEncoder(encoders.load("audio", "mfcc", f"{name}:louder"))
    sound = SoundTrackEncoder(encoders.load("audio", "mfcc"))
    np.testing.assert_allclose(heard.decode(_clip(), bounds), np.clip(2 * sound.decode(_clip(), bounds), -1, 1), atol=1e-6)


@pytest.mark.long
def test_an_export_takes_features_and_the_user_asks_by_a_file(own, tmp_path):
    name = own(STEPS)
    rng = np.random.default_rng(0)
    for number in range(6):
        tone = np.sin(np.arange(8_000) * (0.05 + 0.1 * number)) * 0.3 + rng.normal(0, 0.01, 8_000)
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
    items = {"item_id": list("abcdef"), "audio": [f"{number}.wav" for number in range(6)], "text": [f"t {n}" for n in range(6)]}
    catalog = mmtfrs.Catalog.from_dict(items, tmp_path)
    config = mmtfrs.Config(
        **FAST, encoders={"audio": "mfcc", "text": "offline"}, extraction={"preprocess": {"audio": f"{name}:louder"}}
    ).replace(model={"modalities": ("audio", "text")})
    features = mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
    model = mmtfrs.TwoTower(config, catalog, features, mmtfrs.Events(list("uuvvww"), list("abcdef"), range(6)))
    mmtfrs.export(model, tmp_path / "m")
    loaded = LoadedModel(tmp_path / "m", trust_code=True)
    made = loaded.facts["features"]["audio"]
    assert (made["encoder"], made["preprocess"], made["dim"]) == ("mfcc", f"{name}:louder", 100)
    told = loaded.ask("encoded_by", {"modality": np.array([b"audio", b"text"], object)})
    assert {fact: value.tolist() for fact, value in told.items()} == {
        fact: [made[fact].encode(), b""] for fact in ("encoder", "preprocess", "fingerprint")
    }
    signature, inputs = loaded.own.requests([Query(audio=tmp_path / "3.wav")])[0]
    np.testing.assert_allclose(inputs["audio_features"][0], features.items["audio"][3:4][0], rtol=1e-5, atol=1e-4)
    assert signature == "serving_default" and {"text", "image"} < {*inputs} and "audio" not in inputs
    inputs.pop("exclude")
    media = {name: tf.constant(features.items[name][3:4]) for name in ("audio", "text")}
    there = tf.constant([[float(name == "audio") for name in model.data.modalities]])
    expected, _ = model.query_from_rows(tf.constant([0]), tf.constant([[0]]), media, there)
    np.testing.assert_allclose(loaded.ask("embed_query", inputs)["embedding"], expected, atol=1e-5)
    assert len(loaded.recommend(Query(audio=tmp_path / "3.wav"))) == 6
    with pytest.raises(DataError, match=f"is encoded by {name}:louder and mfcc, code that would be imported"):
        LoadedModel(tmp_path / "m").recommend(Query(audio=tmp_path / "3.wav"))
    (tmp_path / "bad.wav").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"bad\.wav: this is not audio"):
        loaded.recommend(Query(audio=tmp_path / "bad.wav"))
