"""Where media lie: one file is taken however its path is written, and beyond `data.media_root` none is."""

from __future__ import annotations

import json
import os

import pytest
from conftest import run_cli
from PIL import Image

import mmtfrs
from mmtfrs.features.store import FeatureStore

OFFLINE = {"image": "offline", "text": "offline", "audio": "offline"}


@pytest.fixture
def written(tmp_path):
    """`{how: path}` of one image outside of the items' folder, as a table in `shop/` may write it; and two inside."""
    shop, other = tmp_path / "shop", tmp_path / "other"
    (shop / "sub").mkdir(parents=True), other.mkdir()
    for number, path in enumerate((shop / "in.png", other / "out.png", other / "more.png")):
        Image.new("RGB", (8, 8), (70 * number, 10, 200)).save(path)
    (shop / "link.png").symlink_to("../other/out.png")
    (shop / "linked").symlink_to(other)
    (shop / "back.png").symlink_to("sub/../in.png")
    outside = ("../other/out.png", "sub/../../other/out.png", str(other / "out.png"), "link.png", "linked/out.png")
    return shop, outside, ("in.png", "sub/../in.png", "back.png", "linked/../shop/in.png")


def _table(shop, paths) -> mmtfrs.Catalog:
    lines = [f"i{number},{path}" for number, path in enumerate(paths)]
    (shop / "items.csv").write_text("\n".join(["item_id,image", *lines, ""]))
    return mmtfrs.Catalog.read(shop / "items.csv")


def test_a_readable_file_is_taken_however_its_path_is_written(written):
    shop, outside, inside = written
    made = mmtfrs.extract(_table(shop, outside + inside), mmtfrs.Config(encoders=OFFLINE), shop / "store", progress=False)
    assert not made.rejects and made.items["image"].present.all() and made.encoded == 2


def test_beyond_the_root_nothing_is_read(written, tmp_path):
    """Not even where the store knows the file from before, or its name begins as the root's does."""
    shop, outside, inside = written
    (tmp_path / "shop-2").mkdir()
    os.link(tmp_path / "other" / "more.png", tmp_path / "shop-2" / "x.png")
    outside += ("../shop-2/x.png",)
    catalog = _table(shop, outside + inside)
    mmtfrs.extract(catalog, mmtfrs.Config(encoders=OFFLINE), shop / "store", progress=False)
    for root in (shop, tmp_path / "root"):  # the root may be a link too
        if not root.exists():
            root.symlink_to(shop)
        config = mmtfrs.Config(encoders=OFFLINE, data={"media_root": str(root)})
        for store in ("store", "new"):
            made = mmtfrs.extract(catalog, config, shop / store, progress=False)
            assert made.items["image"].present.tolist() == [False] * len(outside) + [True] * len(inside)
            assert [each.medium for each in made.rejects] == list(outside)
            assert {each.reason for each in made.rejects} == {f"the file lies outside data.media_root ({root})"}
    with FeatureStore(shop / "new") as store:
        assert len(store.known_digests([os.path.join(shop, path) for path in outside])) == 0
    (tmp_path / "c.yaml").write_text(json.dumps({"data": {"media_root": str(shop)}}))
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,i0,1\n")
    command = ("--items", shop / "items.csv", "--events", tmp_path / "events.csv", "--config", tmp_path / "c.yaml", "--json")
    problems = json.loads(run_cli("check", *command).stdout)["problems"]
    assert [each["rows"] for each in problems if "outside data.media_root" in str(each)] == [
        [row + 2] for row in range(len(outside))
    ]


def test_what_is_no_file_is_told_and_not_waited_for(written):
    shop, *_ = written
    os.mkfifo(shop / "pipe.png")
    catalog = _table(shop, ("pipe.png", "sub", "/dev/zero", "none.png", "in.png"))
    made = mmtfrs.extract(catalog, mmtfrs.Config(encoders=OFFLINE), shop / "store", progress=False)
    device, folder = "this is a device, not a file", "this is a folder, not a file"
    assert [each.reason for each in made.rejects] == [device, folder, device, "there is no such file"]
