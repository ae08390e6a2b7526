"""Titles: from a catalog's texts or a column, through runs, exports and refreshes, to the printed list."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import FAST, run_cli, run_python, unwarmed

import mmtfrs
from mmtfrs.cli.console import print_recommendations
from mmtfrs.errors import DataError, RunError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.request import Query
from mmtfrs.exporting.signatures import ServingModule
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.run import load_run, save_run
from serving.client import Client
from serving.grpc_server import Server

# Texts, and by hand what is shown of them: 80 characters, not bytes, in one line without blanks at its ends.
TEXTS = {
    "a red shoe": "a red shoe",
    "": "",
    " \n ": "",
    "  two\r\nlines,\t a tab \x0b and\u00a0\u2003blanks\u2028": "two lines, a tab and blanks",
    "a" * 79 + "bc": "a" * 79 + "b",
    "a" * 79 + " bc": "a" * 79,
    "\u00fc" * 79 + "\U0001f3bbx": "\u00fc" * 79 + "\U0001f3bb",  # 162 bytes
    "\x00 a \x1b[31m bell\x07": "a [31m bell",  # nothing that a terminal would act on
    "\n" * 5000 + "far" + " down" * 1000: ("far" + " down" * 16)[:80],
}
ITEMS = 60


def _catalog(**more):
    """60 items, the texts above first."""
    texts = [*TEXTS, *(f"text {number}" for number in range(len(TEXTS), ITEMS))]
    return mmtfrs.Catalog.from_dict({"item_id": [f"i{number}" for number in range(ITEMS)], "text": texts, **more})


EXPECTED = [*TEXTS.values(), *(f"text {number}" for number in range(len(TEXTS), ITEMS))]


def _column(*values):
    return np.array([value.encode() for value in values], object)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """`(model, store)`: untrained, on 240 events."""
    store = tmp_path_factory.mktemp("store")
    config = mmtfrs.Config(encoders={"text": "offline"}, **FAST)
    users, items = zip(*((f"u{number % 20}", f"i{number * 7 % ITEMS}") for number in range(240)), strict=True)
    catalog = _catalog()
    features = mmtfrs.extract(catalog, config, store, progress=False)
    return mmtfrs.TwoTower(config, catalog, features, mmtfrs.Events(users, items, range(240))), store


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """`saved_models/shop/1`."""
    return unwarmed(mmtfrs.export(model[0], tmp_path_factory.mktemp("saved_models") / "shop")).parent


@pytest.fixture(scope="module")
def old(folder, model, tmp_path_factory):
    """The same export as an earlier release made it."""
    signatures = ServingModule.signatures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServingModule, "signatures", lambda self: {k: v for k, v in signatures(self).items() if k != "titles"})
        return unwarmed(mmtfrs.export(model[0], tmp_path_factory.mktemp("old") / "shop")).parent


def test_titles_by_hand():
    found = _catalog().titles()
    assert found.dtype == object and found.tolist() == EXPECTED
    assert max(map(len, EXPECTED)) == 80
    assert mmtfrs.Catalog.from_dict({"item_id": ["a", "b"]}).titles().tolist() == ["", ""]


def test_titles_of_a_column(tmp_path):
    """Any column that is one value a row, under its name in the file though it may have been mapped to ours."""
    table = pa.table(
        {"sku": ["a", "b"], "name": ["A" * 90, None], "price": [7, 8], "about": ["x", "y"], "tags": [["p"], ["q"]]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "items.parquet")
    mapping = {"item_id": "sku", "text": "about"}
    catalog = mmtfrs.Catalog.read(tmp_path / "items.parquet", mmtfrs.Config(data={"columns": {"items": mapping}}))
    assert catalog.titles("name").tolist() == ["A" * 80, ""]
    assert catalog.titles("price").tolist() == ["7", "8"]
    assert catalog.titles("about", mapping).tolist() == catalog.titles("text").tolist() == ["x", "y"]
    with pytest.raises(
        DataError, match=r"^`data.title` names the column `nmae`, which the items do not have. Did you mean `name`\? "
    ):
        catalog.titles("nmae", mapping)
    with pytest.raises(
        DataError, match=r"`data.title` names the column `tags`, whose values are no text. Received: list<.*string>"
    ):
        catalog.titles("tags")
    with pytest.raises(
        DataError, match=r"^`data.attributes` names the column `nmae`, .* Did you mean `name`\? Columns: item_id, name"
    ):
        catalog.attributes(["nmae"])


def test_tables_take_the_column_of_the_config(model):
    catalog = _catalog(name=[f"name {number}" for number in range(ITEMS)])
    features, events = mmtfrs.extract(_catalog(), model[0].config, model[1], progress=False), mmtfrs.Events(["u"], ["i1"], [1])
    named = model[0].config.replace(data={"title": "name"})
    assert ModelInputs.build(named, catalog, features, events).titles.tolist() == [f"name {number}" for number in range(ITEMS)]
    with pytest.raises(DataError, match=r"`data.title` names the column `nam`.* Did you mean `name`\?"):
        ModelInputs.build(model[0].config.replace(data={"title": "nam"}), catalog, features, events)


def test_the_export_answers_titles(folder):
    loaded = LoadedModel(folder)
    ids = [f"i{number}" for number in reversed(range(ITEMS))]
    answer = loaded.ask("titles", {"item_id": _column("nothing", "", *ids, "i0")})
    assert list(answer) == ["title"] and answer["title"].shape == (ITEMS + 3,)
    assert [title.decode() for title in answer["title"]] == ["", "", *reversed(EXPECTED), EXPECTED[0]]
    assert loaded.titles([*ids[:3], "nothing"]) == [*EXPECTED[:-4:-1], ""] and loaded.titles([]) == []
    # The graph has each title once, whatever uses it; the other signatures do not answer titles.
    assert (folder / "1" / "saved_model.pb").read_bytes().count(EXPECTED[6].encode()) == 1
    who = {"user_id": _column("u1"), "history": np.array([[b""]], object), "exclude": np.array([[b""]], object)}
    assert "title" not in loaded.ask("recommend_user", who)


def test_titles_do_not_reach_the_training(model):
    tables = dataclasses.replace(model[0].data, titles=np.full(ITEMS, "another", object))
    other = mmtfrs.TwoTower(model[0].config, tables=tables)
    other.set_weights(model[0].get_weights())
    np.testing.assert_array_equal(other.candidate_embeddings(), model[0].candidate_embeddings())
    held = [weight.dtype for each in (model[0], other) for weight in (*each.weights, *each.device.variables)]
    assert all(dtype.is_floating or dtype.is_integer for dtype in map(mmtfrs._keras.tf.as_dtype, held))


@pytest.mark.long
def test_a_refresh_renews_them(folder, model, tmp_path):
    shutil.copytree(folder, tmp_path / "shop")
    rows = _catalog().table.to_pylist()[3:]
    rows[0]["text"] = "another text"
    rows.append({"item_id": "new", "text": "a new\nitem"})
    catalog = mmtfrs.Catalog.from_dict(
        {name: [row[name] for row in rows] for name in rows[0]} | {"name": [f"name of {row['item_id']}" for row in rows]}
    )
    refresh(tmp_path / "shop", catalog, model[1], progress=False)
    asked = ["i0", "i3", "i4", "i59", "new"]  # gone, changed, as they were, new
    assert LoadedModel(tmp_path / "shop").titles(asked) == ["", "another text", EXPECTED[4], "text 59", "a new item"]
    refresh(tmp_path / "shop", catalog, model[1], model[0].config.replace(data={"title": "name"}), progress=False)
    assert LoadedModel(tmp_path / "shop").titles(asked) == ["", *(f"name of {item}" for item in asked[1:])]
    assert LoadedModel(tmp_path / "shop" / "1").titles(asked) == [EXPECTED[0], EXPECTED[3], EXPECTED[4], "text 59", ""]


@pytest.mark.slow
def test_run_folders_carry_titles(model, tmp_path):
    save_run(model[0], tmp_path / "r")
    assert load_run(tmp_path / "r").data.titles.tolist() == EXPECTED
    lines = tmp_path / "r" / "tables" / "titles.txt"
    saved = lines.read_bytes()
    for damage in (saved[: saved.rindex(b"\n", 0, -1) + 1], b"\xff" + saved):
        lines.write_bytes(damage)
        with pytest.raises(RunError, match="the run is damaged"):
            load_run(tmp_path / "r")


def test_printed_lists(capsys):
    found = [("i1", 0.98765), ("long-id", -1.5), ("\u7d05\u3044", 0.25)]
    print_recommendations(found, ["a red shoe", "", "\u00fcber"], False, "for user u1")
    assert capsys.readouterr().out.splitlines() == [
        "for user u1",
        "  1    0.9877  i1       a red shoe",
        "  2   -1.5000  long-id",
        "  3    0.2500  \u7d05\u3044     \u00fcber",  # each of its two characters takes two places
    ]
    print_recommendations(found[:1], ["a red shoe"], True, "for user u1")
    assert json.loads(capsys.readouterr().out) == {
        "recommendations": [{"item_id": "i1", "score": 0.98765, "title": "a red shoe"}]
    }
    print_recommendations([], [], False)
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), "for an unknown user"),
        (Query("u1"), "for user u1"),
        (Query(text=" a rocket\nnear the comet "), 'for text "a rocket near the comet"'),
        (Query("u1", ["a", "b"]), "for user u1 with history a, b"),
        (Query(history=list("abcdefg"), exclude=["h"]), "for history a, b, c, d, e and 2 more; without h"),
        (Query("u1", (), "x", "p.png", "s.wav"), 'for user u1 with text "x" and image p.png and audio s.wav'),
        (
            Query("u1", allow=["c=1", "d=2"], boosts={"c=1": 0.5, "d=3": -1.0}, diversity=0.3),
            "for user u1; only c=1, d=2; more of c=1 (+0.5), d=3 (-1); diversity 0.3",
        ),
    ],
)
def test_what_was_asked_in_words(query, expected):
    assert query.described() == expected


def _lines(result):
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_recommend_prints_titles(folder, old):
    titles = dict(zip((f"i{number}" for number in range(ITEMS)), EXPECTED, strict=True))
    first, *lines = _lines(run_cli("recommend", folder, "--user", "u1", "--repeats", "-k", ITEMS))
    assert first == "for user u1; repeats too" and len(lines) == ITEMS
    for line in lines:
        _, score, item, *title = line.split(maxsplit=3)
        assert "".join(title) == titles[item] and line.index(item) == 15 and -1.001 <= float(score) <= 1.001
    assert len({line.index(titles[line.split()[2]]) for line in lines if titles[line.split()[2]]}) == 1
    assert _lines(run_cli("recommend", folder, "--text", "a red shoe", "-k", 1))[0] == 'for text "a red shoe"'
    document = json.loads(run_cli("recommend", folder, "--user", "u1", "--repeats", "-k", 3, "--json").stdout)
    assert [each["title"] for each in document["recommendations"]] == [titles[line.split()[2]] for line in lines[:3]]
    assert _lines(run_cli("recommend", old, "--user", "u1", "--repeats", "-k", ITEMS)) == [
        first,
        *(line[:18].rstrip() for line in lines),
    ]


@pytest.mark.long
def test_the_client_asks_for_titles(folder, old):
    server = Server(folder, port=0).start()
    earlier = Server(old, port=0).start()
    try:
        with Client(f"localhost:{server.port}", "shop") as client:
            assert client.titles(["i3", "nothing", "i0"]) == [EXPECTED[3], "", EXPECTED[0]] and client.titles([]) == []
            pairs = client.recommend(user="u1", k=2)
            titles = client.titles([item for item, _ in pairs])
            alike = client.similar_items("i0", k=1)[0][0]
            (title,) = client.titles([alike])
        ask = ("--target", f"localhost:{server.port}", "--model", "shop")
        lines = _lines(run_cli(*ask, "recommend", "--user", "u1", "-k", 2, module="serving.client"))
        assert lines[0] == "for user u1" and [line[18:].strip() for line in lines[1:]] == titles
        lines = _lines(run_cli(*ask, "similar", "i0", "-k", 1, module="serving.client"))
        assert lines[0] == "like i0: a red shoe" and lines[1].split(maxsplit=2)[2].split(maxsplit=1) == [
            alike,
            *filter(None, [title]),
        ]
        with Client(f"localhost:{earlier.port}", "shop") as client:
            assert client.titles(["i3", "i0"]) == ["", ""] and client.recommend(user="u1", k=2) == pairs
        ask = ("--target", f"localhost:{earlier.port}", "--model", "shop")
        assert _lines(run_cli(*ask, "similar", "i0", "-k", 1, module="serving.client"))[0] == "like i0"
    finally:
        server.stop()
        earlier.stop()


@pytest.mark.long
def test_a_terminal_that_cannot_show_a_title(folder):
    code = "import sys; sys.argv[0] = 'mmtfrs'; from mmtfrs.cli.app import main; main()"
    result = run_python(code, "recommend", folder, "--text", "\u00fc", "-k", str(ITEMS), PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and 'for text "?"' in result.stdout and "?" * 80 in result.stdout, result.stderr


def test_the_commands_load_no_tensorflow():
    result = run_python("import sys, serving.client, mmtfrs.cli.export; print('tensorflow' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr
