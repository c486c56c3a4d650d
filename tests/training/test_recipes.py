"""The two recipes: as specified to the letter, and tuned as it was before there were two."""

from dataclasses import fields, replace

import numpy as np
import pytest
from small_models import small_backbone

from workbook.settings import read_config
from workbook.support.tensorflow_start import keras
from workbook.training import checkpoint, recipes
from workbook.training.optimizers import FusedAdamW


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Settings with a small backbone of a file."""
    folder = tmp_path_factory.mktemp("recipes")
    small_backbone().save(folder / "small.keras")
    options = {"backbone": str(folder / "small.keras"), "size": 16, "runs": str(folder)}
    return read_config({}, preset="quick", dataset="toys", **options)


@pytest.mark.parametrize("triplets", ["random", "close-distance"])
def test_as_specified(triplets):
    recipe = recipes.specified(triplets)
    assert (recipe.triplets, recipe.mining) == (triplets, None)
    assert (recipe.margin, recipe.normalize, recipe.active_only) == (0.5, False, False)
    optimizer = recipe.make_optimizer(100)
    assert type(optimizer) is keras.optimizers.Adam
    assert float(optimizer.learning_rate) == pytest.approx(1e-4)


def test_a_third_choice_of_triplets_is_refused():
    with pytest.raises(ValueError, match="'hardest' is not one of: random, close-distance"):
        recipes.specified("hardest")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"triplets": "hardest", "mining": None}, "'hardest' is not one of: random, close-dist"),
        ({"triplets": "random"}, "explicit ones must have none"),
        ({"mining": None}, "mined triplets need a mining strategy"),
        ({"triplets": "random", "mining": None, "temperature": 0.2}, "of the mined triplets alone"),
        (
            {"triplets": "random", "mining": None, "active_only": True},
            "of the mined triplets alone",
        ),
        ({"loss": "arcface", "temperature": 0.2}, "the loss of the mined triplets alone"),
        ({"optimizer": "SGD"}, "optimizer='SGD' is not one of: Adam, AdamW"),
    ],
)
def test_a_combination_without_meaning_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        recipes.Recipe("wrong", **options)


BASE = recipes.Recipe("base")
CHANGES = {  # each field of a recipe: what is changed, and where it shows
    "name": ({"name": "other"}, set()),
    "triplets": ({"triplets": "random", "mining": None}, {"model", "mining"}),
    "mining": ({"mining": "hard"}, {"mining"}),
    "margin": ({"margin": 0.7}, {"margin"}),
    "temperature": ({"temperature": 0.2}, {"temperature"}),
    "active_only": ({"active_only": True}, {"active_only"}),
    "normalize": ({"normalize": False}, {"length 1"}),
    "optimizer": ({"optimizer": "Adam"}, {"optimizer", "rates", "weight decay"}),
    "learning_rate": ({"learning_rate": 1e-2}, {"rates"}),
    "weight_decay": ({"weight_decay": 0.1}, {"weight decay"}),
    "classes": ({"classes": 5}, {"batch shape"}),
    "images": ({"images": 32}, {"batch shape"}),
    "loss": ({"loss": "softmax"}, {"model", "loss", "options", "mining"}),
    "options": (
        {"loss": "triplet", "options": {"margin": 0.7}},
        {"model", "loss", "options", "mining"},
    ),
}


def describe(recipe, config):
    """What a recipe builds: of the model, its optimizer and its batches."""
    embedding = recipe.build_embedding(config)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.float32)
    lengths = np.linalg.norm(embedding(images), axis=1)
    model = recipe.build_model(embedding.get_layer("trainable_tail"), np.arange(20))
    optimizer, settings = recipe.make_optimizer(200), model.get_config()
    rate = optimizer._learning_rate
    steps = (0, 15, 30, 200)
    return {
        "model": type(model).__name__,
        "margin": settings["margin"],
        "mining": settings.get("mining"),
        "temperature": settings.get("temperature"),
        "active_only": settings.get("active_only", False),
        "loss": getattr(model, "batch_loss", None),
        "options": getattr(model, "options", None),
        "length 1": np.allclose(lengths, 1, atol=1e-5),
        "optimizer": type(optimizer).__name__,
        "rates": [float(rate(s) if callable(rate) else rate) for s in steps],
        "weight decay": optimizer.weight_decay,
        "batch shape": recipe.batch_shape(np.repeat(np.arange(20), 9)),
    }


@pytest.fixture(scope="module")
def base(config):
    return describe(BASE, config)


@pytest.mark.parametrize("field", [field.name for field in fields(recipes.Recipe)])
def test_each_field_of_a_recipe_changes_what_is_built_and_nothing_else(field, base, config):
    change, shows_in = CHANGES[field]
    assert field in change
    changed = describe(replace(BASE, **change), config)
    assert {name for name in base if changed[name] != base[name]} == shows_in


def test_tuned_depends_on_whether_the_start_is_pretrained(config):
    def chosen(recipe):
        assert not recipe.active_only
        return recipe.mining, recipe.margin, recipe.temperature, recipe.learning_rate

    scratch, pretrained = (recipes.tuned(replace(config, weights=w)) for w in ("none", "imagenet"))
    assert chosen(scratch) == ("semi-hard", 0.5, None, 3e-4)
    assert chosen(pretrained) == ("hard", 1.0, 0.2, 1e-3)
    assert pretrained.description == "hard triplets, margin 1.0, soft (T = 0.2)"
    labels = {count: np.repeat(np.arange(count), 9) for count in (5, 40, 81)}
    shapes = {count: pretrained.batch_shape(labels[count]) for count in labels}
    assert shapes == {5: (5, 4), 40: (40, 3), 81: (64, 2)}
    assert scratch.batch_shape(labels[81]) == (16, 4)
    optimizer = scratch.make_optimizer(200)
    assert type(optimizer) is FusedAdamW and optimizer.weight_decay == 1e-4
    assert pretrained.make_optimizer(200).weight_decay == 0.1
    rates = [float(optimizer._learning_rate(step)) for step in (0, 30, 200)]
    assert rates == pytest.approx([0, 3e-4, 0], abs=1e-9)


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_from_specified_to_tuned_one_change_leads_to_the_next(config, weights):
    config = replace(config, weights=weights)
    steps = recipes.one_change_at_a_time(config)
    assert steps[:2] == [recipes.specified("random"), recipes.specified("close-distance")]
    assert replace(steps[-1], name="tuned") == recipes.tuned(config)
    assert len({recipe.name for recipe in steps}) == len(steps)


@pytest.mark.parametrize("counts", [[9], [9, 1], [1, 1, 1], []])
def test_a_dataset_without_a_batch_is_refused(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    with pytest.raises(ValueError, match="two classes with two training images each"):
        BASE.batch_shape(labels)


def test_learning_rate_rises_then_falls_to_zero():
    rate = recipes.warm_cosine(0.1, 100, warm_up=20)
    values = [float(rate(step)) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(values, [0, 0.05, 0.1, 0.05, 0], atol=1e-6)
    short = recipes.warm_cosine(0.1, 8)
    assert float(short(2)) == pytest.approx(0.1), "a quarter of the steps at most"


def test_the_setting_chooses_the_recipe_and_its_folder(config):
    other = replace(config, recipe="specified")
    assert recipes.choose_recipe(config) == recipes.tuned(config)
    assert recipes.choose_recipe(other) == recipes.specified("random")
    assert (config.run_dir.name, other.run_dir.name) == ("toys-quick", "toys-quick-specified")
    with pytest.raises(ValueError, match=r"SIAMESE_RECIPE='best'.* tuned \| specified"):
        read_config({}, recipe="best")


def test_an_interrupted_training_ends_in_one_line():
    error = checkpoint.Interrupted(3)
    line = "interrupted after epoch 3; run this cell again to continue"
    assert isinstance(error, KeyboardInterrupt) and error._render_traceback_() == [line]
