"""Extraction of pictures from files, beside the bare Keras model on decoded pictures; both decoders of sounds, side by side; of
texts by MiniLM, beside sentence-transformers (PyTorch) and ONNX Runtime, where another Python has them.

python -m benchmarks.extraction [--part all|pictures|sounds|texts] [--pictures 384] [--texts 10000] [--rivals PYTHON]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import mmtfrs  # first: it chooses Keras 2
from benchmarks._measure import compare
from benchmarks.paraphrases import PAIRS
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.data.demo import write_demo
from mmtfrs.encoders.published import get
from mmtfrs.errors import MediaError
from mmtfrs.media import decode, decode_host

DIGITS = Path(__file__).resolve().parents[2] / "shared" / "real" / "digits" / "audio"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("all", "pictures", "sounds", "texts"), default="all")
    parser.add_argument("--pictures", type=int, default=384)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rivals", help="a Python that has what benchmarks/_text_rivals.py needs")
    options = parser.parse_args()
    if options.part in ("all", "pictures"):
        _pictures(options.pictures)
    if options.part in ("all", "sounds"):
        _sounds()
    if options.part in ("all", "texts"):
        _texts(options.texts, options.rivals)


def _pictures(count: int) -> None:
    rng = np.random.default_rng(0)
    config = mmtfrs.Config(encoders={"image": "efficientnetb0:random"})
    model = keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3))
    decoded = tf.constant(rng.integers(0, 256, (count, 224, 224, 3), np.uint8))
    batch = config.extraction.batch_size
    run = tf.function(lambda pictures: model(tf.cast(pictures, tf.float32), training=False), autograph=False)

    def bare() -> int:
        for start in range(0, count, batch):
            run(decoded[start : start + batch]).numpy()
        return count

    with tempfile.TemporaryDirectory() as folder:
        for row in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).resize((640, 480), Image.BICUBIC)
            coarse.save(f"{folder}/{row}.jpg", quality=90)
        catalog = mmtfrs.Catalog.from_dict(
            {"item_id": [str(row) for row in range(count)], "image": [f"{row}.jpg" for row in range(count)]}, folder
        )
        encoder = encoders.load("image", config.encoders.image)  # loading is not what is measured
        encoders.load = lambda *_: encoder
        stores = iter(range(1000))

        def ours() -> int:
            features = mmtfrs.extract(catalog, config, Path(folder) / f"store{next(stores)}", progress=False)
            assert features.encoded == count
            return count

        print(f"EfficientNet-B0, random weights, {count} JPEG files of 640 x 480, batch {batch}")
        compare("bare Keras model, decoded pictures in memory, tf.function", ours, bare, "pictures")


def _texts(count: int, rivals: str | None) -> None:
    rng = np.random.default_rng(0)
    words = sorted({word for pair in PAIRS for text in pair for word in text.replace(",", "").split()})
    titles = [" ".join(rng.choice(words, rng.integers(4, 20))) for _ in range(count)]
    catalog = mmtfrs.Catalog.from_dict({"item_id": [str(row) for row in range(count)], "text": titles})
    config = mmtfrs.Config(encoders={"text": "minilm"})
    encoder = encoders.load("text", config.encoders.text)
    encoders.load = lambda *_: encoder
    with tempfile.TemporaryDirectory() as folder:
        stores = iter(range(1000))

        def ours() -> int:
            features = mmtfrs.extract(catalog, config, Path(folder) / f"store{next(stores)}", progress=False)
            assert features.encoded == len(set(titles))
            return count

        def bare() -> int:
            for start in range(0, count, config.extraction.batch_size):
                encoder(tf.constant(titles[start : start + config.extraction.batch_size])).numpy()
            return count

        print(f"MiniLM, {count} titles of 4 to 19 words, batch {config.extraction.batch_size}")
        if rivals is None:
            compare("the encoder alone, titles as they come", ours, bare, "texts")
            return
        (Path(folder) / "titles").write_text("\n".join(titles))
        script, batch = Path(__file__).with_name("_text_rivals.py"), str(config.extraction.batch_size)
        command = [rivals, str(script), str(get("minilm")), f"{folder}/titles", batch]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            asked, said = other.stdin, other.stdout
            assert asked is not None and said is not None
            while said.readline() != "ready\n":
                assert other.poll() is None, "the other Python lacks something"

            def rival(name: str) -> int:
                asked.write(f"{name}\n")
                asked.flush()
                return int(said.readline())

            compare("sentence-transformers (PyTorch), the same batches", ours, lambda: rival("pytorch"), "texts")
            compare("ONNX Runtime, the same batches", ours, lambda: rival("onnx"), "texts")


def _sounds() -> None:
    if not decode_host.available():
        print("sounds: tensorflow-io is not here, so there is nothing to compare (pip install 'mmtfrs[tfio]')")
        return
    bounds = mmtfrs.Config().extraction
    with ThreadPoolExecutor(bounds.workers) as pool:

        def work(decoder: Callable[[bytes, float], np.ndarray], sounds: list[bytes]) -> Callable[[], int]:
            return lambda: len(list(pool.map(lambda data: decoder(data, bounds.max_seconds), sounds)))

        for name, sounds in _sound_files():
            print(f"{len(sounds)} {name}, {bounds.workers} threads; mmtfrs is asked to decode by tensorflow-io")
            ours, theirs = work(decode_host.decode_audio, sounds), work(decode.decode_audio, sounds)
            compare("soundfile, the default decoder", ours, theirs, "sounds")


def _sound_files() -> Iterator[tuple[str, list[bytes]]]:
    """Whole files by format: name, and the bytes of each."""
    with tempfile.TemporaryDirectory() as folder:
        write_demo(folder)
        for source, place in (("demo", Path(folder) / "audio"), ("real digits", DIGITS)):
            for suffix in ("wav", "flac", "ogg", "mp3"):
                sounds = [path.read_bytes() for path in sorted(place.glob(f"*.{suffix}"))]
                if sounds := [data for data in sounds if _whole(data)]:
                    yield f"{suffix.upper()} files of the {source}", sounds


def _whole(data: bytes) -> bool:
    try:
        return len(decode.decode_audio(data)) > 0
    except MediaError:  # some of the digits are broken on purpose
        return False


if __name__ == "__main__":
    main()
