"""A small convolutional network for characters, and the random distortions it is trained with.

Notebook 7 explains both. Nothing of the network is pretrained or frozen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import siamese_utils as su
from workbook.support.tensorflow_start import keras, tf

WIDTHS = (32, 64, 128, 256)  # channels of the four convolutions
DIMENSIONS = 256  # of the embedding


@keras.saving.register_keras_serializable(package="siamese_utils")
class RandomAffine(keras.layers.Layer):
    """Turn, shear, stretch and shift each image at random, anew in every call.

    Each amount is drawn evenly between minus and plus the given one. What comes in from outside
    the image is 0.

    Parameters
    ----------
    turn : degrees.
    shear : by how many pixels two rows one pixel apart are moved against each other; drawn for
        rows and for columns.
    stretch : a side is made longer or shorter by at most this share; drawn for both sides.
    shift : pixels; drawn for both directions.
    seed : of the random numbers.
    """

    def __init__(
        self,
        turn: float = 10.0,
        shear: float = 0.3,
        stretch: float = 0.2,
        shift: float = 2.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.turn, self.shear, self.stretch, self.shift = turn, shear, stretch, shift
        self.seed, self.generator = seed, keras.random.SeedGenerator(seed)
        self.supports_jit = False  # XLA cannot compile the operation that moves the pixels

    def call(self, images: Any, training: bool = False) -> Any:
        """Return views (n, h, w, c) of images (n, h, w, c); outside training the images as is."""
        if not training:
            return images
        count, height, width = tf.unstack(tf.shape(images)[:3])
        drawn = keras.random.uniform((7, count), -1, 1, seed=self.generator)
        angle = drawn[0] * (self.turn * np.pi / 180)
        along, down = drawn[1] * self.shear, drawn[2] * self.shear
        wide, high = 1 + drawn[3] * self.stretch, 1 + drawn[4] * self.stretch
        cosine, sine = tf.cos(angle), tf.sin(angle)
        # the pixel (x, y) of a view, counted from the middle, comes from (a x + b y, c x + d y)
        a, b = (cosine - sine * down) * wide, (cosine * along - sine) * high
        c, d = (sine + cosine * down) * wide, (sine * along + cosine) * high
        x, y = (tf.cast(side - 1, tf.float32) / 2 for side in (width, height))
        left = x - a * x - b * y + drawn[5] * self.shift
        top = y - c * x - d * y + drawn[6] * self.shift
        zero = tf.zeros_like(a)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([a, b, left, c, d, top, zero, zero], axis=1),
            output_shape=(height, width),
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model needs to make this layer again."""
        names = ("turn", "shear", "stretch", "shift", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


def build_character_embedding(
    side: int = 35,
    seed: int = 42,
    normalize: bool = True,
    widths: Sequence[int] = WIDTHS,
    dimensions: int = DIMENSIONS,
) -> keras.Model:
    """Build the embedding model of notebook 7: distortion, four convolutions, one dense layer.

    Each convolution is followed by max-pooling, which halves the sides, BatchNorm and ReLU. The
    distortion only acts in training. The frozen trunk of the model is empty.

    Parameters
    ----------
    side : of the square images, in pixels.
    seed : of the weights and of the distortions.
    normalize : whether embeddings are scaled to length 1.
    widths : channels of each convolution.
    dimensions : of the embedding.

    Returns
    -------
    A model from images (batch, side, side, 1), ink 0..255, to embeddings (batch, dimensions),
    float32.
    """
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((side, side, 1), name="character")
    x = RandomAffine(seed=seed, name="distortion")(image)
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    for number, width in enumerate(widths, start=1):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{number}")(x)
        x = layers.MaxPooling2D(name=f"pool_{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(x)

    def head(feature_map: Any) -> Any:
        flat = layers.Flatten(name="flatten")(feature_map)
        return layers.Dense(dimensions, dtype="float32", name="embedding")(flat)

    return su.build_embedding_model(
        (side, side, 1),
        backbone=keras.Model(image, x, name="small_cnn"),
        train_from="distortion",
        head=head,
        normalize=normalize,
    )
