"""A small convolutional network for characters, and what is done to the images before it.

Notebook 7 explains both. Nothing of the network is pretrained or frozen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import siamese_utils as su
from workbook.support.tensorflow_start import keras, tf

WIDTHS = (32, 64, 128, 256)  # channels of the four convolutions
DIMENSIONS = 256  # of the embedding
SPREAD = 8.0  # pixels: the usual root mean square distance of a character's ink from its middle


def map_pixels(images: Any, a: Any, b: Any, left: Any, c: Any, d: Any, top: Any) -> Any:
    """Fetch each pixel (x, y) of n images from (a x + b y + left, c x + d y + top) of the same.

    Parameters
    ----------
    images : (n, h, w, c) float32. What lies outside an image is 0.
    a, b, left, c, d, top : (n,) float32. Pixels are counted from the upper left corner and
        interpolated between.
    """
    zero = tf.zeros_like(a)
    mapped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, left, c, d, top, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return tf.ensure_shape(mapped, images.shape)


@keras.saving.register_keras_serializable(package="siamese_utils")
class CenterInk(keras.layers.Layer):
    """Move the ink of each image to the middle and scale it to one size.

    The centre of gravity of the ink comes to the middle of the image, as in MNIST (LeCun et al.
    1998), and its root mean square distance from there becomes `spread`.

    Parameters
    ----------
    spread : pixels. The sides of the ink are at most doubled, and at most divided by 1.5.
    """

    def __init__(self, spread: float = SPREAD, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spread = spread
        self.supports_jit = False  # XLA cannot compile the operation that moves the pixels

    def call(self, images: Any) -> Any:
        """Return images (n, h, w, 1) of ink, 0 and more, moved and scaled. Empty ones stay so."""
        ink = tf.cast(images, tf.float32)
        height, width = tf.unstack(tf.cast(tf.shape(ink)[1:3], tf.float32))
        x = tf.range(width)[None, None, :, None] - (width - 1) / 2  # counted from the middle
        y = tf.range(height)[None, :, None, None] - (height - 1) / 2
        total = tf.reduce_sum(ink, axis=(1, 2, 3)) + 1e-6

        def mean(values: Any) -> Any:
            return tf.reduce_sum(ink * values, axis=(1, 2, 3)) / total

        right, down = mean(x), mean(y)
        variance = mean(x**2 + y**2) - right**2 - down**2
        scale = tf.clip_by_value(tf.sqrt(tf.maximum(variance, 0)) / self.spread, 0.5, 1.5)
        left = right + (1 - scale) * (width - 1) / 2
        top = down + (1 - scale) * (height - 1) / 2
        zero = tf.zeros_like(scale)
        return map_pixels(ink, scale, zero, left, zero, scale, top)

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model needs to make this layer again."""
        return super().get_config() | {"spread": self.spread}


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
        return map_pixels(images, a, b, left, c, d, top)

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model needs to make this layer again."""
        names = ("turn", "shear", "stretch", "shift", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


def build_character_embedding(
    side: int = 35,
    seed: int = 42,
    normalize: bool = True,
    spread: float | None = SPREAD,
    distortion: dict[str, float] | None = None,
    widths: Sequence[int] = WIDTHS,
    dimensions: int = DIMENSIONS,
) -> keras.Model:
    """Build the embedding model of notebook 7: four convolutions and one dense layer.

    Before them, the ink is centred and, in training only, distorted. Each convolution is followed
    by max-pooling, which halves the sides, BatchNorm and ReLU. The frozen trunk of the model is
    empty.

    Parameters
    ----------
    side : of the square images, in pixels.
    seed : of the weights and of the distortions.
    normalize : whether embeddings are scaled to length 1.
    spread : of `CenterInk`, in pixels; None leaves the ink where it is.
    distortion : options of `RandomAffine` that differ from its defaults.
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
    x = CenterInk(spread, name="centering")(image) if spread else image
    x = RandomAffine(seed=seed, name="distortion", **(distortion or {}))(x)
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
        train_from="centering" if spread else "distortion",
        head=head,
        normalize=normalize,
    )
