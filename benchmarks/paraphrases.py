"""Is a text found by what it means? Sixty items, asked for by sixty paraphrases that share no content word with them.

Users have no media, and take items of two of six topics. How often the item itself comes first, among the sixty: by the plain
cosine of the encoder, through the query tower and through the candidate tower.

    python -m benchmarks.paraphrases [--encoder minilm] [--seeds 3]
"""

from __future__ import annotations

import argparse

import numpy as np

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query, results
from mmtfrs.training.fit import fit_to_best

PAIRS = (
    # the kitchen
    ("cast iron skillet, 28 cm", "heavy metal frying pan"),
    ("sourdough bread baking set", "tools for making your own leavened loaf"),
    ("espresso machine with milk frother", "maker of strong coffee and cappuccino foam"),
    ("Japanese chef's knife", "sharp Asian blade for cooks"),
    ("bamboo cutting board", "wooden surface to chop vegetables on"),
    ("electric kettle", "device that boils water for tea"),
    ("spice rack with twelve jars", "holder for seasonings such as pepper and cumin"),
    ("ice cream maker", "appliance for frozen desserts at home"),
    ("noodle soup cookbook", "recipes for ramen and pho"),
    ("wine glasses, set of six", "stemware for drinking Merlot"),
    # the garden
    ("wheelbarrow", "one-tired cart to move soil"),
    ("rose bush, red", "thorny shrub with crimson blossoms"),
    ("lawn mower, battery powered", "cordless grass trimmer you push"),
    ("watering can", "vessel with a spout for thirsty flowers"),
    ("greenhouse made of glass", "transparent shed where tomatoes ripen early"),
    ("bird feeder", "place where sparrows get seeds"),
    ("compost bin", "container in which kitchen scraps rot into fertilizer"),
    ("garden hose, 20 m", "long flexible pipe for sprinkling the yard"),
    ("apple tree sapling", "young plant that will bear fruit for cider"),
    ("hammock for two", "swinging bed hung between trunks"),
    # music
    ("acoustic guitar", "six-stringed wooden instrument to strum"),
    ("drum kit for beginners", "percussion set for a novice"),
    ("noise cancelling headphones", "earphones that silence the surroundings"),
    ("vinyl record player", "turntable for old LPs"),
    ("grand piano", "large keyboard instrument for a concert hall"),
    ("Beethoven, complete symphonies", "all orchestral works by the deaf composer of Ode to Joy"),
    ("violin strings", "replacement wires for a fiddle"),
    ("karaoke microphone", "handheld device to sing along with hits"),
    ("jazz saxophone lessons", "course in playing a brass reed horn for swing"),
    ("heavy metal band T-shirt", "clothing for fans of loud rock groups"),
    # travel
    ("carry-on suitcase", "small luggage for the cabin"),
    ("tent for four people", "camping shelter for a family"),
    ("guide to Paris", "what to see in the French capital"),
    ("hiking boots", "sturdy footwear for mountain trails"),
    ("neck pillow", "cushion for sleeping on a plane"),
    ("sleeping bag for winter", "quilted sack to stay warm outdoors overnight"),
    ("world atlas", "book of maps of all countries"),
    ("scuba diving mask", "goggles for looking at coral reefs"),
    ("passport holder", "case for an identity document at borders"),
    ("sunscreen, factor 50", "lotion against ultraviolet burns"),
    # sports
    ("tennis racket", "what Federer hits a ball with"),
    ("yoga mat", "rubber sheet for stretching and meditation"),
    ("football goal", "net for soccer matches"),
    ("mountain bike", "two-wheeler for rough terrain"),
    ("boxing gloves", "padded hand protection for fighters"),
    ("swimming trunks", "shorts worn in the pool"),
    ("dumbbells, 10 kg", "weights to build muscle"),
    ("ski goggles", "eyewear for snowy slopes"),
    ("basketball hoop", "ring to dunk through"),
    ("running watch with heart rate", "wristband that measures a jogger's pulse"),
    # technology
    ("laptop with 16 GB memory", "portable computer having plenty of RAM"),
    ("wireless mouse", "cable-free pointing device"),
    ("smartphone with three cameras", "mobile telephone for good photos"),
    ("robot vacuum cleaner", "autonomous machine that sweeps floors"),
    ("solar power bank", "charger fed by the sun"),
    ("3D printer", "machine that builds plastic objects layer by layer"),
    ("home security camera", "surveillance lens against burglars"),
    ("electronic book reader", "tablet with paper-like display for novels"),
    ("drone with remote control", "flying quadcopter steered from the ground"),
    ("smart light bulbs", "lamps that obey your voice"),
)
TOPICS, USERS, TAKEN = 6, 400, 8


def log(seed: int) -> mmtfrs.Events:
    """Each user takes items of two topics."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        likes = np.concatenate([np.arange(10) + 10 * topic for topic in rng.choice(TOPICS, 2, False)])
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(rng.choice(likes, TAKEN, False))]
    return mmtfrs.Events(*zip(*rows, strict=True))


def measure(encoder: str, seed: int) -> dict[str, float]:
    """Shares of the sixty that come first."""
    texts, asked = zip(*PAIRS, strict=True)
    bare = encoders.load("text", encoder)
    vectors, queries = (bare(tf.constant(each)).numpy() for each in (texts, asked))
    vectors, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (vectors, queries))
    found = {"plain cosine": _first(queries @ vectors.T)}
    config = mmtfrs.Config(seed=seed, encoders={"text": encoder})
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(len(texts))], "text": list(texts)})
    split = log(seed).split("time")
    features = mmtfrs.extract(catalog, config, f"benchmarks/results/paraphrases/{encoder}", progress=False)
    model, _ = fit_to_best(mmtfrs.TwoTower(config, catalog, features, split.train), split)
    answers = LoadedModel(mmtfrs.export(model, f"benchmarks/results/paraphrases/{encoder}-export"))
    first = [results(answers.ask(*Query(text=text).request()))[0][0] for text in asked]
    found["query tower"] = float(np.mean([item == f"i{n}" for n, item in enumerate(first)]))
    nothing = np.full(len(asked), "", object)
    shown = {"text": np.array(asked, object), "image": nothing, "audio": nothing}
    as_items = answers.ask("embed_candidate", shown)["embedding"]
    found["candidate tower"] = _first(as_items @ model.candidate_embeddings().T)
    return found


def _first(scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == np.arange(len(scores))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(options.encoder, seed) for seed in range(options.seeds)]
    for name in rows[0]:
        mean = np.mean([row[name] for row in rows])
        share = np.mean([row[name] / row["plain cosine"] for row in rows])
        print(f"{name:16} itself@1 {mean:.3f}, of the plain cosine {share:.2f}")


if __name__ == "__main__":
    main()
