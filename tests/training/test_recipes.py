"""The two recipes: as specified to the letter, and tuned as it was before there were two."""

from dataclasses import replace

import numpy as np
import pytest

from workbook.settings import VARIABLES, read_config
from workbook.support.tensorflow_start import keras
from workbook.training import checkpoint, recipes


@pytest.fixture
def config(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return read_config(preset="quick", dataset="toys", size=32, runs=str(tmp_path))


@pytest.mark.parametrize("triplets", ["random", "close-distance"])
def test_as_specified(config, triplets):
    recipe = recipes.specified(triplets)
    assert (recipe.triplets, recipe.mining) == (triplets, None)
    assert (recipe.margin, recipe.normalize, recipe.active_only) == (0.5, False, False)
    optimizer = recipe.make_optimizer(100)
    assert type(optimizer) is keras.optimizers.Adam
    assert float(optimizer.learning_rate) == pytest.approx(1e-4)


def test_a_third_choice_of_triplets_is_refused():
    with pytest.raises(ValueError, match="'hardest' is not one of: random, close-distance"):
        recipes.specified("hardest")


def test_tuned_depends_on_whether_the_start_is_pretrained(config):
    def chosen(recipe):
        assert not recipe.active_only
        return recipe.mining, recipe.margin, recipe.temperature, recipe.learning_rate

    assert chosen(recipes.tuned(config)) == ("semi-hard", 0.5, None, 3e-4)
    pretrained = replace(config, weights="imagenet")
    assert chosen(recipes.tuned(pretrained)) == ("hard", 1.0, 0.2, 1e-3)
    assert recipes.tuned(pretrained).description == "soft (T = 0.2) hard triplets, margin 1.0"
    labels = {count: np.repeat(np.arange(count), 9) for count in (5, 40, 81)}
    shapes = {count: recipes.tuned(pretrained).batch_shape(labels[count]) for count in labels}
    assert shapes == {5: (5, 4), 40: (40, 3), 81: (64, 2)}
    assert recipes.tuned(config).batch_shape(labels[81]) == (16, 4)
    optimizer = recipes.tuned(config).make_optimizer(200)
    assert type(optimizer) is keras.optimizers.AdamW and optimizer.weight_decay == 1e-4
    assert recipes.tuned(pretrained).make_optimizer(200).weight_decay == 0.1
    rates = [float(optimizer._learning_rate(step)) for step in (0, 30, 200)]
    assert rates == pytest.approx([0, 3e-4, 0], abs=1e-9)


def test_the_setting_chooses_the_recipe_and_its_folder(config):
    assert recipes.recipe_of(config) == recipes.tuned(config)
    other = read_config(preset="quick", dataset="toys", runs=str(config.runs), recipe="specified")
    assert recipes.recipe_of(other) == recipes.specified("random")
    assert (config.run_dir.name, other.run_dir.name) == ("toys-quick", "toys-quick-specified")
    with pytest.raises(ValueError, match=r"SIAMESE_RECIPE='best'.* tuned \| specified"):
        read_config(recipe="best")


def test_only_the_tuned_embeddings_have_length_one(config):
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    lengths = [
        np.linalg.norm(recipe.build(config).predict_on_batch(image), axis=1)
        for recipe in (recipes.tuned(config), recipes.specified())
    ]
    assert lengths[0] == pytest.approx(np.ones(4), abs=1e-5)
    assert abs(lengths[1] - 1).min() > 0.1


def test_an_interrupted_training_ends_in_one_line():
    error = checkpoint.Interrupted(3)
    line = "interrupted after epoch 3; run this cell again to go on"
    assert isinstance(error, KeyboardInterrupt) and error._render_traceback_() == [line]
