"""A folder of a small BERT of random weights, as Hugging Face writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, HEADS, LAYERS, LONGEST = 8, 2, 2, 12
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "##s", "shoe", "a"]


def write_bert(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}

    def tensor(name, *shape):
        arrays[name] = rng.normal(0.0, 0.3, shape).astype(np.float32)

    for name, rows in (("word", len(PIECES)), ("position", LONGEST), ("token_type", 2)):
        tensor(f"embeddings.{name}_embeddings.weight", rows, WIDTH)
    sizes = {"intermediate.dense": (16, WIDTH), "output.dense": (WIDTH, 16)}
    sizes |= {f"attention.{name}": (WIDTH, WIDTH) for name in ("self.query", "self.key", "self.value", "output.dense")}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        norms += [f"encoder.layer.{layer}.{name}.LayerNorm" for name in ("attention.output", "output")]
        for name, shape in sizes.items():
            tensor(f"encoder.layer.{layer}.{name}.weight", *shape)
            tensor(f"encoder.layer.{layer}.{name}.bias", shape[0])
    for name in norms:
        tensor(f"{name}.weight", WIDTH)
        tensor(f"{name}.bias", WIDTH)
    tensor("pooler.dense.weight", WIDTH, WIDTH)
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    config = {"model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config |= {"hidden_act": "gelu", "vocab_size": len(PIECES), "max_position_embeddings": LONGEST, "type_vocab_size": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder
