"""The contest of `tools/which_loss.py`: its draws, its memory, its measures and its table."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import siamese_utils as su
from tools import which_loss
from workbook.data.images import ImageDataset
from workbook.evaluation.contest import MEASURES, Store
from workbook.support.tensorflow_start import keras
from workbook.training.losses import LOSSES
from workbook.training.trainer import KeptFeatures


def make_data(splits, labels, coarse=("A",) * 8):
    return ImageDataset(
        name="points",
        images=np.zeros((len(labels), 35, 35, 1), np.uint8),
        labels=np.array(labels, np.int32),
        class_names=[f"class {i}" for i in range(len(coarse))],
        paths=[""] * len(labels),
        splits=np.array(splits),
        coarse=list(coarse),
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_a_trial_draws_every_option_within_its_range_and_always_the_same(loss):
    trials = [which_loss.draw(loss, number) for number in range(200)]
    assert trials[7] == which_loss.draw(loss, 7) != trials[8]
    ranges = {"learning_rate": which_loss.RATES, **LOSSES[loss].ranges}
    for name, (low, high) in ranges.items():
        drawn = [{**trial, **trial["options"]}[name] for trial in trials]
        middle = np.sqrt(low * high)  # of a logarithmic scale
        assert low <= min(drawn) and max(drawn) <= high
        assert 0.35 < np.mean(np.array(drawn) < middle) < 0.65


def test_losses_do_not_share_their_draws():
    rates = [which_loss.draw(loss, 0)["learning_rate"] for loss in LOSSES]
    assert len(set(rates)) == len(LOSSES)


def test_measures_are_means_within_each_class():
    data = make_data(["choice"] * 6 + ["train"] * 2, [1, 1, 1, 5, 5, 5, 0, 0])
    angles = np.deg2rad([0, 1, 40, 41, 120, 121, 60, 61])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = which_loss.measure(vectors, data, "choice")
    assert found["recall@1"] == pytest.approx([2 / 3, 2 / 3])  # 40 and 41 degrees miss
    # R = 2. Of 0 and 1 degrees both answers are right; of 40 the second one alone: (0 + 1/2) / 2.
    first_class = (1 + 1 + 0.25) / 3
    # Of 41 degrees both answers, 40 and 1, are wrong; of 120 and 121 both are right.
    assert found["map@r"] == pytest.approx([first_class, (0 + 1 + 1) / 3])


def test_the_test_is_asked_among_the_gallery_where_there_is_one():
    data = make_data(["test", "test", "gallery", "gallery", "train"], [0, 1, 0, 1, 0])
    vectors = np.array([[1, 0], [0.9, 0.1], [1, 0.01], [0, 1], [1, 0]])
    assert which_loss.measure(vectors, data, "test")["recall@1"] == [1, 0]


KEY = {"stage": "trial", "loss": "triplet", "number": 0, "seconds": 5.0}
DRAWN = {"learning_rate": 0.001, "options": {"margin": 0.5}}


def test_what_the_store_has_is_not_trained_again(tmp_path, monkeypatch):
    data = make_data(["choice"] * 4, [0, 0, 1, 1])
    contest, asked = SimpleNamespace(data=data), []
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)

    def train(contest, loss, drawn, seed, seconds):
        asked.append((loss, drawn, seed, seconds))
        return SimpleNamespace(
            embed=lambda rows: 3 * vectors[rows],
            tail=SimpleNamespace(output_shape=(None, 2)),
            budget=SimpleNamespace(steps=17),
        )

    monkeypatch.setattr(which_loss, "train", train)
    store = Store(tmp_path / "a.jsonl")
    first = which_loss.run(contest, store, KEY, DRAWN, 4, "choice")
    assert first["map@r"] == 1 and first["steps"] == 17 and first["options"] == {"margin": 0.5}
    again = which_loss.run(contest, Store(store.path), KEY, DRAWN, 4, "choice")
    assert again == first and asked == [("triplet", DRAWN, 4, 5.0)]
    which_loss.run(contest, store, KEY | {"seconds": 6.0}, DRAWN, 4, "choice")
    assert len(asked) == 2, "another budget is another trial"


def test_a_trial_whose_numbers_go_wrong_is_noted_and_lost(tmp_path, monkeypatch, capsys):
    def train(*arguments):
        raise FloatingPointError("numbers went wrong")

    monkeypatch.setattr(which_loss, "train", train)
    store = Store(tmp_path / "a.jsonl")
    assert which_loss.run(None, store, KEY, DRAWN, 4, "choice")["map@r"] == 0
    assert "numbers went wrong" in capsys.readouterr().out


def test_the_table_shows_the_tuned_options_both_spreads_and_the_paired_difference(tmp_path):
    store = Store(tmp_path / "a.jsonl")
    classes = np.array([0.2, 0.4, 0.6, 0.8])
    for loss, shift in (("soft triplet", 0), ("arcface", 0.1)):
        drawn = which_loss.draw(loss, 0)
        for number, score in enumerate((0.7, 0.3)):
            trial = {"stage": "trial", "loss": loss, "number": number, **drawn}
            store.add(trial | dict.fromkeys(MEASURES, score))
        for seed in range(2):
            final = {"stage": "final", "loss": loss, "number": seed, **drawn}
            values = (classes + shift + 0.02 * seed).tolist()
            store.add(final | dict.fromkeys(MEASURES, values))
    reference = {"stage": "reference", "loss": "raw pixels"}
    store.add(reference | dict.fromkeys(MEASURES, [0.1] * 4))
    lines = list(which_loss.table(store))
    assert [line.split("  ")[1] for line in lines[1:4]] == ["arcface", "soft triplet", "raw pixels"]
    assert "    4   0.700  0.610 ± 0.014" in lines[1] and "+0.100 [+0.100, +0.100]" in lines[1]
    assert "    3   0.700  0.510 ± 0.014" in lines[2] and "+0.000" not in lines[2]
    assert "0.100         [0.100, 0.100]" in lines[3] and "-0.410" in lines[3]


def test_omniglot_is_split_by_alphabets_and_only_those_trained_on_are_turned_and_mirrored(
    monkeypatch,
):
    coarse = ["Balinese", "Greek", "Sanskrit", "Korean", "Latin"]
    background = make_data(["train"] * 10, np.repeat(np.arange(5), 2), coarse)
    monkeypatch.setattr(which_loss, "load_background", lambda *arguments: background)
    contest = which_loss.load_omniglot(SimpleNamespace(data_home=None))
    data = contest.data
    of = {s: {data.coarse[c] for c in data.labels[data.where(s)]} for s in set(data.splits)}
    assert of["train"] == {"Greek", "Latin"} and of["test"] == {"Sanskrit"}
    assert of["choice"] == {"Balinese", "Korean"}
    counts = {split: len(data.where(split)) for split in ("train", "choice", "test")}
    assert counts == {"train": 2 * 2 * 8, "choice": 4, "test": 2}
    np.testing.assert_array_equal(contest.features.rows, data.where("train"))


def test_grocery_holds_out_whole_coarse_classes_and_asks_test_photographs(monkeypatch):
    coarse = [f"group {i // 2}" for i in range(16)]
    data = make_data(
        ["train", "train", "test", "validation"] * 16, np.repeat(np.arange(16), 4), coarse
    )
    monkeypatch.setattr(which_loss, "load_from_config", lambda config: data)
    monkeypatch.setattr(which_loss, "keep_features", lambda config, data: None)
    found = which_loss.load_grocery(None).data
    groups = {s: {coarse[c] for c in found.labels[found.where(s)]} for s in set(found.splits)}
    assert [len(groups[s]) for s in ("train", "choice", "gallery")] == [4, 2, 2]
    assert groups["test"] == groups["gallery"] and not groups["test"] & groups["train"]
    assert not groups["choice"] & (groups["train"] | groups["test"])
    given = data.splits
    assert (given[found.where("train", "choice", "gallery")] == "train").all()
    assert (given[found.where("test")] == "test").all()
    assert (found.splits[given == "validation"] == "other").all()


# ------------------------------------------------------------------------- the whole command, small


@pytest.fixture
def contest(tmp_path, monkeypatch):
    """Nine classes of noisy points as images, three of them in each split; and two losses."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(9), 8)
    data = make_data(np.repeat(["train", "choice", "test"], 24), labels, ["A"] * 9)
    images = rng.integers(0, 256, (9, 4, 4, 1))[labels] + rng.normal(0, 60, (72, 4, 4, 1))
    data.images = np.clip(images, 0, 255).astype(np.uint8)

    def embedding(seed, unit):
        keras.utils.set_random_seed(seed)
        image = keras.Input((4, 4, 1))
        backbone = keras.Model(image, keras.layers.Rescaling(1 / 255, name="scale")(image))
        return su.build_embedding_model(
            (4, 4, 1), backbone=backbone, train_from="scale", normalize=unit,
            head=lambda x: keras.layers.Dense(4)(keras.layers.Flatten()(x)),
        )  # fmt: skip

    def load(config):
        rows = data.where("train")
        features = KeptFeatures(data.images, rows, np.empty(0), 1, rows)
        pixels = data.images.reshape(72, -1) / 255
        references = lambda: {"raw pixels": pixels}  # noqa: E731
        return which_loss.Contest(config, data, features, 3, 9, references, embedding)

    chosen = {name: LOSSES[name] for name in ("soft triplet", "softmax")}
    monkeypatch.setattr(which_loss, "LOSSES", chosen)
    monkeypatch.setattr(which_loss, "STEPS", 2)
    monkeypatch.setattr(which_loss, "ROOT", tmp_path)
    monkeypatch.setitem(which_loss.LOADERS, "omniglot", load)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["which_loss", "omniglot", *map(str, arguments)])
    which_loss.main()


def test_the_command_ends_with_its_table_and_measures_nothing_twice(
    contest, tmp_path, monkeypatch, capsys
):
    options = ("--trials", 2, "--seconds", 0.01, "--seeds", 2)
    call(monkeypatch, *options)
    first = capsys.readouterr().out
    lines = Store(tmp_path / "results/which_loss/omniglot.jsonl").lines
    stages = [line["stage"] for line in lines]
    assert stages == ["trial"] * 4 + ["final"] * 4 + ["reference"]
    for line in lines[4:8]:
        assert len(line["map@r"]) == 3 and line["steps"] > 1 and line["seed"] in (1000, 1001)
        trials = [each for each in lines[:4] if each["loss"] == line["loss"]]
        best = max(trials, key=lambda trial: trial["map@r"])
        assert (line["learning_rate"], line["options"]) == (best["learning_rate"], best["options"])
    monkeypatch.setattr(which_loss, "train", None)
    call(monkeypatch, *options)
    again = capsys.readouterr().out
    table = first[first.index("recall@1") :]
    assert again.endswith(table) and "raw pixels" in table and "softmax" in table
    with pytest.raises(SystemExit):
        call(monkeypatch, *options[:2], "--seconds", 0.02)
    message = "omniglot.jsonl holds trials of 0.01 seconds, not 0.02: give another folder"
    assert message in capsys.readouterr().err


def test_all_groceries_are_a_second_step_of_the_contest_on_groceries(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--full")
    assert "--full needs the contest on grocery" in capsys.readouterr().err


def test_the_chosen_loss_and_todays_recipe_are_trained_alike_on_all_groceries(
    tmp_path, monkeypatch, capsys
):
    data = make_data(["train", "train", "test", "test", "reference", "reference"], [0, 1] * 3)
    vectors, asked = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1], [0, 1], [1, 0]]), []

    class FakeTrainer:
        def __init__(self, config, recipe, data):
            asked.append((config.seed, config.data_seed, recipe))

        def fit(self, folder):
            assert folder.parent.name == "which_loss"

        def embed(self):
            return vectors

    monkeypatch.setattr(which_loss, "Trainer", FakeTrainer)
    monkeypatch.setattr(which_loss, "load_from_config", lambda config: data)
    monkeypatch.setattr(
        which_loss, "LOSSES", {name: LOSSES[name] for name in ("soft triplet", "arcface")}
    )
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path))
    store = Store(tmp_path / "grocery.jsonl")
    for loss, score in (("soft triplet", 0.4), ("arcface", 0.5)):
        drawn = {"learning_rate": 0.002, "options": {"margin": 0.2}, "map@r": score}
        store.add({"stage": "trial", "loss": loss, "seconds": 5.0, **drawn})
    for _ in range(2):  # the second time nothing is trained
        which_loss.compare_on_all_classes(store, 2, tmp_path)
    assert [(seed, data_seed) for seed, data_seed, _ in asked] == [(42, 42)] * 2 + [(43, 42)] * 2
    today, new = (recipe for *_, recipe in asked[:2])
    assert today.loss is None and (new.loss, new.options) == ("arcface", {"margin": 0.2})
    assert (new.learning_rate, new.classes, new.images) == (0.002, today.classes, today.images)
    assert all(line["nearest"] == 1 and line["one-shot"] == 0 for line in store.find(stage="full"))
    assert "nearest: arcface 1.000, today 1.000: +0.000" in capsys.readouterr().out
