"""Draw figures/concept_map.svg and .png: notebooks 1 to 5 and what each hands to the next ones.

usage: python tools/concept_map.py
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
BOXES = {  # notebook: (x, y, colour, ideas); colours of Okabe and Ito
    "1 Data exploration": (
        0.0, 1.45, "#0072B2", "images, labels, splits\nclasses held out\nraw-pixel baseline",
    ),
    "2 Triplet sampling": (
        4.4, 2.9, "#D55E00",
        "anchor, positive, negative\neasy, semi-hard, hard\nP × K batches, mining",
    ),
    "3 Model construction": (
        4.4, 0.0, "#009E73", "frozen trunk, trained tail\nsquared distance\ntriplet loss, margin",
    ),
    "4 Training": (
        8.8, 1.45, "#8F4E78", "trunk computed once\nlive curves, active share\ncollapse",
    ),
    "5 Evaluation": (
        13.2, 1.45, "#7A5C00", "closest training image\nunseen classes, MAP@R\nt-SNE, mistakes",
    ),
}  # fmt: skip
ARROWS = (  # from, to, what is handed on, bend
    ("1 Data exploration", "2 Triplet sampling", "labels", 0),
    ("1 Data exploration", "3 Model construction", "images", 0),
    ("2 Triplet sampling", "4 Training", "batches", 0),
    ("3 Model construction", "4 Training", "model", 0),
    ("4 Training", "5 Evaluation", "embedding", 0),
    ("1 Data exploration", "5 Evaluation", "baseline, unseen classes", 0.36),
)
WIDTH, HEIGHT = 2.9, 1.1


def draw() -> Figure:
    """Draw the boxes, and the arrows between them with what is handed on."""
    figure, axis = plt.subplots(figsize=(13, 4.4))
    for name, (x, y, color, ideas) in BOXES.items():
        style: dict[str, Any] = {"boxstyle": "round,pad=0.06", "edgecolor": color, "linewidth": 2}
        axis.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, facecolor="white", zorder=2, **style))
        middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3}
        axis.text(x + WIDTH / 2, y + 0.94, name, weight="bold", size=10, color=color, **middle)
        axis.text(x + WIDTH / 2, y + 0.42, ideas, size=9, color="black", **middle)
    for start, end, what, bend in ARROWS:
        (x1, y1), (x2, y2) = BOXES[start][:2], BOXES[end][:2]
        if bend:  # from below one box to below the other
            tail, head = (x1 + WIDTH / 2, y1 - 0.08), (x2 + WIDTH / 2, y2 - 0.08)
            place = (sum(p[0] for p in (tail, head)) / 2, -1.2)
        else:
            tail, head = (x1 + WIDTH + 0.08, y1 + HEIGHT / 2), (x2 - 0.1, y2 + HEIGHT / 2)
            above = 0.22 if y1 == y2 else 0
            place = ((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2 + above)
        line: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": "#444444",
            "connectionstyle": f"arc3,rad={bend}",
        }
        axis.annotate("", head, tail, arrowprops=line, zorder=1)
        ground: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axis.text(*place, what, ha="center", va="center", size=9, style="italic", bbox=ground)
    axis.set(xlim=(-0.2, 16.3), ylim=(-1.5, 4.2), aspect="equal")
    axis.axis("off")
    return figure


if __name__ == "__main__":
    # text stays text in the SVG; a fixed salt and no date, so that drawing again changes nothing
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "concept map"})
    figure = draw()
    path = ROOT / "figures"
    figure.savefig(path / "concept_map.svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(path / "concept_map.png", bbox_inches="tight", dpi=200)
