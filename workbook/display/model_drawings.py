"""Drawings of the embedding model and of the Siamese network, for notebook 3."""

from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from workbook.display.figures import KINDS

FROZEN, TRAINED, NEITHER = "#56B4E9", "#E69F00", "#DDDDDD"  # blue and orange of Okabe and Ito


def draw_embedding(model, freeze):
    """A flat ResNet50 model with its head, left to right, a part a stage; the figure.

    A part is as high as its feature map is wide, and as wide as the map has channels (both
    compressed). `freeze` is the name of the first layer behind the freeze point. Explained in
    notebook 03, "The embedding model".
    """
    figure, axis = plt.subplots(figsize=(13, 3.6), layout="constrained")
    trainable = {id(weight) for weight in model.trainable_weights}
    totals = dict.fromkeys(("frozen", "trained", "statistics"), 0)
    behind = False
    for x, (name, group) in enumerate(groupby(model.layers, lambda layer: _part(layer, freeze))):
        layers = list(group)
        if layers[0].name == freeze:
            behind = True
            axis.axvline(x - 0.5, 0.03, 0.97, color="black", linestyle="--")
            border = x - 0.5
        count = 0
        for weight in (weight for layer in layers for weight in layer.weights):
            kind = "trained" if id(weight) in trainable else "statistics" if behind else "frozen"
            totals[kind] += int(np.prod(weight.shape))
            count += int(np.prod(weight.shape))
        shape = layers[-1].output.shape[1:]
        height = 2.2 * (shape[0] / 200) ** 0.5 if len(shape) == 3 else 0.13 * np.log2(shape[0])
        width = 0.12 + 0.05 * np.log2(shape[2]) if len(shape) == 3 else 0.12
        color = (TRAINED if behind else FROZEN) if count else NEITHER
        corner = (x - width / 2, 1.3 - height / 2)
        axis.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor="black"))
        size = "×".join(map(str, shape)) if len(shape) == 3 else f"{shape[0]:,}"
        below = {"x": x, "ha": "center", "va": "top"}
        axis.text(y=0.1, s=name, size=10, weight="bold", **below)
        axis.text(y=-0.4, s=f"{size}\n{count:,}" if count else size, size=9, **below)
    left, right = (
        f"frozen: {totals['frozen']:,} parameters ",
        f" trained: {totals['trained']:,} parameters, "
        f"and {totals['statistics']:,} statistics of BatchNorm",
    )
    axis.annotate("", (x, 1.3), (0, 1.3), arrowprops={"arrowstyle": "-"}, zorder=0)
    axis.text(border, 2.65, left, ha="right", size=11)
    axis.text(border, 2.65, right, size=11)
    axis.set(xlim=(-0.6, x + 0.6), ylim=(-1, 2.9))
    axis.axis("off")
    return figure


def _part(layer, freeze):
    """The name under which `draw_embedding` shows a layer."""
    stage, _, rest = layer.name.partition("_")
    if layer.name == freeze:
        return "ReLU of\nblock 1"
    if stage == "conv5":
        return "conv5\nblock 1" if rest.startswith("block1") else "conv5\nblocks 2, 3"
    if stage[:4] in ("conv", "pool"):
        return stage.replace("pool", "conv")
    names = {"Dense": "Dense", "BatchNormalization": "Batch-\nNorm", "Flatten": "flatten"}
    return names.get(type(layer).__name__, "image")


def draw_siamese(pictures):
    """Three pictures through one embedding to two distances and a loss; the figure.

    pictures: anchor, positive, negative, (h, w, 3), 0..255. Explained in notebook 03, "Three
    inputs, one set of weights".
    """
    figure, axis = plt.subplots(figsize=(12, 3.9), layout="constrained")
    arrow = {"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
    middle = {"ha": "center", "va": "center", "zorder": 3}

    def box(x, y, width, height, color, text="", **look):
        corner, style = (x - width / 2, y - height / 2), "round,pad=0.05"
        look = {"facecolor": color, "edgecolor": "black"} | look
        axis.add_patch(FancyBboxPatch(corner, width, height, style, **look))
        axis.text(x, y, text, size=11, **middle)

    box(3.05, 0, 2.1, 3.5, "none", edgecolor=TRAINED, linewidth=2, linestyle="--")
    axis.text(3.05, -2.05, "one model, one set of weights", size=11, **middle)
    for y, name, picture in zip((1.25, 0, -1.25), KINDS, pictures):
        letter = name[0].upper()
        axis.imshow(np.asarray(picture, np.uint8), extent=(0.5, 1.5, y - 0.5, y + 0.5))
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
