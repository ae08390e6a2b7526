"""What becomes of a feature store: it is damaged, moved, mounted read-only, or was made by an earlier release."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from conftest import OFFLINE, ROOT

from mmtfrs import Catalog, Config, encoders, extract
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import StoreError
from mmtfrs.features.row_sums import row_sums
from mmtfrs.features.store import FeatureStore

CONFIG = Config(encoders=OFFLINE, extraction={"batch_size": 16})
COUNT, DIM = 60, 64


class Hashed(Encoder):
    """A medium's bytes, hashed: features that are the same in every batch, and cost nothing."""

    def __init__(self, modality, _name=""):
        self.modality = modality
        super().__init__("hashed", None, DIM, hashlib.sha256(modality.encode()).hexdigest(), [])

    def decode(self, data, bounds):
        return np.frombuffer(hashlib.shake_256(data).digest(DIM), np.uint8)

    def collate(self, media):
        return (media,)

    def __call__(self, media):
        return np.array(media, np.float32) / 7

    def read(self, medium, bounds):
        return medium.encode() if self.modality == "text" else super().read(medium, bounds)

    def encode_serialized(self, data, bounds):
        raise NotImplementedError


@pytest.fixture(scope="module", autouse=True)
def hashed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "load", Hashed)
        yield patch


def catalog(folder=None, count=COUNT):
    """Texts, and a few images if there is a folder for them."""
    columns = {"item_id": [f"i{n}" for n in range(count)], "text": [f"a text of {n}" for n in range(count)]}
    if folder is not None:
        folder.mkdir(exist_ok=True)
        for n in range(4):
            (folder / f"{n}.bmp").write_text(f"{n}")
        columns["image"] = [str(folder / f"{n}.bmp") if n < 4 else "" for n in range(count)]
    return Catalog.from_dict(columns)


def made(given, store):
    """Features by modality, in the order of the catalog."""
    return {name: rows[:] for name, rows in extract(given, CONFIG, store, progress=False).items.items()}


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, hashed):
    """A store that was extracted in one piece, its catalog and its features."""
    folder = tmp_path_factory.mktemp("whole")
    given = catalog(folder / "images")
    return folder / "store", given, made(given, folder / "store")


@pytest.mark.parametrize("dim", [1, 2, 7, 512])
def test_sums_show_every_bit(dim):
    """The words of a row times odd numbers, modulo 2^64 (2^32 where a row is no whole number of 64-bit words)."""
    rows = np.random.default_rng(0).standard_normal((3, dim)).astype(np.float32)
    size = 8 if dim % 2 == 0 else 4
    factors = [(2 * n + 1) ** 3 * 0x9E3779B97F4A7C15 for n in range(4 * dim // size)]
    words = [[int.from_bytes(row.tobytes()[n : n + size], "little") for n in range(0, 4 * dim, size)] for row in rows]
    expected = [sum(a * b for a, b in zip(factors, row, strict=True)) % 2 ** (8 * size) for row in words]
    found = row_sums(rows)
    assert [int(each) % 2 ** (8 * size) for each in found] == expected and found.dtype == np.int64
    flipped = np.repeat(rows[:1].view(np.uint32), 32 * dim, axis=0)
    for bit in range(32 * dim):
        flipped[bit, bit // 32] ^= np.uint32(1 << bit % 32)
    assert (row_sums(flipped.view(np.float32)) != found[0]).all()


def test_a_row_that_the_disk_has_changed_is_made_again(whole, tmp_path, caplog):
    store, given, expected = whole
    shutil.copytree(store, tmp_path / "s")
    reader = extract(given, CONFIG, tmp_path / "s", progress=False).items["text"]
    (matrix,) = (tmp_path / "s").glob("text-*.f32")
    for bit in (3, 5 * DIM * 32 + 777):  # of row 0 and of row 5
        flip(matrix, bit)
    features = extract(given, CONFIG, tmp_path / "s", progress=False)
    assert features.encoded == 2
    assert [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()] == [
        f"{matrix}: 2 rows were damaged; their media were encoded again"
    ]
    np.testing.assert_array_equal(features.items["text"][:], expected["text"])
    assert extract(given, CONFIG, tmp_path / "s", progress=False).encoded == 0
    assert len(reader) == COUNT and (reader.rows == np.arange(COUNT)).all(), "what others read has not moved"


def test_a_batch_that_a_kill_left_half_written_is_no_row(whole, tmp_path):
    """Rows without an entry in the index, and torn ones, after blocks of rows that are whole."""
    _, given, expected = whole
    made(catalog(count=33), tmp_path / "s")
    (matrix,) = (tmp_path / "s").glob("text-*.f32")
    with matrix.open("ab") as file:
        file.write(b"\1" * (4 * DIM * 3 + 5))
    found = made(given, tmp_path / "s")
    np.testing.assert_array_equal(found["text"], expected["text"])
    assert matrix.stat().st_size == 4 * DIM * COUNT


def test_any_bit_of_a_store(whole, tmp_path):
    """Told by an error of ours, or the same features; a small draw of `python -m tests.faults.flip store`."""
    store, given, expected = whole
    draw = random.Random(1)
    files = [path for path in sorted(store.iterdir()) if path.stat().st_size]
    assert {path.suffix for path in files} == {".f32", ".sqlite", ".csv"}
    told = 0
    for number in range(60):
        path = files[number % len(files)]
        target = tmp_path / f"s{number}"
        shutil.copytree(store, target)
        flip(target / path.name, draw.randrange(8 * path.stat().st_size))
        try:
            found = made(given, target)
        except StoreError as error:
            assert "\n" not in str(error)
            told += 1
            continue
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    assert 0 < told < 30


# Values of the index that a flipped bit makes of others: the features are as if the row had never been.
CHANGES = {
    "a digest": "update features set digest = zeroblob(32) where row = 3",
    "a row number": "update features set row = 4 where row = 3",
    "a row that there is not": "update features set row = 1 << 40 where row = 59",
    "a negative row": "update features set row = -3 where row = 3",
    "no row": "update features set row = null where row = 3",
    "a row of another type": "update features set row = x'00ff' where row = 3",
    "a sum": "update features set sum = sum + 1 where row = 3",
    "a sum of another type": "update features set sum = 'x' where row = 3",
    "a space": "update features set space = 9 where row = 3",
    "a fingerprint": "update spaces set fingerprint = 'x' || fingerprint",
    "a size": "update spaces set dim = dim * 2",
    "the number of a space": "update spaces set id = id + 4",
    "a path": "update files set path = 'x' || path",
    "the digest of a file": "update files set digest = (select digest from features where row = 2 and space = 1)",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_the_index_says(whole, tmp_path, change):
    store, given, expected = whole
    shutil.copytree(store, tmp_path / "s")
    db = sqlite3.connect(tmp_path / "s" / "index.sqlite")
    assert db.execute(change).rowcount > 0
    db.commit()
    db.close()
    for _ in range(2):
        found = extract(given, CONFIG, tmp_path / "s", progress=False)
        for name, values in expected.items():
            np.testing.assert_array_equal(found.items[name][:], values)
    assert found.encoded == 0, "once is enough"


def test_a_path_of_a_file_that_was_read_is_not_mistaken(whole, tmp_path):
    """`0.bmp` and `1.bmp` are one bit apart, of one size, and an archive gives them one time."""
    images = tmp_path / "images"
    given = catalog(images)
    for path in images.iterdir():
        os.utime(path, (10**9, 10**9))
    expected = made(given, tmp_path / "s")
    db = sqlite3.connect(tmp_path / "s" / "index.sqlite")
    db.execute("delete from files where path like '%0.bmp'")
    assert db.execute("update files set path = replace(path, '1.bmp', '0.bmp') where path like '%1.bmp'").rowcount == 1
    db.commit()
    db.close()
    np.testing.assert_array_equal(made(given, tmp_path / "s")["image"], expected["image"])


def test_a_store_of_an_earlier_release_gets_sums(whole, tmp_path, caplog):
    store, given, _ = whole
    shutil.copytree(store, tmp_path / "s")
    db = sqlite3.connect(tmp_path / "s" / "index.sqlite")
    for table in ("spaces", "features", "files"):
        db.execute(f"alter table {table} drop column sum")
    db.execute("pragma user_version = 1")
    db.close()
    with FeatureStore(tmp_path / "s"):
        pass
    assert "was made by an earlier release; sums of its features are added" in caplog.text
    dumps = []
    for folder in (store, tmp_path / "s"):
        db = sqlite3.connect(folder / "index.sqlite")
        dumps.append(
            [db.execute(f"select * from {table} order by 1, 2").fetchall() for table in ("spaces", "features", "files")]
        )
        db.close()
    assert dumps[0] == dumps[1]
    assert extract(given, CONFIG, tmp_path / "s", progress=False).encoded == 0


def test_a_store_that_was_moved_or_copied(whole, tmp_path):
    store, given, _ = whole
    shutil.copytree(store, tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert extract(given, CONFIG, tmp_path / "moved", progress=False).encoded == 0
    (images := tmp_path / "images").mkdir()
    for name in range(4):  # and the media: known by what is in them
        shutil.copy(store.parent / "images" / f"{name}.bmp", images)
    assert extract(catalog(images), CONFIG, tmp_path / "moved", progress=False).encoded == 0


_READ_ONLY = """
import sys
sys.path.insert(0, "tests")
from features.test_store_damage import CONFIG, Hashed, catalog, encoders, extract, StoreError
encoders.load = Hashed
for store in sys.argv[1:]:
    for count in (60, 63):
        try:
            print(extract(catalog(count=count), CONFIG, store, progress=False).encoded)
        except StoreError as error:
            print(error)
"""


@pytest.mark.long
def test_a_store_that_can_only_be_read(whole, tmp_path):
    """Mounted read-only; without and with a log that a killed writer has left, in which alone the last features stand."""
    disk = tmp_path / "disk"
    shutil.copytree(whole[0], disk / "whole")
    made(catalog(count=50), tmp_path / "killed")
    with FeatureStore(tmp_path / "killed"):  # while it is open, the log is there
        db = sqlite3.connect(tmp_path / "killed" / "index.sqlite")
        db.execute("update spaces set name = 'x'")
        db.commit()
        shutil.copytree(tmp_path / "killed", disk / "killed")
        db.close()
    assert (disk / "killed" / "index.sqlite-wal").stat().st_size
    (tmp_path / "read_only.py").write_text(_READ_ONLY)
    mount = f"mount --bind {disk} {disk} && mount -o remount,ro,bind {disk} || exit 77"
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "bash",
            "-c",
            f"{mount}; {sys.executable} {tmp_path / 'read_only.py'} {disk / 'whole'} {disk / 'killed'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[-200:]}")
    lacks = "{}: this feature store is read-only and lacks features that are asked for: {} text. Extract into one that can be written, as a copy of it."
    there = disk / "killed"
    expected = ["0", lacks.format(disk / "whole", 3), lacks.format(there, 10), lacks.format(there, 13)]
    assert done.stdout.splitlines() == expected, done.stdout + done.stderr
