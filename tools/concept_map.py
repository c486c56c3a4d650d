"""Draw figures/concept_map.svg and .png: notebooks 1 to 6 and what each gives to the next ones.

usage: python tools/concept_map.py
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
BOXES = {  # notebook: (x, y, colour, ideas); colours of Okabe and Ito, some of them darker
    "1 Data exploration": (
        0.0, 1.6, "#0072B2", "images, labels, splits\nclasses held out\nbaselines to beat",
    ),
    "2 Triplet sampling": (
        4.9, 3.2, "#D55E00",
        "anchor, positive, negative\nhard, semi-hard, easy\nP × K batches, mining",
    ),
    "3 Model construction": (
        4.9, 0.0, "#009E73", "frozen trunk, trainable tail\nsquared distance\ntriplet loss, margin",
    ),
    "4 Training": (
        9.8, 1.6, "#8F4E78", "the specified system\none change at a time\ncollapse",
    ),
    "5 Evaluation": (
        14.7, 3.2, "#7A5C00", "closest training image\nunseen classes, mistakes\nt-SNE",
    ),
    "6 Strangers and galleries": (
        14.7, 0.0, "#444444", "thresholds\nfalse accepts, false rejects\nenrolling a class",
    ),
}  # fmt: skip
ARROWS = (  # from, to, what is given
    ("1 Data exploration", "2 Triplet sampling", "labels"),
    ("1 Data exploration", "3 Model construction", "images"),
    ("2 Triplet sampling", "4 Training", "batches"),
    ("3 Model construction", "4 Training", "model"),
    ("4 Training", "5 Evaluation", "embedding"),
    ("4 Training", "6 Strangers and galleries", "embedding"),
)
ARCS = (  # from, to, what is given, whether the arc passes above the other boxes or below them
    ("1 Data exploration", "5 Evaluation", "test images, unseen classes, baselines", True),
    ("1 Data exploration", "6 Strangers and galleries", "unseen classes as strangers", False),
)
WIDTH, HEIGHT = 3.6, 1.15
TOP, BOTTOM = 4.85, -0.55  # of the arcs
GREY = "#444444"


def draw() -> Figure:
    """Draw the boxes, and the arrows between them with what is given."""
    figure, axis = plt.subplots(figsize=(15, 5.6))
    for name, (x, y, color, ideas) in BOXES.items():
        style: dict[str, Any] = {"boxstyle": "round,pad=0.06", "edgecolor": color, "linewidth": 2}
        axis.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, facecolor="white", zorder=2, **style))
        middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3}
        axis.text(x + WIDTH / 2, y + 0.97, name, weight="bold", size=10, color=color, **middle)
        axis.text(x + WIDTH / 2, y + 0.43, ideas, size=9, color="black", **middle)
    label: dict[str, Any] = {
        "ha": "center", "va": "center", "size": 9, "style": "italic",
        "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1},
    }  # fmt: skip
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
    for start, end, given in ARROWS:
        (x1, y1), (x2, y2) = BOXES[start][:2], BOXES[end][:2]
        tail, head = (x1 + WIDTH + 0.08, y1 + HEIGHT / 2), (x2 - 0.1, y2 + HEIGHT / 2)
        axis.annotate("", head, tail, arrowprops=arrow, zorder=1)
        axis.text((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2, given, **label)
    for start, end, given, is_above in ARCS:
        x1, x2 = (BOXES[name][0] + WIDTH / 2 for name in (start, end))
        level, edge = (TOP, HEIGHT + 0.08) if is_above else (BOTTOM, -0.08)
        y1, y2 = (BOXES[name][1] + edge for name in (start, end))
        axis.plot([x1, x1, x2], [y1, level, level], color=GREY, linewidth=1, zorder=1)
        axis.annotate("", (x2, y2), (x2, level), arrowprops=arrow, zorder=1)
        axis.text((x1 + x2) / 2, level, given, **label)
    axis.set(xlim=(-0.2, 18.5), ylim=(-0.8, 5.1), aspect="equal")
    axis.axis("off")
    return figure


if __name__ == "__main__":
    # Text stays text in the SVG; a fixed salt and no date, so that drawing again changes nothing.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "concept map"})
    figure = draw()
    path = ROOT / "figures"
    figure.savefig(path / "concept_map.svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(path / "concept_map.png", bbox_inches="tight", dpi=200)
