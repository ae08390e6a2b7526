"""The image networks of keras.applications, pretrained, from a local file, or with seeded random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.encoders.base import fingerprint, fingerprint_folder, local_alternative
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.keras_code import refuse_code
from mmtfrs.encoders.tunable import keras_blocks, tunable_model, tunable_weights
from mmtfrs.errors import EncoderError, first_line

# Side of the images that a network was trained on, where it is not 224.
_SIZES = {
    **{f"efficientnetb{n}": size for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    **{
        f"efficientnetv2{kind}": size
        for kind, size in zip(("b1", "b2", "b3", "s", "m", "l"), (240, 260, 300, 384, 480, 480), strict=True)
    },
    **dict.fromkeys(("xception", "inceptionv3", "inceptionresnetv2"), 299),
    "nasnetlarge": 331,
}


def _networks() -> dict[str, tuple[str, str, int]]:
    """`{name: (module of keras.applications, class, side of its images)}` for every network that it has."""
    found = {}
    for class_name in dir(keras.applications):
        module_name = getattr(getattr(keras.applications, class_name), "__module__", "").rpartition(".")[2]
        if hasattr(keras.applications, module_name):
            found[class_name.lower()] = (module_name, class_name, _SIZES.get(class_name.lower(), 224))
    return found


NETWORKS = _networks()
_IMAGENET_STDDEV = (0.229, 0.224, 0.225)


def load_application(name: str, weights: str = "imagenet", seed: int = 0) -> ImageEncoder:
    """Builds a named network without its classifier, averaged over the image.

    Args:
        name: a key of `NETWORKS`.
        weights: `imagenet` (downloaded by keras.applications), `random`, or a local weights file (`.h5`) with or
            without the classifier.
        seed: of random weights.

    Raises:
        EncoderError: the weights cannot be downloaded, or do not fit the network.
    """
    module_name, class_name, size = NETWORKS[name]
    module = getattr(keras.applications, module_name)
    build = getattr(keras.applications, class_name)
    label = name if weights == "imagenet" else f"{name}:{weights}"
    if weights == "random":
        keras.utils.set_random_seed(seed)
    try:
        model = build(
            include_top=False, weights="imagenet" if weights == "imagenet" else None, pooling="avg", input_shape=(size, size, 3)
        )
    except Exception as error:
        raise EncoderError(
            f"the image encoder {name} could not be downloaded ({first_line(error)}). {local_alternative('image')}"
        ) from error
    if weights not in ("imagenet", "random"):
        model = _load_weights(model, build, Path(weights), size)
    return _as_encoder(label, model, module.preprocess_input, size, f"applications/{name}/1")


def load_keras_file(path: Path) -> ImageEncoder:
    """A whole Keras model (`.keras`, `.h5`, or a SavedModel folder) that takes `[B, S, S, 3]` in 0..255."""
    try:
        refuse_code(path)
        model = keras.models.load_model(path, compile=False)
        shape = model.input_shape
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(f"{path}: Keras cannot load this image model ({first_line(error)}).") from error
    if isinstance(shape, list) or len(shape) != 4 or shape[-1] != 3:
        raise EncoderError(f"{path}: an image model must take [B, H, W, 3] images. Received: {shape}.")
    size = shape[1] or 224
    if len(model.output_shape) == 4:
        model = keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))
    if len(model.output_shape) != 2:
        raise EncoderError(f"{path}: an image model must give [B, dim] features. Received: {model.output_shape}.")
    version = fingerprint_folder(path) if path.is_dir() else "file"
    return _as_encoder(str(path), model, lambda pictures: pictures, size, f"keras/{version}")


def load_path(path: Path) -> ImageEncoder:
    """A local file or folder: a whole model, or weights whose file name starts with the network's name.

    Raises:
        EncoderError: it is neither.
    """
    if path.is_file() and path.suffix in (".h5", ".hdf5") and not _holds_model(path):
        names = [name for name in NETWORKS if path.name.lower().replace("-", "").startswith(name)]
        if not names:
            raise EncoderError(
                f"{path}: these are weights without a model. Write NAME:{path} with the network's name, one of "
                f"{', '.join(NETWORKS)}."
            )
        return load_application(max(names, key=len), str(path))
    return load_keras_file(path)


def _holds_model(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "model_config" in file.attrs
    except OSError as error:
        raise EncoderError(f"{path}: this is not a readable HDF5 file ({error}).") from None


def _load_weights(model: keras.Model, build: Callable[..., keras.Model], path: Path, size: int) -> keras.Model:
    try:
        model.load_weights(path)
        return model
    except Exception as without_top:
        # A file of the full network fits once the classifier is there too; it is cut off again.
        try:
            full = build(include_top=True, weights=None, input_shape=(size, size, 3))
            full.load_weights(path)
        except Exception:
            raise EncoderError(
                f"{path}: these weights do not fit {model.name} ({str(without_top).splitlines()[0][:300]})."
            ) from without_top
        model.set_weights(full.get_weights()[: len(model.get_weights())])
        return model


def _as_encoder(
    label: str, model: keras.Model, preprocess: Callable[[tf.Tensor], tf.Tensor], size: int, version: str
) -> ImageEncoder:
    model.trainable = False
    correction = _efficientnet_correction(model)

    def network(pictures: tf.Tensor) -> tf.Tensor:
        return model(correction(preprocess(pictures)), training=False)

    weights = [np.asarray(value) for value in model.get_weights()]
    dim, mark = int(model.output_shape[-1]), fingerprint(version, size, *weights)
    named = label.partition(":")[0]
    tunable = tunable_weights(model, keras_blocks(model), named) if named in NETWORKS else tunable_model(model)
    return ImageEncoder(label, network, size, dim, mark, list(model.variables), tunable)


def _efficientnet_correction(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Gives local EfficientNet weights the input scale that keras.applications gives the same weights by name.

    The published checkpoints hold the standard deviation where the normalization layer expects the variance;
    keras.applications adds a layer that divides once more by its square root, but only for `weights="imagenet"`. The
    layer cannot be added afterwards, so the same is done to the input.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
    corrected = any(isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) > 0 for layer in model.layers)
    if not layers or corrected or not np.allclose(np.ravel(layers[0].variance), _IMAGENET_STDDEV, atol=1e-4):
        return lambda pictures: pictures
    mean = 255.0 * np.ravel(layers[0].mean).astype(np.float32)
    scale = np.array([1.0 / math.sqrt(value) for value in _IMAGENET_STDDEV], np.float32)
    return lambda pictures: mean + (pictures - mean) * scale
