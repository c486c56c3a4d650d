"""Drawings of one triplet in two dimensions: the zones of negatives, and what training changes."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from workbook.display.figures import ROLES

ZONES = {"hard": "#D55E00", "semi-hard": "#E69F00", "easy": "#009E73"}
EXAMPLES = ((0.3, -0.42), (-0.62, 0.45), (-0.75, -0.75), (0.18, 1.12), (1.25, 0.95), (-1.5, 0.3))


def draw_triplet_rings(
    d_ap: float = 1.0, margin: float = 0.5, negatives: ArrayLike = EXAMPLES
) -> Figure:
    """Draw the anchor with the rings in which a negative is hard, semi-hard or easy.

    A negative is hard if it is closer than the positive, semi-hard if it is farther by less than
    the margin, and easy if it is farther by more (loss 0). The rings are drawn at the square roots
    of the squared distances d(a, p) and d(a, p) + margin.

    Parameters
    ----------
    d_ap : squared distance of anchor and positive, above 0.
    margin : above 0.
    negatives : (m, 2) positions relative to the anchor; each is coloured by its zone.
    """
    inner, outer = d_ap**0.5, (d_ap + margin) ** 0.5
    places = np.asarray(negatives, float).reshape(-1, 2)
    reach = 1.15 * max(1.25 * outer, float(np.abs(places).max(initial=0)))
    figure, axis = plt.subplots(figsize=(6.2, 4.6), layout="constrained")
    for radius, zone in ((3 * reach, "easy"), (outer, "semi-hard"), (inner, "hard")):
        axis.add_patch(Circle((0, 0), radius, facecolor="white", edgecolor="none"))
        axis.add_patch(Circle((0, 0), radius, facecolor=ZONES[zone], edgecolor="black", alpha=0.25))
    distances = (places**2).sum(1)
    zone_of = np.digitize(distances, [d_ap, d_ap + margin])
    for i, (zone, marker) in enumerate(zip(ZONES, "v^D")):
        those = places[zone_of == i]
        rule = ("d(a, n) < d(a, p)", "d(a, p) ≤ d(a, n) < d(a, p) + margin",
                "d(a, n) ≥ d(a, p) + margin: loss 0")[i]  # fmt: skip
        look: dict[str, Any] = {
            "marker": marker,
            "color": ZONES[zone],
            "edgecolors": "black",
            "s": 70,
        }
        axis.scatter(*those.T, label=f"{zone} negative:\n{rule}", zorder=3, **look)
    angle = np.deg2rad(35)
    positive = inner * np.cos(angle), inner * np.sin(angle)
    axis.plot([0, positive[0]], [0, positive[1]], color=ROLES["positive"], zorder=2)
    for place, role, marker in (((0, 0), "anchor", "o"), (positive, "positive", "s")):
        axis.scatter(
            place[0], place[1], s=90, color=ROLES[role], marker=marker, zorder=4, label=role
        )
        axis.annotate(f"{role} ", place, ha="right", va="bottom", zorder=4, weight="bold")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axis.axis("off")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=1)
    return figure


def plot_zone_shares(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the share of hard, semi-hard and easy triplets as one bar per way to choose them.

    Parameters
    ----------
    shares : way to choose -> zone -> share 0..1, as `zone_shares` gives them.
    """
    figure, axis = plt.subplots(figsize=(8.5, 0.6 + 0.42 * len(shares)), layout="constrained")
    left = np.zeros(len(shares))
    for (zone, color), hatch in zip(ZONES.items(), ("//", "", "..")):
        widths = np.array([100 * share[zone] for share in shares.values()])
        look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white"}
        axis.barh(list(shares), widths, left=left, label=zone, **look)
        left += widths
    axis.set(xlabel="share of the triplets, %", xlim=(0, 100))
    axis.grid(False)
    axis.invert_yaxis()
    axis.legend(title="zone", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
