"""Extraction of pictures from files, beside the bare Keras model on decoded pictures; both decoders of sounds, side by side.

python -m benchmarks.extraction [--part all|pictures|sounds] [--pictures 384]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import mmtfrs  # first: it chooses Keras 2
from benchmarks._measure import compare
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.data.demo import write_demo
from mmtfrs.errors import MediaError
from mmtfrs.media import decode, decode_host

DIGITS = Path(__file__).resolve().parents[2] / "shared" / "real" / "digits" / "audio"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("all", "pictures", "sounds"), default="all")
    parser.add_argument("--pictures", type=int, default=384)
    options = parser.parse_args()
    if options.part != "sounds":
        _pictures(options.pictures)
    if options.part != "pictures":
        _sounds()


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
