"""Which notebooks a run on characters executes, and with which seeds."""

import dataclasses

import pytest

from workbook.commands.run import choose_notebooks, plan_executions
from workbook.settings import read_config


@pytest.mark.parametrize("dataset", ["omniglot", "omniglot-full"])
def test_characters_are_for_notebook_7_alone(dataset):
    for numbers in ([], [7]):
        assert [path.name[:2] for path in choose_notebooks(numbers, dataset)] == ["07"]
    with pytest.raises(
        ValueError, match=f"DATASET={dataset} is for notebook 7 alone.* leave out 4"
    ):
        choose_notebooks([7, 5, 4], dataset)


def test_the_first_seed_comes_last_because_it_pools():
    config = dataclasses.replace(read_config({}), seeds=3)
    plan = [(path.name[:2], seed) for path, seed in plan_executions(choose_notebooks([7]), config)]
    assert plan == [("07", 44), ("07", 43), ("07", 42)]


def test_characters_have_settings_of_their_own():
    for preset in ("quick", "full"):
        config = read_config({}, preset=preset, dataset="omniglot")
        assert (config.size, config.views, config.epochs) == (35, 1, 10)
    assert read_config({}, preset="quick").epochs == 4, "the short form has the toys' epochs"
