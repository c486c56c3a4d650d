"""The figures that compare losses show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np

from workbook.display.loss_figures import plot_best_so_far, plot_pair_gradients


def test_a_curve_never_falls_and_the_best_loss_is_named_first():
    figure = plot_best_so_far({"a": [0.2, 0.1, 0.5], "b": [0.1, 0.6, 0.3], "c": [0.3]})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["b", "a", "c"]
    np.testing.assert_array_equal(lines[0].get_ydata(), [0.1, 0.6, 0.6])
    np.testing.assert_array_equal(lines[1].get_ydata(), [0.2, 0.2, 0.5])
    np.testing.assert_array_equal(lines[1].get_xdata(), [1, 2, 3])
    plt.close(figure)


def test_each_loss_has_a_panel_for_pull_and_push_scaled_by_its_largest_value():
    places = np.linspace(0.1, 2, 4)
    pull, push = np.arange(16.0).reshape(4, 4), np.full((4, 4), 3.0)
    figure = plot_pair_gradients({"x": (pull, push), "y": (0 * pull, 0 * push)}, places)
    panels = [axis for axis in figure.axes if axis.collections and axis.get_title()]
    shown = {axis.get_title(): axis.collections[0].get_array() for axis in panels}
    np.testing.assert_allclose(shown["x\npull on the positive"], pull / 15)
    assert len(panels) == 4 and not np.any(shown["y\npull on the positive"])
    pushes = [a for a in panels if a.get_title() == "push on the negative"]
    np.testing.assert_allclose(pushes[0].collections[0].get_array(), push / 15)
    plt.close(figure)
