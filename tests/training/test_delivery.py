"""What is taken home: chosen on held-out images alone, and trained on everything at the end."""

from dataclasses import replace

import numpy as np
import pytest
from test_trainer import config, make_dataset  # noqa: F401  # the first is a fixture

from workbook.training import delivery
from workbook.training.delivery import USUAL, WEIGHTS, choose_weight, train_on_everything
from workbook.training.trainer import Trainer

CLASSES, EACH = 12, 16


@pytest.fixture
def data():
    """Twelve classes, of which four are unseen; of the others 4 of 16 images are validation."""
    large = make_dataset()
    labels = np.repeat(np.arange(CLASSES), EACH)
    splits = np.tile(["train"] * 9 + ["validation"] * 4 + ["test"] * 3, CLASSES)
    splits[labels >= 8] = "unseen"
    return replace(large, labels=labels, splits=splits, images=np.zeros((len(labels), 2, 2, 3)))


def vectors(data, noise, seed=0):
    """Unit vectors (n, 12), near an axis of the image's class where there is little noise."""
    rng = np.random.default_rng(seed)
    points = np.eye(CLASSES)[data.labels] + noise * rng.normal(size=(len(data.labels), CLASSES))
    return np.float32(points / np.linalg.norm(points, axis=1, keepdims=True))


def misleading(data):
    """Vectors that lie tightly around the axis of a wrong class, drawn for each image."""
    rng = np.random.default_rng(2)
    return vectors(replace(data, labels=rng.integers(0, CLASSES, len(data.labels))), 0.01)


def test_plain_features_are_taken_where_training_did_not_help(data):
    choice = choose_weight(vectors(data, 0.3), misleading(data), data)
    assert choice.weight == 0
    assert "the gallery holds the plain features" in choice.describe(trained_anew=True)
    assert "plain features" in choice.describe(trained_anew=True).splitlines()[0]


def test_the_trained_embedding_is_taken_where_plain_features_only_disturb(data):
    choice = choose_weight(misleading(data), vectors(data, 0.3), data)
    assert choice.weight > USUAL
    assert "before its last training" in choice.describe(trained_anew=True)
    assert "last training" not in choice.describe(trained_anew=False)


def test_a_tie_keeps_the_usual_mixture(data):
    same = vectors(data, 0.3)
    choice = choose_weight(same, same, data)
    assert choice.weight == USUAL and "none is better" in choice.reason


@pytest.mark.parametrize("kept", [0, 30])
def test_few_held_out_images_choose_nothing(data, kept):
    rows = np.flatnonzero(np.isin(data.splits, ["validation", "unseen"]))
    splits = data.splits.copy()
    splits[rows[kept:]] = "train"
    few = replace(data, splits=splits)
    choice = choose_weight(misleading(few), vectors(few, 0.3), few)
    assert choice.weight == USUAL and "too few" in choice.reason
    last = choice.describe(trained_anew=True).splitlines()[-1]
    assert ("none could be held out" in last) == (kept == 0)


@pytest.fixture
def few(data):
    """Five classes, so that none is held out: 45 training, 20 validation and 15 test images."""
    rows = np.flatnonzero(data.labels < 5)
    return replace(
        data, labels=data.labels[rows], splits=data.splits[rows], images=data.images[rows]
    )


def leaning(data, rows):
    """Vectors on the axis of the class; those of `rows` lean to the axis of the next class."""
    points = np.eye(CLASSES)[data.labels]
    points[rows] = 0.6 * points[rows] + 0.8 * np.eye(CLASSES)[data.labels[rows] + 1]
    return np.float32(points)


@pytest.mark.parametrize(("wrong", "weight"), [(0, 0.0), (3, 0.0), (4, USUAL)])
def test_with_few_classes_plain_features_must_leave_room(few, wrong, weight):
    """3 of 65 are 0.046 ± 0.026 and 4 of 65 are 0.062 ± 0.030: above two standard errors."""
    rows = few.where("train", "validation")[::16][:wrong]  # far apart, of different classes
    choice = choose_weight(leaning(few, rows), leaning(few, []), few)
    assert choice.weight == weight
    assert f"{wrong} of 65 images are closest to one of another class" in choice.reason
    assert ("leaves room to gain" in choice.reason) == bool(weight)
    said = choice.describe(trained_anew=True).splitlines()
    assert said[0].startswith(f"taken home: {delivery.name_weight(weight)} (below 8 classes")
    assert "the gallery holds the plain features" in said[-1] or weight


def test_with_few_classes_test_images_have_no_say_either(few):
    assert choose_weight(leaning(few, few.where("test")), leaning(few, []), few).weight == 0


def test_test_images_have_no_say(data):
    plain, trained = vectors(data, 0.3), vectors(data, 0.4, seed=1)
    before = choose_weight(plain, trained, data)
    test = data.where("test")
    plain[test], trained[test] = trained[test][::-1], 0.5
    after = choose_weight(plain, trained, data)
    assert after.weight == before.weight
    for weight in WEIGHTS:
        for part, answers in before.answers[weight].items():
            np.testing.assert_array_equal(after.answers[weight][part], answers)


def test_the_answers_are_those_of_the_closest_images(data):
    trained = vectors(data, 0.5, seed=1)
    choice = choose_weight(vectors(data, 0.5), trained, data)
    train, asked = data.where("train"), data.where("validation")
    nearest = ((trained[asked][:, None] - trained[train]) ** 2).sum(axis=-1).argmin(axis=1)
    expected = data.labels[train][nearest] == data.labels[asked]
    np.testing.assert_array_equal(choice.answers[1.0]["validation"], expected)
    assert 0 < expected.mean() < 1


@pytest.fixture
def photos(config, tmp_path):  # noqa: F811
    """(settings of a folder of one's own with two views of each image, its images)."""
    data = make_dataset()
    data.splits[data.labels == 5] = "unseen"
    return replace(config, dataset=str(tmp_path), runs=tmp_path / "runs", views=2), data


def test_the_last_training_sees_every_image_and_is_kept(photos, monkeypatch):
    config, data = photos  # noqa: F811
    seen = []
    fit = Trainer.fit

    def watched(trainer, **options):
        drawn = [trainer.features.rows[trainer._draw(e) % len(data.labels)] for e in range(9)]
        seen.append(np.unique(drawn))
        return fit(trainer, **options)

    monkeypatch.setattr(Trainer, "fit", watched)
    first = train_on_everything(config, data)
    assert [rows.tolist() for rows in seen] == [list(range(36))]
    again = train_on_everything(config, data)
    assert len(seen) == 1, "it is read, not trained"
    for one, other in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)
    data.labels[:] = data.labels[::-1]
    data.__dict__.pop("fingerprint", None)
    train_on_everything(config, data)
    assert len(seen) == 2, "other labels: trained anew"


def test_catalogue_images_are_not_trained_on(photos):
    _, data = photos
    data.splits[0] = "reference"
    everything = delivery.label_all_as_training(data)
    assert everything.where("reference").tolist() == [0]
    assert everything.where("train").tolist() == list(range(1, 36))


def test_views_of_all_images_serve_a_training_on_some_of_them(photos):
    """Of a folder of one's own the views of all are kept; a batch still holds training images."""
    config, data = photos  # noqa: F811
    trainer = Trainer(config, delivery.choose_recipe(config), data)
    kept, train = trainer.features, data.where("train")
    assert len(kept.views) == 2 * 36 and len(train) < 36
    plain = np.float32(kept.images)
    trainer.batches.set_epoch(1)
    images, labels = trainer.batches[0]
    first_view = 0
    for image, label, index in zip(images, labels, trainer.batches.batches[0]):
        row = index % 36
        assert row in train and data.labels[row] == label
        first_view += index < 36
        assert (np.float32(image) == plain[row]).all() == (index < 36)
    assert 0 < first_view < len(images)
