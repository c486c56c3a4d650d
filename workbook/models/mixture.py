"""Plain pretrained features beside a trained embedding: in one vector, and in one model.

Both have length 1. Plain features times sqrt(1 - w), followed by the trained embedding times
sqrt(w), give a vector of length 1 whose squared distances are (1 - w) times those of the plain
features plus w times those of the trained embedding. Notebook 6, "What to take away", uses it.
"""

from typing import Any

import numpy as np

import siamese_utils as su
from workbook.models.backbones import build_from_config
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras


def build_plain_model(config: Config, **options: Any) -> keras.Model:
    """Build the model of the plain features: the pretrained backbone, averaged, with length 1.

    options : as of `build_from_config`.
    """
    average = keras.layers.GlobalAveragePooling2D(name="average")  # over the feature map
    return build_from_config(config, head=average, **options)


def build_mixture(config: Config, trained: keras.Model, weight: float) -> keras.Model:
    """Build the mixture of plain features and this embedding of `config`; see `mix_models`."""
    return mix_models(build_plain_model(config), trained, weight)


def mix_vectors(plain: np.ndarray, trained: np.ndarray, weight: float) -> np.ndarray:
    """Put plain features (n, c) beside trained embeddings (n, d), with this weight on the latter.

    Returns
    -------
    (n, c + d) float32 of length 1; for a weight of 0 or 1 the one part as it is.

    Raises
    ------
    ValueError : for a weight outside of 0..1.
    """
    if check_weight(weight) in (0, 1):
        return trained if weight else plain
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (plain, trained)]
    scaled = [np.sqrt(share) * part for share, part in zip((1 - weight, weight), parts)]
    return np.concatenate(scaled, axis=1, dtype=np.float32)


def mix_models(plain: keras.Model, trained: keras.Model, weight: float) -> keras.Model:
    """Build the one embedding model that gives `mix_vectors` of what these two models give.

    Parameters
    ----------
    plain, trained : models by `build_embedding_model` with one and the same frozen trunk, of which
        that of `trained` is used. The plain part is frozen.
    weight : of the trained part, 0..1; 0 and 1 return `plain` and `trained` themselves.

    Returns
    -------
    A model from images to embeddings that `split_at_freeze_point` can take apart.

    Raises
    ------
    ValueError : for a weight outside of 0..1, or for models that are cut at different layers.
    """
    if check_weight(weight) in (0, 1):
        return trained if weight else plain
    trunk, trained_tail = su.split_at_freeze_point(trained)
    _, plain_tail = su.split_at_freeze_point(plain)
    if plain_tail.input_shape != trained_tail.input_shape:
        raise ValueError(
            f"the plain part takes features of {plain_tail.input_shape}, the trained one of "
            f"{trained_tail.input_shape}: build both with the same TRAIN_FROM"
        )
    features = keras.Input(trunk.output_shape[1:], name="features")
    scaled = []
    parts = {"plain_part": (plain_tail, 1 - weight), "trained_part": (trained_tail, weight)}
    for name, (tail, share) in parts.items():
        part = keras.Model(tail.input, tail.output, name=name)  # both tails are called alike
        if name == "plain_part":
            part.trainable = False
        unit = keras.layers.UnitNormalization(dtype="float32")(part(features))
        scaled.append(keras.layers.Rescaling(share**0.5, dtype="float32")(unit))
    mixed = keras.layers.Concatenate(dtype="float32", name="mixture")(scaled)
    tail = keras.Model(features, mixed, name="trainable_tail")
    image = keras.Input(trained.input_shape[1:], name="image")
    return keras.Model(image, tail(trunk(image)), name="embedding_model")


def check_weight(weight: float) -> float:
    """Return the weight; raise ValueError unless it lies in 0..1."""
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight!r} of the trained embedding: give a number from 0 to 1")
    return weight
