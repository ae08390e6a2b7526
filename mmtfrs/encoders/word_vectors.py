"""Texts as the mean of their words' vectors, from a file of GloVe or word2vec, weighted by what a catalog says of each word."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import fingerprint, fingerprint_folder
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.encoders.tfidf import document_counts, inverse_frequency, split_words
from mmtfrs.encoders.vector_files import read_vectors
from mmtfrs.errors import EncoderError, MediaError, first_line
from mmtfrs.utils.files import keep_arrays
from mmtfrs.utils.row_problems import joined, told

_UNKNOWN = "none of its words is in the file of word vectors"


def fit_vectors(texts: Iterable[str], path: str | Path, folder: Path) -> WordVectors:
    """An encoder whose words weigh by their inverse document frequency in these texts.

    Args:
        texts: of the catalog.
        path: of the word vectors.
        folder: where the weights are kept, in a file of their own per catalog, by which `load_vectors` makes the encoder again.

    Raises:
        EncoderError: the file cannot be read, or has no word of the texts.
    """
    words, vectors = read_vectors(path)
    mean = _Mean(words, vectors, np.ones(len(words), np.float32))
    documents, count = document_counts(texts, mean.known_words, len(words))
    if not documents.any():
        raise EncoderError(f"{path}: has a vector for no word of the catalog's {count} texts. Is it of another language?")
    weights = inverse_frequency(documents, count)
    mean.weights.assign(weights)
    mark = _mark(Path(path), weights)
    kept = folder.resolve() / f"vectors-{mark[:12]}.npz"
    keep_arrays(kept, {"path": np.array(str(Path(path).resolve())), "weights": weights, "mark": np.array(mark)})
    return WordVectors(f"vectors:{kept}", mean, vectors.shape[1], mark, [mean])


def load_vectors(path: str | Path) -> WordVectors:
    """The encoder that `fit_vectors` has made.

    Args:
        path: of the weights, which name the file of the word vectors.

    Raises:
        EncoderError: these are no such weights, or the file is gone or another.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            source, weights, mark = Path(str(saved["path"])), saved["weights"], str(saved["mark"])
    except Exception as error:  # whatever is wrong with it
        raise EncoderError(f"{path}: this is no file of the weights of word vectors ({first_line(error)}).") from None
    if not source.is_file():
        source = Path(path).with_name(source.name)  # they may have been moved together
    if not source.is_file() or _mark(source, weights) != mark:
        raise EncoderError(
            f"{path}: its word vectors, {source.name}, are {'other ones' if source.is_file() else 'not there'}. "
            "Put those that it was fitted to beside it."
        )
    words, vectors = read_vectors(source)
    mean = _Mean(words, vectors, weights)
    return WordVectors(f"vectors:{path}", mean, vectors.shape[1], mark, [mean])


def _mark(source: Path, weights: np.ndarray) -> str:
    return fingerprint("vectors/1", fingerprint_folder(source.parent, [source]), weights)


class WordVectors(TextEncoder):
    """The mean of a text's vectors, each as often as its word is there and times its weight: TF-IDF. A text without any word of
    the file counts as missing.

    Reference: Pennington et al., GloVe, EMNLP 2014; Mikolov et al., word2vec, 2013; the weights are those of Sparck Jones,
    1972, fitted as by `mmtfrs.encoders.tfidf`.
    """

    _network: _Mean

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        decoded = super().decode(data, bounds)
        text = data.decode().lower() if self._network.lower else data.decode()
        # Python's letters are not all TensorFlow's, which has the last word, and is slow for one text.
        likely = any(word in self._network.vocabulary for word in re.findall(r"[^\W_]+", text))
        if not likely and not self._network.known_words(tf.constant([data])).flat_values.shape[0]:
            raise MediaError(f"the text has no words that are known: {_UNKNOWN}")
        return decoded

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        features, problems = super().encode_serialized(data, bounds)
        found = self._network.known_words(data).row_lengths() > 0
        return features, joined(problems, told(~found, f"text: {_UNKNOWN}"))


class _Mean(tf.Module):
    """`[B]` texts -> `[B, dim]`.

    Args:
        words: of the file.
        vectors: `[V, dim]` of these.
        weights: `[V]` of these.
    """

    def __init__(self, words: list[bytes], vectors: np.ndarray, weights: np.ndarray) -> None:
        super().__init__()
        self._words = tuple(words)
        self.lower = all(word == word.lower() for word in (each.decode("utf-8", "replace") for each in words))
        places = tf.range(len(words), dtype=tf.int32)
        rows = tf.lookup.KeyValueTensorInitializer(tf.constant(words, tf.string), places)
        self._rows = tf.lookup.StaticHashTable(rows, default_value=-1)
        self._vectors = tf.Variable(vectors, trainable=False)
        self.weights = tf.Variable(weights, trainable=False)

    @functools.cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(word.decode("utf-8", "replace") for word in self._words)

    def known_words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The rows of the words that are in the file."""
        split = split_words(tf.strings.lower(texts, "utf-8") if self.lower else texts)
        rows = split.with_flat_values(self._rows.lookup(split.flat_values))
        return tf.ragged.boolean_mask(rows, rows >= 0)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        known = self.known_words(texts)
        count, owners = known.nrows(), known.value_rowids()
        weights = tf.gather(self.weights, known.flat_values)[:, None]
        total = tf.math.unsorted_segment_sum(weights * tf.gather(self._vectors, known.flat_values), owners, count)
        return total / tf.maximum(tf.math.unsorted_segment_sum(weights, owners, count), 1e-12)
