"""Fine-tuning a small image network on images whose color is what users like, which it cannot see at first."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image
from processes import die_at

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.errors import ConfigError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.features.features import FeatureRows
from mmtfrs.training.finetune import TunedTower
from mmtfrs.training.train import train

pytestmark = pytest.mark.slow
SETTINGS = {
    "seed": 1,
    "model": {
        "embedding_dim": 16,
        "hidden": [16],
        "use_item_id": False,
        "use_user_id": False,
        "modality_dropout": 0.0,
        "feature_dim": None,
    },
    "training": {
        "epochs": 4,
        "batch_size": 128,
        "finetune": {"blocks": 2, "epochs": 5, "batch_size": 32, "learning_rate": 0.001},
    },
    "evaluation": {"monitor": "recall@5"},
}


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """40 images, reddish or bluish; a network that looks almost only at green; users who take one color."""
    keras.utils.set_random_seed(0)  # of the network, whatever ran before
    folder, rng = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for item in range(40):
        pixels = rng.integers(60, 120, (16, 16, 3))
        pixels[..., 0 if item % 2 else 2] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{item}.png")
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu", name="block1_conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, name="block2_dense"),
        ]
    )
    kernel = np.full((3, 3, 3, 4), 1e-3, np.float32)
    kernel[:, :, 1] = rng.uniform(0.05, 0.2, (3, 3, 4))
    model.get_layer("block1_conv").set_weights([kernel, np.zeros(4, np.float32)])
    model.save(folder / "network.h5")
    (folder / "items.csv").write_text("item_id,image\n" + "".join(f"i{n},{n}.png\n" for n in range(40)))
    rows = [(f"u{u}", f"i{i}", n) for u in range(240) for n, i in enumerate(rng.permutation(np.arange(u % 2, 40, 2))[:8])]
    lines = "".join(f"{u},{i},{n * 1000 + int(u[1:])}\n" for u, i, n in rows)
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + lines)
    return folder


def _run(folder, out, **training):
    config = mmtfrs.Config(**SETTINGS, encoders={"image": str(folder / "network.h5")})
    config = config.replace(training=config.training.model_dump() | training)
    catalog = mmtfrs.Catalog.read(folder / "items.csv")
    events = mmtfrs.Events.read(folder / "events.csv", catalog=catalog)
    features = mmtfrs.extract(catalog, config, folder / "store", progress=False)
    split = events.split("time")
    model, _ = train(config, catalog, features, split, out, progress=True, store=folder / "store")
    return model, split


@pytest.fixture(scope="module")
def frozen(colors, tmp_path_factory):
    """The model without fine-tuning, and its split; only read."""
    return _run(colors, tmp_path_factory.mktemp("frozen") / "run", finetune={"blocks": 0})


@pytest.mark.long
def test_the_encoder_learns_what_users_see(colors, frozen, tmp_path):
    tuned, split = _run(colors, tmp_path / "tuned")
    recalls = [mmtfrs.evaluate(model, split.test, ks=(5,))["model"]["recall@5"] for model in (frozen[0], tuned)]
    assert recalls[1] > recalls[0] + 0.15, recalls

    # Moved, loaded and exported, it still answers with the tuned encoder: features are those of the run's table.
    (tmp_path / "tuned").rename(tmp_path / "moved")
    again = mmtfrs.load_run(tmp_path / "moved")
    np.testing.assert_allclose(again.candidate_embeddings(), tuned.candidate_embeddings(), atol=1e-6)
    path = mmtfrs.export(again, tmp_path / "m")
    picture = np.array([(colors / "3.png").read_bytes()], object)
    empty = np.array([b""], object)
    answer = LoadedModel(path).ask("embed_candidate", {"text": empty, "audio": empty, "image": picture})
    np.testing.assert_allclose(answer["embedding"][0, :-1], again.candidate_embeddings()[3, :-1], atol=1e-4)  # but popularity


def test_gradient_reaches_the_pictures(frozen):
    table = frozen[0].device.items["image"]
    rows = tf.constant([3, 5, 3])
    features = tf.Variable(np.random.default_rng(0).normal(size=(3, table.dim)).astype(np.float32))
    with tf.GradientTape() as tape, table.replaced(rows, features):
        looked, there = table(tf.constant([3, 5, 7]))
        total = tf.reduce_sum(looked[:2])
    np.testing.assert_allclose(looked[0], (features[0] + features[2]) / 2, atol=1e-6)  # the same item twice
    np.testing.assert_allclose(looked[1], features[1], atol=1e-6)
    np.testing.assert_allclose(looked[2], table.matrix.numpy()[table.rows.numpy()[7]], atol=1e-6)
    assert there.numpy().tolist() == [1, 1, 1]
    np.testing.assert_allclose(tape.gradient(total, features), np.array([[0.5], [1.0], [0.5]]) * np.ones(table.dim), atol=1e-6)


def test_a_step_is_one_along_the_gradient_through_the_network(colors, frozen):
    """Beside the network as Keras loads it, on an image per event, differentiated by hand."""
    model, split = frozen
    chance = dict.fromkeys(("dropout", "id_dropout", "history_id_dropout", "history_dropout"), 0.0)
    towers = mmtfrs.TwoTower(model.config.replace(model=chance), tables=model.data)
    encoder = encoders.load("image", colors / "network.h5")
    tuned = encoder.tunable.blocks[-1]
    job = TunedTower(towers, encoder, tuned, mmtfrs.Catalog.read(colors / "items.csv"))
    job.compile(optimizer=keras.optimizers.SGD(1.0))
    batch = next(iter(job.dataset(split.train, 32)))
    items, adapter = batch["item"].numpy(), model.data.adapters["image"]
    assert len(set(items)) < len(items) == 32  # some twice
    pictures = np.stack([np.asarray(Image.open(colors / f"{row - 1}.png"), np.float32) for row in items])
    network = keras.models.load_model(colors / "network.h5", compile=False)
    variables = [*towers.trainable_variables, *network.get_layer("block2_dense").variables]
    with tf.GradientTape() as tape:
        reduced = tf.matmul(network(pictures) - adapter.mean, adapter.projection)
        with towers.device.items["image"].replaced(items, reduced), towers.objective.negatives.from_batch():
            loss = towers.compute_loss(batch, training=True) + tf.add_n([0.0, *towers.losses])
    slopes = tape.gradient(loss, variables)
    assert len(job.trainable_variables) == len(variables) and np.abs(slopes[-2]).max() > 1e-4
    before = [variable.numpy() for variable in job.trainable_variables]
    history = job.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for start, slope, variable in zip(before, slopes, job.trainable_variables, strict=True):
        np.testing.assert_allclose(start - variable, tf.convert_to_tensor(slope), rtol=1e-3, atol=1e-6, err_msg=variable.name)


def test_texts_are_tuned_by_the_same_job(tmp_path):
    """Half of the words are what half of the users take; every fifth item has no text."""
    words = [("red", "blue")[n % 2] if n % 5 else "" for n in range(40)]
    (tmp_path / "items.csv").write_text("item_id,text\n" + "".join(f"i{n},{word}\n" for n, word in enumerate(words)))
    lines = [f"u{u},i{n},{u}\n" for u in range(40) for n in range(u % 2, 40, 2)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines))
    catalog = mmtfrs.Catalog.read(tmp_path / "items.csv")
    events = mmtfrs.Events.read(tmp_path / "events.csv", catalog=catalog)
    weights = tf.Variable(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))
    encoder = TextEncoder("words", lambda texts: tf.gather(weights, tf.cast(texts == "red", tf.int32)), 4, "words", [weights])
    vectors, present = encoder.encode(catalog.media(0, 40, "text"))
    features = mmtfrs.Features(items={"text": FeatureRows(vectors, np.where(present, np.arange(40), -1), "words")})
    towers = mmtfrs.TwoTower(mmtfrs.Config(**SETTINGS), catalog, features, events)
    job = TunedTower(towers, encoder, [weights], catalog)
    for batch in job.dataset(events, 1).take(40):
        (row,) = batch["item"].numpy()
        assert batch["shown"].numpy().tolist() == [row if words[row - 1] else 0]
    job.compile(optimizer=keras.optimizers.Adam(0.01))
    before = weights.numpy()
    losses = job.fit(job.dataset(events, 16), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and (weights.numpy() != before).all(), losses
    job.refresh()
    expected = towers.data.adapters["text"].reduce(encoder.encode(["blue", "red"])[0])
    table = towers.device.items["text"]
    found = table(tf.constant([2, 3, 6]))[0]  # i1, i2 and i5, which has none
    np.testing.assert_allclose(found, [expected[0], expected[1], np.zeros(table.dim)], rtol=1e-5)


@pytest.mark.long
def test_by_the_command_line_and_again(colors, tmp_path, jobs):
    settings = json.loads(json.dumps(SETTINGS | {"encoders": {"image": str(colors / "network.h5")}}))
    settings["training"]["finetune"]["epochs"] = 2
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    command = [
        "train",
        "--items",
        colors / "items.csv",
        "--events",
        colors / "events.csv",
        "--out",
        tmp_path / "run",
        "--store",
        colors / "store",
        "--config",
        tmp_path / "c.yaml",
    ]
    # Each epoch changes eight files or so: this one dies while it writes the second.
    log = tmp_path / "changes"
    job = jobs("mmtfrs.cli.app", *command, before=(die_at, 13, str(tmp_path / "run" / "training" / "finetune"), str(log)))
    assert job.wait() == -signal.SIGKILL and "epoch-00002.part" in log.read_text().splitlines()[-1], (
        job.stderr + log.read_text()
    )
    second = run_cli(*command)
    assert second.returncode == 0 and "fine-tuning epoch 2/2" in second.stderr, second.stderr
    assert "resuming after fine-tuning epoch 1\n" in second.stderr and "epoch 1/" not in second.stderr, second.stderr
    third = run_cli(*command)
    assert third.returncode == 0 and "fine-tuning" not in third.stderr, third.stderr


def test_what_cannot_be_trained(colors, tmp_path):
    """It is told before the training that comes first."""
    with pytest.raises(ConfigError, match=r"must be at most 2 for .*network.h5. Received: 5"):
        _run(colors, tmp_path / "many", finetune={"blocks": 5})
    assert not (tmp_path / "many").exists()
    config = mmtfrs.Config(encoders={"image": "offline"}, training={"epochs": 1, "finetune": {"blocks": 1}})
    catalog = mmtfrs.Catalog.read(colors / "items.csv")
    split = mmtfrs.Events.read(colors / "events.csv", catalog=catalog).split("time")
    features = mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
    with pytest.raises(ConfigError, match="the image encoder offline cannot be trained"):
        train(config, catalog, features, split, tmp_path / "run", progress=False)
    users = mmtfrs.Users.from_dict({"user_id": ["u1"], "image": ["1.png"]}, colors)
    features = mmtfrs.extract(catalog, config, tmp_path / "store", users=users, progress=False)
    with pytest.raises(ConfigError, match="users have media of the image encoder too"):
        train(config, catalog, features, split, tmp_path / "run", progress=False)
