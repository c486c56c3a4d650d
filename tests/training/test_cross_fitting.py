"""Cross-fitting: each class is a stranger to an embedding that never saw it, and no image helps."""

from dataclasses import replace

import numpy as np
import pytest
from test_trainer import config, make_dataset  # noqa: F401  # the first is a fixture

from workbook.models.mixture import mix_vectors
from workbook.training import cross_fitting
from workbook.training.cross_fitting import FOLDS, can_cross_fit, cross_fit, draw_folds
from workbook.training.trainer import Trainer, plain_features

CLASSES, EACH = 9, 4


@pytest.fixture
def own(config, tmp_path):  # noqa: F811
    """(settings of a folder of one's own, its nine classes of four images)."""
    data = make_dataset()
    labels = np.repeat(np.arange(CLASSES), EACH).astype(np.int32)
    names = [f"class {i}" for i in range(CLASSES)]
    data = replace(data, labels=labels, class_names=names, splits=np.full(36, "train", "U9"))
    return replace(config, dataset=str(tmp_path), runs=tmp_path / "runs", views=1), data


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_trials_are_those_of_four_embeddings_that_saw_nothing_of_them(own, weight, monkeypatch):
    config, data = own  # noqa: F811
    seen, fit = [], Trainer.fit

    def watched(trainer):
        result = fit(trainer)
        seen.append((trainer.features.rows, trainer.embed()))
        return result

    monkeypatch.setattr(Trainer, "fit", watched)
    trials = cross_fit(config, data, weight)
    class_folds, image_folds = draw_folds(data.labels, config.data_seed)
    plain = plain_features(config, data)
    assert len(seen) == (FOLDS if weight else 0)

    known, strangers, right = [], [], []
    for fold in range(FOLDS):
        is_stranger = class_folds[data.labels] == fold
        is_known = ~is_stranger & (image_folds == fold)
        trained = np.flatnonzero(~is_stranger & ~is_known)
        vectors = plain
        if weight:
            rows, embeddings = seen[fold]
            assert rows.tolist() == trained.tolist()
            vectors = mix_vectors(plain, embeddings, weight)
        distances = np.square(vectors[:, None] - vectors[trained].astype(float)).sum(axis=-1)
        nearest = data.labels[trained][distances.argmin(axis=1)]
        known += [*zip(data.labels[is_known], distances.min(axis=1)[is_known])]
        right += [*(nearest == data.labels)[is_known]]
        strangers += [*zip(data.labels[is_stranger], distances.min(axis=1)[is_stranger])]
    found = [*zip(trials.known_classes, trials.known_distances)]
    np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-6)
    found = [*zip(trials.stranger_classes, trials.stranger_distances)]
    np.testing.assert_allclose(found, strangers, rtol=1e-4, atol=1e-6)
    assert trials.known_right.tolist() == right
    assert np.bincount(trials.stranger_classes).tolist() == [EACH] * CLASSES, "each class once"
    assert trials.known_held_out and not trials.strangers_simulated


def test_catalogue_images_are_neither_trained_on_nor_compared(own):
    config, data = own  # noqa: F811
    data.splits[:2] = "reference"
    trials = cross_fit(config, data, 0.0)
    assert np.bincount(trials.stranger_classes).tolist() == [EACH - 2] + [EACH] * (CLASSES - 1)


def test_folds_hold_out_a_quarter_of_each_class(own):
    _, data = own
    class_folds, image_folds = draw_folds(data.labels, 3)
    assert sorted(np.bincount(class_folds)) == [2, 2, 2, 3]
    for label in range(CLASSES):
        assert sorted(image_folds[data.labels == label]) == [0, 1, 2, 3]


def test_a_folder_is_cross_fitted_only_where_it_is_small_and_large_enough(own, monkeypatch):
    _, data = own
    assert can_cross_fit(data)
    assert not can_cross_fit(replace(data, test_is_given=True))
    assert not can_cross_fit(replace(data, labels=data.labels // 2)), "five classes"
    few = data.labels.copy()
    few[0] = 1
    assert not can_cross_fit(replace(data, labels=few)), "a class of three images"
    monkeypatch.setattr(cross_fitting, "MOST_IMAGES", 35)
    assert not can_cross_fit(data)
