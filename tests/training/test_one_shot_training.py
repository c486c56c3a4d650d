"""The trainings of notebook 7: they learn, they end once, and they are taken up again."""

import numpy as np
import pytest

import siamese_utils as su
from workbook.data.images import ImageDataset
from workbook.data.omniglot import add_classes
from workbook.settings import read_config
from workbook.training.mined_model import MinedSiameseModel
from workbook.training.one_shot_training import one_shot_recipes, train_on_characters

SOFT = one_shot_recipes()[2]
SHORT = {"preset": "quick", "epochs": 1, "live": False}


@pytest.fixture
def config(tmp_path):
    return read_config({}, **SHORT, runs=tmp_path)


@pytest.fixture(scope="module")
def data():
    """Twelve shapes, four noisy drawings of each."""
    rng = np.random.default_rng(0)
    shapes = rng.random((12, 1, 7, 7, 1)) > 0.6
    images = np.repeat(np.repeat(np.tile(shapes, (1, 4, 1, 1, 1)), 5, axis=2), 5, axis=3)
    images = 255 * (images ^ (rng.random(images.shape) > 0.95))
    names = [f"Abc/character{i:02}" for i in range(12)]
    return ImageDataset(
        name="shapes", images=images.reshape(-1, 35, 35, 1).astype(np.uint8),
        labels=np.repeat(np.arange(12, dtype=np.int32), 4), class_names=names, paths=[""] * 48,
        splits=np.full(48, "train"), coarse=["Abc"] * 12,
    )  # fmt: skip


def test_the_recipes_differ_as_their_names_say():
    random, mined, soft = one_shot_recipes()
    assert (random.triplets, mined.triplets, soft.triplets) == ("random", "mined", "mined")
    assert random.temperature is mined.temperature is None and soft.temperature
    labels = np.repeat(np.arange(60), 20)
    assert {recipe.batch_shape(labels) for recipe in one_shot_recipes()} == {(48, 3)}
    same = {(r.margin, r.learning_rate, r.weight_decay, r.normalize) for r in one_shot_recipes()}
    assert len(same) == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_recipe_trains(config, data, number):
    recipe = one_shot_recipes()[number]
    trained = train_on_characters(config, recipe, data, steps=2)
    assert (trained.steps, trained.images) == (2, 2 * 48), "12 classes, 4 images each"
    assert trained.embedding.output_shape == (None, 256) and trained.seconds > 0
    assert isinstance(recipe.build_model(trained.embedding), MinedSiameseModel) == (number > 0)
    assert not (config.run_dir / "one-shot").exists()


def test_training_brings_drawings_of_a_shape_together(config, data):
    trained = train_on_characters(config, SOFT, add_classes(data), steps=30)
    vectors = su.embed(trained.embedding, data.images).reshape(12, 4, -1)
    distances = ((vectors[:, :1] - vectors[:, 1][None]) ** 2).sum(-1)  # to another drawing
    assert (distances.argmin(axis=1) == np.arange(12)).mean() > 0.8


class Trains(Exception):
    """Raised in place of a training."""


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory):
    """The folder of a training that has ended, and what it returned."""
    folder = tmp_path_factory.mktemp("ended")
    return folder, train_on_characters(read_config({}, **SHORT), SOFT, data, 2, folder)


@pytest.fixture
def no_training(monkeypatch):
    def fit(*_):
        raise Trains

    monkeypatch.setattr("workbook.training.trainer.Trainer.fit", fit)


def test_a_training_that_ended_is_loaded(config, data, ended, no_training):
    folder, first = ended
    second = train_on_characters(config, SOFT, data, 2, folder)
    np.testing.assert_array_equal(
        su.embed(first.embedding, data.images), su.embed(second.embedding, data.images)
    )
    assert second[1:] == first[1:]


@pytest.mark.parametrize("change", ["seed", "epochs", "steps", "recipe", "data", "network"])
def test_another_training_is_not_taken_for_it(config, data, ended, no_training, change):
    if change == "seed":
        config = read_config({}, **SHORT, seed=7)
    if change == "epochs":
        config = read_config({}, **SHORT | {"epochs": 2})
    recipe = one_shot_recipes()[1] if change == "recipe" else SOFT
    if change == "data":
        data = add_classes(data)
    steps, network = 3 if change == "steps" else 2, {"spread": None} if change == "network" else {}
    with pytest.raises(Trains):
        train_on_characters(config, recipe, data, steps, ended[0], **network)
