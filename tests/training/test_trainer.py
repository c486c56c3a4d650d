"""The training loop: what it trains on, what it keeps, and that nothing of another run is used."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from small_models import small_backbone

import siamese_utils as su
from workbook.data.images import ImageDataset
from workbook.settings import read_config
from workbook.training import callbacks, recipes, trainer
from workbook.training.provenance import describe_origin
from workbook.training.trainer import Trainer, keep_features, load_trained

MINED = recipes.Recipe("mined", classes=3, images=9, learning_rate=3e-3)
RANDOM = replace(recipes.specified("random"), classes=3, images=9, learning_rate=1e-3)
CLOSE = replace(RANDOM, name="close", triplets="close-distance")
SPLITS = ["train", "train", "train", "train", "validation", "test"]


def make_dataset(seed=0, folder="photos"):
    """36 noisy images of six classes: four of each to train on, one for validation, one to test."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(6), 6)
    classes = rng.integers(0, 256, (6, 16, 16, 3))
    images = np.clip(classes[labels] + rng.normal(scale=60, size=(36, 16, 16, 3)), 0, 255)
    return ImageDataset(
        name=folder,
        images=images.astype(np.uint8),
        labels=labels.astype(np.int32),
        class_names=[f"class {i}" for i in range(6)],
        paths=[f"{folder}/{i}.png" for i in range(36)],
        splits=np.array(SPLITS * 6),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Settings with a small backbone of a file, of which the whole is frozen."""
    folder = tmp_path_factory.mktemp("trainer")
    keras.utils.set_random_seed(0)
    small_backbone().save(folder / "small.keras")
    options = {"backbone": str(folder / "small.keras"), "size": 16, "runs": str(folder / "runs")}
    return read_config({}, preset="quick", dataset="toys", epochs=3, **options)


@pytest.fixture(scope="module")
def data():
    return make_dataset()


def train(config, recipe, data, folder=None, callbacks=(), keep_best=False, **options):
    trained = Trainer(config, recipe, data, **options)
    return trained, trained.fit(folder=folder, callbacks=callbacks, keep_best=keep_best)


@pytest.fixture(scope="module")
def trained(config, data, tmp_path_factory):
    """(folder, trainer, result) of a training that was saved."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *train(config, MINED, data, folder)


# ------------------------------------------------------------------------------- what it trains on


@pytest.mark.parametrize("recipe", [RANDOM, CLOSE, MINED], ids=lambda recipe: recipe.triplets)
def test_every_recipe_trains_and_is_validated_after_each_epoch(config, data, recipe):
    trainer_, result = train(config, recipe, data, epochs=2)
    names = {"loss", "d_ap", "d_an", "active", "val_recall@1"}
    assert result.history.keys() == names and len(result.history["loss"]) == 2
    assert np.isfinite(list(result.history.values())).all()
    assert result.history["val_recall@1"][-1] == pytest.approx(trainer_.recall("validation"))
    assert (result.epochs, result.best_epoch) == (2, 2) and result.seconds > 0


def test_a_training_by_seconds_with_a_loss_of_batches(config, data, tmp_path, monkeypatch):
    clock = iter(range(1000))  # every step takes a second
    monkeypatch.setattr(callbacks.time, "process_time", lambda: next(clock))
    recipe = replace(MINED, loss="arcface", options={"scale": 8.0})
    options = {"steps": 3, "seconds": 4}
    trainer_, result = train(config, recipe, data, **options)
    assert trainer_.budget.steps == 5, "the first one is not counted"
    assert result.epochs == 2 and result.images_seen == 5 * 9
    assert trainer_.model.proxies.shape == (6, trainer_.tail.output_shape[1])
    assert recipe.description == "arcface, scale 8"
    with pytest.raises(ValueError, match="by seconds cannot be continued: give it no folder"):
        trainer_.fit(folder=tmp_path)


def drawn_images(trainer_, epoch):
    """The images of an epoch's batches as rows of the dataset, whatever their view."""
    rows = trainer_.features.rows
    return rows[trainer_._draw(epoch) % len(rows)]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("recipe", [RANDOM, CLOSE, MINED], ids=lambda recipe: recipe.triplets)
def test_batches_hold_training_images_only_and_their_own_labels(config, data, recipe, views):
    trainer_ = Trainer(replace(config, views=views), recipe, data)
    rows, batches = drawn_images(trainer_, 1), trainer_.batches
    assert set(rows.flat) <= set(data.where("train"))
    batches.set_epoch(1)
    if recipe.mining:
        assert rows.shape == (trainer_.steps, 9)
        images, labels = batches[0]
        np.testing.assert_array_equal(labels, data.labels[rows[0]])
        plain = images[batches.batches[0] < len(trainer_.features.rows)] if views == 2 else images
    else:
        assert rows.shape == (trainer_.steps, 3, 3), "as many images as a batch of P x K has"
        a, p, n = data.labels[rows].reshape(-1, 3).T
        assert (a == p).all() and (a != n).all()
        images = batches[0][0][0]
        plain = images if views == 1 else images[batches.batches[0, :, 0] < 24]
    kept = np.float32(trainer_.features.images[data.where("train")])
    assert all((image == kept).all(axis=(1, 2, 3)).any() for image in plain)


def test_close_distance_triplets_are_those_of_the_embeddings(config, data):
    trainer_ = Trainer(config, CLOSE, data)
    rows = data.where("train")
    chosen = rows[su.close_distance_triplets(trainer_.embed(rows), data.labels[rows])]
    assert set(map(tuple, drawn_images(trainer_, 0).reshape(-1, 3))) <= set(map(tuple, chosen))


def test_random_and_close_distance_recipes_draw_other_triplets(config, data):
    random, close = (drawn_images(Trainer(config, recipe, data), 0) for recipe in (RANDOM, CLOSE))
    assert random.shape == close.shape and (random != close).any()


def test_further_views_are_augmented_and_trained_on(config, data):
    two = replace(config, views=2)
    kept = keep_features(two, data)
    assert kept.views.shape == (48, *kept.images.shape[1:]) and kept.number_of_views == 2
    np.testing.assert_allclose(kept.views[:24], kept.images[data.where("train")], atol=1e-2)
    assert (kept.views[24:] != kept.views[:24]).any(axis=(1, 2, 3)).all()
    trainer_, result = train(two, MINED, data, features=kept, epochs=1)
    assert trainer_._draw(0).max() >= 24 and np.isfinite(result.history["loss"]).all()


def test_a_dataset_without_two_classes_of_two_training_images_is_refused(config):
    data = make_dataset()
    data.splits = np.where(np.arange(36) % 6 == 0, "train", "test")
    with pytest.raises(ValueError, match="two classes with two training images each"):
        Trainer(config, MINED, data)


def test_a_dataset_without_validation_images_trains_all_epochs(config):
    data = make_dataset()
    data.splits = np.array(["train", "train", "train", "train", "test", "test"] * 6)
    trainer_, result = train(config, MINED, data, keep_best=True, epochs=2)
    assert np.isnan(result.history["val_recall@1"]).all() and result.best_epoch == 2
    assert np.isfinite(trainer_.embed()).all()


def test_epochs_that_a_callback_cuts_off_are_not_counted(config, data):
    def stop(epoch, logs):
        trainer_.model.stop_training = epoch == 0

    trainer_ = Trainer(config, MINED, data)
    result = trainer_.fit(callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)])
    assert (result.epochs, result.best_epoch) == (1, 1)
    assert result.images_seen == trainer_.steps * 9


# ---------------------------------------------------------------------------------- reproducibility


def test_two_trainers_of_one_seed_agree_bit_by_bit_and_another_seed_does_not(config, data, trained):
    _, first, result = trained
    again, same = train(config, MINED, data)
    other, another = train(replace(config, seed=7), MINED, data)
    assert same.history == result.history != another.history
    np.testing.assert_array_equal(again.embed(), first.embed())
    assert (other.embed() != first.embed()).any()
    assert (first._draw(1) == again._draw(1)).all() and (first._draw(1) != other._draw(1)).any()


def test_a_reused_embedding_trains_like_a_new_one(config, data, trained):
    _, first, result = trained
    before, _ = train(config, replace(MINED, margin=1.0), data)
    again, same = train(config, MINED, data, reuse=before)
    assert again.embedding is before.embedding and same.history == result.history
    np.testing.assert_array_equal(again.embed(), first.embed())
    of_any_length = Trainer(config, RANDOM, data, reuse=before)
    assert of_any_length.embedding is not before.embedding, "RANDOM has embeddings of any length"


# -------------------------------------------------------------------- the weights of the best epoch


class Schedule(keras.callbacks.Callback):
    """Moves the embedding, so that the validation recall is high in the epoch that is told."""

    def __init__(self, best):
        super().__init__()
        self.best, self.weights = best, {}

    def on_epoch_end(self, epoch, logs=None):
        self.weights[epoch + 1] = self.model.embedding.get_weights()


@pytest.fixture
def recalls(monkeypatch):
    """Validation recalls that are told, one per epoch; the third is the highest."""
    values = {1: 0.2, 2: 0.5, 3: 0.9, 4: 0.9, 5: 0.1}

    class Told(trainer._Validation):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_recall@1"] = values[epoch + 1]

    monkeypatch.setattr(trainer, "_Validation", Told)
    return values


def stop_in(epoch):
    """A callback that interrupts as the stop button does, at the start of that epoch (from 1)."""

    def stop(now, logs):
        if now == epoch - 1:
            raise KeyboardInterrupt

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)


def equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("interrupted", [None, 3, 5], ids=["straight", "before it", "after it"])
def test_keep_best_ends_with_the_earliest_best_epoch(config, data, recalls, tmp_path, interrupted):
    kept = Schedule(3)
    options = {"folder": tmp_path, "keep_best": True, "epochs": 5}
    if interrupted:
        with pytest.raises(KeyboardInterrupt, match=f"after epoch {interrupted - 1}"):
            train(config, MINED, data, callbacks=[kept, stop_in(interrupted)], **options)
    trainer_, result = train(config, MINED, data, callbacks=[kept], **options)
    assert result.best_epoch == 3 and result.history["val_recall@1"] == [*recalls.values()]
    assert result.epochs == (5 if not interrupted else 6 - interrupted)
    assert equal(trainer_.tail.get_weights(), kept.weights[3])
    assert not equal(kept.weights[3], kept.weights[5])
    saved = load_trained(config, data, tmp_path)
    np.testing.assert_array_equal(
        su.embed(saved, data.images), su.embed(trainer_.embedding, data.images)
    )
    assert not list(tmp_path.glob("*.npz")), "neither checkpoints nor weights are left"


def test_what_fails_while_saving_costs_neither_the_training_nor_its_best_epoch(
    config, data, recalls, tmp_path, monkeypatch
):
    options = {"folder": tmp_path, "keep_best": True, "epochs": 5}
    kept, save_model = Schedule(3), trainer.save_model

    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr(trainer, "save_model", fail)
    with pytest.raises(OSError, match="full"):
        train(config, MINED, data, callbacks=[kept], **options)
    monkeypatch.setattr(trainer, "save_model", save_model)
    again, result = train(config, MINED, data, **options)
    assert (result.epochs, result.best_epoch) == (0, 3)
    assert equal(again.tail.get_weights(), kept.weights[3])


def test_an_interrupted_training_is_continued_to_the_same_result(config, data, trained, tmp_path):
    _, straight, expected = trained
    with pytest.raises(KeyboardInterrupt):
        train(config, MINED, data, tmp_path, [stop_in(2)])
    continued, result = train(config, MINED, data, tmp_path)
    assert result.history == expected.history and result.epochs == 2
    np.testing.assert_array_equal(continued.embed(), straight.embed())


def test_another_recipe_does_not_continue_an_interrupted_training(config, data, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        train(config, MINED, data, tmp_path, [stop_in(2)])
    other = replace(MINED, name="other margin", margin=0.7)
    _, result = train(config, other, data, tmp_path)
    assert result.epochs == 3
    assert "is of another training and not used: recipe" in capsys.readouterr().out


def test_snapshots_are_the_validation_embeddings_before_and_after_each_epoch(config, data):
    trainer_ = Trainer(config, MINED, data, epochs=2)
    watched = data.where("validation")
    before = trainer_.embed(watched)
    snapshots = trainer_.fit(keep_snapshots=True).snapshots
    assert list(snapshots) == [0, 1, 2]
    np.testing.assert_array_equal(snapshots[0], before)
    np.testing.assert_allclose(snapshots[2], trainer_.embed(watched), atol=1e-6)
    assert (snapshots[1] != snapshots[2]).any()


# ---------------------------------------------------------------------------- what is kept of a run


def test_what_was_trained_is_saved_with_its_origin_and_loaded(config, data, trained):
    folder, trainer_, _ = trained
    files = {path.name for path in folder.iterdir()} - {"training.lock"}
    assert files == {"embedding.keras", "embedding.keras.origin.json"}
    origin = json.loads((folder / "embedding.keras.origin.json").read_text("utf-8"))
    assert origin == json.loads(json.dumps(describe_origin(config, data), default=str))
    assert origin["seed"] == 42 and origin["head"] == "slim" and origin["data"] == "photos"
    np.testing.assert_array_equal(
        su.embed(load_trained(config, data, folder), data.images),
        su.embed(trainer_.embedding, data.images),
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 7}, r"other settings \(SEED=42 there, 7 here\)"),
        ({"head": "specified"}, r"other settings \(HEAD=slim there, specified here\)"),
        ({"recipe": "specified"}, r"other settings \(RECIPE=tuned there, specified here\)"),
        ({"epochs": 9, "size": 32}, r"SIZE=16 there, 32 here, EPOCHS=3 there, 9 here"),
    ],
)
def test_what_was_trained_with_other_settings_is_refused(config, data, trained, changes, message):
    with pytest.raises(ValueError, match=message + ".*run notebook 4"):
        load_trained(replace(config, **changes), data, trained[0])


@pytest.mark.parametrize("changes", [{"live": False}, {"seeds": 3}, {"xla": "on"}])
def test_settings_without_effect_on_the_result_may_differ(config, data, trained, changes):
    assert load_trained(replace(config, **changes), data, trained[0]).output_shape == (None, 256)


def test_what_was_trained_on_other_images_of_the_same_folder_name_is_refused(config, trained):
    with pytest.raises(ValueError, match=r"embedding\.keras was made from other images: run note"):
        load_trained(config, make_dataset(seed=1), trained[0])


@pytest.mark.parametrize("missing", ["embedding.keras", "embedding.keras.origin.json"])
def test_nothing_trained_yet_says_what_to_run(config, data, tmp_path, missing):
    for name in {"embedding.keras", "embedding.keras.origin.json"} - {missing}:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(FileNotFoundError, match="does not exist yet: run notebook 4"):
        load_trained(config, data, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_note_of_the_origin_is_refused(config, data, tmp_path, content):
    (tmp_path / "embedding.keras").write_bytes(b"")
    (tmp_path / "embedding.keras.origin.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"origin\.json is damaged: run notebook 4"):
        load_trained(config, data, tmp_path)
