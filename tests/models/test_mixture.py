"""Plain features beside a trained embedding: the distances, the model, and what is refused."""

import keras
import numpy as np
import pytest
from small_models import make_images, small_embedding

import siamese_utils as su
from workbook.gallery.gallery import Gallery
from workbook.models.mixture import mix_models, mix_vectors
from workbook.models.saved_models import load_model, save_model

IMAGES = make_images()


def average(feature_map):
    return keras.layers.GlobalAveragePooling2D()(feature_map)


@pytest.fixture(scope="module")
def parts():
    """(plain, trained): two models on one trunk; the embeddings of the second have any length."""
    keras.utils.set_random_seed(0)
    plain, trained = small_embedding(head=average), small_embedding(normalize=False)
    trunks = [su.split_at_freeze_point(model)[0] for model in (plain, trained)]
    trunks[1].set_weights(trunks[0].get_weights())
    return plain, trained


def squared_distances(vectors):
    return ((vectors[:, None] - vectors) ** 2).sum(axis=-1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("weight", [0.3, 0.5])
def test_the_squared_distance_is_the_weighted_sum_of_both_parts(parts, weight):
    plain, trained = (su.embed(model, IMAGES) for model in parts)
    mixed = mix_vectors(plain, trained, weight)
    distances = [squared_distances(unit(part)) for part in (plain, trained)]
    expected = (1 - weight) * distances[0] + weight * distances[1]
    np.testing.assert_allclose(squared_distances(mixed), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-5)


def test_at_its_ends_the_mixture_is_one_part_alone(parts):
    plain, trained = (su.embed(model, IMAGES) for model in parts)
    assert mix_vectors(plain, trained, 0) is plain and mix_vectors(plain, trained, 1) is trained
    assert mix_models(*parts, 0) is parts[0] and mix_models(*parts, 1) is parts[1]


def test_one_saved_model_gives_the_mixture_from_images_and_from_kept_features(parts, tmp_path):
    expected = mix_vectors(*(su.embed(model, IMAGES) for model in parts), 0.3)
    save_model(mix_models(*parts, 0.3), tmp_path / "mixture.keras")
    loaded = load_model(tmp_path / "mixture.keras")
    np.testing.assert_allclose(su.embed(loaded, IMAGES), expected, atol=1e-5)
    trunk, tail = su.split_at_freeze_point(loaded)
    features = trunk.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(su.embed(tail, features), expected, atol=1e-5)


def test_only_the_trained_part_could_be_trained_further(parts):
    mixture, (_, trained) = mix_models(*parts, 0.3), parts
    assert len(mixture.trainable_weights) == len(trained.trainable_weights) > 0


def test_a_gallery_of_the_mixture_names_images_after_it_was_saved(parts, tmp_path):
    gallery = Gallery(mix_models(*parts, 0.3))
    labels = [str(i) for i in range(len(IMAGES))]
    gallery.add(IMAGES, labels)
    gallery.save(tmp_path / "gallery")
    loaded = Gallery.load(tmp_path / "gallery")
    assert [loaded.identify(image, 1).label for image in IMAGES] == labels


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_of_0_to_1_is_refused(parts, weight):
    for mix in (mix_vectors, mix_models):
        with pytest.raises(ValueError, match="from 0 to 1"):
            mix(*parts, weight)


def test_parts_that_are_cut_at_different_layers_are_refused(parts):
    other = small_embedding(train_from=None)
    with pytest.raises(ValueError, match="the same TRAIN_FROM"):
        mix_models(parts[0], other, 0.5)
