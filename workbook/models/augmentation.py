"""Random views of images: cropped, mirrored, rotated and recoloured."""

import itertools

from workbook.support.tensorflow_start import keras, tf


@keras.saving.register_keras_serializable(package="siamese_utils")
class RandomCropResize(keras.layers.Layer):
    """Random parts of images (n, h, w, 3), stretched back to (h, w), every second one mirrored.

    A part has `area` (least share, 1) of the image and at most `aspect` times its width to height.
    """

    def __init__(self, area=0.3, aspect=1.25, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.area, self.aspect, self.seed = area, aspect, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        count, height, width = tf.unstack(tf.shape(images)[:3])
        share, stretch, x, y, side = tf.unstack(
            keras.random.uniform((5, count), seed=self.generator)
        )
        share = self.area + (1 - self.area) * share
        stretch = self.aspect ** (stretch - 0.5)
        w = tf.minimum(tf.sqrt(share) * stretch, 1)
        h = tf.minimum(tf.sqrt(share) / stretch, 1)
        x, y = x * (1 - w), y * (1 - h)
        left, right = tf.unstack(tf.where(side < 0.5, (x, x + w), (x + w, x)))  # swapped: mirrored
        boxes = tf.stack([y, left, y + h, right], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))

    def get_config(self):
        own = {"area": self.area, "aspect": self.aspect, "seed": self.seed}
        return super().get_config() | own


def augmentation(seed=42):
    """Random views of images (n, h, w, 3) 0..255: a part of it, mirrored, turned, recoloured.

    Explained in notebook 04, "Augmented views".
    """
    layers, seeds, colors = keras.layers, itertools.count(seed), {"value_range": (0, 255)}
    return keras.Sequential([
        RandomCropResize(seed=next(seeds)),
        layers.RandomRotation(0.055, seed=next(seeds)),  # of a full turn: 20 degrees
        layers.RandomSaturation((0.44, 0.56), seed=next(seeds), **colors),  # 0.5 changes nothing
        layers.RandomBrightness(0.15, seed=next(seeds), **colors),
        layers.RandomContrast(0.3, seed=next(seeds), **colors),
    ])  # fmt: skip
