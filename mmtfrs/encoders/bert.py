"""The text networks of the BERT family, in TensorFlow, from weights as Hugging Face writes them.

One network: embeddings, then layers of self-attention and a feed-forward part, each added to what went in and normalized
(post-norm). BERT, DistilBERT, MPNet and RoBERTa differ in what their weights are called, where positions begin, and in MPNet's
bias of distances.

References: Devlin et al., BERT, NAACL 2019; Sanh et al., DistilBERT, 2019; Song et al., MPNet, NeurIPS 2020; Conneau et al.,
XLM-R, ACL 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.layers import FAR, attend, dense, normalize
from mmtfrs.encoders.weights import Weights

_SETTINGS = {  # of this network, and what each family calls it; the first is the usual name
    "width": ("hidden_size", "dim"),
    "layers": ("num_hidden_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_heads"),
    "activation": ("hidden_act", "activation"),
}


class _Family(NamedTuple):
    """Where weights are; `{}` stands for the number of a layer."""

    prefixes: tuple[str, ...]
    layer: str
    attention: tuple[str, str, str, str]  # query, key, value, output
    attention_norm: str
    inner: str
    outer: str
    norm: str
    types: bool = False  # a row of the table of token types is added everywhere
    past_padding: bool = False  # positions begin behind the row of the padding
    distances: str = ""


_BERT = _Family(
    ("bert.",),
    "encoder.layer.{}.",
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    types=True,
)
FAMILIES = {
    "bert": _BERT,
    "distilbert": _Family(
        ("distilbert.",),
        "transformer.layer.{}.",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ),
    "mpnet": _BERT._replace(
        prefixes=("mpnet.",),
        attention=("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"),
        attention_norm="attention.LayerNorm",
        types=False,
        past_padding=True,
        distances="encoder.relative_attention_bias.weight",
    ),
    **dict.fromkeys(("xlm-roberta", "roberta"), _BERT._replace(prefixes=("roberta.",), past_padding=True)),
}
HEADS = ("pooler.", "cls.", "lm_head.", "vocab_", "embeddings.position_ids")  # in the file, and no part of this network


class Bert:
    """`(ids [B, T] int32, there [B, T] bool) -> [B, T, width] float32`.

    Args:
        config: `config.json`.
        weights: of the file; what is taken is taken out of it.

    Attributes:
        layers: the variables of each, by what they are for.

    Raises:
        EncoderError: weights are missing or oddly shaped, or the activation is another.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        family = FAMILIES[config["model_type"]]
        width, layers, self._heads, activation = (weights.setting(config, *names) for names in _SETTINGS.values())
        weights.check_heads(int(self._heads), int(width))
        self._activation = weights.activation(activation)
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self.width, self._first = int(width), int(config.get("pad_token_id") or 0) + 1 if family.past_padding else 0
        words = weights.take("embeddings.word_embeddings.weight", (int(config["vocab_size"]), self.width))
        positions = weights.take("embeddings.position_embeddings.weight", (int(config["max_position_embeddings"]), self.width))
        self.longest = int(positions.shape[0]) - self._first
        if family.types:
            types = weights.take("embeddings.token_type_embeddings.weight", (int(config["type_vocab_size"]), self.width))
            positions = positions + types[0]
        self._positions = weights.keep(positions)
        self._words = weights.keep(words)
        self._norm = weights.norm("embeddings.LayerNorm", self.width)
        self._distances = None
        if family.distances:
            buckets = int(config.get("relative_attention_num_buckets", 32))
            self._distances = weights.keep(weights.take(family.distances, (buckets, self._heads)))
        self.layers = [self._layer(family, weights, family.layer.format(number)) for number in range(layers)]

    def _layer(self, family: _Family, weights: Weights, at: str) -> dict[str, tuple[tf.Variable, tf.Variable]]:
        query, key, value, output = (at + name for name in family.attention)
        inner = weights.shape(at + family.inner + ".weight")[0]
        return {
            "attention": weights.dense((query, key, value), self.width, self.width),
            "output": weights.dense((output,), self.width, self.width),
            "attention_norm": weights.norm(at + family.attention_norm, self.width),
            "inner": weights.dense((at + family.inner,), self.width, inner),
            "outer": weights.dense((at + family.outer,), inner, self.width),
            "norm": weights.norm(at + family.norm, self.width),
        }

    def __call__(self, ids: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        length = tf.shape(ids)[1]
        state = tf.gather(self._words, ids) + self._positions[self._first : self._first + length]
        state = normalize(state, self._norm, self._epsilon)
        bias = tf.where(there, 0.0, FAR)[:, None, None]
        if self._distances is not None:
            bias += tf.transpose(tf.gather(self._distances, _buckets(length, int(self._distances.shape[0]))), [2, 0, 1])
        for layer in self.layers:
            found = dense(attend(dense(state, layer["attention"]), self._heads, bias), layer["output"])
            state = normalize(state + found, layer["attention_norm"], self._epsilon)
            inner = self._activation(dense(state, layer["inner"]))
            state = normalize(state + dense(inner, layer["outer"]), layer["norm"], self._epsilon)
        return state


def _buckets(length: tf.Tensor, count: int, farthest: int = 128) -> tf.Tensor:
    """`[T, T] int32`: of how far a key is from a query, near ones one by one and far ones by the logarithm; half of the
    buckets are for keys behind the query (Raffel et al., T5, JMLR 2020, as MPNet has it)."""
    half = count // 2
    table = []
    for distance in range(farthest + 1):
        near = half // 2
        grown = near + int(math.log(max(distance, 1) / near) / math.log(farthest / near) * (half - near))
        table.append(distance if distance < near else min(grown, half - 1))
    distances = tf.range(length)[None] - tf.range(length)[:, None]  # of the key, seen from the query
    found = tf.gather(np.array(table, np.int32), tf.minimum(tf.abs(distances), farthest))
    return found + tf.where(distances > 0, half, 0)
