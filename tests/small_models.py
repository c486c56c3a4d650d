"""Small models and data that several test files share: the code paths of the large ones, cheap."""

import keras
import numpy as np

import siamese_utils as su
from workbook.training.mined_model import MinedSiameseModel

LABELS = np.repeat(np.arange(6), 4)  # of 24 images
VECTORS = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)


def make_images(count=24, side=16):
    """Random images (count, side, side, 3) float32, 0..255."""
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def small_head(feature_map):
    return su.specified_head(feature_map, units=(32, 16, 8))


def small_backbone(preprocessing=None):
    """Two convolutions in place of ResNet50, on images of 16 pixels."""
    image = keras.Input((16, 16, 3))
    x = (preprocessing or keras.layers.Rescaling(1 / 255))(image)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_a")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_b")(x)
    return keras.Model(image, x)


def small_embedding(preprocessing=None, **options):
    """An embedding model on that backbone, from 16 pixels to unit vectors of 8 numbers."""
    backbone = small_backbone(preprocessing)
    options = {"normalize": True, "train_from": "conv_b", "head": small_head} | options
    return su.build_embedding_model((16, 16, 3), backbone=backbone, **options)


def dense_model(miner, loss=None, **options):
    """A compiled model over one dense layer; a plain `SiameseModel` without a miner."""
    keras.utils.set_random_seed(0)
    tail = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, **options)])
    model = MinedSiameseModel(tail, loss, miner) if miner else su.SiameseModel(tail)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def hinge_losses(embeddings, triplets, margin):
    """The triplet loss of each of these triplets (count, 3) of embeddings (n, dim)."""
    a, p, n = np.asarray(embeddings, np.float64)[np.transpose(triplets)]
    return np.maximum(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + margin, 0)
