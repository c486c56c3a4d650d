"""Several trainings of one run: what is pooled, what is refused, and which cells each needs."""

import ast
import json

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import siamese_utils as su
from workbook import ROOT
from workbook.commands import run
from workbook.evaluation import results
from workbook.evaluation.retrieval import bootstrap_interval
from workbook.models import backbones
from workbook.settings import read_config
from workbook.support.tensorflow_start import keras

SETTINGS = "dataset    toys\nseed       {}\nepochs     3"


def training(seed, right, settings=SETTINGS, **more):
    """A made-up training: `right` holds one 0 or 1 per query."""
    trained = {"accuracy": float(np.mean(right)), "accuracy 95%": [0.0, 1.0], "auc": seed / 100}
    metrics = {"untrained": {"auc": 0.5}, "trained": trained | more}
    metrics |= {"settings": settings.format(seed), "seeds": [seed]}
    return results.Training(metrics, {"trained/accuracy": np.array(right, float)})


def test_pooled_are_mean_standard_deviation_and_the_interval_of_each_querys_mean():
    answers = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]]
    pooled = results.pool([training(42 + i, right) for i, right in enumerate(answers)])
    trained = pooled["trained"]
    assert trained["accuracy by seed"] == [0.5, 0.75, 0.5]
    assert trained["accuracy"] == pytest.approx(1.75 / 3)
    assert trained["accuracy sd"] == pytest.approx(0.25 / 3**0.5)
    assert trained["accuracy 95%"] == bootstrap_interval([1, 2 / 3, 2 / 3, 0])
    assert trained["auc"] == pytest.approx(0.43) and trained["auc sd"] == pytest.approx(0.01)
    assert "auc 95%" not in trained, "there is no one value a query"
    assert pooled["untrained"] == {"auc": 0.5, "auc sd": 0, "auc by seed": [0.5] * 3}
    assert pooled["seeds"] == [42, 43, 44]
    assert list(pooled) == ["seeds", "untrained", "trained", "settings"]
    assert json.loads(json.dumps(pooled))["trained"]["auc by seed"] == [0.42, 0.43, 0.44]


def test_what_one_seed_did_not_measure_is_named_and_left_out(capsys):
    pooled = results.pool([training(42, [1, 0], eer=0.1), training(43, [1, 0])])
    assert "eer" not in pooled["trained"] and "accuracy" in pooled["trained"]
    assert capsys.readouterr().out == "trained, eer: not measured with every seed, not pooled\n"


def test_trainings_with_other_settings_are_not_pooled():
    other = SETTINGS.replace("epochs     3", "epochs     4")
    with pytest.raises(ValueError, match="epochs     3 / epochs     4"):
        results.pool([training(42, [1, 0]), training(43, [1, 0], other)])


def config_of(folder, seed, **options):
    return read_config(runs=str(folder), preset="quick", seed=str(seed), data_seed="42", **options)


def test_the_first_seed_pools_what_the_others_left(tmp_path):
    metrics = {"trained": {"accuracy": 0.75, "accuracy 95%": [0, 1]}}
    answers = {"trained/accuracy": np.array([1, 1, 1, 0.0])}
    first = config_of(tmp_path, 42, seeds="2")
    with pytest.raises(FileNotFoundError, match="seed-43"):
        results.save_metrics(first, metrics, answers)
    other = {"trained": {"accuracy": 0.25, "accuracy 95%": [0, 1]}}
    fewer = {"trained/accuracy": np.array([1, 0, 0, 0.0])}
    alone = results.save_metrics(config_of(tmp_path, 43, seeds="2"), other, fewer)
    assert alone["seeds"] == [43] and alone["trained"]["accuracy"] == 0.25
    pooled = results.save_metrics(first, metrics, answers)
    assert pooled["seeds"] == [42, 43] and pooled["trained"]["accuracy"] == 0.5
    kept = tmp_path / "toys-quick" / "metrics.json"
    assert json.loads(kept.read_text())["trained"]["accuracy by seed"] == [0.75, 0.25]
    assert (tmp_path / "toys-quick" / "seed-43" / "metrics.json").exists()


def test_another_seed_keeps_the_frozen_trunk_and_starts_the_rest_anew(tmp_path, monkeypatch):
    built = []

    def small(*_):
        built.append(1)
        image = keras.Input((32, 32, 3))
        frozen = keras.layers.Conv2D(2, 3, name="frozen")(image)
        return keras.Model(image, keras.layers.Conv2D(2, 3, name="trained")(frozen)), "trained"

    monkeypatch.setattr(backbones, "load_backbone", small)

    def weights(seed):
        config = config_of(tmp_path, seed, size="32", weights="none")
        model = backbones.build_from_config(config)
        return [part.get_weights() for part in su.split_at_freeze_point(model)]

    (trunk, tail), (same_trunk, other_tail), (_, same_tail) = map(weights, (42, 43, 42))
    assert (trunk[0] == same_trunk[0]).all() and trunk[0].std() > 0
    assert (tail[0] == same_tail[0]).all() and (tail[0] != other_tail[0]).any()
    built.clear()
    backbones.build_from_config(config_of(tmp_path, 43, size="32"))
    assert len(built) == 1, "pretrained weights are the same for all seeds"


CLASSES = np.array([3, 3, 3, 9, 9, 9])  # of six queries


def test_answers_with_groups_get_an_interval_over_the_classes(tmp_path):
    right = np.array([1, 1, 1, 0, 0, 0.0])
    metrics = {"trained": {"recall": 0.5, "unseen": 0.5, "told": 1.0, "told 95%": [0, 1]}}
    answers = {"trained/recall": right, "trained/unseen": right, "trained/told": right}
    groups = {"trained/unseen": CLASSES}
    for seed in (43, 42):
        config = config_of(tmp_path, seed, seeds="2")
        kept = results.save_metrics(config, metrics, answers, groups)["trained"]
        assert tuple(kept["recall 95%"]) == bootstrap_interval(right)
        assert tuple(kept["unseen 95%"]) == bootstrap_interval(right, CLASSES) == (0, 1)
    assert metrics["trained"].keys() == {"recall", "unseen", "told", "told 95%"}, "not changed"
    alone = results.read_training(tmp_path / "toys-quick" / "seed-43")
    assert alone.metrics["trained"]["told 95%"] == [0, 1], "an interval that is given stays"
    assert alone.groups.keys() == groups.keys() and alone.answers.keys() == answers.keys()
    pooled = json.loads((tmp_path / "toys-quick" / "metrics.json").read_text("utf-8"))
    assert "of unseen over the classes" in results.describe_runs(pooled)
    assert "of unseen over the classes" in results.describe_runs(alone.metrics)


def test_metrics_of_before_are_still_read(tmp_path):
    """A metrics.json without groups, and answers.npz without them."""
    metrics = {"trained": {"recall": 0.5, "recall 95%": [0.4, 0.6]}, "settings": "x"}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    np.savez(tmp_path / "answers.npz", **{"trained/recall": np.array([0.0, 1])})
    read = results.read_training(tmp_path)
    assert read.metrics == metrics and read.groups == {}
    assert list(results.results_table(read.metrics))[:2] == [
        "recall",
        f"  {'trained':30}0.500 [0.400, 0.600]",
    ]


def test_paired_difference_by_hand():
    found = results.paired_difference([0.9, 0.8, 0.7], [0.5, 0.6, 0.3])
    assert found.mean == pytest.approx(1 / 3) and found.seeds == 3
    assert found.sd == pytest.approx(0.1154700538)  # of 0.4, 0.2, 0.4
    half = 4.30265273 * found.sd / 3**0.5  # Student's t for 2 degrees of freedom, from a table
    assert (found.low, found.high) == pytest.approx((1 / 3 - half, 1 / 3 + half))
    assert str(found) == "+0.333 ± 0.115 [+0.046, +0.620] over 3 seeds"
    assert results.paired_difference([2, 2], [1, 1])[:4] == (1, 0, 1, 1)


def test_what_all_seeds_share_does_not_widen_a_paired_difference():
    seeds = np.array([0.1, 0.5, 0.9])
    found = results.paired_difference(np.array([0.01, 0.02, 0.03]) + seeds, seeds)
    assert found.low == pytest.approx(0.02 - 4.30265273 * 0.01 / 3**0.5)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1, 2], [1], "2 and 1 seeds"),
        ([1], [1], "1 and 1 seeds"),
        ([[1, 2]], [[1, 2]], "2 and 2 seeds"),
        ([1, np.nan], [1, 2], "NaN"),
    ],
)
def test_seeds_that_cannot_be_compared_are_named(a, b, says):
    with pytest.raises(ValueError, match=says):
        results.paired_difference(a, b)


def test_values_by_seed_of_one_training_and_of_several():
    one, two = training(42, [1, 0]), training(44, [1, 1])
    assert results.values_by_seed(one.metrics, "trained", "accuracy") == [0.5]
    pooled = results.pool([one, two])
    assert results.values_by_seed(pooled, "trained", "accuracy") == [0.5, 1]
    assert results.values_by_seed(pooled, "trained", "auc") == [0.42, 0.44]


def test_one_seed_is_said_to_be_one(tmp_path):
    metrics = {"trained": {"accuracy": 0.75, "accuracy 95%": [0.5, 1], "auc": 1}, "untrained": {}}
    lines = list(results.results_table(results.save_metrics(config_of(tmp_path, 42), metrics, {})))
    assert lines[0] == "accuracy" and len(lines) == 3
    assert lines[1].split() == ["trained", "0.750", "[0.500,", "1.000]"]
    assert lines[2].startswith("one training (seed 42)")


def test_the_table_of_several_has_their_spread():
    lines = list(results.results_table(results.pool([training(42, [1, 0]), training(44, [1, 1])])))
    assert lines[0] == "accuracy" and len(lines) == 3
    assert lines[1].split()[:5] == ["trained", "0.750", "±", "0.354", "[0.500,"]
    assert "2 trainings (seeds 42 to 44)" in lines[-1]


@pytest.mark.parametrize("number", ["04", "05"])
def test_what_a_further_seed_leaves_out_nothing_else_needs(number):
    cells = nbformat.read(next(ROOT.glob(f"notebooks/{number}_*.ipynb")), as_version=4).cells
    used, made = ({True: set(), False: set()} for _ in range(2))  # by cells for the first seed, all
    for cell in cells:
        if cell.cell_type == "code":
            once = run.FIRST_SEED_ONLY in cell.metadata.get("tags", [])
            for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    used[once].add(node.id)
                elif isinstance(node, ast.Name | ast.arg | ast.FunctionDef | ast.alias):
                    names = ("id", "arg", "asname", "name")
                    made[once].add(next(v for n in names if (v := getattr(node, n, None))))
    assert made[True], "nothing is for the first seed alone"
    missing = (made[True] - made[False]) & used[False]
    assert not missing, f"made by a cell tagged {run.FIRST_SEED_ONLY} alone: {missing}"
