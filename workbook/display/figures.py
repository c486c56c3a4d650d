"""Pictures in the workbook's style, and where a run keeps them."""

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

KINDS = ("anchor", "positive", "negative")


def show_images(images, titles=None, columns=12, colors=None, width=12, title=None, captions=None):
    """A grid of images (n, h, w, 3), 0..255; the figure.

    titles stand above the images, captions below them, colors are those of their frames: each one
    an image. They are shown as they are: a class called "$x$" is no formula.
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


def show_triplets(images, triplets, d_ap, d_an, width=8):
    """Triplets (n, 3) of rows of `images`, one a column, their distances (n,) below; the figure."""
    n = len(triplets)
    captions = [""] * n + [f"d(a, p) = {d:.3f}" for d in d_ap]
    captions += [f"d(a, n) = {d:.3f}" for d in d_an]
    return show_images(
        images[np.transpose(triplets).ravel()],
        np.repeat(KINDS, n),
        columns=n,
        colors=np.repeat(["#000000", "#0072B2", "#D55E00"], n),
        width=width,
        captions=captions,
    )


def save_figure(figure, config, name):
    """Write `figure` to `<run>/figures/`: <name>.png, and <name>.svg if it holds no pictures.

    The PNG has 200 dots an inch and 256 colours, which keeps it small. The README's come from here.
    """
    folder, file = config.run_dir / "figures", io.BytesIO()
    folder.mkdir(exist_ok=True)
    figure.savefig(file, format="png", dpi=200)
    Image.open(file).convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
    if not any(axis.images for axis in figure.axes):
        with plt.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


# ------------------------------------------------------------- drawings of the models, notebook 03
