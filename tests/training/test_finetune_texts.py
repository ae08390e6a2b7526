"""Fine-tuning the last layer of a small BERT on texts whose color is what users like, which its features hardly show at first."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_bert import PIECES, write_bert
from training.test_finetune import SETTINGS as IMAGES

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.errors import ConfigError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.training.finetune import TunedTower, check_finetune
from mmtfrs.training.train import train

pytestmark = pytest.mark.slow
SETTINGS = IMAGES | {
    "training": {
        "epochs": 1,
        "batch_size": 128,
        "finetune": {"blocks": 1, "modality": "text", "epochs": 3, "learning_rate": 0.003},
    }
}


@pytest.fixture
def words(tmp_path):
    """40 texts of noise and a color, which a small BERT has in two numbers that its last norm makes small; users who take one
    color."""
    folder, rng = write_bert(tmp_path / "bert"), np.random.default_rng(0)
    arrays = load_file(folder / "model.safetensors")
    for name, values in arrays.items():
        if "LayerNorm" in name:
            values[:] = name.endswith("weight")
        elif "word_embeddings" not in name:
            values *= 0.1  # so that layers change little of what goes in
    table = arrays["embeddings.word_embeddings.weight"]
    table[:, :2] = 0.0
    for word, number in (("red", 1.0), ("blue", -1.0)):
        table[PIECES.index(word)] = table[PIECES.index("blue")]
        table[PIECES.index(word), :2] = number, -number
    arrays["encoder.layer.1.output.LayerNorm.weight"][:2] = 0.03
    save_file(arrays, folder / "model.safetensors")
    noise = [" ".join(["a", "shoe", "shoes"][n] for n in rng.integers(0, 3, 2)) for _ in range(40)]
    lines = (f"i{n},{('red', 'blue')[n % 2]} {text}\n" for n, text in enumerate(noise))
    (tmp_path / "items.csv").write_text("item_id,text\n" + "".join(lines))
    taken = [(user, item) for user in range(240) for item in rng.permutation(np.arange(user % 2, 40, 2))[:8]]
    lines = (f"u{user},i{item},{n % 8 * 1000 + user}\n" for n, (user, item) in enumerate(taken))
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines))
    return tmp_path


@pytest.mark.long
def test_texts_are_tuned_and_asked_for(words, monkeypatch, capsys):
    """Killed after an epoch, it goes on; all but the last layer is what it was; an export answers a text as the encoder in the
    run's folder does."""
    tuning = {"blocks": 1, "modality": "text", "epochs": 3, "learning_rate": 0.003}
    config = mmtfrs.Config(**SETTINGS, encoders={"text": str(words / "bert")}).replace(
        training={"epochs": 1, "finetune": tuning}
    )
    catalog = mmtfrs.Catalog.read(words / "items.csv")
    split = mmtfrs.Events.read(words / "events.csv", catalog=catalog).split("time")
    features = mmtfrs.extract(catalog, config, words / "store", progress=False)
    epochs, refresh = iter(range(9)), TunedTower.refresh

    def killed(job):
        if next(epochs) == 1:
            raise KeyboardInterrupt
        refresh(job)

    monkeypatch.setattr(TunedTower, "refresh", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, catalog, features, split, words / "run", store=words / "store")
    monkeypatch.setattr(TunedTower, "refresh", refresh)
    trained, _ = train(config, catalog, features, split, words / "run", store=words / "store")
    told = capsys.readouterr().err
    assert "resuming after fine-tuning epoch 1\n" in told
    # Who does not know the color finds 5 of 33 items, 0.15; who does, 5 of 13.
    assert mmtfrs.evaluate(trained, split.test, ks=(5,))["model"]["recall@5"] > 0.25, told

    (words / "run").rename(words / "moved")
    model, tuned = mmtfrs.load_run(words / "moved"), words / "moved" / "text_encoder"
    old, new = (load_file(folder / "model.safetensors") for folder in (words / "bert", tuned))
    assert {name for name in old if (old[name] != new[name]).any()} == {name for name in old if "layer.1." in name}
    encoder = encoders.load("text", tuned)
    assert model.data.encoders["text"] == (str(tuned), encoder.fingerprint)
    assert encoder.fingerprint != features.encoders["text"].fingerprint
    found, _ = encoder.encode([*catalog.media(0, 40, "text")])
    table = model.device.items["text"](tf.range(1, 41))[0]
    np.testing.assert_allclose(table, model.data.adapters["text"].reduce(found), rtol=1e-4, atol=1e-5)

    asked = LoadedModel(mmtfrs.export(model, words / "m"))
    text = "blue shoes a blue"  # of no item
    media = {name: np.array([text.encode() if name == "text" else b""], object) for name in ("text", "image", "audio")}
    dense = {"text": encoder.encode([text])[0], "presence": np.ones((1, 1), np.float32)}
    answers = [
        asked.ask(name, given)["embedding"] for name, given in (("embed_candidate", media), ("embed_candidate_dense", dense))
    ]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("modality", "encoder", "told"),
    [
        ("text", "offline", "the text encoder offline cannot be trained. Use 0 blocks, or a folder of the BERT family."),
        ("text", "bert", "must be at most 2 for .*bert. Received: 3"),
        ("text", "step", "the text encoder .*bert behind own_.*:small cannot be trained"),
        ("image", "bert", "needs items with media of the image encoder. Received: none"),
        ("audio", "bert", "needs items with media of the audio encoder. Received: none"),
    ],
)
def test_texts_that_cannot_be_trained(tmp_path, own, modality, encoder, told):
    name = str(write_bert(tmp_path / "bert")) if encoder != "offline" else encoder
    steps = {"text": own("def small(text):\n    return text.lower()\n") + ":small"} if encoder == "step" else {}
    config = mmtfrs.Config(
        encoders={"text": name}, training={"finetune": {"blocks": 3, "modality": modality}}, extraction={"preprocess": steps}
    )
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a", "b"], "text": ["red", "blue"]})
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\n")
    events = mmtfrs.Events.read(tmp_path / "events.csv", catalog=catalog)
    features = mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    with pytest.raises(ConfigError, match=told) as caught:
        check_finetune(model)
    assert "\n" not in str(caught.value)
