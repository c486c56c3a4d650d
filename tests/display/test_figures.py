"""Drawings: what is written in them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from workbook.display import figures, model_drawings
from workbook.support.tensorflow_start import keras
from workbook.training import callbacks


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def written_in(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_triplets_stand_in_columns_with_their_distances_below():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 4, 4, 3), np.uint8)
    figure = figures.show_triplets(images, np.array([[0, 1, 2], [3, 4, 5]]), [0.5, 1], [2, 0.25])
    shown = [int(axis.images[0].get_array()[0, 0, 0]) for axis in figure.axes]
    assert shown == [0, 3, 1, 4, 2, 5]
    below = ["", "", "d(a, p) = 0.500", "d(a, p) = 1.000", "d(a, n) = 2.000", "d(a, n) = 0.250"]
    assert [axis.get_xlabel() for axis in figure.axes] == below


def test_a_class_that_looks_like_a_formula_is_written_as_it_is():
    name = r"$\foo$"  # as a formula it is an error, which would stop the notebook
    images = np.zeros((2, 4, 4, 3), np.uint8)
    figure = figures.show_images(images, [name] * 2, captions=[name] * 2, title=name)
    plot = callbacks.LiveLossPlot(name, live=False)
    plot._draw()
    for drawn in (figure, plot.figure):
        drawn.canvas.draw()
        assert drawn.get_suptitle() == name
    assert [axis.get_title() for axis in figure.axes[:2]] == [name] * 2


def test_the_drawn_embedding_counts_what_is_frozen_trained_and_only_kept():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(2, 1, name="conv1_conv")(image)  # 3 * 2 + 2 = 8
    x = keras.layers.Conv2D(2, 1, name="conv5_block1_add")(x)  # 2 * 2 + 2 = 6
    x = keras.layers.ReLU(name="conv5_block1_out")(x)
    x = keras.layers.Conv2D(2, 1, name="conv5_block2_out")(x)  # 6
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))  # 8 * 8 * 2 * 5 + 5 = 645
    model = keras.Model(image, keras.layers.BatchNormalization()(x))  # 10 and 10 statistics
    for layer in model.layers[:3]:
        layer.trainable = False
    figure = model_drawings.draw_embedding(model, "conv5_block1_out")
    written = written_in(figure)
    assert "frozen: 14 parameters " in written
    assert " trained: 661 parameters, and 10 statistics of BatchNorm" in written
    assert {"8×8×2\n8", "8×8×2\n6", "8×8×2", "128", "5\n645", "5\n20"} <= set(written)
    squares = {s.get_width() * s.get_height(): s.get_facecolor() for s in figure.axes[0].patches
               if s.get_width() == s.get_height()}  # fmt: skip
    per_parameter = max(squares) / 645
    for area, count in zip(sorted(squares), (6, 8, 20, 645)):
        assert area == pytest.approx(count * per_parameter), "an area for each parameter"
    assert squares[max(squares)] == to_rgba(model_drawings.TRAINED)


def test_the_drawn_siamese_network_shows_the_three_images_and_one_embedding():
    figure = model_drawings.draw_siamese(np.zeros((3, 4, 4, 3), np.uint8))
    assert len(figure.axes[0].images) == 3
    written = written_in(figure)
    assert written.count("embedding $f$") == 3 and "one model, one set of weights" in written
