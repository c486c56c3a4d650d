"""The bars of hard, semi-hard and easy triplets."""

import matplotlib.pyplot as plt

from workbook.display.triplet_drawings import plot_zone_shares


def test_the_bars_of_each_way_to_choose_fill_100_percent():
    shares = {"random": {"hard": 0.1, "semi-hard": 0.5, "easy": 0.4},
              "hard": {"hard": 1.0, "semi-hard": 0.0, "easy": 0.0}}  # fmt: skip
    figure = plot_zone_shares(shares)
    bars = {
        group.get_label(): [(bar.get_x(), bar.get_width()) for bar in group]
        for group in figure.axes[0].containers
    }
    plt.close(figure)
    expected = {"hard": [(0, 10), (0, 100)], "semi-hard": [(10, 50), (100, 0)],
                "easy": [(60, 40), (100, 0)]}  # fmt: skip
    assert bars == expected
