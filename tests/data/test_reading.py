"""Items, events and users: every format, and every problem with its rows and remedy."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from mmtfrs import Catalog, Config, Events, Users
from mmtfrs.data import table_reader
from mmtfrs.errors import DataError

HEADER = "user_id,item_id,timestamp\n"


def _write(tmp_path, text, name="f.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _catalog_error(tmp_path, text, name="items.csv", config=None):
    with pytest.raises(DataError) as caught:
        Catalog.read(_write(tmp_path, text, name), config)
    return str(caught.value)


def _events_error(tmp_path, text, name="events.csv"):
    with pytest.raises(DataError) as caught:
        Events.read(_write(tmp_path, text, name))
    return str(caught.value)


def test_formats_agree(tmp_path):
    rows = [{"item_id": "7", "text": "a, b", "price": "3"}, {"item_id": "x y", "text": 'says "hi"\nthere', "price": ""}]
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    csv = _write(tmp_path, 'item_id,text,price\n7,"a, b",3\nx y,"says ""hi""\nthere",\n', "i.csv")
    jsonl = _write(tmp_path, "\n".join(json.dumps(row) for row in rows), "i.jsonl")
    pyarrow.parquet.write_table(table, tmp_path / "i.parquet")
    for path in (csv, jsonl, tmp_path / "i.parquet"):
        catalog = Catalog.read(path)
        assert catalog.ids.tolist() == ["7", "x y"]
        assert catalog.medium(1, "text") == 'says "hi"\nthere'
        assert "price" in catalog.table.column_names
        assert catalog.modalities == ("text",)


def test_whole_numbers_stay_whole(tmp_path):
    big = 2**53 + 1
    pyarrow.parquet.write_table(pa.table({"item_id": [big, 5]}), tmp_path / "i.parquet")
    assert Catalog.read(tmp_path / "i.parquet").ids.tolist() == [str(big), "5"]
    path = _write(tmp_path, f'{{"item_id": {big}}}\n', "i.jsonl")
    assert Catalog.read(path).ids.tolist() == [str(big)]


def test_bom_and_crlf(tmp_path):
    path = _write(tmp_path, b"\xef\xbb\xbfitem_id,text\r\na,hello\r\nb,\r\n")
    catalog = Catalog.read(path)
    assert catalog.ids.tolist() == ["a", "b"]
    assert catalog.medium(0, "text") == "hello"
    assert catalog.count("text") == 1


def test_ids_duplicate_empty_and_control(tmp_path):
    text = _catalog_error(tmp_path, 'item_id,text\na,x\n,y\na,z\n"b\tc",w\n')
    assert "row 3: `item_id` is empty." in text
    assert "row 4: `item_id` was already used by an earlier row. Ids must be unique." in text
    assert "row 5: `item_id` has a control character." in text


def test_missing_column_and_wrong_delimiter(tmp_path):
    text = _catalog_error(tmp_path, "id,text\na,x\n")
    assert "the column `item_id` is missing. Columns found: 'id', 'text'." in text
    assert "map it in the config" in text
    text = _catalog_error(tmp_path, "item_id;text\na;x\n")
    assert "The header looks separated by a semicolon: save the file with commas." in text


def test_ragged_rows_are_all_named(tmp_path):
    text = _catalog_error(tmp_path, "item_id,text\na,x\nb,y,z\nc,w\nd\n")
    assert "rows 3, 5: the number of values is not 2" in text


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "i.csv", "the file is empty. It needs the columns item_id."),
        (b"item_id,text\n", "i.csv", "the file has no rows"),
        (b"item_id,text\na,\xff\xfe\nb,ok\n", "i.csv", "row 2: the text is not UTF-8. Save the file as UTF-8."),
        (b'{"item_id": "a"}\n[1]\n{bad\n', "i.jsonl", "rows 2, 3: the line is not one JSON object."),
        (b"no parquet", "i.parquet", "this is not a readable Parquet file"),
        (b"x", "i.xlsx", "the ending '.xlsx' is not known. Use .csv, .tsv, .jsonl or .parquet."),
        (b"item_id,item_id\na,b\n", "i.csv", "columns appear twice: item_id."),
        (b"\nitem_id\na\n", "i.csv", "the header line is empty."),
    ],
)
def test_bad_files(tmp_path, data, name, message):
    assert message in _catalog_error(tmp_path, data, name)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        Catalog.read(tmp_path / "nothing.csv")


def test_mapping(tmp_path):
    config = Config(data={"columns": {"items": {"item_id": "sku", "text": "title"}}})
    path = _write(tmp_path, "sku,title,text\na,shoe,other\n")
    catalog = Catalog.read(path, config)
    assert catalog.medium(0, "text") == "shoe"
    assert "text_unmapped" in catalog.table.column_names
    text = _catalog_error(tmp_path, "skuu,title\na,b\n", config=config)
    assert (
        "the config maps `item_id` to column `sku`, which is not there. Columns found: skuu, title. Did you mean `skuu`?"
        in text
    )


def test_events_values(tmp_path):
    text = _events_error(tmp_path, HEADER + "u,i,soon\nu,i,-5\nu,i,1760000000000\n,i,1\nu,,2\nu,i,\n")
    assert "rows 2, 7: `timestamp` is neither a number nor a date." in text
    assert "row 3: `timestamp` is negative." in text
    assert "row 4: `timestamp` looks like milliseconds. Divide by 1000" in text
    assert "row 5: `user_id` is empty." in text
    assert "row 6: `item_id` is empty." in text


def test_dates(tmp_path):
    days = "u,i,1970-01-02\nu,i,1970-01-01T02:00:30+02:00\nu,i,1970-01-01 00:01:00\nu,i,1970-01-01T00:00:01.5Z\nu,i,7\n"
    assert Events.read(_write(tmp_path, HEADER + days)).timestamps.tolist() == [86_400, 30, 60, 1, 7]
    assert "row 3: `timestamp` is neither" in _events_error(tmp_path, HEADER + "u,i,1970-01-02\nu,i,02/01/1970\n")


def test_columns_between_tabs(tmp_path):
    catalog = Catalog.read(_write(tmp_path, "item_id\ttext\na\tone, two\nb\tthree\n", "items.tsv"))
    assert catalog.ids.tolist() == ["a", "b"] and catalog.medium(0, "text") == "one, two"
    assert "row 3: the number of values is not 2" in _catalog_error(tmp_path, b"item_id\ttext\na\tx\nb\n", "items.tsv")


def test_events_columns(tmp_path):
    path = _write(tmp_path, "user_id,item_id,timestamp,weight,rating\nu,i,1.0,0.5,4\nv,i,3,2,\n".replace(",\n", ",1\n"))
    events = Events.read(path)
    assert events.timestamps.tolist() == [1, 3] and events.timestamps.dtype == np.int64
    assert events.weights.tolist() == [0.5, 2.0] and events.ratings.tolist() == [4.0, 1.0]
    text = _events_error(tmp_path, "user_id,item_id,timestamp,weight\nu,i,1,heavy\nu,i,1,-2\n")
    assert "row 2: `weight` is not a number." in text and "row 3: `weight` is negative." in text


def test_events_on_unknown_items_are_set_aside(tmp_path):
    catalog = Catalog.from_dict({"item_id": ["a"]})
    events = Events.read(_write(tmp_path, HEADER + "u,a,1\nu,zz,2\n"), catalog=catalog)
    assert events.item_ids.tolist() == ["a"]
    (problem,) = events.problems
    assert problem.rows == (3,) and problem.severity == "warning" and "zz" in problem.rule
    with pytest.raises(DataError, match="no event is on an item of the catalog"):
        Events.read(_write(tmp_path, HEADER + "u,zz,2\n"), catalog=catalog)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(missing_ok=True), "the file has vanished: b.parquet"),
        (lambda path: path.write_bytes(b"x"), "not a readable Parquet file: b.parquet"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_file_of_a_folder_that_vanishes_while_it_is_read_is_named(spoil, told, later, tmp_path, monkeypatch):
    """Between listing and looking into it, or later, between that and reading it."""
    for name in "abc":
        pyarrow.parquet.write_table(
            pa.table({"user_id": [name], "item_id": ["x"], "timestamp": [1]}), tmp_path / f"{name}.parquet"
        )
    if later:
        read = pyarrow.parquet.read_table
        spoiled = lambda *all, **named: [spoil(tmp_path / "b.parquet"), read(*all, **named)][1]
        monkeypatch.setattr(pyarrow.parquet, "read_table", spoiled)
    else:
        listed = table_reader._parquet_files
        monkeypatch.setattr(table_reader, "_parquet_files", lambda path: [listed(path), spoil(tmp_path / "b.parquet")][0])
    with pytest.raises(DataError, match=told):
        Events.read(tmp_path)


def test_a_column_of_nothing_may_be_absent_elsewhere(tmp_path):
    rows = {"user_id": ["u"], "item_id": ["x"], "timestamp": [1]}
    pyarrow.parquet.write_table(pa.table({**rows, "weight": pa.nulls(1)}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pa.table(rows), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="rows 1, 2: `weight` is not a number"):
        Events.read(tmp_path)
    for name, more in (("a", {"price": pa.nulls(1)}), ("b", {})):
        pyarrow.parquet.write_table(pa.table({"item_id": [name], **more}), tmp_path / f"{name}.parquet")
    assert Catalog.read(tmp_path).ids.tolist() == ["a", "b"]


def test_parquet_timestamps(tmp_path):
    times = pa.array([1_760_000_000_123], pa.timestamp("ms"))
    pyarrow.parquet.write_table(pa.table({"user_id": [1], "item_id": [2], "timestamp": times}), tmp_path / "e.parquet")
    events = Events.read(tmp_path / "e.parquet")
    assert events.timestamps.tolist() == [1_760_000_000] and events.user_ids.tolist() == ["1"]


def test_all_rows_are_counted_when_many_are_bad(tmp_path):
    _, problems = Events.scan(_write(tmp_path, HEADER + "u,i,-1\n" * 1000))
    (problem,) = problems
    assert len(problem.rows) == 1000 and problem.rows[-1] == 1001
    assert "rows 2, 3, 4, 5, 6 and 995 more" in str(problem)


def test_users(tmp_path):
    users = Users.read(_write(tmp_path, "user_id,text\nu,hello\n"))
    assert users.ids.tolist() == ["u"] and users.medium(0, "text") == "hello"
    with pytest.raises(DataError, match="the column `user_id` is missing"):
        Users.read(_write(tmp_path, "id\nu\n"))


def test_a_folder_of_parquet_files_is_one_log(tmp_path):
    """Files in the order of their names, each with a dictionary of its own, a column that nobody wants, and a null."""
    folder = tmp_path / "log" / "item_id=x"  # no column
    folder.mkdir(parents=True)
    (tmp_path / "log" / "README.md").write_text("not a table")
    first = {"user_id": ["u", "v"], "item_id": ["b", "a"], "timestamp": [3, 1], "payload": ["x" * 100] * 2}

    def write(**columns):
        pyarrow.parquet.write_table(pa.table({**first, **columns}), folder / "b.parquet")

    pyarrow.parquet.write_table(pa.table(first), tmp_path / "log" / "a.parquet")
    write(user_id=["v", "w"], item_id=["a", "c"])
    events = Events.read(tmp_path / "log")
    assert events.user_ids.tolist() == ["u", "v", "v", "w"] and events.item_ids.tolist() == ["b", "a", "a", "c"]
    assert events.users.names.tolist() == ["u", "v", "w"] and events.timestamps.tolist() == [3, 1, 3, 1]
    assert Events.read(folder / "b.parquet").item_ids.tolist() == ["a", "c"]
    for columns, said in (
        ({"user_id": [None, "w"]}, "row 3: `user_id` is empty"),
        ({"user_id": [1, 2]}, r"the column `user_id` is not the same in all files \(int64, string\)"),
        ({"rating": [1.0, 2.0]}, r"the column `rating` is not the same in all files \(absent, double\)"),
    ):
        write(**columns)
        with pytest.raises(DataError, match=said):
            Events.read(tmp_path / "log")
    (folder / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Events.read(tmp_path / "log")
    for broken in (folder / "b.parquet", tmp_path / "log" / "a.parquet"):
        broken.unlink()
    with pytest.raises(DataError, match="the folder has no Parquet file"):
        Events.read(tmp_path / "log")
    pyarrow.parquet.write_table(pa.table({"item_id": ["a"], "image": ["pics/a.png"]}), folder / "items.parquet")
    assert Catalog.read(folder).folder == folder  # where its media lie


def test_a_mapped_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    table = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1], "star": [5.0]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    config = Config(data={"columns": {"events": {"rating": "stars"}}})
    with pytest.raises(DataError, match="Columns found: user_id, item_id, timestamp, star. Did you mean `star`"):
        Events.read(tmp_path / "e.parquet", config)


def test_ids_that_are_absent_or_mixed():
    assert Events(np.array(["a", np.nan], object), ["x", "y"], [1, 2]).user_ids.tolist() == ["a", ""]
    with pytest.raises(DataError, match="ids must be of one type"):
        Events(["a", 1], ["x", "y"], [1, 2])


def test_ids_are_looked_at_once():
    events = Events(["v", "u", "v"], ["b", "b", "a"], [1, 2, 3])
    assert events.users.names.tolist() == ["v", "u"] and events.users.codes.tolist() == [0, 1, 0]
    part = events.take(np.array([2, 1]))
    assert part.users.names is events.users.names and part.user_ids.tolist() == ["v", "u"]
    assert part.items.in_order().names.tolist() == ["a", "b"] and part.items.in_order().codes.tolist() == [0, 1]
    assert part.take(np.array([0])).users.used().tolist() == [0]
    other = Events(["w", "u"], ["a", "b"], [1, 2])
    assert other.users.codes_in(events.users).tolist() == [-1, 1]
    assert events.users.codes_in(events.take(np.array([0])).users).tolist() == [0, -1, 0]  # nobody is u there
