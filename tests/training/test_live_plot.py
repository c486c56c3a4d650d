"""The live plot: a line of all steps, dots of all epochs."""

import numpy as np
import pytest
import small_run

from workbook.training.callbacks import LiveLossPlot


def test_each_step_and_each_epoch_is_drawn():
    model, batches = small_run.build(1)
    plot = LiveLossPlot("small", live=False)
    history = model.fit(batches, epochs=2, verbose=0, callbacks=[plot]).history
    each = len(batches)
    assert each > 1
    for name in ("loss", "d_ap", "d_an", "active"):
        places, means = np.transpose([p for p in plot.steps[name] if np.isfinite(p[1])])
        assert places == pytest.approx(np.arange(1, 2 * each + 1) / each)
        assert means[[each - 1, -1]] == pytest.approx(history[name])  # the whole epoch's mean
    dots, line = plot.figure.axes[0].lines[:2]
    assert dots.get_xydata() == pytest.approx(np.transpose([[1, 2], history["loss"]]))
    assert len(line.get_xdata()) == 2 * each + 1  # and a gap between the epochs
    assert dots.get_color() == line.get_color()


def test_an_epoch_without_steps_is_joined_by_a_line():
    plot = LiveLossPlot("resumed", live=False)
    plot.history = {"val_recall@1": [0.5, 0.75]}
    plot.on_train_end()
    dots = plot.figure.axes[2].lines[0]
    assert dots.get_linestyle() == "-" and list(dots.get_ydata()) == [0.5, 0.75]
