"""Figures that compare losses: the best trial so far, and the gradient on a pair."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike


def plot_best_so_far(scores: Mapping[str, Sequence[float]], label: str = "MAP@R") -> Figure:
    """Draw, for each loss, the best score of its first 1, 2, 3, ... trials.

    Parameters
    ----------
    scores : loss -> the scores of its trials, in their order.
    label : what the scores are.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    ranked = sorted(scores, key=lambda name: -max(scores[name]))
    for name, marker in zip(ranked, "os^vDP*X<>hd" * len(ranked)):
        best = np.maximum.accumulate(scores[name])
        axis.plot(range(1, len(best) + 1), best, marker=marker, label=name)
    axis.set(xlabel="trials of each loss", ylabel=f"best {label} so far, held-out classes")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_pair_gradients(
    gradients: Mapping[str, tuple[ArrayLike, ArrayLike]], distances: ArrayLike
) -> Figure:
    """Draw, for each loss, how strongly it pulls the positive and pushes the negative of a triplet.

    Both panels of a loss are divided by their largest value, because AdamW takes almost no notice
    of a factor.

    Parameters
    ----------
    gradients : loss -> (pull, push), each (m, m); rows belong to d(a, n), columns to d(a, p).
    distances : (m,) the squared distances of rows and columns, ascending.
    """
    places = np.asarray(distances, float)
    pairs = {name: np.array(both, float) for name, both in gradients.items()}
    shares = {name: both / (np.abs(both).max() or 1) for name, both in pairs.items()}
    is_signed = min(part.min() for part in shares.values()) < -0.01  # less is rounding
    colors = {"vmin": -1, "cmap": "PuOr_r"} if is_signed else {"vmin": 0, "cmap": "Oranges"}
    size = 2.2 * len(gradients) + 0.8, 4.6
    figure, axes = plt.subplots(
        2,
        len(gradients),
        figsize=size,
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for column, (name, both) in zip(axes.T, shares.items()):
        for axis, values, title in zip(
            column, both, ("pull on the positive", "push on the negative")
        ):
            image = axis.pcolormesh(places, places, values, vmax=1, rasterized=True, **colors)
            axis.plot(places, places, color="black", linewidth=0.8)  # d(a, p) = d(a, n)
            axis.set(title=f"{name}\n{title}" if axis is column[0] else title, aspect="equal")
        column[-1].set_xlabel("d(a, p)")
    for axis in axes[:, 0]:
        axis.set_ylabel("d(a, n)")
    figure.colorbar(image, ax=axes, label="share of the largest")
    return figure
