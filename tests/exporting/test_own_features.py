"""Exports of models whose features no graph makes: by a function of the user's own, or ready ones."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request

import numpy as np
import pytest
from asked import texts
from conftest import FAST, run_cli, unwarmed, wait_until

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.errors import DataError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.own_features import OwnFeatures
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.request import Query
from mmtfrs.features.extract import extract
from serving.client import Client, ServingError
from serving.grpc_server import Server
from serving.servable import Servable

ENCODE = """
import numpy as np

CALLS = []

def encode(texts):
    CALLS.append(len(texts))
    rows = [np.random.default_rng(sum(map(ord, text))).normal(size=6) for text in texts]
    return np.array(rows)
"""
WORDS = [f"word {number}" for number in range(40)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """`(model, folder of the export, module of its function)`: texts by a function, `clip` by a .npy file, no images."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "shop_encoder.py").write_text(ENCODE)
    sys.path.insert(0, str(folder))
    ids = [f"i{number}" for number in range(40)]
    np.save(folder / "clip.npy", np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32))
    catalog = mmtfrs.Catalog.from_dict({"item_id": ids, "text": WORDS})
    rng = np.random.default_rng(2)
    events = mmtfrs.Events([f"u{n % 30}" for n in range(300)], [ids[n] for n in rng.integers(0, 40, 300)], np.arange(300))
    config = mmtfrs.Config(
        **FAST, encoders={"text": "shop_encoder:encode"}, data={"features": {"clip": str(folder / "clip.npy")}}
    ).replace(model={"modalities": ("text", "clip"), "feature_dim": None})
    features = extract(catalog, config, folder / "store", progress=False)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    model.compile(optimizer="adam")
    model.fit(model.dataset(events), epochs=2, verbose=0)
    mmtfrs.export(model, folder / "models" / "shop")
    yield model, folder / "models" / "shop", sys.modules["shop_encoder"]
    sys.path.remove(str(folder))
    sys.modules.pop("shop_encoder")


@pytest.fixture(scope="module")
def loaded(shop):
    return LoadedModel(shop[1], trust_code=True)


@pytest.fixture(scope="module")
def server(shop):
    server = Server(shop[1], "shop", port=0, rest_port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(server):
    return f"localhost:{server.port}"


def _query(model, text="", clip=None, user=0, history=()):
    """What the model itself makes of it."""
    encode = sys.modules["shop_encoder"].encode
    shown = {"text": encode([text])[0] if text else np.zeros(6), "clip": np.zeros(5) if clip is None else clip}
    presence = [[float(np.any(shown[name])) for name in model.data.modalities]]
    media = {name: tf.constant(values[None], tf.float32) for name, values in shown.items()}
    rows = tf.constant([model.data.item_rows(list(history)) if history else [0]], tf.int32)
    return model.query_from_rows(tf.constant([user], tf.int32), rows, media, tf.constant(presence))[0].numpy()


def test_inputs_and_facts(shop, loaded):
    _, folder, _ = shop
    facts = json.loads((folder / "1" / "assets.extra" / "mmtfrs.json").read_text())
    assert facts["learned"] == facts["modalities"] == ["text", "clip"]
    made = facts["features"]["text"]
    assert made["dim"] == 6 and made["encoder"] == "shop_encoder:encode" and facts["features"]["clip"] == {"dim": 5}
    signatures = Servable(folder / "1").signature_defs
    media = {"image", "audio", "text_features", "clip_features"}
    limits = {"allow", "min_score", "boost_attribute", "boost", "diversity", "repeats"}
    for name, others in {
        "serving_default": {"user_id", "history", "exclude"},
        "recommend_filtered": {"user_id", "history", "exclude"} | limits,
        "embed_query": {"user_id", "history"},
        "embed_candidate": set(),
    }.items():
        assert set(signatures[name].inputs) == media | others, name
        sizes = [dimension.size for dimension in signatures[name].inputs["text_features"].tensor_shape.dim]
        assert sizes == [-1, 6], name
    lists = [name for name, signature in signatures.items() if "item_id" in signature.outputs]
    records = tf.data.TFRecordDataset(str(folder / "1" / "assets.extra" / "tf_serving_warmup_requests"))
    assert len(list(records)) == len(signatures) + len(lists)  # `server` runs them


@pytest.mark.parametrize("shown", [{"text": "word 3"}, {"clip": np.arange(5.0)}, {"text": "word 9", "clip": np.ones(5)}])
@pytest.mark.parametrize("who", [{}, {"user": "u4", "history": ["i1", "i2"]}])
def test_a_query_is_that_of_the_model(shop, loaded, shown, who):
    model = shop[0]
    user = int(model.data.user_rows(["u4"])[0]) if who else 0
    expected = _query(model, **shown, user=user, history=who.get("history", ()))
    query = Query(text=shown.get("text", ""), features={"clip": shown["clip"]} if "clip" in shown else {}, **who)
    signature, inputs = loaded.own.requests([query])[0]
    assert signature == "serving_default"
    inputs.pop("exclude")
    answer = loaded.ask("embed_query", inputs)
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    assert answer["problem"].tolist() == [b""]
    scores = (expected @ model.candidate_embeddings().T)[0]
    best = [item for item in model.data.item_ids[np.argsort(-scores)] if item not in who.get("history", ())]
    found = [item for item, _ in loaded.recommend(query, 40)]
    left = [item for item in best if item in found]
    assert found == left and len(found) > 20


def test_an_item_is_that_of_the_model(shop, loaded):
    model = shop[0]
    none = {name: texts(["", ""]) for name in ("image", "audio")}
    vectors = shop[2].encode(WORDS[:2]).astype(np.float32)
    clip = np.zeros((2, 5), np.float32)
    answer = loaded.ask("embed_candidate", none | {"text_features": vectors, "clip_features": clip})
    presence = tf.constant([[1.0, 0.0]] * 2)
    expected, _ = model.candidate_from_media({"text": tf.constant(vectors), "clip": tf.constant(clip)}, presence)
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_row_fails_alone(loaded, bad):
    inputs = {"user_id": texts(["", "u4", "u4"]), "history": texts(["", "", ""])[:, None]}
    inputs |= {"image": texts(["", "", ""]), "audio": texts(["", "", ""])}
    clip = np.ones((3, 5), np.float32)
    vectors = np.ones((3, 6), np.float32)
    good = loaded.ask("embed_query", inputs | {"text_features": vectors, "clip_features": clip})
    vectors[1, 2] = bad
    answer = loaded.ask("embed_query", inputs | {"text_features": vectors, "clip_features": clip})
    said = b"text_features: numbers must be finite, and 1e+15 at most"
    assert answer["problem"].tolist() == [b"", said, b""]
    np.testing.assert_array_equal(answer["embedding"][[0, 2]], good["embedding"][[0, 2]])
    vectors[1] = 0.0  # missing
    without = loaded.ask("embed_query", inputs | {"text_features": vectors, "clip_features": clip})
    np.testing.assert_array_equal(answer["embedding"], without["embedding"])
    assert not without["problem"].astype(str).tolist()[1]


@pytest.mark.long
def test_the_client_encodes_what_the_user_shows(shop, served, loaded):
    queries = [Query(text=f"word {n}", user=f"u{n}") for n in range(5)] + [Query("u1"), Query(features={"clip": np.ones(5)})]
    with Client(served, "shop", trust_code=True) as client:
        shop[2].CALLS.clear()
        answers = client.recommend_many(queries, k=5)
        assert shop[2].CALLS == [5], "five texts go through the function together"
        filtered = client.recommend(text="word 3", min_score=-1e9, k=5)
    with Client(served, "shop") as fresh:  # it has not seen what the model takes when it is asked with a limit and no media
        answers.append(fresh.recommend(user="u1", min_score=-1e9, k=5))
    asked = [*queries, Query("u1", min_score=-1e9), Query(text="word 3", min_score=-1e9)]
    for query, answer in zip(asked, [*answers, filtered], strict=True):
        expected = loaded.recommend(query, 5)
        assert [item for item, _ in answer] == [item for item, _ in expected]
        np.testing.assert_allclose([score for _, score in answer], [score for _, score in expected], atol=1e-5)
        assert len(answer) == 5


def test_code_is_run_only_with_consent(shop, served):
    _, folder, module = shop
    module.CALLS.clear()
    said = "text: this model's text is encoded by shop_encoder:encode, code that would be imported and run here. If you trust"
    with Client(served, "shop") as client, pytest.raises(DataError, match=said):
        client.recommend(text="word 3")
    with pytest.raises(DataError, match=said):
        LoadedModel(folder).recommend(Query(text="word 3"))
    refused = run_cli("recommend", folder, "--text", "word 3")
    assert refused.returncode == 1 and said in refused.stderr and "Traceback" not in refused.stderr
    assert not module.CALLS
    with Client(served, "shop") as client:
        assert client.recommend(features={"text": module.encode(["word 3"])[0]})
    trusted = run_cli("recommend", folder, "--text", "word 3", "--user", "u4", "--trust-code", "--json")
    expected = LoadedModel(folder, trust_code=True).recommend(Query("u4", text="word 3"), 10)
    assert [each["item_id"] for each in json.loads(trusted.stdout)["recommendations"]] == [item for item, _ in expected]


def test_vectors_on_the_command_line(shop, served, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((1, 5)))
    ours = run_cli("recommend", shop[1], "--features", f"clip={tmp_path / 'v.npy'}", "-k", 5, "--json")
    theirs = ("--target", served, "--model", "shop", "recommend", "--features", f"clip={tmp_path / 'v.npy'}", "-k", 5, "--json")
    asked = run_cli(*theirs, module="serving.client")
    found = [[each["item_id"] for each in json.loads(done.stdout)["recommendations"]] for done in (ours, asked)]
    assert found[0] == found[1] and len(found[0]) == 5
    refused = run_cli("recommend", shop[1], "--features", "clip=nothing.npy")
    assert refused.returncode == 1 and "--features must be NAME=FILE.npy. Received: clip=nothing.npy" in refused.stderr


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"clap": [1.0] * 5}, "features of `clap`: this model takes those of text, clip. Did you mean `clip`?"),
        ({"clip": [1.0] * 4}, r"features of `clip`: must be \[5\] finite numbers, 1e\+15 at most. Received: float64 \[4\]"),
        ({"clip": [np.nan] * 5}, r"must be \[5\] finite numbers"),
        ({"image": [1.0]}, "features of `image`: this model takes those of text, clip."),
    ],
)
def test_features_that_do_not_fit(loaded, features, message):
    with pytest.raises(DataError, match=message):
        loaded.recommend(Query(features=features))


def test_other_code_is_refused(loaded):
    made = {"text": {"encoder": "shop_encoder:encode", "preprocess": "", "fingerprint": "0" * 64}}
    with pytest.raises(DataError, match="shop_encoder:encode here is not the one that made the model's features"):
        OwnFeatures({"text": 6}, made, trust_code=True).requests([Query(text="x")])
    with pytest.raises(DataError, match="text: the features of this model were made elsewhere"):
        OwnFeatures({"text": 6}, {}, trust_code=True).requests([Query(text="x")])
    assert OwnFeatures({"text": 6}, {}).requests([Query("u1")])[0][0] == "recommend_user"


def test_rest_takes_vectors(server, loaded):
    row = {"user_id": "u4", "history": [""], "exclude": [""], "image": "", "audio": ""}
    row |= {"text_features": [0] * 6, "clip_features": [1, 1, 1, 1, 1.0]}
    url = f"http://127.0.0.1:{server.rest.server_port}/v1/models/shop:predict"
    body = json.dumps({"instances": [row]}).encode()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, body, timeout=30) as answer:
        found = json.load(answer)["predictions"][0]["item_id"]
    expected = loaded.recommend(Query("u4", features={"clip": np.ones(5)}))
    assert [item for item in found if item] == [item for item, _ in expected]


def test_a_client_looks_again_when_another_version_answers(shop, tmp_path):
    shutil.copytree(shop[1], tmp_path / "shop")
    unwarmed(tmp_path / "shop" / "1")
    server = Server(tmp_path / "shop", "shop", port=0, poll=0.05)
    server.start()
    try:
        with Client(f"localhost:{server.port}", "shop", trust_code=True) as client:
            client.recommend(text="word 3")
            first = client._own
            client.recommend(text="word 4")
            assert client._own is first
            shutil.copytree(tmp_path / "shop" / "1", tmp_path / ".2")
            (tmp_path / ".2").rename(tmp_path / "shop" / "2")
            wait_until(lambda: client.status().get(2) == "AVAILABLE" and client.status().get(1) != "AVAILABLE")
            client.recommend(user="u1")
            client.recommend(text="word 3")
            assert client._own is not first and client._own.dims == first.dims
    finally:
        server.stop()


def test_a_wrong_size_is_refused_by_the_signature(served, loaded):
    with Client(served, "shop") as client, pytest.raises(ServingError, match=r"`text_features` must have the shape \[\?, 6\]"):
        client.predict("embed_query", {"text_features": np.ones((1, 7), np.float32)})


@pytest.mark.long
def test_a_refresh_encodes_new_items_by_the_function(shop, tmp_path):
    model, folder, _ = shop
    shutil.copytree(folder, tmp_path / "shop")
    shutil.copy(folder.parent.parent / "clip.npy", tmp_path / "clip.npy")
    (tmp_path / "clip.ids.txt").write_text("\n".join(model.data.item_ids))
    catalog = mmtfrs.Catalog.from_dict({"item_id": [*model.data.item_ids, "new"], "text": [*WORDS, "a new one"]})
    config = model.config.replace(data={"features": {"clip": str(tmp_path / "clip.npy")}})
    done = refresh(tmp_path / "shop", catalog, tmp_path / "store", config, progress=False, trust_code=True)
    assert (done.added, done.encoded) == (1, 41)
    found = LoadedModel(tmp_path / "shop", trust_code=True).recommend(Query(text="a new one"), 3)
    assert "new" in [item for item, _ in found]
