"""Figures of results: distances, accuracy by shots, maps, verification, occlusion, strangers."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.metrics import auc, roc_curve

from workbook.display.figures import BLACK, BLUE, ORANGE, PALETTE
from workbook.display.projections import TsneMap, pca_plane
from workbook.evaluation.verification import Pairs, pair_distances

MARKERS, LINES = "os^DvPX", ("-", "--", "-.", ":")
IN_LEGEND = 60  # classes that the legend of a map names; more would not be legible
BESIDE: dict[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1, 0.5),
}  # a legend right of its axis


def _histograms(axis: Axes, groups: Sequence[tuple[np.ndarray, str, str]], bins: int = 50) -> None:
    """Draw distances as outlined, translucent histograms; each group is (values, colour, label)."""
    values = np.concatenate([np.asarray(group[0], float) for group in groups])
    edges = np.linspace(0, values.max(initial=0) or 1, bins + 1)
    for distances, color, label in groups:
        if len(distances):
            look: dict[str, Any] = {
                "bins": edges,
                "weights": np.full(len(distances), 100 / len(distances)),
            }
            axis.hist(distances, histtype="stepfilled", alpha=0.35, color=color, **look)
            axis.hist(distances, histtype="step", linewidth=1.5, color=color, label=label, **look)


def plot_distance_histogram(
    distances: ArrayLike,
    same: ArrayLike,
    margin: float | None = None,
    title: str | None = None,
    axis: Axes | None = None,
) -> Axes:
    """Draw how the distances d(a, p) and d(a, n) of pairs or triplets are distributed.

    Parameters
    ----------
    distances : (n,) squared distances, for example of `pair_distances`.
    same : (n,) bool, True for d(a, p), the pairs of one class.
    margin : if given, an arrow of this length starts at the mean d(a, p): the loss asks that each
        d(a, n) exceeds the d(a, p) of its triplet by at least this much.
    title : of the axis.
    axis : where to draw; by default the axis of a new figure.

    Returns
    -------
    the axis; its figure is `.figure`.
    """
    distances, same = np.asarray(distances, float), np.asarray(same, bool)
    if axis is None:
        axis = plt.subplots(figsize=(7, 2.8), layout="constrained")[1]
    kinds = ((same, BLUE, "d(a, p)", "same class"), (~same, ORANGE, "d(a, n)", "different classes"))
    _histograms(axis, [(distances[kind], c, f"{name}: {what}") for kind, c, name, what in kinds])
    for kind, color, name, _ in kinds:
        if kind.any():
            axis.axvline(distances[kind].mean(), color=color, linestyle="--", label=f"mean {name}")
    if margin is not None and same.any():
        start, height = distances[same].mean(), 1.04 * axis.get_ylim()[1]
        arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", (start + margin, height), (start, height), arrowprops=arrow)
        axis.text(start + margin, height, f"  margin {margin:g}", va="center")
        axis.set(xlim=(None, max(axis.get_xlim()[1], start + 2 * margin)), ylim=(0, 1.1 * height))
    axis.set(xlabel="squared distance", ylabel="share of the pairs, %", title=title)
    axis.legend(**BESIDE)
    return axis


def plot_accuracy_by_shots(
    counts: Sequence[int],
    accuracies: Mapping[str, ArrayLike] | ArrayLike,
    intervals: Mapping[str, ArrayLike] | ArrayLike | None = None,
    chance: float | None = None,
) -> Figure:
    """Draw accuracy against the number of images per class ("shots") that are known.

    Parameters
    ----------
    counts : (k,) images per class.
    accuracies : (k,) shares 0..1 or, for several lines, name -> (k,).
    intervals : (k, 2) low and high of each accuracy, or name -> (k, 2).
    chance : the accuracy of guessing, 0..1, as a grey line.
    """
    lines = accuracies if isinstance(accuracies, Mapping) else {"": accuracies}
    around = intervals if isinstance(intervals, Mapping) else {"": intervals}
    figure, axis = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    for i, (name, values) in enumerate(lines.items()):
        color, style = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)] + LINES[i % len(LINES)]
        axis.plot(counts, np.asarray(values, float), style, color=color, label=name or None)
        if around.get(name) is not None:
            low, high = np.asarray(around[name], float).T
            axis.fill_between(counts, low, high, color=color, alpha=0.15, linewidth=0)
    if chance is not None:
        axis.axhline(chance, color="grey", linestyle=":", label="guessing")
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(counts), [str(count) for count in counts])
    axis.minorticks_off()
    axis.set(xlabel="images per class", ylabel="accuracy", ylim=(0, 1.02))
    if axis.get_legend_handles_labels()[1]:
        axis.legend(**BESIDE)
    return figure


def plot_tsne(
    maps: Mapping[str, TsneMap | str | np.ndarray],
    labels: ArrayLike,
    class_names: Sequence[str],
    unseen: Sequence[int] | np.ndarray = (),
    images: np.ndarray | None = None,
) -> Figure:
    """Draw maps of the same images side by side, with one legend of the classes.

    Parameters
    ----------
    maps : title -> a map, as `tsne_maps` gives them. A text (such as "collapsed: ...") is written
        in place of the map; an array (n, 2) is drawn as it is.
    labels : (n,) indices into `class_names`.
    class_names : (c,).
    unseen : the labels of classes that were held out of training; their marks are hollow.
    images : (n, h, w, 3), 0..255. If given, the legend shows one image per class: beside the
        points, where it hides none of them.
    """
    labels = np.asarray(labels)
    kinds = sorted(set(labels.tolist()), key=lambda kind: (kind in unseen, kind))
    looks: dict[int, dict[str, Any]] = {}
    for i, kind in enumerate(kinds):
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[i // len(PALETTE) % len(MARKERS)]
        face = "none" if kind in unseen else color
        looks[kind] = {"marker": marker, "edgecolors": color, "facecolors": face, "linewidths": 1}
    rows = min(20, len(kinds))
    columns = -(-min(len(kinds), IN_LEGEND) // rows)
    widths = [1.0] * len(maps) + [columns * (0.32 if images is None else 0.45)]
    figure, (*axes, legend) = plt.subplots(
        1, len(widths), figsize=(5 * sum(widths), 5.4), width_ratios=widths, layout="constrained"
    )
    for axis, (title, drawn) in zip(axes, maps.items()):
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        below = drawn.describe() if isinstance(drawn, TsneMap) else ""
        axis.set_title(title, parse_math=False)
        axis.set_xlabel(below, fontsize=9)
        if isinstance(drawn, str):
            place = {"ha": "center", "va": "center", "transform": axis.transAxes, "wrap": True}
            axis.text(0.5, 0.5, drawn, parse_math=False, **place)
            continue
        points = np.asarray(drawn.points if isinstance(drawn, TsneMap) else drawn)
        for kind, look in looks.items():
            axis.scatter(*points[labels == kind].T, s=22, alpha=0.85, **look)
        axis.set_aspect("equal", "datalim")
    _draw_class_legend(legend, looks, rows, labels, class_names, unseen, images)
    return figure


def _draw_class_legend(
    axis: Axes,
    looks: Mapping[int, Mapping[str, Any]],
    rows: int,
    labels: np.ndarray,
    class_names: Sequence[str],
    unseen: Sequence[int] | np.ndarray,
    images: np.ndarray | None,
) -> None:
    """List the classes with their marks and, if given, an image of each, in columns of `rows`."""
    wide = 8.0 if images is None else 9.0  # of a column, in rows
    for i, (kind, look) in enumerate(list(looks.items())[:IN_LEGEND]):
        column, row = divmod(i, rows)
        x, y = wide * column, -row
        axis.scatter(x, y, s=26, **look)
        if images is not None:
            first = images[int((labels == kind).argmax())]
            axis.imshow(first, extent=(x + 0.6, x + 1.5, y - 0.45, y + 0.45))
        name = str(class_names[kind])
        name = name if len(name) <= 16 else name[:15] + "…"
        axis.text(x + wide - 7.3, y, name, fontsize=8, va="center", parse_math=False)
    notes = ["hollow: unseen classes"] * any(kind in unseen for kind in looks)
    if len(looks) > IN_LEGEND:
        notes.append(f"and {len(looks) - IN_LEGEND} more classes")
    axis.text(-0.5, 1.2, "\n".join(notes), fontsize=8)
    columns = -(-min(len(looks), IN_LEGEND) // rows)
    axis.set(xlim=(-0.7, wide * columns), ylim=(-max(rows, 12) + 0.3, 2.2))
    axis.set_aspect("equal", anchor="NW")
    axis.axis("off")


def plot_verification(
    pairs: Mapping[str, Pairs],
    histograms: Sequence[str] | None = None,
    threshold: float | None = None,
) -> Figure:
    """Draw the distances of pairs, and the errors that each threshold on them makes.

    Parameters
    ----------
    pairs : stage -> (distances, same), as `pair_distances` gives them; one ROC curve per stage.
    histograms : the stages whose distances are drawn; by default the first and the last.
    threshold : a line in the last histogram, where the threshold of `verification` lies.

    Notes
    -----
    The right panel shows the ROC curve as false rejects against false accepts, both on logarithmic
    axes, so that good curves do not coincide in a corner. Lower is better. An error rate of 0 is
    drawn at half a pair.
    """
    names = list(pairs)
    shown = list(dict.fromkeys(histograms or (names[0], names[-1])))
    figure, axes = plt.subplots(
        1, len(shown) + 1, figsize=(4 * len(shown) + 5, 3.4), layout="constrained"
    )
    for axis, name in zip(axes, shown):
        distances, same = (np.asarray(part) for part in pairs[name])
        kinds = ((same == 1, BLUE, "same class"), (same == 0, ORANGE, "different classes"))
        _histograms(axis, [(distances[kind], color, label) for kind, color, label in kinds])
        axis.set(title=name, xlabel="squared distance", ylabel="share of the pairs, %")
    handles, texts = axes[0].get_legend_handles_labels()
    if threshold is not None:
        line = axes[len(shown) - 1].axvline(threshold, color=BLACK, linestyle="--")
        handles, texts = [*handles, line], [*texts, f"threshold {threshold:.3f}"]
    figure.legend(handles, texts, loc="outside lower left", ncols=3)
    roc = axes[-1]
    lowest = 1.0
    for i, (name, (values, kinds_of)) in enumerate(pairs.items()):
        same = np.asarray(kinds_of) == 1
        accepts, hits, _ = roc_curve(same, -np.asarray(values), drop_intermediate=False)
        floors = 0.5 / (~same).sum(), 0.5 / same.sum()
        lowest = min(lowest, *floors)
        look = {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)]}
        x, y = np.maximum(accepts, floors[0]), np.maximum(1 - hits, floors[1])
        roc.plot(x, y, label=f"{name} (AUC {auc(accepts, hits):.3f})", linewidth=2, **look)
    roc.plot(chance := np.geomspace(lowest, 1 - lowest, 50), 1 - chance, color="grey", linewidth=1,
             linestyle=":", label="guessing")  # fmt: skip
    roc.set(xscale="log", yscale="log", xlim=(0.7 * lowest, 1.3), ylim=(0.7 * lowest, 1.3),
            title="ROC, as errors", xlabel="false accepts (share of different pairs)",
            ylabel="false rejects\n(share of same pairs)")  # fmt: skip
    roc.legend(**BESIDE)
    return figure


def plot_strangers(
    known: ArrayLike,
    unknown: ArrayLike,
    thresholds: Mapping[str, float],
    simulated: bool = False,
) -> Figure:
    """Draw how far images of known and of unknown classes are from the closest gallery entry.

    Parameters
    ----------
    known, unknown : (n,) and (m,) squared distances to the closest entry.
    thresholds : rule -> threshold; the legend gives the error shares of each on these images.
    simulated : whether the unknown images are known ones whose own class was taken out.
    """
    known, unknown = np.asarray(known, float), np.asarray(unknown, float)
    figure, axis = plt.subplots(figsize=(9.5, 3.2), layout="constrained")
    kind = "unknown classes (simulated)" if simulated else "unknown classes"
    _histograms(axis, [(known, BLUE, "known classes"), (unknown, ORANGE, kind)])
    for i, (rule, limit) in enumerate(thresholds.items()):
        accepts = f"{np.mean(unknown <= limit):.1%}" if len(unknown) else "not known"
        rejects = f"{np.mean(known > limit):.1%}" if len(known) else "not known"
        label = f"{rule}: {limit:.3f}\n  false accepts {accepts}, false rejects {rejects}"
        axis.axvline(limit, color=BLACK, linestyle=LINES[i % len(LINES)], label=label)
    axis.set(xlabel="squared distance to the closest entry", ylabel="share of the images, %")
    axis.legend(**BESIDE)
    return figure


def plot_snapshots(
    snapshots: Mapping[int, np.ndarray], labels: ArrayLike, seed: int = 42, classes: int = 7
) -> Figure:
    """Draw an embedding while it learns: before the training, after epochs 1 and 3, at the end.

    The plane is the same in all panels: the two directions in which the last embeddings differ
    most. Below it are the distances of random pairs of all classes.

    Parameters
    ----------
    snapshots : epoch -> (n, dim) embeddings of the same images; epoch 0 is before the training.
    labels : (n,) whole numbers or words.
    seed : of the random pairs.
    classes : how many classes are drawn in the plane, the largest ones.

    Raises
    ------
    ValueError : for fewer than three images, without a pair of each kind, or if the last
        embeddings lie at one point.
    """
    labels, last = np.asarray(labels), max(snapshots)
    moments = sorted({0, 1, 3, last} & snapshots.keys())
    plane = pca_plane(snapshots[last])
    names, counts = np.unique(labels, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")[:classes]]
    pairs = {epoch: pair_distances(snapshots[epoch], labels, 5000, seed) for epoch in moments}
    figure, axes = plt.subplots(
        2, len(moments), figsize=(3 * len(moments) + 2, 5), layout="constrained", squeeze=False,
        sharex="row", sharey="row", height_ratios=(2, 1),
    )  # fmt: skip
    for epoch, (above, below) in zip(moments, axes.T):
        points = plane.transform(snapshots[epoch])
        for i, label in enumerate(largest):
            above.scatter(*points[labels == label].T, s=12, marker=MARKERS[i % len(MARKERS)])
        title = f"after epoch {epoch}" if epoch else "before training"
        above.set(title=title, xlabel="first direction")
        distances, same = pairs[epoch]
        kinds = ((distances[same], BLUE, "d(a, p)"), (distances[~same], ORANGE, "d(a, n)"))
        _histograms(below, kinds)
        below.set(xlabel="squared distance")
    axes[0, 0].set_ylabel("second direction")
    axes[1, 0].set_ylabel("pairs, %")
    axes[1, -1].legend(**BESIDE)
    return figure


def plot_step_parts(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Draw where the time of a training step goes: a bar for each precision.

    Parameters
    ----------
    rows : of `results/machine_limit.csv`, each with precision, part and seconds. Parts follow each
        other in the order in which they come; one below 0, which two medians may give
        for a short part, is drawn as 0.
    """
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    ends = dict.fromkeys(precisions, 0.0)
    figure, axis = plt.subplots(figsize=(8.5, 0.9 + 0.5 * len(ends)), layout="constrained")
    for part, color in zip(dict.fromkeys(row["part"] for row in rows), PALETTE):
        of_part = {row["precision"]: row["seconds"] for row in rows if row["part"] == part}
        widths = [max(0.0, 1000 * float(of_part[precision])) for precision in precisions]
        axis.barh(precisions, widths, left=list(ends.values()), color=color, label=part)
        ends = {name: end + width for (name, end), width in zip(ends.items(), widths)}
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds")
    axis.legend(**BESIDE)
    return figure
