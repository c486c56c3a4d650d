"""The small network for characters, and its random distortions."""

import numpy as np
import pytest

import siamese_utils as su
from workbook.models.saved_models import load_model, save_model
from workbook.models.small_cnn import CenterInk, RandomAffine, build_character_embedding

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


def measure_ink(images):
    """The middle of the ink of each image, as (row, column), and its spread around it."""
    images = np.asarray(images)[..., 0]
    middles = np.array([find_middle(image) for image in images])
    rows, columns = np.indices(images.shape[1:])
    squares = (rows - middles[:, :1, None]) ** 2 + (columns - middles[:, 1:, None]) ** 2
    return middles, np.sqrt((squares * images).sum((1, 2)) / images.sum((1, 2)))


@pytest.mark.parametrize("side", [35, 36])
@pytest.mark.parametrize("spread", [6.0, 8.0])
def test_centred_ink_is_in_the_middle_and_of_one_size(side, spread):
    drawn = np.concatenate(
        [
            dots((8, 9), (20, 9), (14, 25))[:1],
            dots((20, 20), (29, 30))[:1],
            dots((17, 5), (17, 24))[:1],
        ]
    )[:, :side]
    drawn = np.pad(drawn, ((0, 0), (0, side - 35), (0, side - 35), (0, 0)))
    middles, spreads = measure_ink(CenterInk(spread)(drawn))
    np.testing.assert_allclose(middles, (side - 1) / 2, atol=0.15)
    # where ink is made smaller, interpolation between four pixels leaves some of it out
    np.testing.assert_allclose(spreads, spread, rtol=0.1)
    assert np.ptp(measure_ink(drawn)[0]) > 5 and np.ptp(measure_ink(drawn)[1]) > 1


def test_centring_keeps_the_shape_of_a_drawing():
    three = dots((8, 9), (8, 21), (20, 9))[:1]
    moved = np.roll(three, (5, 4), axis=(1, 2))
    centred = CenterInk(8.0)(np.concatenate([three, moved]))
    np.testing.assert_allclose(centred[0], centred[1], atol=1.0)
    unchanged = np.roll(three, (5, 4), axis=(1, 2))[:, :, :, 0] > 0
    assert unchanged.sum() == 27, "the second drawing is whole"


def test_little_or_no_ink_is_neither_lost_nor_blown_up():
    dot = dots((30, 4))[:1]
    middles, spreads = measure_ink(CenterInk(8.0)(dot))
    np.testing.assert_allclose(middles, 17, atol=0.1)
    assert spreads[0] <= 2 * measure_ink(dot)[1][0] + 0.5, "the sides are doubled at most"
    assert not np.asarray(CenterInk()(np.zeros((2, 35, 35, 1)))).any()


def test_without_centring_the_ink_stays(embedding):
    free = build_character_embedding(seed=1, spread=None)
    assert free.count_params() == embedding.count_params()
    names = [layer.name for layer in su.split_at_freeze_point(free)[1].layers[1].layers]
    assert "centering" not in names and "distortion" in names
    moved = np.roll(dots((12, 12), (12, 20), (22, 14))[:1], 3, axis=2)
    drawn = np.concatenate([np.roll(moved, -3, axis=2), moved])
    near, far = su.embed(embedding, drawn), su.embed(free, drawn)
    assert np.abs(near[0] - near[1]).max() < 0.02 < np.abs(far[0] - far[1]).max()


def test_options_of_the_distortion_reach_it():
    built = build_character_embedding(distortion={"turn": 15.0, "shift": 1.0})
    layer = su.split_at_freeze_point(built)[1].get_layer("backbone_tail").get_layer("distortion")
    assert (layer.turn, layer.shift, layer.shear) == (15.0, 1.0, 0.3)


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
