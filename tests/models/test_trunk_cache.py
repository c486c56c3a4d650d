"""The cache of the frozen trunk's output, and the augmented views in it."""

import os

import keras
import numpy as np
import pytest
from small_models import LABELS, make_images, small_embedding

import siamese_utils as su
from workbook.models.augmentation import RandomCropResize, augmentation
from workbook.models.trunk_cache import trunk_features
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.mined_model import MinedSiameseModel


@pytest.fixture
def images():
    return make_images()


def test_cached_and_uncached_training_agree(images, tmp_path):
    results = []
    for cached in (False, True):
        keras.utils.set_random_seed(3)
        embedding = small_embedding()
        trunk, tail = su.split_at_freeze_point(embedding)
        inputs = trunk_features(trunk, images, tmp_path, dtype="float32") if cached else images
        model = MinedSiameseModel(tail if cached else embedding)
        model.compile(keras.optimizers.Adam(1e-3))
        sample = lambda epoch: pk_batches(LABELS, 4, 3, seed=epoch)  # noqa: E731
        model.fit(IndexBatches(inputs, LABELS, sample), epochs=4, verbose=0)  # 8 steps
        results.append(su.embed(embedding, images))
    np.testing.assert_allclose(*results, atol=1e-4)


def test_trunk_cache_is_keyed_and_never_half_used(images, tmp_path):
    trunk, _ = su.split_at_freeze_point(small_embedding())
    features = trunk_features(trunk, images, tmp_path, dtype="float32")
    np.testing.assert_allclose(features, trunk.predict(images, verbose=0), atol=1e-6)
    (file,) = tmp_path.glob("*.npy")
    os.utime(file, (0, 0))
    number = file.stat().st_ino
    trunk_features(trunk, images, tmp_path, dtype="float32")
    assert file.stat().st_ino == number, "the second call reads what the first wrote ..."
    assert file.stat().st_mtime > 1e9, "... and notes that it was used"
    del features
    file.write_bytes(file.read_bytes()[:-100])
    features = trunk_features(trunk, images, tmp_path, dtype="float32")
    np.testing.assert_allclose(features, trunk.predict(images, verbose=0), atol=1e-6)
    changed = images.copy()
    changed[5] += 1
    trunk_features(trunk, changed, tmp_path, dtype="float32")
    trunk_features(su.split_at_freeze_point(small_embedding())[0], images, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3, "other images, other weights: other files"


def test_trunk_cache_does_not_depend_on_how_many_models_were_built(tmp_path):
    for _ in range(2):  # Keras numbers the names that are not given
        keras.utils.set_random_seed(0)
        embedding = su.build_embedding_model((32, 32, 3), weights=None)
        trunk_features(su.split_at_freeze_point(embedding)[0], np.zeros((1, 32, 32, 3)), tmp_path)
    assert len(list(tmp_path.glob("trunk-*.npy"))) == 1


def test_augmented_views_follow_the_images_as_they_are(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    trunk, _ = su.split_at_freeze_point(small_embedding())
    plain = trunk_features(trunk, photos, tmp_path, dtype="float32", batch_size=4)
    views = trunk_features(trunk, photos, tmp_path, dtype="float32", batch_size=4, views=3)
    assert views.shape == (30, *plain.shape[1:])
    np.testing.assert_allclose(views[:10], plain, atol=1e-6)
    for image in range(10):
        first, second, third = views[image::10]
        assert (first != second).any() and (second != third).any()


def test_views_are_read_ahead_and_the_same_as_one_after_the_other(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    trunk, _ = su.split_at_freeze_point(small_embedding())
    options = {"dtype": "float32", "batch_size": 4, "views": 3}
    views = [trunk_features(trunk, photos, tmp_path / str(i), **options) for i in range(2)]
    np.testing.assert_array_equal(*views, err_msg="the same each time")
    augment, expected = augmentation(), []
    for first in range(0, 30, 4):  # batches of 4, the third of them half plain
        place = np.arange(first, min(first + 4, 30))
        batch = np.float32(photos[place % 10])
        if (place >= 10).any():
            batch[place >= 10] = augment(batch[place >= 10], training=True)
        expected.append(trunk.predict_on_batch(batch))
    np.testing.assert_allclose(views[0], np.concatenate(expected), atol=1e-5)
    trunk_features(trunk, photos, tmp_path / "0", **options | {"batch_size": 5})
    assert len(list((tmp_path / "0").glob("*.npy"))) == 2, "other batches, other views: other files"


def test_one_program_is_compiled_for_all_batches_also_a_last_smaller_one(tmp_path):
    traced = []

    class Trace(keras.layers.Layer):
        def call(self, x):  # runs when TensorFlow traces a shape, not with each batch
            traced.append(x.shape)
            return x

    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Rescaling(1 / 255)(Trace()(image)))
    photos = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    traced.clear()
    found = trunk_features(model, photos, tmp_path, "float32", batch_size=4, views=2)
    np.testing.assert_allclose(found[:10], photos / 255, atol=1e-6)
    assert traced == [(4, 16, 16, 3)]
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(model(image)))
    for count in (10, 3, 0):
        traced.clear()
        found = su.embed(model, photos[:count], batch_size=4)
        np.testing.assert_allclose(found, photos[:count].mean((1, 2)) / 255, atol=1e-6)
        assert len(traced) <= 1


def test_rows_of_a_larger_array_are_all_that_is_computed(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    trunk, tail = su.split_at_freeze_point(small_embedding())
    rows = [7, 2, 5]
    some = trunk_features(trunk, photos, tmp_path, dtype="float32", views=2, rows=rows)
    whole = trunk_features(trunk, photos[rows], tmp_path, dtype="float32", views=2)
    assert some.shape[0] == 6 and some.filename == whole.filename, "the same images, one cache"
    np.testing.assert_allclose(some[:3], trunk.predict(photos[rows], verbose=0), atol=1e-6)
    every = trunk_features(trunk, photos, tmp_path, dtype="float32")
    np.testing.assert_allclose(
        su.embed(tail, every, batch_size=2, rows=rows), su.embed(tail, every)[rows], atol=1e-6
    )


def test_augmentation_keeps_shape_and_range():
    photos = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
    seen = augmentation()(photos, training=True).numpy()
    assert seen.shape == photos.shape and seen.min() >= 0 and seen.max() <= 255
    assert seen.std() > 20, "still an image"


def test_random_crops_are_parts_of_the_image_or_of_its_mirror_image():
    ramp = np.arange(16, dtype=np.float32)  # columns tell where a pixel comes from
    images = np.tile(ramp[None, None, :, None], (200, 16, 1, 3))
    whole = RandomCropResize(area=1, aspect=1, seed=0)
    found = whole(images, training=True).numpy()
    mirrored = (found[:, 0, 0, 0] > 8).mean()
    assert 0.35 < mirrored < 0.65
    np.testing.assert_allclose(
        found[0, 0, :, 0], ramp[:: -1 if found[0, 0, 0, 0] else 1], atol=1e-4
    )
    part = RandomCropResize(area=0.25, aspect=1, seed=0)(images, training=True).numpy()
    width = abs(part[:, 0, -1, 0] - part[:, 0, 0, 0]) / 15
    assert width.min() < 0.6 and width.max() > 0.9 and (width > 0.49).all()
    assert part.min() >= 0 and part.max() <= 15
    assert (whole(images).numpy() == images).all(), "only in training"


def test_trunk_overflow_in_float16_is_an_error(tmp_path):
    trunk = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Rescaling(1e6)])
    with pytest.raises(ValueError, match="float32"):
        trunk_features(trunk, np.ones((3, 2, 2, 3), np.float32), tmp_path)
    assert not list(tmp_path.glob("*.npy"))
