"""The feature store and extraction: once per medium, through kills, in bounded memory."""

from __future__ import annotations

import csv
import io
import itertools
import os
import resource
import shutil
import signal
import sqlite3

import numpy as np
import pytest
from conftest import OFFLINE

from mmtfrs import Catalog, Config, Users, encoders, extract
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import DataError, StoreError
from mmtfrs.features.store import FeatureStore

CONFIG = Config(encoders=OFFLINE)


def _texts(count, prefix="text number"):
    return Catalog.from_dict({"item_id": [f"i{n}" for n in range(count)], "text": [f"{prefix} {n}" for n in range(count)]})


def test_features_are_the_encoders(tmp_path):
    texts = ["a rocket", "", "the sea", "a rocket", "  "]
    catalog = Catalog.from_dict({"item_id": list("abcde"), "text": texts})
    features = extract(catalog, CONFIG, tmp_path / "s", progress=False)
    rows = features.items["text"]
    expected, present = encoders.load("text", "offline").encode(texts)
    np.testing.assert_array_equal(rows.present, present)
    np.testing.assert_allclose(rows[:], expected, atol=1e-6)
    np.testing.assert_allclose(np.asarray(rows), expected, atol=1e-6)
    assert features.encoded == 2  # the same text twice is one medium
    assert list(features.items) == ["text"] and isinstance(rows.matrix, np.memmap)
    assert [reject.id for reject in features.rejects] == ["e"]


def test_nothing_is_encoded_twice(tmp_path, monkeypatch):
    extract(_texts(50), CONFIG, tmp_path / "s", progress=False)
    again = extract(_texts(50), CONFIG, tmp_path / "s", progress=False)
    assert again.encoded == 0
    more = extract(_texts(60), CONFIG, tmp_path / "s", progress=False)
    assert more.encoded == 10
    np.testing.assert_allclose(more.items["text"][:50], again.items["text"][:], atol=0)


def test_duplicates_across_batches_are_one_medium(tmp_path):
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(300)], "text": [f"t {n % 7}" for n in range(300)]})
    features = extract(catalog, CONFIG, tmp_path / "s", progress=False)
    assert features.encoded == 7 and len(np.unique(features.items["text"].rows)) == 7


def test_another_encoder_has_its_own_features(tmp_path):
    path = tmp_path / "p.png"
    from PIL import Image

    Image.new("RGB", (9, 9), "red").save(path)
    catalog = Catalog.from_dict({"item_id": ["a"], "image": [str(path)]})
    for encoder, dim in (("offline", 1280), ("vgg16:random", 512), ("offline", 1280)):
        found = extract(catalog, Config(encoders={"image": encoder}), tmp_path / "s", progress=False)
        assert found.items["image"].dim == dim
    assert found.encoded == 0


def test_an_encoder_is_loaded_only_for_something_to_encode(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load", lambda *_: pytest.fail("an encoder was loaded"))
    features = extract(Catalog.from_dict({"item_id": ["a", "b"]}), Config(), tmp_path / "s", progress=False)
    assert features.items == {} and features.rejects == []


def test_users_media(tmp_path):
    users = Users.from_dict({"user_id": ["u", "v"], "text": ["a rocket", ""]})
    features = extract(_texts(3), CONFIG, tmp_path / "s", users=users, progress=False)
    assert features.users["text"].present.tolist() == [True, False] and features.user_ids.tolist() == ["u", "v"]


def test_rejects_are_set_aside_and_reported(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    catalog = Catalog.from_dict(
        {"item_id": list("abcd"), "image": ["folder.png", "text.png", "none.png", ""], "audio": ["", "", "", "empty.wav"]},
        folder=tmp_path,
    )
    features = extract(catalog, CONFIG, tmp_path / "s", progress=False)
    with (tmp_path / "s" / "rejects.csv").open() as file:
        rows = [(row["id"], row["modality"], row["reason"]) for row in csv.DictReader(file)]
    assert rows == [
        ("a", "image", "this is a folder, not a file"),
        ("b", "image", "this is not an image in a known format (PNG, JPEG, GIF, BMP, WebP, TIFF)"),
        ("c", "image", "there is no such file"),
        ("d", "audio", "the file is empty"),
    ]
    assert not features.items["image"].present.any()
    with pytest.raises(DataError, match=r"4 media cannot be used \(--strict\)"):
        extract(catalog, CONFIG, tmp_path / "s", strict=True, progress=False)


def test_a_changed_file_is_encoded_again(tmp_path):
    from PIL import Image

    path = tmp_path / "p.png"
    catalog = Catalog.from_dict({"item_id": ["a"], "image": [str(path)]})
    Image.new("RGB", (9, 9), "red").save(path)
    first = extract(catalog, CONFIG, tmp_path / "s", progress=False).items["image"][:]
    Image.new("RGB", (12, 9), "blue").save(path)
    second = extract(catalog, CONFIG, tmp_path / "s", progress=False)
    assert second.encoded == 1 and not np.allclose(first, second.items["image"][:])


class _Counter(Encoder):
    """Four numbers of the text's length; enough to look at the store itself."""

    modality = "text"

    def __init__(self):
        super().__init__("counter", None, 4, "f" * 64, [])

    def decode(self, data, bounds):
        return np.array(data, object)

    def collate(self, media):
        return (media,)

    def __call__(self, media):
        return np.array([[len(each.item())] * 4 for each in media], np.float32)

    def encode_serialized(self, data, bounds):
        raise NotImplementedError


def test_a_tail_without_index_is_cut(tmp_path):
    encoder = _Counter()
    with FeatureStore(tmp_path) as store:
        store.space(encoder).append([b"a" * 32], np.ones((1, 4)))
    (matrix,) = tmp_path.glob("*.f32")
    with matrix.open("ab") as file:
        file.write(b"\1" * 23)  # what a kill between the two writes leaves, torn
    with FeatureStore(tmp_path) as store:
        space = store.space(encoder)
        assert len(space) == 1 and matrix.stat().st_size == 16
        assert list(space.append([b"b" * 32], np.full((1, 4), 2))) == [1]
        np.testing.assert_array_equal(space.matrix(), [[1] * 4, [2] * 4])


def test_an_index_without_tail_is_forgotten(tmp_path):
    with FeatureStore(tmp_path) as store:
        store.space(_Counter()).append([b"a" * 32, b"b" * 32], np.ones((2, 4)))
    (matrix,) = tmp_path.glob("*.f32")
    os.truncate(matrix, 20)  # a power cut
    with FeatureStore(tmp_path) as store:
        space = store.space(_Counter())
        assert space.find(b"a" * 32) == 0 and space.find(b"b" * 32) == -1 and len(space) == 1


def test_store_errors(tmp_path):
    with FeatureStore(tmp_path / "s"), pytest.raises(StoreError, match="another process is extracting"):
        FeatureStore(tmp_path / "s")
    db = sqlite3.connect(tmp_path / "s" / "index.sqlite")
    db.execute("pragma user_version = 99")
    db.commit()
    db.close()
    for _ in range(2):  # what is refused keeps no lock
        with pytest.raises(StoreError, match="is of version 99; this release reads 2"):
            FeatureStore(tmp_path / "s")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        FeatureStore(tmp_path / "bad")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        FeatureStore(tmp_path / "file")


def _extract(items, store, log, batch, after):
    """Extracts in this process, which ends by SIGKILL at its `batch`-th batch: once encoded, or once written."""
    real, count = encoders.load, itertools.count(1)

    def load(modality, name):
        encoder = real(modality, name)
        encode = encoder.encode_batch

        def watched(media):
            number = next(count)
            if number == batch and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = encode(media)
            with open(log, "a") as file:
                file.write("".join(each.item().decode() + "\n" for each in media))
            if number == batch:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        encoder.encode_batch = watched
        return encoder

    encoders.load = load
    config = Config(encoders={"text": "offline"}, extraction={"batch_size": 8})
    extract(Catalog.read(items), config, store, progress=False)


@pytest.mark.slow
def test_kill_9_at_any_batch_loses_at_most_that_batch(tmp_path, jobs):
    items, count, log = tmp_path / "items.csv", 400, tmp_path / "log"
    items.write_text("item_id,text\n" + "".join(f"i{n},text number {n}\n" for n in range(count)))
    kills = [(1, False), (7, True), (20, False), (0, False)]
    for batch, after in kills:
        job = jobs(_extract, str(items), str(tmp_path / "s"), str(log), batch, after)
        assert job.wait() == (-9 if batch else 0), job.stderr
    encoded = log.read_text().split("\n")[:-1]
    assert set(encoded) == {f"text number {n}" for n in range(count)}
    assert len(encoded) - count <= 8 * 3  # only the batch in flight at a kill may have been encoded twice
    catalog = Catalog.read(items)
    features = extract(catalog, Config(encoders={"text": "offline"}), tmp_path / "s", progress=False)
    assert features.encoded == 0
    expected, _ = encoders.load("text", "offline").encode([f"text number {n}" for n in range(count)])
    np.testing.assert_allclose(features.items["text"][:], expected, atol=1e-6)


def _peaks(folder):
    """Prints the most memory that this process had after an extraction of 1 000 and of 20 000 images, KiB."""
    for count in (1_000, 20_000):
        items = folder / f"{count}.csv"
        items.write_text("item_id,image\n" + "".join(f"i{n},p/{n}.bmp\n" for n in range(count)))
        features = extract(Catalog.read(items), Config(encoders={"image": "offline"}), folder / f"s{count}", progress=False)
        # The matrix is mapped, and mapped pages that were read count as resident: present.all() reads none of them.
        assert features.items["image"].present.all()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@pytest.mark.long
def test_memory_stays_flat(tmp_path, jobs):
    """20 000 images of 1 280 features are 98 MiB: held in memory they would show."""
    from PIL import Image

    picture, written = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8), io.BytesIO()
    Image.fromarray(picture).save(written, "bmp")
    head = written.getvalue()[:-3]  # a pixel is three bytes: as many images as numbers
    (tmp_path / "p").mkdir()
    for n in range(20_000):
        (tmp_path / "p" / f"{n}.bmp").write_bytes(head + n.to_bytes(3, "big"))
    job = jobs(_peaks, tmp_path)
    assert job.wait() == 0, job.stderr
    first, last = map(int, job.stdout.split())
    assert last < 1.15 * first
    shutil.rmtree(tmp_path / "p")


def test_progress_is_shown_on_standard_error(tmp_path, capsys):
    extract(_texts(5), CONFIG, tmp_path / "s")
    assert "items: text    5 done" in capsys.readouterr().err
