"""Figures of results and of triplets: what is drawn where, and that legends name it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from workbook.display import result_figures, triplet_drawings
from workbook.display.figures import BLUE, ORANGE, save_figure
from workbook.display.projections import TsneMap
from workbook.settings import read_config


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def legend_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def outside(figure, axis):
    """Whether the axis's legend lies right of the axis."""
    figure.canvas.draw()
    return axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1


def heights(axis, color):
    """The heights of the filled histogram of one colour."""
    (patch,) = (p for p in axis.patches if p.get_facecolor() == to_rgba(color, 0.35))
    return patch.get_xy()[:, 1]


PAIRS = np.array([0.1, 0.2, 0.3, 1.0, 1.2, 1.4]), np.arange(6) < 3


def test_a_histogram_shows_shares_means_and_the_margin():
    axis = result_figures.plot_distance_histogram(*PAIRS, margin=0.5, title="trained")
    names = ["d(a, p): same class", "d(a, n): different classes", "mean d(a, p)", "mean d(a, n)"]
    assert legend_of(axis) == names and outside(axis.figure, axis)
    lines = [line.get_xdata()[0] for line in axis.lines]
    assert lines == pytest.approx([0.2, 1.2])
    assert heights(axis, BLUE).max() == pytest.approx(100 / 3)
    (arrow,) = (text for text in axis.texts if not text.get_text())
    assert (arrow.xyann[0], arrow.xy[0]) == pytest.approx((0.2, 0.7))


@pytest.mark.parametrize("same", [np.zeros(6, bool), np.ones(6, bool)])
def test_a_histogram_of_one_kind_or_of_equal_points_is_drawn(same):
    for distances in (PAIRS[0], np.zeros(6)):
        result_figures.plot_distance_histogram(distances, same, margin=0.2).figure.canvas.draw()


def test_accuracy_by_shots_has_a_line_per_name_a_band_and_chance():
    lines = {"untrained": [0.2, 0.3, 0.4], "trained": [0.5, 0.7, 0.9]}
    bands = {"trained": [[0.4, 0.6], [0.6, 0.8], [0.8, 1]]}
    figure = result_figures.plot_accuracy_by_shots([1, 2, 8], lines, bands, chance=0.1)
    (axis,) = figure.axes
    assert legend_of(axis) == ["untrained", "trained", "guessing"] and outside(figure, axis)
    assert [list(line.get_ydata()) for line in axis.lines[:2]] == list(lines.values())
    assert len(axis.collections) == 1 and axis.collections[0].get_paths()[0].get_extents().y1 == 1
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "8"]
    plain = result_figures.plot_accuracy_by_shots([1, 2], [0.5, 0.6], [[0.4, 0.6], [0.5, 0.7]])
    assert plain.axes[0].get_legend() is None and len(plain.axes[0].collections) == 1


NAMES = ["cat", "$dog$", "a class with a very long name", "fox"]


@pytest.mark.parametrize("with_images", [False, True])
def test_maps_share_one_legend_and_unseen_classes_are_hollow(with_images):
    labels = np.repeat([0, 1, 2, 3], 5)
    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    images = np.zeros((20, 4, 4, 3), np.uint8) if with_images else None
    maps = {"before": "collapsed: all are equal.", "after": TsneMap(points, 6.3, 42)}
    figure = result_figures.plot_tsne(maps, labels, NAMES, unseen=[1], images=images)
    figure.canvas.draw()
    before, after, legend = figure.axes
    assert [text.get_text() for text in before.texts] == ["collapsed: all are equal."]
    assert not before.collections and before.get_title() == "before"
    assert after.get_xlabel() == "t-SNE of 20 images, perplexity 6.3, seed 42"
    drawn = [c.get_offsets().data.tolist() for c in after.collections]
    order = [0, 2, 3, 1]  # the unseen class comes last
    assert drawn == [points[labels == kind].tolist() for kind in order]
    is_hollow = [not len(c.get_facecolors()) for c in after.collections]
    assert is_hollow == [False, False, False, True]
    named = [text.get_text() for text in legend.texts]
    assert named[:4] == ["cat", "a class with a …", "fox", "$dog$"]
    assert named[4] == "hollow: unseen classes"
    assert not after.images and len(legend.images) == 4 * with_images, "no image hides a point"


def test_a_map_of_many_classes_says_how_many_the_legend_leaves_out():
    labels = np.arange(100)
    points = {"map": np.random.default_rng(0).normal(size=(100, 2))}
    figure = result_figures.plot_tsne(points, labels, [f"class {i}" for i in labels])
    named = [text.get_text() for text in figure.axes[1].texts]
    assert len(named) == 61 and named[-1] == "and 40 more classes"
    looks = {(tuple(c.get_edgecolors()[0]), str(c.get_paths()[0].vertices.tolist()))
             for c in figure.axes[0].collections}  # fmt: skip
    assert len(looks) == 49, "seven colours in seven shapes"


def test_verification_draws_errors_and_keeps_legends_off_the_bars():
    """Of ascending distances s s d s d d: the errors by hand; a perfect curve is visible, too."""
    mixed = np.arange(1.0, 7), np.array([1, 1, 0, 1, 0, 0], bool)
    figure = result_figures.plot_verification({"a": mixed, "b": PAIRS}, threshold=0.5)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "ROC, as errors"]
    roc = figure.axes[2]
    assert legend_of(roc) == ["a (AUC 0.889)", "b (AUC 1.000)", "guessing"] and outside(figure, roc)
    (outer,) = figure.legends
    assert [t.get_text() for t in outer.get_texts()][2:] == ["threshold 0.500"]
    bottom = min(axis.get_window_extent().y0 for axis in figure.axes[:2])
    assert outer.get_window_extent().y1 < bottom
    x, y = roc.lines[0].get_data()
    assert x == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 3, 1 / 3, 2 / 3, 1])
    assert y == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 1 / 6, 1 / 6, 1 / 6])
    assert min(roc.lines[1].get_ydata()) > roc.get_ylim()[0], "inside the axis"


def test_strangers_have_their_errors_in_the_legend():
    known, unknown = [0.1, 0.2, 0.3, 0.9], [0.25, 1, 1.1, 1.2, 1.3]
    figure = result_figures.plot_strangers(known, unknown, {"balance": 0.5, "strict": 0.15}, True)
    (axis,) = figure.axes
    assert legend_of(axis) == [
        "known classes",
        "unknown classes (simulated)",
        "balance: 0.500\n  false accepts 20.0%, false rejects 25.0%",
        "strict: 0.150\n  false accepts 0.0%, false rejects 75.0%",
    ]
    assert outside(figure, axis)
    assert [line.get_xdata()[0] for line in axis.lines] == [0.5, 0.15]
    alone = result_figures.plot_strangers(known, [], {"balance": 0.5})
    assert "false accepts not known" in legend_of(alone.axes[0])[1]


def test_each_negative_lies_in_the_ring_of_its_zone():
    negatives = [[0.9, 0], [0, -1.1], [0.9, 0.9], [-0.1, 0.1], [1, 0]]
    figure = triplet_drawings.draw_triplet_rings(1.0, 0.5, negatives)
    (axis,) = figure.axes
    drawn = {c.get_label().partition(" ")[0]: c.get_offsets().data.tolist()
             for c in axis.collections}  # fmt: skip
    assert drawn["hard"] == [[0.9, 0], [-0.1, 0.1]]
    assert drawn["semi-hard"] == [[0, -1.1], [1, 0]], "as far as the positive is not closer"
    assert drawn["easy"] == [[0.9, 0.9]]
    radii = {round(patch.radius**2, 6) for patch in axis.patches}
    assert {1.0, 1.5} <= radii
    assert sum(np.square(drawn["positive"][0])) == pytest.approx(1)
    assert len(legend_of(axis)) == 5 and outside(figure, axis)


def test_a_figure_is_saved_on_white_and_as_svg_where_it_has_no_images(tmp_path):
    from PIL import Image

    config = read_config(runs=str(tmp_path), preset="quick")
    figure = triplet_drawings.draw_triplet_rings()
    figure.set_facecolor("none")
    save_figure(figure, config, "rings")
    folder = config.run_dir / "figures"
    with Image.open(folder / "rings.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (folder / "rings.svg").exists()
    with_image, axis = plt.subplots()
    axis.imshow(np.zeros((8, 8, 3), np.uint8))
    save_figure(with_image, config, "o")
    assert (folder / "o.png").exists() and not (folder / "o.svg").exists()


def test_colours_of_the_two_kinds_differ_in_lightness():
    """Also without colours, in print, the two kinds of pairs can be told apart."""
    light = [np.dot(to_rgba(color)[:3], (0.299, 0.587, 0.114)) for color in (BLUE, ORANGE)]
    assert abs(light[0] - light[1]) > 0.05


def test_snapshots_share_a_plane_and_show_the_distances_of_each_moment():
    labels = np.repeat(["a", "b", "c"], 4)
    last = np.random.default_rng(0).normal(size=(12, 5)) + 9 * np.eye(5)[np.repeat([0, 1, 2], 4)]
    snapshots = {epoch: last * (epoch + 1) for epoch in range(6)}
    figure = result_figures.plot_snapshots(snapshots, labels, classes=2)
    above, below = figure.axes[:4], figure.axes[4:]
    moments = ["before training", "after epoch 1", "after epoch 3", "after epoch 5"]
    assert [axis.get_title() for axis in above] == moments
    assert all([len(points.get_offsets()) for points in a.collections] == [4, 4] for a in above)
    first, *_, end = (np.concatenate([c.get_offsets() for c in a.collections]) for a in above)
    inner = np.linalg.norm(first - first.mean(0)) / np.linalg.norm(end - end.mean(0))
    assert inner == pytest.approx(1 / 6)  # one plane for all: no panel is scaled on its own
    assert heights(below[0], BLUE).max() > 0 and legend_of(below[-1]) == ["d(a, p)", "d(a, n)"]


def test_snapshots_of_one_point_or_without_pairs_are_refused():
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(ValueError, match="collapsed"):
        result_figures.plot_snapshots({0: vectors, 1: np.ones((4, 3))}, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="no triplet exists"):
        result_figures.plot_snapshots({0: vectors}, [0, 1, 2, 3])


def test_the_parts_of_a_step_stand_end_to_end_in_one_bar_for_each_precision():
    seconds = {
        "float32": {"gather": 0.1, "forward": 0.3},
        "bfloat16": {"gather": 0.1, "forward": -0.01},
    }
    rows = [
        {"precision": precision, "part": part, "seconds": str(value)}
        for precision, parts in seconds.items()
        for part, value in parts.items()
    ]
    axis = result_figures.plot_step_parts(rows).axes[0]
    spans = [[(round(p.get_x()), round(p.get_width())) for p in part] for part in axis.containers]
    assert spans == [[(0, 100), (0, 100)], [(100, 300), (100, 0)]], "of each part, both bars"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["float32", "bfloat16"]
    assert legend_of(axis) == ["gather", "forward"] and outside(axis.figure, axis)
