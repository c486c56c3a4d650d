"""Pictures in the workbook's style, and where a run keeps them."""

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image


def show_images(images, titles=None, columns=12, colors=None, width=12, title=None):
    """A grid of images (n, h, w, 3), 0..255, with optional titles and frame colours; the figure."""
    rows = -(-len(images) // columns)
    height = width / columns * rows * (1.18 if titles is not None else 1) + 0.4 * bool(title)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.set_visible(i < len(images))
        if i < len(images):
            axis.imshow(np.asarray(images[i], np.uint8), interpolation="none")
            if titles is not None:
                axis.set_title(titles[i], fontsize=8)
            for spine in axis.spines.values():
                spine.set(visible=colors is not None, linewidth=3)
                spine.set_color(colors[i] if colors is not None else "none")
    if title:
        figure.suptitle(title)
    return figure


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
