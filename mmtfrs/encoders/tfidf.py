"""TF-IDF of words, for texts of one catalog: a classical encoder that is fitted and not pretrained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.base import fingerprint
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.errors import EncoderError, first_line
from mmtfrs.utils.files import keep_arrays

BUCKETS, DIM = 1 << 14, 512
_SEED = 11


def fit_tfidf(texts: Iterable[str], folder: Path) -> TextEncoder:
    """Counts in how many texts each word occurs.

    Args:
        texts: of the catalog.
        folder: where the weights are kept, in a file of their own per catalog, by which `load_tfidf` makes the encoder again.
    """
    idf = inverse_frequency(*document_counts(texts, _buckets, BUCKETS))
    path = folder.resolve() / f"tfidf-{_mark(idf)[:12]}.npz"
    keep_arrays(path, {"idf": idf})
    return _encoder(path, idf)


def load_tfidf(path: str | Path) -> TextEncoder:
    """Counts of hashed words times their inverse document frequency, of unit length, behind a fixed random projection: `[512]`.

    Args:
        path: what `fit_tfidf` wrote.

    Raises:
        EncoderError: it is not.

    Reference: Sparck Jones, A Statistical Interpretation of Term Specificity, 1972; hashing as in Weinberger et al., ICML 2009;
    the projection keeps angles, Johnson and Lindenstrauss 1984.
    """
    try:
        with np.load(path) as saved:
            idf = saved["idf"]
    except Exception as error:  # whatever is wrong with it
        raise EncoderError(f"{path}: this is no file of fitted TF-IDF weights ({first_line(error)}).") from None
    if idf.shape != (BUCKETS,):
        raise EncoderError(f"{path}: TF-IDF weights must be [{BUCKETS}]. Received: {list(idf.shape)}.")
    return _encoder(path, idf)


def _mark(idf: np.ndarray) -> str:
    return fingerprint("tfidf/1", idf)


def _encoder(path: str | Path, idf: np.ndarray) -> TextEncoder:
    network = _Network(idf)
    return TextEncoder(f"tfidf:{path}", network, DIM, _mark(idf), [network])


class _Network(tf.Module):
    def __init__(self, idf: np.ndarray) -> None:
        super().__init__()
        projection = np.random.RandomState(_SEED).standard_normal((BUCKETS, DIM)) / np.sqrt(DIM)
        self.table = tf.Variable((projection * idf[:, None]).astype(np.float32), trainable=False)
        self.idf = tf.Variable(idf, trainable=False)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        words = _buckets(texts)
        count, rows = words.nrows(), words.value_rowids()
        total = tf.math.unsorted_segment_sum(tf.gather(self.table, words.flat_values), rows, count)
        # The length is that of the words' weights and not of their projection, which only nearly keeps it.
        cells = tf.cast(rows, tf.int64) * BUCKETS + tf.cast(words.flat_values, tf.int64)
        distinct, _, counts = tf.unique_with_counts(cells)
        weights = tf.cast(counts, tf.float32) * tf.gather(self.idf, distinct % BUCKETS)
        square = tf.math.unsorted_segment_sum(weights**2, distinct // BUCKETS, tf.cast(count, tf.int64))
        return total * tf.math.rsqrt(tf.maximum(square, 1e-12))[:, None]


def _buckets(texts: tf.Tensor) -> tf.RaggedTensor:
    """`[B]` texts -> the buckets of their words."""
    words = split_words(tf.strings.lower(texts, "utf-8"))
    return words.with_flat_values(tf.strings.to_hash_bucket_fast(words.flat_values, BUCKETS))


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """`[B]` texts -> their runs of letters and digits."""
    return tf.strings.split(tf.strings.regex_replace(texts, r"[^\pL\pN]+", " "))


def document_counts(texts: Iterable[str], words: Callable[[tf.Tensor], tf.RaggedTensor], size: int) -> tuple[np.ndarray, int]:
    """In how many texts each word occurs.

    Args:
        texts: blank ones are left out.
        words: `[B] string` -> the numbers of their words, from 0 to `size`.
        size: how many numbers there are.

    Returns:
        `([size] int64, how many texts there are)`.
    """
    documents, count = np.zeros(size, np.int64), 0
    batch: list[str] = []
    for text in [*texts, None]:
        if text is not None and text.strip():
            batch.append(text)
        if batch and (text is None or len(batch) == 4096):
            found = words(tf.constant(batch))
            rows = np.repeat(np.arange(len(batch)), found.row_lengths().numpy())
            pairs = np.unique(np.stack([rows, found.flat_values.numpy()]), axis=1)
            documents += np.bincount(pairs[1], minlength=size)
            count += len(batch)
            batch = []
    return documents, count


def inverse_frequency(documents: np.ndarray, count: int) -> np.ndarray:
    """`[n] float32`: the weight of a word that occurs in so many of `count` texts, as scikit-learn smooths it."""
    return (np.log((1.0 + count) / (1.0 + documents)) + 1.0).astype(np.float32)
