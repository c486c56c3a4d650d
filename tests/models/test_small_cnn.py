"""The small network for characters, and its random distortions."""

import numpy as np
import pytest

import siamese_utils as su
from workbook.models.saved_models import load_model, save_model
from workbook.models.small_cnn import RandomAffine, build_character_embedding

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 35, 35, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def embedding():
    return build_character_embedding(seed=1)


def test_nothing_is_frozen(embedding):
    trunk, tail = su.split_at_freeze_point(embedding)
    assert trunk.count_params() == 0
    np.testing.assert_array_equal(trunk(IMAGES), IMAGES)
    np.testing.assert_allclose(tail(IMAGES), embedding(IMAGES), atol=1e-6)
    assert len(tail.trainable_weights) == 4 * 3 + 2


def test_embeddings_have_length_one_if_asked(embedding):
    lengths = np.linalg.norm(su.embed(embedding, IMAGES), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    free = su.embed(build_character_embedding(seed=1, normalize=False), IMAGES)
    assert np.ptp(np.linalg.norm(free, axis=1)) > 1e-3


def test_the_seed_decides_the_weights(embedding):
    same, other = build_character_embedding(seed=1), build_character_embedding(seed=2)
    np.testing.assert_array_equal(su.embed(same, IMAGES), su.embed(embedding, IMAGES))
    assert not np.allclose(su.embed(other, IMAGES), su.embed(embedding, IMAGES))


def test_a_saved_embedding_is_the_same(embedding, tmp_path):
    save_model(embedding, tmp_path / "embedding.keras")
    loaded = load_model(tmp_path / "embedding.keras")
    np.testing.assert_array_equal(su.embed(loaded, IMAGES), su.embed(embedding, IMAGES))


def test_distortion_only_acts_in_training(embedding):
    layer = RandomAffine(seed=3)
    np.testing.assert_array_equal(layer(IMAGES), IMAGES)
    first, second = np.asarray(layer(IMAGES, training=True)), layer(IMAGES, training=True)
    assert first.shape == IMAGES.shape
    assert not np.allclose(first, IMAGES) and not np.allclose(first, second)
    np.testing.assert_array_equal(first, RandomAffine(seed=3)(IMAGES, training=True))
    assert not np.allclose(embedding(IMAGES, training=True), embedding(IMAGES, training=True))


@pytest.mark.parametrize("side", [8, 9])
def test_no_amount_changes_nothing(side):
    layer = RandomAffine(turn=0, shear=0, stretch=0, shift=0)
    np.testing.assert_allclose(
        layer(IMAGES[:, :side, :side], training=True), IMAGES[:, :side, :side], atol=1e-3
    )


def find_middle(image):
    """The centre of gravity of the ink, as (row, column)."""
    rows, columns = np.indices(image.shape)
    return np.array([(rows * image).sum(), (columns * image).sum()]) / image.sum()


def dots(*places):
    image = np.zeros((1, 35, 35, 1), np.float32)
    for row, column in places:
        image[0, row - 1 : row + 2, column - 1 : column + 2] = 255
    return np.repeat(image, 200, axis=0)


def test_a_shift_moves_up_to_its_pixels():
    layer = RandomAffine(turn=0, shear=0, stretch=0, shift=4, seed=0)
    moved = np.array(
        [find_middle(v[..., 0]) - 17 for v in np.asarray(layer(dots((17, 17)), training=True))]
    )
    assert np.abs(moved).max() <= 4.01 and moved.max() > 3.5 and moved.min() < -3.5
    assert np.abs(moved.mean(axis=0)).max() < 0.6


def test_a_turn_keeps_the_distance_from_the_middle():
    layer = RandomAffine(turn=20, shear=0, stretch=0, shift=0, seed=0)
    moved = np.array(
        [find_middle(v[..., 0]) - 17 for v in np.asarray(layer(dots((17, 27)), training=True))]
    )
    angles = np.degrees(np.arctan2(moved[:, 0], moved[:, 1]))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 10, atol=0.3)
    assert np.abs(angles).max() < 21 and angles.max() > 17 and angles.min() < -17


def test_a_stretch_and_a_shear_leave_the_middle_in_place():
    for options in ({"stretch": 0.2, "shear": 0}, {"stretch": 0, "shear": 0.3}):
        layer = RandomAffine(turn=0, shift=0, seed=0, **options)
        middle = np.asarray(layer(dots((17, 17)), training=True))
        assert np.abs([find_middle(v[..., 0]) - 17 for v in middle]).max() < 0.3
    right = [find_middle(v[..., 0]) - 17 for v in np.asarray(layer(dots((17, 27)), training=True))]
    assert np.ptp(np.array(right)[:, 0]) > 4, "sheared: the right side moves up and down"
