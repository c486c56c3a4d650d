"""Drawings of the embedding model and of the Siamese network, for notebook 03."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from workbook.display.figures import ROLES, SKY, YELLOW
from workbook.support.tensorflow_start import keras

FROZEN, TRAINED, NEITHER = SKY, YELLOW, "#DDDDDD"


def draw_embedding(model: keras.Model, freeze: str) -> Figure:
    """Draw a flat ResNet50 model with its head from left to right, one square per part.

    The area of a square is proportional to the number of the part's parameters, so a layer of 51
    million does not look like one of 66 thousand. A part without parameters is a thin line.

    Parameters
    ----------
    model : its layers in one list, from the image to the embedding.
    freeze : the name of the first layer behind the freeze point.
    """
    figure, axis = plt.subplots(figsize=(13, 4.2), layout="constrained")
    trainable = {id(weight) for weight in model.trainable_weights}
    totals = dict.fromkeys(("frozen", "trained", "statistics"), 0)
    parts = [(name, list(layers)) for name, layers in groupby(model.layers, partial(_part, freeze))]
    counts = [sum(layer.count_params() for layer in layers) for _, layers in parts]
    x, border = 0.0, None
    for (name, layers), count in zip(parts, counts):
        side = 2.6 * (count / max(counts)) ** 0.5
        wide = max(side, 0.9)  # room for the text below
        if layers[0].name == freeze:
            border = x
            axis.axvline(border, 0.03, 0.97, color="black", linestyle="--")
        for weight in (weight for layer in layers for weight in layer.weights):
            is_frozen = "frozen" if border is None else "statistics"
            kind = "trained" if id(weight) in trainable else is_frozen
            totals[kind] += int(np.prod(weight.shape))
        middle = x + wide / 2
        color = (FROZEN if border is None else TRAINED) if count else NEITHER
        look: dict[str, Any] = {"facecolor": color, "edgecolor": "black"}
        corner = (middle - max(side, 0.04) / 2, 1.4 - side / 2)
        axis.add_patch(Rectangle(corner, max(side, 0.04), side or 0.5, **look))
        shape = layers[-1].output.shape[1:]
        size = "×".join(map(str, shape)) if len(shape) == 3 else f"{shape[0]:,}"
        axis.text(middle, -0.1, name, size=9, weight="bold", ha="center", va="top")
        text = f"{size}\n{count:,}" if count else size
        axis.text(middle, -0.65, text, size=8, ha="center", va="top")
        x += wide + 0.15
    border = x if border is None else border
    axis.plot([0.3, x - 0.4], [1.4, 1.4], color="black", linewidth=0.8, zorder=0)
    statistics = f", and {totals['statistics']:,} statistics of BatchNorm"
    axis.text(border, 2.9, f"frozen: {totals['frozen']:,} parameters ", ha="right", size=11)
    axis.text(border, 2.9, f" trained: {totals['trained']:,} parameters{statistics}", size=11)
    axis.text(0, -1.6, "area of a square: number of parameters", size=9)
    axis.set(xlim=(-0.2, x), ylim=(-1.7, 3.2), aspect="equal")
    axis.axis("off")
    return figure


def _part(freeze: str, layer: keras.Layer) -> str:
    """Return the name under which `draw_embedding` shows a layer."""
    stage, _, rest = layer.name.partition("_")
    if layer.name == freeze:
        return "ReLU of\nblock 1"
    if stage == "conv5":
        return "conv5\nblock 1" if rest.startswith("block1") else "conv5\nblocks 2, 3"
    if stage[:4] in ("conv", "pool"):
        return stage.replace("pool", "conv")
    names = {"Dense": "Dense", "BatchNormalization": "Batch-\nNorm", "Flatten": "flatten"}
    return names.get(type(layer).__name__, "image")


def draw_siamese(images: Sequence[np.ndarray] | np.ndarray) -> Figure:
    """Draw how three images go through one embedding to two distances and a loss.

    Parameters
    ----------
    images : anchor, positive and negative, each (h, w, 3), 0..255.
    """
    figure, axis = plt.subplots(figsize=(12, 3.9), layout="constrained")
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
    middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3}

    def box(
        x: float, y: float, width: float, height: float, color: str, text: str = "", **look: Any
    ) -> None:
        corner, style = (x - width / 2, y - height / 2), "round,pad=0.05"
        look = {"facecolor": color, "edgecolor": "black"} | look
        axis.add_patch(FancyBboxPatch(corner, width, height, style, **look))
        axis.text(x, y, text, size=11, **middle)

    box(3.05, 0, 2.1, 3.5, "none", edgecolor=TRAINED, linewidth=2, linestyle="--")
    axis.text(3.05, -2.05, "one model, one set of weights", size=11, **middle)
    for y, name, image in zip((1.25, 0, -1.25), ROLES, images):
        letter = name[0].upper()
        axis.imshow(np.asarray(image, np.uint8), extent=(0.5, 1.5, y - 0.5, y + 0.5))
        axis.text(0.4, y, f"{name} ${letter}$", size=11, ha="right", va="center")
        axis.annotate("", (2.2, y), (1.55, y), arrowprops=arrow)
        box(3.05, y, 1.5, 0.7, TRAINED, "embedding $f$")
        axis.annotate("", (4.6, y), (3.85, y), arrowprops=arrow)
        axis.text(5, y, f"$f({letter})$", size=12, **middle)
    axis.text(7.6, 1.35, "DistanceLayer", size=11, **middle)
    for y, letter, from_other in ((0.65, "P", 0), (-0.65, "N", -1.25)):
        axis.annotate("", (6.2, y + 0.12), (5.4, 1.25), arrowprops=arrow)
        axis.annotate("", (6.2, y - 0.12), (5.4, from_other), arrowprops=arrow)
        box(7.6, y, 2.7, 0.6, NEITHER, rf"$d(A, {letter}) = \Vert f(A) - f({letter})\Vert^2$")
        axis.annotate("", (9.75, 0.12 * y), (9, y), arrowprops=arrow)
    axis.text(11.45, 0.6, "triplet loss", size=11, **middle)
    axis.text(11.45, 0, r"$\max(d(A, P) - d(A, N) + \mathrm{margin},\ 0)$", size=11, **middle)
    axis.set(xlim=(-1, 13.2), ylim=(-2.3, 1.95), aspect="equal")
    axis.axis("off")
    return figure
