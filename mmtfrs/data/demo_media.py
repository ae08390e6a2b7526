"""Images, texts and audio of the demo catalog: six shapes, six topics, six timbres, everything else at random."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFilter

VALUES = 6
SIZE = 96
SHAPES = ("disc", "square", "triangle", "ring", "stripes", "dots")
TIMBRES = ("hum", "buzz", "hiss", "siren", "pulses", "bells")
TOPICS = {
    "sea": "harbour waves sailor tide island anchor lighthouse reef",
    "kitchen": "recipe oven butter spice dough pepper simmer bread",
    "space": "orbit rocket comet planet telescope galaxy crater astronaut",
    "garden": "roses soil pruning tulip greenhouse seedling hedge compost",
    "city": "tram avenue skyline market rooftop crowd station neon",
    "winter": "snow sledge frost glacier skating icicle blizzard mittens",
}
_FRAMES = (
    "a story of {0} and {1}",
    "{0}, {1} and a little {2}",
    "all about {0} with {1}",
    "the {0} near the {1}",
    "notes on {0}, {1}, {2}",
)


def sentence(rng: np.random.Generator, topic: int) -> str:
    """A short text whose words, and nothing else, tell the topic."""
    words = rng.choice(list(TOPICS.values())[topic].split(), 3, replace=False)
    return str(rng.choice(_FRAMES)).format(*words)


def profile(topics: Iterable[int]) -> str:
    """What a user says about the topics they like."""
    words = [word for topic in topics for word in list(TOPICS.values())[topic].split()[:4]]
    return "I like " + ", ".join(words)


def picture(rng: np.random.Generator, shape: int) -> Image.Image:
    """An RGB image of 96 x 96: the shape at a random place, size and color on a noisy ground."""
    ground, color = rng.integers(0, 110, 3), rng.integers(140, 255, 3)
    if rng.random() < 0.5:
        ground, color = color, ground
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(value) for value in ground))
    draw = ImageDraw.Draw(image)
    fill = tuple(int(value) for value in color)
    radius = int(rng.integers(24, 36))
    x, y = (int(value) for value in rng.integers(radius + 4, SIZE - radius - 4, 2))
    box = (x - radius, y - radius, x + radius, y + radius)
    name = SHAPES[shape]
    if name == "disc":
        draw.ellipse(box, fill=fill)
    elif name == "square":
        draw.rectangle(box, fill=fill)
    elif name == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    elif name == "ring":
        draw.ellipse(box, outline=fill, width=8)
    elif name == "stripes":
        step = int(rng.integers(12, 18))
        for top in range(int(rng.integers(0, step)), SIZE, step):
            draw.rectangle((0, top, SIZE, top + step // 2), fill=fill)
    else:
        step = int(rng.integers(16, 22))
        for top in range(int(rng.integers(2, 8)), SIZE, step):
            for left in range(int(rng.integers(2, 8)), SIZE, step):
                draw.ellipse((left, top, left + 8, top + 8), fill=fill)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), np.float64)
    pixels += rng.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_sound(path: Path, rng: np.random.Generator, timbre: int) -> None:
    """A WAV or FLAC file of one to two seconds, mono or stereo, at a usual sample rate."""
    rate = int(rng.choice([8000, 16000, 22050, 44100]))
    time = np.arange(int(rate * rng.uniform(1.0, 2.0))) / rate
    pitch = rng.uniform(180.0, 420.0)
    phase = 2 * np.pi * pitch * time
    name = TIMBRES[timbre]
    if name == "hum":
        wave = np.sin(phase) + 0.3 * np.sin(2 * phase)
    elif name == "buzz":
        wave = np.sign(np.sin(phase))
    elif name == "hiss":
        wave = rng.normal(0.0, 0.5, len(time))
    elif name == "siren":
        wave = np.sin(phase + rng.uniform(60, 100) * np.sin(2 * np.pi * rng.uniform(1.0, 2.0) * time))
    elif name == "pulses":
        wave = np.sin(4 * phase) * (np.sin(2 * np.pi * rng.uniform(5.0, 8.0) * time) > 0.6)
    else:
        wave = sum(np.sin(ratio * 2 * phase) for ratio in (1.0, 2.76, 5.40)) * np.exp(-4 * (time % 0.5))
    wave = wave / np.abs(wave).max() * rng.uniform(0.3, 0.8) + rng.normal(0.0, 0.004, len(time))
    if rng.random() < 0.3:
        wave = np.stack([wave, 0.8 * wave], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, subtype="PCM_16", format=path.suffix[1:].upper())
    path.write_bytes(buffer.getvalue())  # libsndfile would not say why it cannot
