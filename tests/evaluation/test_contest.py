"""What a contest of losses keeps, and how its losses rank."""

import json

import numpy as np
import pytest

from workbook.evaluation.contest import MEASURES, Store, crossed_interval, rank


def test_a_store_is_read_again_and_finds_by_any_of_its_keys(tmp_path):
    path = tmp_path / "folder/omniglot.jsonl"
    store = Store(path)
    for number in range(3):
        store.add({"stage": "trial", "loss": "triplet", "number": number, "map@r": number / 10})
    assert len(path.read_text("utf-8").splitlines()) == 3
    again = Store(path)
    assert again.lines == store.lines
    assert again.find(number=1) == [json.loads(path.read_text("utf-8").splitlines()[1])]
    assert len(again.find(stage="trial")) == 3 and not again.find(stage="final")
    assert again.losses == ["triplet"] and again.scores("triplet") == [0.0, 0.1, 0.2]
    assert again.best_trial("triplet")["number"] == 2


@pytest.fixture
def store(tmp_path):
    """Two losses with two trials and two seeds each, on three classes, and one reference."""
    store = Store(tmp_path / "a.jsonl")
    for loss, shift in (("triplet", 0.0), ("softmax", 0.2)):
        for rate, score in ((0.1, 0.3), (0.2, 0.5)):
            drawn = {"learning_rate": rate, "options": {"margin": rate}}
            trial = {"stage": "trial", "loss": loss, **drawn}
            store.add(trial | {"recall@1": score + shift, "map@r": score + shift})
            for seed in range(2):
                values = [0.1 + shift, 0.2 + shift, rate + seed * 0.1]
                final = {"stage": "final", "loss": loss, "number": seed, **drawn}
                store.add(final | dict.fromkeys(MEASURES, values))
    reference = {"stage": "reference", "loss": "raw pixels"}
    store.add(reference | {measure: [0.0, 0.3, 0.6] for measure in MEASURES})
    return store


def test_the_losses_rank_by_the_final_trainings_of_their_best_trials(store):
    assert store.chosen()["loss"] == "softmax"
    standings = rank(store, "map@r", "triplet")
    assert [standing.name for standing in standings] == ["softmax", "raw pixels", "triplet"]
    softmax, pixels, triplet = standings
    assert triplet.mean == pytest.approx((0.5 / 3 + 0.6 / 3) / 2)  # of the trial with rate 0.2
    assert triplet.sd == pytest.approx(0.1 / 3 / np.sqrt(2))
    assert (triplet.options, triplet.choice) == (2, 0.5)
    assert softmax.gain == pytest.approx(0.4 / 3) and triplet.gain == 0
    assert triplet.gain_interval == (0, 0)
    assert (pixels.options, np.isnan(pixels.choice), np.isnan(pixels.sd)) == (0, True, True)
    assert pixels.gain == pytest.approx(0.3 - triplet.mean)


def test_another_measure_may_rank_otherwise(store):
    for line in store.find(stage="final", loss="triplet"):
        line["recall@1"] = [1.0, 1.0, 1.0]
    assert rank(store, "recall@1", "triplet")[0].name == "triplet"
    assert rank(store, "map@r", "triplet")[0].name == "softmax"


def test_a_loss_with_fewer_seeds_is_compared_with_the_same_ones(store):
    store.lines = [line for line in store.lines if line != store.finals("softmax")[1]]
    store.add(store.finals("softmax")[0] | {"number": 1})
    store.add(store.finals("triplet")[0] | {"number": 2})
    softmax = next(each for each in rank(store, "map@r", "triplet") if each.name == "softmax")
    assert softmax.gain == pytest.approx((0.4 + 0.3) / 3 / 2)


def test_a_loss_without_final_training_cannot_be_compared_with(store):
    with pytest.raises(ValueError, match="has no final training of the loss 'arcface'"):
        rank(store, "map@r", "arcface")


def test_the_interval_covers_classes_and_seeds():
    classes, seeds = np.linspace(0, 1, 24), np.linspace(-0.3, 0.3, 5)
    by_class, by_seed = classes.std() / np.sqrt(24), seeds.std() / np.sqrt(5)
    cases = {
        "classes": (classes[None], by_class),
        "seeds": (np.tile(seeds[:, None], 24), by_seed),
        "both": (classes + seeds[:, None], np.hypot(by_class, by_seed)),
    }
    for name, (values, error) in cases.items():
        low, high = crossed_interval(values)
        assert low < values.mean() < high
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08), name


def test_classes_that_are_all_alike_have_no_spread():
    assert crossed_interval(np.full((3, 7), 0.25)) == pytest.approx((0.25, 0.25))
