"""Figures of images in the workbook's style, and where a run keeps its figures."""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from workbook.support.config import Config

# Colours that people with any colour vision can tell apart (Okabe and Ito 2008)
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK = PALETTE = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
]  # fmt: skip
ROLES = {"anchor": BLACK, "positive": BLUE, "negative": ORANGE}


def show_images(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str] | np.ndarray | None = None,
    columns: int = 12,
    colors: Sequence[str] | np.ndarray | None = None,
    width: float = 12,
    title: str | None = None,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Draw a grid of images.

    Parameters
    ----------
    images : (n, h, w, 3), 0..255.
    titles, captions, colors : one per image: the text above it, the text below it, and the colour
        of its frame. Texts are shown as they are: a class called "$x$" is no formula.
    columns : images per row.
    width : of the figure, in inches.
    title : the text above the grid.
    """
    rows, lines = -(-len(images) // columns), (titles is not None) + (captions is not None)
    height = width / columns * rows * (1 + 0.13 * lines) + 0.4 * bool(title)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.set_visible(i < len(images))
        if i < len(images):
            axis.imshow(np.asarray(images[i], np.uint8), interpolation="none")
            if titles is not None:
                axis.set_title(titles[i], fontsize=8, parse_math=False)
            if captions is not None:
                axis.set_xlabel(captions[i], fontsize=8, parse_math=False)
            for spine in axis.spines.values():
                spine.set(visible=colors is not None, linewidth=3)
                spine.set_color(colors[i] if colors is not None else "none")
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def show_triplets(
    images: np.ndarray,
    triplets: np.ndarray,
    d_ap: Sequence[float] | np.ndarray,
    d_an: Sequence[float] | np.ndarray,
    width: float = 8,
) -> Figure:
    """Draw triplets, one per column, with their distances below the images.

    Parameters
    ----------
    images : (n, h, w, 3), 0..255.
    triplets : (t, 3) rows of `images`: anchor, positive, negative.
    d_ap, d_an : (t,) squared distances.
    width : of the figure, in inches.
    """
    count = len(triplets)
    captions = [""] * count + [f"d(a, p) = {d:.3f}" for d in d_ap]
    captions += [f"d(a, n) = {d:.3f}" for d in d_an]
    return show_images(
        images[np.transpose(triplets).ravel()],
        np.repeat(list(ROLES), count),
        columns=count,
        colors=np.repeat(list(ROLES.values()), count),
        width=width,
        captions=captions,
    )


def save_figure(figure: Figure, config: Config, name: str) -> None:
    """Write a figure to `<run>/figures/`: <name>.png, and <name>.svg if it contains no images.

    The PNG has 200 dots per inch and 256 colours, which keeps it small, and a white background,
    which keeps it legible on a dark page. The README's figures come from here.
    """
    folder, file = config.run_dir / "figures", io.BytesIO()
    folder.mkdir(exist_ok=True)
    figure.savefig(file, format="png", dpi=200, facecolor="white")
    Image.open(file).convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
    if not any(axis.images for axis in figure.axes):
        with plt.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
