"""The SavedModel: complete, movable, equal to the model, and made of stock ops."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import FAST, OFFLINE, run_python
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.errors import DataError, ExportError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query, image_bytes, results, wav_bytes
from mmtfrs.exporting.versions import new_version, newest_version, versions
from mmtfrs.media.decode import decode_audio
from mmtfrs.models.histories import Histories
from serving.servable import Servable

SIGNATURES = {
    "serving_default": ({"user_id", "history", "text", "image", "audio", "exclude"}, {"item_id", "score", "known", "problem"}),
    "recommend_filtered": (
        {
            "user_id",
            "history",
            "text",
            "image",
            "audio",
            "exclude",
            "allow",
            "boost_attribute",
            "boost",
            "diversity",
            "min_score",
            "repeats",
        },
        {"item_id", "score", "known", "problem"},
    ),
    "recommend_user": ({"user_id", "history", "exclude"}, {"item_id", "score", "known", "problem"}),
    "similar_items": ({"item_id", "user_id", "history", "exclude", "allow", "min_score"}, {"item_id", "score", "problem"}),
    "popular": ({"user_id", "history", "exclude", "allow", "min_score"}, {"item_id", "score", "problem"}),
    "titles": ({"item_id"}, {"title"}),
    "embed_query": ({"user_id", "history", "text", "image", "audio"}, {"embedding", "weights", "known", "problem"}),
    "embed_candidate": ({"text", "image", "audio"}, {"embedding", "weights", "problem"}),
    "recommend_from_embedding": ({"embedding", "exclude"}, {"item_id", "score", "problem"}),
    "embed_query_dense": ({"text", "image", "audio", "presence"}, {"embedding"}),
    "embed_candidate_dense": ({"text", "image", "audio", "presence"}, {"embedding"}),
}
LISTS = {name for name, (_, outputs) in SIGNATURES.items() if "item_id" in outputs}
NO_SCORE = np.array([tf.float32.min], np.float32)


@pytest.fixture(scope="module")
def servable(exported):
    """Warmed up, which takes ten seconds."""
    made = Servable(exported / "1")
    assert made.warm_up() == len(SIGNATURES) + len(LISTS)
    return made


def _strings(rows):
    return np.array([[value.encode() for value in row] for row in rows], object)


def _column(values):
    return np.array([value if isinstance(value, bytes) else value.encode() for value in values], object)


def _absent(rows):
    return {name: _column([""] * rows) for name in ("text", "image", "audio")}


def _graph(exported):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((newest_version(exported) / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def test_signatures(exported):
    meta = _graph(exported)
    for name, (inputs, outputs) in SIGNATURES.items():
        signature = meta.signature_def[name]
        assert set(signature.inputs) == inputs and set(signature.outputs) == outputs, name
        for info in signature.inputs.values():
            assert info.tensor_shape.dim[0].size == -1, f"{name}: the first dimension must be the batch"


@pytest.mark.slow
def test_stock_ops_only(exported):
    meta = _graph(exported)
    nodes = [*meta.graph_def.node, *(node for function in meta.graph_def.library.function for node in function.node_def)]
    names = {function.signature.name for function in meta.graph_def.library.function}
    ops = {node.op for node in nodes} - names
    assert not {op for op in ops if "PyFunc" in op or op.startswith(("IO>", "Scann", "Addons>"))}
    code = """
import sys, tensorflow as tf
from tensorflow.python.framework import op_def_registry
print([op for op in sys.argv[1].split(",") if op_def_registry.get(op) is None])
"""
    assert run_python(code, ",".join(sorted(ops))).stdout.strip() == "[]"


_FRESH = """
import sys, json
import numpy as np, tensorflow as tf
path, inputs = sys.argv[1], np.load(sys.argv[2], allow_pickle=True)
model = tf.saved_model.load(path)
answer = model.signatures["recommend_user"](
    user_id=tf.constant(inputs["user_id"].tolist()), history=tf.constant(inputs["history"].tolist()),
    exclude=tf.constant([[""]] * len(inputs["user_id"])))
np.savez(sys.argv[3], item_id=answer["item_id"].numpy().astype(str), score=answer["score"].numpy())
assert not [name for name in sys.modules if name.split(".")[0] in ("mmtfrs", "tensorflow_io", "tf_keras")], "imports"
"""


@pytest.mark.slow
def test_export_equals_training_in_a_fresh_process(small, exported, tmp_path):
    model, split, _ = small
    users = [*dict.fromkeys(split.train.user_ids)][:40]
    histories = Histories(model.data, split.train)
    rows = [[model.data.item_ids[item - 1] for item in histories.pasts([user])[0]] for user in users]
    width = max(map(len, rows))
    np.savez(
        tmp_path / "in.npz",
        user_id=np.array(users, object),
        allow_pickle=True,
        history=np.array([[*row, *[""] * (width - len(row))] for row in rows], object),
    )
    result = run_python(_FRESH, newest_version(exported), tmp_path / "in.npz", tmp_path / "out.npz")
    assert result.returncode == 0, result.stderr[-2000:]
    answer = np.load(tmp_path / "out.npz")
    scores = model.query_embeddings(users, histories.pasts(users)) @ model.candidate_embeddings().T
    for row, user in enumerate(users):
        scores[row, histories.pasts([user])[0] - 1] = -np.inf  # what was taken is left out
    order = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(answer["score"], expected, atol=1e-5)
    # Scores that are equal to the last bits may stand in any order; all others decide.
    gaps = np.abs(np.diff(expected, axis=1, prepend=np.inf, append=-np.inf))
    decided = np.minimum(gaps[:, :-1], gaps[:, 1:]) > 2e-6
    assert decided.mean() > 0.9
    assert (answer["item_id"][decided] == model.data.item_ids[order][decided]).all()


@pytest.mark.slow
def test_every_signature_is_warmed_up(exported, servable):
    """One record each, and of lists one for the ids alone, fit to be run, with media for the encoders; a server runs them all."""
    path = exported / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(path))]
    requests = [record.predict_log.request for record in records]
    asked = sorted((request.model_spec.signature_name, tuple(request.output_filter)) for request in requests)
    assert asked == sorted([*((name, ()) for name in servable.signature_defs), *((name, ("item_id",)) for name in LISTS)])
    assert len(records) <= 1000  # TF Serving takes no more
    for record in records:
        request = record.predict_log.request
        assert set(request.inputs) == set(servable.signature_defs[request.model_spec.signature_name].inputs)
        if "image" in request.inputs and "user_id" in request.inputs:
            assert tf.make_ndarray(request.inputs["image"])[0].startswith(b"\x89PNG")
            assert tf.make_ndarray(request.inputs["audio"])[0].startswith(b"RIFF")


@pytest.mark.slow
def test_the_session_loader_of_tf_serving_gives_the_same(servable, loaded):
    """Every signature, as TF Serving runs it: tag `serve`, tensor names of the signature, Session.run."""
    lists, words = [["item-0001", ""], ["", ""]], ["a rocket", ""]
    media = {"text": words, "image": ["", ""], "audio": ["", ""]}
    who = {"user_id": ["user-0003", "nobody"], "history": lists}
    exclude = {"exclude": lists}
    rng = np.random.default_rng(0)
    dense = {name: rng.normal(size=(2, dim)).tolist() for name, dim in (("image", 1280), ("text", 512), ("audio", 1024))}
    dense["presence"] = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    document = {
        "serving_default": who | media | exclude,
        "recommend_filtered": who
        | media
        | exclude
        | {
            "allow": [[""], [""]],
            "boost_attribute": [[""], [""]],
            "boost": [[0.0], [0.0]],
            "diversity": [0.0, 0.5],
            "min_score": [0.0, 0.1],
            "repeats": [True, False],
        },
        "recommend_user": who | exclude,
        "popular": who | exclude | {"allow": [[""], [""]], "min_score": [0.0, 3.0]},
        "similar_items": {"item_id": ["item-0005", "item-0006"], "allow": [[""], [""]], "min_score": [0.0, 0.5]}
        | who
        | exclude,
        "titles": {"item_id": ["item-0005", "nothing"]},
        "embed_query": who | media,
        "embed_candidate": media,
        "recommend_from_embedding": {"embedding": rng.normal(size=(2, 49)).tolist()} | exclude,
        "embed_query_dense": dense,
        "embed_candidate_dense": dense,
    }
    assert set(document) == set(servable.signature_defs)
    for name, inputs in document.items():
        arrays = {
            key: np.array(value, {float: np.float32, bool: bool}.get(type(np.array(value).ravel()[0].item()), bytes))
            for key, value in inputs.items()
        }
        arrays = {key: value.astype(object) if value.dtype.kind == "S" else value for key, value in arrays.items()}
        answer = servable.predict(name, {key: tf.make_tensor_proto(value) for key, value in arrays.items()}, [])
        for key, expected in loaded.ask(name, arrays).items():
            found = tf.make_ndarray(answer[key])
            if expected.dtype == object:
                assert expected.tolist() == found.tolist(), name
            else:
                np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_saved_model_cli_runs_it(exported):
    command = [
        sys.executable,
        "-m",
        "tensorflow.python.tools.saved_model_cli",
        "run",
        "--dir",
        str(newest_version(exported)),
        "--tag_set",
        "serve",
        "--signature_def",
        "recommend_user",
        "--input_exprs",
        'user_id=["user-0003"];history=[["item-0001"]];exclude=[[""]]',
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "Result for output key item_id" in result.stdout, result.stderr[-1000:]
    assert re.search(r"b'item-\d{4}'", result.stdout)


@pytest.mark.slow
def test_a_model_in_mixed_precision_exports_what_bfloat16_allows(small, tmp_path):
    """The same weights: towers in bfloat16 agree with float32 to the 8 bits that bfloat16 has."""
    model = small[0]
    half = mmtfrs.TwoTower(model.config.replace(training={"mixed_precision": True}), tables=model.data)
    half.set_weights(model.get_weights())
    loaded = LoadedModel(mmtfrs.export(half, tmp_path / "m", encoders={}))
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.normal(size=(4, dim)).astype(np.float32) for name, dim in (("image", 1280), ("text", 512), ("audio", 1024))
    }
    inputs["presence"] = np.array([[1.0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], np.float32)
    exact = model.candidate_from_media(
        {name: tf.constant(inputs[name]) for name in ("image", "text", "audio")}, tf.constant(inputs["presence"])
    )[0]
    rough = loaded.ask("embed_candidate_dense", inputs)["embedding"]
    assert rough.dtype == np.float32 and np.abs(rough - exact).max() > 0
    np.testing.assert_allclose(rough, exact, atol=0.03)


def test_exclude_history_and_user(loaded):
    ask = lambda **changes: loaded.ask(
        "recommend_user",
        {"user_id": _column(["user-0003"]), "history": _strings([["item-0001"]]), "exclude": _strings([[""]])} | changes,
    )
    first = [item for item, _ in results(ask())]
    assert len(first) == 100
    left = [item for item, _ in results(ask(exclude=_strings([[first[0], first[2], "nothing"]])))]
    assert first[0] not in left and first[2] not in left and left[0] == first[1]
    padded = ask(history=_strings([["", "item-0001", "unknown item", ""]]))
    np.testing.assert_allclose(padded["score"], ask()["score"], atol=1e-6)
    assert [item for item, _ in results(ask(user_id=_column(["nobody"])))] != first


def test_only_the_newest_history_counts_and_all_of_it_is_left_out(small, loaded):
    """More items than the model's history length: the oldest are not read; a history of ten thousand is answered."""
    length = small[0].config.model.history_length
    items = [f"item-{n:04d}" for n in range(length + 30)]
    ask = lambda signature, history, **more: loaded.ask(
        signature, {"user_id": _column([""]), "history": _strings([history])} | more
    )
    short, long = (ask("embed_query", each, **_absent(1))["embedding"] for each in (items[-length:], items))
    np.testing.assert_allclose(short, long, atol=1e-6)
    answer = ask("recommend_user", items, exclude=_strings([[""]]))
    assert not {item for item, _ in results(answer)} & set(items)
    strange = ["nobody's"] * 9_000 + items * 10
    again = ask("recommend_user", strange, exclude=_strings([[""]]))
    assert not {item for item, _ in results(again)} & set(items) and len(results(again)) == 100


def test_a_known_user_is_asked_by_what_the_export_knows(small, loaded):
    """By the id alone as with the history sent; nothing is answered that the user took, and the flag says who is known."""
    model, split, _ = small
    users = [*dict.fromkeys(split.train.user_ids)][:30]
    histories = Histories(model.data, split.train)
    taken = [[model.data.item_ids[row - 1] for row in histories.pasts([user])[0]] for user in users]
    width = max(map(len, taken))
    nothing = _strings([[""]] * 30)
    alone = loaded.ask("recommend_user", {"user_id": _column(users), "history": nothing, "exclude": nothing})
    sent = loaded.ask(
        "recommend_user",
        {
            "user_id": _column(users),
            "exclude": nothing,
            "history": _strings([[*row, *[""] * (width - len(row))] for row in taken]),
        },
    )
    np.testing.assert_allclose(alone["score"], sent["score"], atol=1e-5)
    for row, own in enumerate(taken):
        assert not {item for item, _ in results(alone, row)} & set(own)
    assert alone["known"].all()
    # A history in the request stands for the stored one, but what is stored is left out all the same.
    other = loaded.ask(
        "recommend_user", {"user_id": _column(users), "history": _strings([["item-0001"]] * 30), "exclude": nothing}
    )
    assert np.abs(other["score"] - alone["score"]).max() > 1e-3
    assert all(not {item for item, _ in results(other, row)} & {*own, "item-0001"} for row, own in enumerate(taken))
    # Unknown items only say nothing: the stored history stands.
    odd = loaded.ask("recommend_user", {"user_id": _column(users), "history": _strings([["nothing"]] * 30), "exclude": nothing})
    np.testing.assert_allclose(odd["score"], alone["score"], atol=1e-6)
    stranger = loaded.ask(
        "recommend_user", {"user_id": _column(["user-9999", ""]), "history": nothing[:2], "exclude": nothing[:2]}
    )
    assert not stranger["known"].any() and len(results(stranger)) == 100


def _ask_filtered(loaded, **changes):
    inputs = {"user_id": _column(["user-0003"]), "history": _strings([[""]]), "exclude": _strings([[""]])} | _absent(1)
    inputs |= {
        "allow": _strings([[""]]),
        "boost_attribute": _strings([[""]]),
        "boost": np.zeros((1, 1), np.float32),
        "diversity": np.zeros(1, np.float32),
        "min_score": NO_SCORE,
        "repeats": np.array([False]),
    }
    return results(loaded.ask("recommend_filtered", inputs | changes))


def test_repeats_and_a_least_score(small, loaded):
    model, split, _ = small
    own = {model.data.item_ids[row - 1] for row in Histories(model.data, split.train).pasts(["user-0003"])[0]}
    usual, more = _ask_filtered(loaded), _ask_filtered(loaded, repeats=np.array([True]))
    assert own and not own & {item for item, _ in usual} and own & {item for item, _ in more}
    assert [pair for pair in more if pair[0] not in own] == usual[: len(more) - len(own & {item for item, _ in more})]
    bar = np.array([usual[9][1]], np.float32)
    assert _ask_filtered(loaded, min_score=bar) == usual[:10]
    assert _ask_filtered(loaded, min_score=np.array([99.0], np.float32)) == []


def test_numbers_that_are_none_are_their_own_rows_problem(loaded):
    """The first and the last row of three ask as if they were alone; the middle one has an empty list and says why."""
    bad = (np.nan, np.inf, -np.inf, 3e38)
    inputs = {"user_id": _column(["user-0003"] * 3), "history": _strings([[""]] * 3), "exclude": _strings([[""]] * 3)}
    inputs |= _absent(3)
    inputs |= {
        "allow": _strings([[""]] * 3),
        "boost_attribute": _strings([["category=food"]] * 3),
        "boost": np.ones((3, 1), np.float32),
        "diversity": np.zeros(3, np.float32),
        "min_score": np.repeat(NO_SCORE, 3),
        "repeats": np.zeros(3, bool),
    }
    by_vector = {"embedding": np.ones((3, 49), np.float32), "exclude": _strings([[""]] * 3)}
    cases = [("recommend_filtered", inputs, name) for name in ("boost", "diversity", "min_score")]
    for signature, asked, name in [*cases, ("recommend_from_embedding", by_vector, "embedding")]:
        usual = loaded.ask(signature, asked)
        for value in bad[:3] if name == "min_score" else bad:
            changed = asked[name].copy()
            changed[1] = value
            answer = loaded.ask(signature, asked | {name: changed})
            with pytest.raises(DataError, match=f"^{name}: "):
                results(answer, 1)
            assert not any(answer["item_id"][1]) and np.isfinite(answer["score"]).all()
            for row in (0, 2):
                assert results(answer, row) == results(usual, row) != []


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_dense_feature_that_is_no_number_is_missing(loaded, value):
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.normal(size=(2, dim)).astype(np.float32) for name, dim in (("image", 1280), ("text", 512), ("audio", 1024))
    }
    inputs["presence"] = np.ones((2, 3), np.float32)
    for name in ("embed_query_dense", "embed_candidate_dense"):
        whole = loaded.ask(name, inputs)["embedding"]
        broken = inputs | {"text": inputs["text"].copy()}
        broken["text"][1, 7] = value
        without = inputs | {"presence": np.array([[1, 1, 1], [1, 0, 1]], np.float32)}
        answer = loaded.ask(name, broken)["embedding"]
        np.testing.assert_allclose(answer[0], whole[0], atol=1e-6)
        np.testing.assert_allclose(answer[1], loaded.ask(name, without)["embedding"][1], atol=1e-6)
        assert np.abs(answer[1] - whole[1]).max() > 1e-3
        unsure = inputs | {"presence": np.array([[1, 1, 1], [1, value, 1]], np.float32)}
        np.testing.assert_allclose(loaded.ask(name, unsure)["embedding"], answer, atol=1e-6)


def test_popular_items(small, loaded):
    """By the fading counts of the training log, without what the user took or excludes."""
    model, split, _ = small
    ask = lambda user, least: results(
        loaded.ask(
            "popular",
            {
                "user_id": _column([user]),
                "history": _strings([[""]]),
                "exclude": _strings([["item-0001"]]),
                "allow": _strings([[""]]),
                "min_score": np.array([least], np.float32),
            },
        )
    )
    worth = dict(zip(model.data.item_ids, model.data.faded[1:], strict=True))
    order = sorted((item for item in worth if worth[item] > 0 and item != "item-0001"), key=lambda item: -worth[item])
    found = ask("", tf.float32.min)
    np.testing.assert_allclose([score for _, score in found], [worth[item] for item in order[:100]], rtol=1e-6)
    assert all(score == np.float32(worth[item]) for item, score in found)
    taken = {model.data.item_ids[row - 1] for row in Histories(model.data, split.train).pasts(["user-0003"])[0]}
    assert not taken & {item for item, _ in ask("user-0003", tf.float32.min)}
    assert [score for _, score in ask("", found[4][1])] == [score for _, score in found if score >= found[4][1]]


def test_every_item_can_be_excluded(small, loaded):
    everything = small[2].ids.tolist()
    answer = loaded.ask(
        "recommend_user", {"user_id": _column([""]), "history": _strings([[""]]), "exclude": _strings([everything])}
    )
    assert results(answer) == [] and (answer["score"] == tf.float32.min).all()


def test_similar_items(small, loaded):
    model, _, catalog = small
    nothing = _strings([[""], [""]])
    inputs = {
        "item_id": _column([catalog.ids[5], "unknown"]),
        "user_id": _column(["", ""]),
        "history": nothing,
        "exclude": nothing,
        "allow": nothing,
        "min_score": NO_SCORE.repeat(2),
    }
    answer = loaded.ask("similar_items", inputs)
    blocks, media, _ = (part.numpy() for part in model.candidate_parts(tf.range(1, len(catalog) + 1)))
    *shares, share, _ = model.blend.numpy()
    alike = np.einsum("k,nkd,kd->n", shares, blocks, blocks[5]) + share * media @ media[5]  # however popular
    np.testing.assert_allclose(answer["score"][0], np.sort(alike)[::-1][:100], atol=1e-5)
    assert answer["item_id"][0, 0].decode() == catalog.ids[5] and results(answer, 1) == []
    second = answer["item_id"][0, 1]
    left = loaded.ask("similar_items", inputs | {"history": np.array([[second], [b""]], object)})
    assert second not in left["item_id"][0] and left["item_id"][0, 0] == answer["item_id"][0, 0]
    bar = inputs | {"min_score": answer["score"][[0, 0], [3, 3]]}
    assert len(results(loaded.ask("similar_items", bar))) == 4


def test_stored_media_and_sent_media_agree(demo, small, exported, loaded):
    """A stored item's own files, sent raw, give the embedding that the model has for its features."""
    model, _, catalog = small
    row = next(
        r
        for r in range(600)
        if all(catalog.medium(r, m) for m in ("text", "image", "audio")) and catalog.medium(r, "image").endswith("png")
    )
    answer = loaded.ask(
        "embed_candidate",
        {
            "text": _column([catalog.medium(row, "text")]),
            "image": _column([image_bytes(catalog.medium(row, "image"))]),
            "audio": _column([wav_bytes(catalog.medium(row, "audio"))]),
        },
    )
    media = {name: tf.constant(rows[row : row + 1]) for name, rows in _features(demo, catalog).items()}
    expected, weights = model.candidate_from_media(media, tf.ones([1, 3]))
    np.testing.assert_allclose(answer["embedding"], expected, atol=0.02)
    np.testing.assert_allclose(answer["weights"].sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(answer["weights"], weights, atol=0.02)


def _features(demo, catalog):
    from mmtfrs import encoders

    made = {}
    for name in ("image", "text", "audio"):
        made[name] = encoders.load(name, "offline").encode([catalog.medium(row, name) for row in range(60)])[0]
    return made


def test_a_batch_with_and_without_media(demo, loaded):
    picture = next((demo / "image").glob("*.png")).read_bytes()
    inputs = {"user_id": _column(["user-0003"] * 3), "history": _strings([[""]] * 3), "exclude": _strings([[""]] * 3)}
    media = _absent(3) | {"image": _column(["", picture, ""]), "text": _column(["", "", "a rocket"])}
    together = loaded.ask("serving_default", inputs | media)
    for row in range(3):
        alone = loaded.ask("serving_default", {name: value[row : row + 1] for name, value in (inputs | media).items()})
        np.testing.assert_allclose(together["score"][row], alone["score"][0], atol=1e-5)
    plain = loaded.ask("recommend_user", inputs)
    np.testing.assert_allclose(together["score"][0], plain["score"][0], atol=1e-5)
    assert np.abs(together["score"][1] - plain["score"][1]).max() > 1e-3


def test_dense_signatures_compile_with_xla(small, exported):
    model = tf.saved_model.load(str(newest_version(exported)))
    rng = np.random.default_rng(0)
    inputs = {
        name: tf.constant(rng.normal(size=(4, dim)).astype(np.float32))
        for name, dim in (("image", 1280), ("text", 512), ("audio", 1024))
    }
    inputs["presence"] = tf.constant([[1.0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    for name in ("embed_query_dense", "embed_candidate_dense"):
        plain = model.signatures[name](**inputs)["embedding"]
        compiled = tf.function(model.signatures[name], jit_compile=True, autograph=False)(**inputs)["embedding"]
        np.testing.assert_allclose(compiled, plain, atol=1e-4)
        assert plain.shape == (4, 49)


def test_recommend_from_embedding_closes_the_circle(loaded):
    query = {"user_id": _column(["user-0003"]), "history": _strings([["item-0001"]])}
    embedding = loaded.ask("embed_query", query | _absent(1))["embedding"]
    found = loaded.ask("recommend_from_embedding", {"embedding": embedding, "exclude": _strings([[""]])})
    expected = _ask_filtered(loaded, history=query["history"], repeats=np.array([True]))
    np.testing.assert_allclose(found["score"][0], [score for _, score in expected], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", b"no image", "image: the bytes are no PNG, JPEG, GIF or BMP image"),
        ("audio", b"no sound", "audio: the bytes are no WAV file"),
    ],
)
def test_bytes_that_are_no_medium(loaded, name, value, message):
    inputs = {"user_id": _column(["u"]), "history": _strings([[""]]), "exclude": _strings([[""]])}
    answer = loaded.ask("serving_default", inputs | _absent(1) | {name: _column([value])})
    with pytest.raises(DataError, match=message):
        results(answer)
    # A medium that cannot be read is a missing one.
    np.testing.assert_array_equal(answer["item_id"], loaded.ask("serving_default", inputs | _absent(1))["item_id"])


@pytest.mark.slow
def test_text_assets_travel_with_the_export(demo, tmp_path):
    from encoders.test_encoders import vocabulary_model

    path = vocabulary_model(tmp_path / "t")
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abcd"), "text": ["rocket", "comet", "harbour", "butter"]})
    events = mmtfrs.Events(["u", "u", "v", "v"], list("abcd"), [1, 2, 3, 4])
    config = mmtfrs.Config(encoders=OFFLINE | {"text": str(path)}, **FAST)
    features = mmtfrs.extract(catalog, config, tmp_path / "s", progress=False)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    version = mmtfrs.export(model, tmp_path / "saved_models" / "words")
    shutil.rmtree(tmp_path / "t")
    version.parent.rename(tmp_path / "elsewhere")
    loaded = LoadedModel(tmp_path / "elsewhere")
    assert [file.name for file in (loaded.path / "assets").iterdir()] == ["words.txt"]
    answer = loaded.ask("embed_candidate", _absent(4) | {"text": _column(["rocket", "comet", "harbour", "butter"])})
    expected, _ = model.candidate_from_media({"text": tf.constant(features.items["text"][:])}, tf.ones([4, 1]))
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    assert loaded.facts["learned"] == ["text"] and loaded.facts["histories"] == 1000
    user = {"user_id": _column(["u"]), "history": _strings([[""]])}
    plain, odd = (loaded.ask("embed_query", user | _absent(1) | more) for more in ({}, {"image": _column(["x"])}))
    np.testing.assert_array_equal(plain["embedding"], odd["embedding"])
    assert odd["problem"].tolist() == [b"image: this model cannot be asked by image. It has learned from: text."]


@pytest.mark.long
def test_the_limits_of_the_config_hold_in_the_graph(tmp_path):
    """Host and graph refuse the same: what an extraction sets aside is no query."""

    def wav(samples: int) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(samples), 4000, format="WAV", subtype="PCM_U8")
        return buffer.getvalue()

    def png(side: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (side, side)).save(buffer, "PNG")
        return buffer.getvalue()

    good = {"text": b"a text", "image": png(8), "audio": wav(1600)}
    bad = {"text": b"x" * 6000, "image": png(20), "audio": wav(2400)}
    said = {"text": "text: more than 5000 bytes", "image": "image: more than 100 pixels", "audio": "audio: longer than 0.5 s"}
    for name, media in (("good", good), ("bad", bad)):
        for kind in ("image", "audio"):
            (tmp_path / f"{name}.{kind}").write_bytes(media[kind])
    items = {"item_id": ["a", "b"], "text": [good["text"].decode(), bad["text"].decode()]}
    items |= {kind: [f"good.{kind}", f"bad.{kind}"] for kind in ("image", "audio")}
    limits = {"max_pixels": 100, "max_seconds": 0.5, "max_bytes": 5000}
    config = mmtfrs.Config(**FAST, encoders=OFFLINE, extraction=limits).replace(model={"modalities": tuple(good)})
    catalog = mmtfrs.Catalog.from_dict(items, tmp_path)
    features = mmtfrs.extract(catalog, config, tmp_path / "s", progress=False)
    assert all(rows.present.tolist() == [True, False] for rows in features.items.values())
    model = mmtfrs.TwoTower(config, catalog, features, mmtfrs.Events(["u", "v"], ["a", "b"], [1, 2]))
    loaded = LoadedModel(mmtfrs.export(model, tmp_path / "m").parent)
    for name in good:
        assert loaded.ask("embed_candidate", _absent(1) | {name: _column([good[name]])})["weights"].max() == 1.0
        answer = loaded.ask("embed_candidate", _absent(1) | {name: _column([bad[name]])})
        assert answer["problem"].tolist() == [said[name].encode()] and not answer["weights"].any()
    large = loaded.ask("embed_candidate", _absent(1) | {"audio": _column([wav(6000)])})
    assert large["problem"].tolist() == [b"audio: more than 5000 bytes"]


@pytest.mark.long
def test_a_model_without_media(tmp_path):
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abc")})
    events = mmtfrs.Events(["u", "v"], ["a", "b"], [1, 2])
    features = mmtfrs.extract(catalog, mmtfrs.Config(), tmp_path / "s", progress=False)
    model = mmtfrs.TwoTower(mmtfrs.Config(**FAST), catalog, features, events)
    loaded = LoadedModel(mmtfrs.export(model, tmp_path / "m").parent)
    assert Servable(tmp_path / "m" / "1").warm_up() == len(SIGNATURES) + len(LISTS)
    signature, inputs = Query("u", ["a"]).request()
    assert {item for item, _ in results(loaded.ask(signature, inputs))} == {"b", "c"}
    with pytest.raises(DataError, match=r"text: this model cannot be asked by text. It has learned from: ids\."):
        results(loaded.ask("serving_default", inputs | _absent(1) | {"text": _column(["x"])}))


@pytest.mark.long
def test_an_export_that_knows_no_history(tmp_path):
    """`export.histories: 0`: neither the graph nor the model that it carries says what anybody took."""
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abc")})
    events = mmtfrs.Events(["u", "u", "v"], ["a", "b", "b"], [1, 2, 3])
    made, asked = {}, {}
    for number in (0, 1, 1000):
        config = mmtfrs.Config(**FAST).replace(export={"histories": number})
        model = mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), events)
        loaded = LoadedModel(mmtfrs.export(model, tmp_path / str(number)).parent)
        assert loaded.facts["histories"] == number
        made[number] = loaded.ask("recommend_user", Query("u").request()[1])
        user = {"user_id": _column(["u"]), "history": _strings([[""]])}
        asked[number] = loaded.ask("embed_query", user | _absent(1))["embedding"]
        carried = np.load(loaded.path / "assets.extra" / "model" / "tables" / "taken.npz")["items"]
        assert carried.tolist() == ([] if number == 0 else [1, 2, 2])
    assert len(results(made[0])) == 3 and [item for item, _ in results(made[1])] == ["c"] == [
        item for item, _ in results(made[1000])
    ]
    assert all(
        np.abs(asked[one] - asked[other]).max() > 1e-4 for one, other in ((0, 1), (1, 1000))
    )  # none, one or both are read


def test_repeats_by_the_config(tmp_path):
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abc")})
    events = mmtfrs.Events(["u", "u", "v"], ["a", "b", "b"], [1, 2, 3])
    config = mmtfrs.Config(**FAST).replace(data={"repeats": "allow"})
    model = mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), events)
    loaded = LoadedModel(mmtfrs.export(model, tmp_path / "m").parent)
    assert {item for item, _ in results(loaded.ask("recommend_user", Query("u", ["c"], exclude=["b"]).request()[1]))} == {
        "a",
        "c",
    }


def test_another_encoder_is_refused(small, tmp_path):
    from mmtfrs import encoders

    with pytest.raises(ExportError, match="the image encoder vgg16:random is not the one that made the model's features"):
        mmtfrs.export(small[0], tmp_path / "m", {"image": encoders.load("image", "vgg16:random")})
    assert versions(tmp_path / "m") == []


def test_versions(tmp_path):
    for expected in (1, 2):
        with new_version(tmp_path / "m") as part:
            (part / "x").write_text("x")
            assert versions(tmp_path / "m") == list(range(1, expected))
        assert versions(tmp_path / "m") == list(range(1, expected + 1))
    with pytest.raises(RuntimeError), new_version(tmp_path / "m") as part:
        raise RuntimeError
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2"]
    with pytest.raises(ExportError, match=r"incomplete: saved_model.pb, variables/variables.index"):
        newest_version(tmp_path / "m")
    with pytest.raises(ExportError, match="holds no version of a model"):
        newest_version(tmp_path / "none")


def test_a_saved_model_without_variables(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "1" / "variables")
    with pytest.raises(ExportError, match=re.escape("variables/variables.index")):
        LoadedModel(tmp_path / "m")


def test_requests_send_what_the_graph_can_decode(tmp_path):
    exif = Image.new("RGB", (4, 2)).getexif()
    exif[0x0112] = 6
    for name, options, same in (
        ("a.png", {}, True),
        ("b.jpg", {}, True),
        ("c.jpg", {"exif": exif}, False),
        ("d.webp", {}, False),
        ("e.bmp", {}, False),
    ):
        Image.new("RGB", (4, 2), "red").save(tmp_path / name, **options)
        data = image_bytes(tmp_path / name)
        assert (data == (tmp_path / name).read_bytes()) == same
        assert same or data.startswith(b"\x89PNG")
    soundfile.write(tmp_path / "s.mp3", np.sin(np.arange(8000) / 9) / 2, 8000)
    wave = decode_audio(wav_bytes(tmp_path / "s.mp3"))
    np.testing.assert_allclose(wave, decode_audio((tmp_path / "s.mp3").read_bytes()), atol=1e-6)
    with pytest.raises(DataError, match="there is no such file"):
        image_bytes(tmp_path / "none.png")
    signature, inputs = Query("u", ["a", "b"]).request()
    assert signature == "recommend_user" and inputs["history"].tolist() == [[b"", b"a", b"b"]]
    assert json.dumps(sorted(Query(text="x").request()[1])) == '["audio", "exclude", "history", "image", "text", "user_id"]'


def test_inputs_of_different_batches_are_refused(loaded):
    with pytest.raises(DataError, match=r"as many rows each; they have.*2 1"):
        loaded.ask(
            "recommend_user", {"user_id": _column(["a"]), "history": _strings([[""]]), "exclude": _strings([[""], [""]])}
        )


def test_what_runs_on_a_tpu_can_be_found_by_its_name(exported):
    aliases = set(_graph(exported).meta_info_def.function_aliases.values())
    assert aliases == {"embed_query_dense", "embed_candidate_dense"}
