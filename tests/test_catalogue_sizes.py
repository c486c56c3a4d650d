"""The tool that enters a catalogue picture at several sizes."""

import numpy as np

import siamese_utils as su
from tools.catalogue_sizes import enter, smaller
from workbook import retrieval
from workbook.images import ImageDataset
from workbook.start import keras

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
PICTURES = PICTURES.repeat(8, axis=1).repeat(8, axis=2)  # six patterns of 32 pixels a side


def test_a_smaller_picture_stands_in_the_middle_of_white():
    assert (smaller(PICTURES, 1) == PICTURES).all()
    half = smaller(PICTURES, 0.5)
    assert half.shape == PICTURES.shape and half.dtype == np.uint8
    inner = half[:, 8:24, 8:24].astype(float)
    half[:, 8:24, 8:24] = 255
    assert (half == 255).all()
    np.testing.assert_allclose(inner.mean((1, 2)), PICTURES.mean((1, 2)), atol=2)


def test_each_entry_counts_for_the_class_of_its_picture():
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    backbone = keras.Model(image, keras.layers.Conv2D(16, 5, strides=4, activation="relu")(image))
    head = su.slim_head
    embedding = su.build_embedding_model((32, 32, 3), backbone=backbone, train_from=None, head=head)
    labels, splits = np.array([3, 0, 5, 1, 4, 2]), np.repeat("reference", 6)
    shop = ImageDataset("shop", PICTURES, labels, list("abcdef"), [""] * 6, splits)
    entries, classes = enter(embedding, shop, (1, 0.5))
    assert entries.shape == (12, 256)
    order = [4, 2, 0, 5, 1, 3]  # photographs that show the products small, in another order
    queries = su.embed(embedding, smaller(PICTURES, 0.5)[order])
    _, nearest = retrieval.nearest_neighbors(queries, entries)
    assert classes[nearest[:, 0]].tolist() == labels[order].tolist()
    _, nearest = retrieval.nearest_neighbors(queries, entries[:6])
    assert (classes[nearest[:, 0]] != labels[order]).any(), "at one size these are not all found"
