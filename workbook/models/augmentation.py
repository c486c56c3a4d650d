"""Random views of images: cropped, mirrored, rotated and recoloured. See notebook 04."""

import itertools
from typing import Any

from workbook.support.tensorflow_start import keras, tf


@keras.saving.register_keras_serializable(package="siamese_utils")
class RandomCropResize(keras.layers.Layer):
    """Cut random parts out of images, stretch them to the full size, and mirror every second one.

    Parameters
    ----------
    area : the smallest share (0..1) of the image that a part may have.
    aspect : a part is at most so many times as wide as high, or as high as wide.
    seed : of the random parts.
    """

    def __init__(
        self, area: float = 0.3, aspect: float = 1.25, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.area, self.aspect, self.seed = area, aspect, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Return views (n, h, w, 3) of images (n, h, w, 3); outside training the images as is."""
        if not training:
            return images
        count, image_height, image_width = tf.unstack(tf.shape(images)[:3])
        share, stretch, x, y, side = tf.unstack(
            keras.random.uniform((5, count), seed=self.generator)
        )
        share = self.area + (1 - self.area) * share
        stretch = self.aspect ** (stretch - 0.5)
        width = tf.minimum(tf.sqrt(share) * stretch, 1)
        height = tf.minimum(tf.sqrt(share) / stretch, 1)
        left, top = x * (1 - width), y * (1 - height)
        right, bottom = left + width, top + height
        is_mirrored = side >= 0.5  # the edges are then given in reverse order
        start, end = tf.where(is_mirrored, right, left), tf.where(is_mirrored, left, right)
        boxes = tf.stack([top, start, bottom, end], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(count), (image_height, image_width))

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model needs to make this layer again."""
        own = {"area": self.area, "aspect": self.aspect, "seed": self.seed}
        return super().get_config() | own


def augmentation(seed: int = 42) -> keras.Sequential:
    """Return a model that makes random views: a part of the image, mirrored, turned, recoloured.

    It maps images (n, h, w, 3), 0..255, to views of the same shape, when called with training=True.
    """
    layers, seeds, colors = keras.layers, itertools.count(seed), {"value_range": (0, 255)}
    return keras.Sequential([
        RandomCropResize(seed=next(seeds)),
        layers.RandomRotation(0.055, seed=next(seeds)),  # of a full turn: 20 degrees
        layers.RandomSaturation((0.44, 0.56), seed=next(seeds), **colors),  # 0.5 changes nothing
        layers.RandomBrightness(0.15, seed=next(seeds), **colors),
        layers.RandomContrast(0.3, seed=next(seeds), **colors),
    ])  # fmt: skip
