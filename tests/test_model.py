"""The embedding model, the Siamese network, the training loop, saving and the trunk's cache."""

import os
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import siamese_utils as su
from workbook.models.augmentation import RandomCropResize, augmentation
from workbook.models.backbones import build_from_config
from workbook.models.trunk_cache import trunk_features
from workbook.settings import read_config
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.mined_model import MinedSiameseModel
from workbook.training.mining import MINING, mine_triplets
from workbook.training.recipes import warm_cosine


def count(weights):
    return sum(int(np.prod(w.shape)) for w in weights)


def small_embedding(**options):
    """A two-layer backbone in place of ResNet50: the same code path, in milliseconds."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_a")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_b")(x)
    options = {"normalize": True, "train_from": "conv_b", "head": small_head} | options
    return su.build_embedding_model((16, 16, 3), backbone=keras.Model(image, x), **options)


def small_head(feature_map):
    return su.specified_head(feature_map, units=(32, 16, 8))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.float32)


LABELS = np.repeat(np.arange(6), 4)


@pytest.fixture(scope="module")
def embedding():
    keras.utils.set_random_seed(0)
    return su.build_embedding_model(weights=None)


def test_parameter_totals_are_exact(embedding):
    assert embedding.input_shape == (None, 200, 200, 3) and embedding.output_shape == (None, 256)
    assert count(embedding.trainable_weights) == 60_510_720
    assert count(embedding.non_trainable_weights) == 14_657_920


def test_training_starts_at_conv5_block1_out(embedding):
    trunk, tail = su.split_at_freeze_point(embedding)
    frozen = {layer.name for layer in trunk._flatten_layers()}
    trained = {layer.name for layer in tail._flatten_layers()}
    assert "conv5_block1_add" in frozen and "conv5_block1_out" in trained
    assert not trunk.trainable_weights
    reference = keras.applications.ResNet50(include_top=False, weights=None).layers
    names = [layer.name for layer in reference]
    first = names.index("conv5_block1_out")
    assert set(names[1:first]) <= frozen and set(names[first:]) <= trained


def test_preprocessing_is_inside_once(embedding):
    image = np.random.default_rng(1).integers(0, 256, (1, 200, 200, 3)).astype(np.float32)
    layer = su.ResNetPreprocessing()
    expected = image[..., ::-1] - [103.939, 116.779, 123.68]  # BGR minus ImageNet's means
    np.testing.assert_allclose(layer(image), expected, atol=1e-4)
    np.testing.assert_allclose(layer(image.astype(np.uint8)), expected, atol=1e-4)
    layers = [type(layer) for layer in embedding._flatten_layers()]
    assert layers.count(su.ResNetPreprocessing) == 1


def test_options_of_the_embedding(images):
    unit = su.embed(small_embedding(), images)
    np.testing.assert_allclose((unit**2).sum(1), 1, atol=1e-5)
    averaged = small_embedding(head=su.slim_head, train_from=None)
    assert averaged.get_layer("frozen_trunk").output_shape == (None, 3, 3, 8)
    assert averaged.get_layer("trainable_tail").get_layer("embedding").kernel.shape == (8, 256)
    with pytest.raises(ValueError, match="conv_c"):
        small_embedding(train_from="conv_c")


def test_a_slim_head_is_a_batch_norm_and_one_dense_layer_also_on_resnet(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SIAMESE_")]:
        monkeypatch.delenv(name)
    config = read_config(preset="full", dataset="toys", weights="none", head="slim", size=64)
    _, tail = su.split_at_freeze_point(build_from_config(config))
    names = [layer.name for layer in tail.layers[2:]]
    assert names == ["average", "feature_norm", "embedding", "unit_length"]
    assert tail.get_layer("embedding").kernel.shape == (2048, 256)
    assert tail.get_layer("feature_norm").momentum == 0.9


def test_distance_layer_by_hand():
    a, p, n = map(tf.constant, ([[1.0, 2]], [[1.0, 0]], [[4.0, 6]]))
    d_ap, d_an = su.DistanceLayer()(a, p, n)
    assert d_ap.numpy().tolist() == [4] and d_an.numpy().tolist() == [25]


def test_siamese_network_shares_its_weights(images):
    embedding = small_embedding()
    network = su.build_siamese_network(embedding)
    assert count(network.weights) == count(embedding.weights)
    e = su.embed(embedding, images)
    d_ap, d_an = network.predict([images[:8], images[8:16], images[16:]], verbose=0)
    np.testing.assert_allclose(d_ap, ((e[:8] - e[8:16]) ** 2).sum(1), atol=1e-5)
    np.testing.assert_allclose(d_an, ((e[:8] - e[16:]) ** 2).sum(1), atol=1e-5)


@pytest.mark.parametrize("over", ["embedding", "network"])
def test_loss_on_explicit_triplets_by_hand(images, over):
    embedding = small_embedding()
    model = su.SiameseModel(
        embedding if over == "embedding" else su.build_siamese_network(embedding)
    )
    model.compile("adam")
    a, p, n = np.split(images, 3)
    e = np.split(su.embed(embedding, images), 3)
    d_ap, d_an = ((e[0] - e[1]) ** 2).sum(1), ((e[0] - e[2]) ** 2).sum(1)
    losses = np.maximum(d_ap - d_an + 0.5, 0)
    batches = tf.data.Dataset.from_tensors(((a, p, n),))
    logs = model.evaluate(batches, return_dict=True, verbose=0)
    expected = {"loss": losses, "d_ap": d_ap, "d_an": d_an, "active": losses > 0}
    for name, values in expected.items():
        assert logs[name] == pytest.approx(values.mean(), abs=1e-5), name


def test_mean_over_the_active_triplets_only(images):
    x, data = images, (images, LABELS)
    model = MinedSiameseModel(small_embedding(), 0.05, "all", active_only=True)
    triplets = mine_triplets(su.embed(model.embedding, x), LABELS, "all").numpy()
    a, p, n = su.embed(model.embedding, x)[triplets.T]
    losses = np.maximum(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 0.05, 0)
    assert 0 < (losses > 0).mean() < 1, "some triplets are active, some are not"
    loss = model.triplet_loss(data, training=False)
    assert float(loss) == pytest.approx(losses[losses > 0].mean(), rel=1e-4)
    assert float(model.trackers[0].result()) == pytest.approx(losses.mean(), rel=1e-4)
    one_class = model.triplet_loss((x, 0 * LABELS), training=False)
    assert float(one_class) == 0, "no triplet, no division by zero"


def soft_losses(x, mining, margin, temperature):
    """The soft losses of a batch, by a plain loop."""
    d = ((x[:, None] - x[None]).astype(float) ** 2).sum(-1)
    found = []
    for a, label in enumerate(LABELS):
        positives = [p for p in np.flatnonzero(label == LABELS) if p != a]
        if mining == "batch-hard":
            positives = [max(positives, key=lambda p: d[a, p])]
        for p in positives:
            excess = d[a, p] - d[a, label != LABELS] + margin
            found.append(temperature * np.logaddexp.reduce([0, *(excess / temperature)]))
    return np.array(found)


@pytest.mark.parametrize("mining", ["hard", "batch-hard"])
def test_with_a_temperature_all_negatives_count(images, mining):
    soft = MinedSiameseModel(small_embedding(), 0.3, mining, temperature=0.2)
    loss = soft.triplet_loss((images, LABELS), training=False)
    expected = soft_losses(su.embed(soft.embedding, images), mining, 0.3, 0.2)
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-4)
    hinge = MinedSiameseModel(soft.embedding, 0.3, mining)
    cold = MinedSiameseModel(soft.embedding, 0.3, mining, temperature=1e-4)
    losses = [float(m.triplet_loss((images, LABELS), training=False)) for m in (hinge, cold)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3) and losses[0] < float(loss)
    again = MinedSiameseModel.from_config(soft.get_config())
    assert again.temperature == 0.2
    again.embedding.set_weights(soft.embedding.get_weights())
    same = again.triplet_loss((images, LABELS), training=False)
    assert float(same) == pytest.approx(float(loss), rel=1e-5)
    with tf.GradientTape() as tape:
        alone = soft.triplet_loss((tf.constant(images), 0 * LABELS), training=True)
    gradients = tape.gradient(alone, soft.trainable_weights)
    assert float(alone) == 0 and all(np.isfinite(g).all() and not np.any(g) for g in gradients)


def test_with_a_temperature_explicit_triplets_have_a_soft_hinge(images):
    model = MinedSiameseModel(small_embedding(), 0.3, None, temperature=0.2)
    triplet = tuple(images[[0, 3, 5]]), tuple(images[[1, 4, 6]]), tuple(images[[7, 8, 9]])
    triplet = tuple(np.stack(part) for part in triplet)
    d_ap, d_an = (d.numpy() for d in model(triplet))
    loss = model.triplet_loss((triplet,), training=False)
    expected = 0.2 * np.log(1 + np.exp((d_ap - d_an + 0.3) / 0.2))
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-4)


def test_soft_training_lowers_the_loss(images):
    keras.utils.set_random_seed(0)
    model = MinedSiameseModel(small_embedding(), mining="hard", temperature=0.2)
    model.compile(keras.optimizers.Adam(1e-3))
    batches = IndexBatches(images, LABELS, lambda epoch: np.arange(24)[None])
    history = model.fit(batches, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["active"][-1] < history["active"][0]


def test_learning_rate_rises_then_falls_to_zero():
    rate = warm_cosine(0.1, 100, warm_up=20)
    values = [float(rate(step)) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(values, [0, 0.05, 0.1, 0.05, 0], atol=1e-6)
    assert float(warm_cosine(0.1, 8)(2)) == pytest.approx(0.1), "a quarter of the steps at most"


@pytest.mark.parametrize("mining", MINING)
def test_mined_loss_is_the_mean_over_the_mined_triplets(images, mining):
    embedding = small_embedding()
    model = MinedSiameseModel(embedding, margin=0.3, mining=mining)
    model.compile("adam")
    e = su.embed(embedding, images)
    a, p, n = mine_triplets(e, LABELS, mining).numpy().T
    losses = np.maximum(((e[a] - e[p]) ** 2).sum(1) - ((e[a] - e[n]) ** 2).sum(1) + 0.3, 0)
    logs = model.evaluate(images, LABELS, batch_size=24, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert logs["active"] == pytest.approx((losses > 0).mean(), abs=1e-5)


@pytest.mark.parametrize("mining", [None, *MINING])
def test_training_lowers_the_loss_and_leaves_the_trunk_alone(images, mining):
    keras.utils.set_random_seed(0)
    embedding = small_embedding()
    trunk, tail = su.split_at_freeze_point(embedding)
    frozen, moving = trunk.get_weights(), tail.get_layer("batch_norm_1").moving_mean.numpy()
    sample = lambda epoch: np.arange(24)[None] if mining else su.random_triplets(LABELS, 24)[None]  # noqa: E731
    batches = IndexBatches(images, LABELS, sample)
    model = MinedSiameseModel(embedding, mining=mining)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(batches, epochs=15, verbose=0).history
    assert history.keys() == {"loss", "d_ap", "d_an", "active"}
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    for before, after in zip(frozen, trunk.get_weights()):
        np.testing.assert_array_equal(before, after)
    assert np.abs(tail.get_layer("batch_norm_1").moving_mean.numpy() - moving).max() > 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="semi-hard"):
        MinedSiameseModel(small_embedding(), mining="semi")
    with pytest.raises(ValueError, match="take hard or batch-hard"):
        MinedSiameseModel(small_embedding(), mining="semi-hard", temperature=0.2)
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        MinedSiameseModel(small_embedding(), mining="hard", temperature=0)
    with pytest.raises(ValueError, match="margin"):
        su.SiameseModel(small_embedding(), margin=0)


def test_embedding_and_siamese_model_survive_saving(images, tmp_path):
    model = MinedSiameseModel(small_embedding(), margin=0.7, mining="batch-hard")
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(images, LABELS, batch_size=24, verbose=0)
    model.embedding.save(tmp_path / "embedding.keras")
    model.save(tmp_path / "siamese.keras")
    embedding = keras.models.load_model(tmp_path / "embedding.keras")
    again = keras.models.load_model(tmp_path / "siamese.keras")
    expected = su.embed(model.embedding, images)
    np.testing.assert_array_equal(su.embed(embedding, images), expected)
    np.testing.assert_array_equal(su.embed(again.embedding, images), expected)
    assert (again.margin, again.mining) == (0.7, "batch-hard")
    assert count(again.embedding.trainable_weights) == count(model.embedding.trainable_weights)
    one, two = (m.fit(images, LABELS, batch_size=24, verbose=0).history for m in (model, again))
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6), "the optimiser's state is saved too"


def test_cached_and_uncached_training_agree(images, tmp_path):
    results = []
    for cached in (False, True):
        keras.utils.set_random_seed(3)
        embedding = small_embedding()
        trunk, tail = su.split_at_freeze_point(embedding)
        inputs = trunk_features(trunk, images, tmp_path, dtype="float32") if cached else images
        model = MinedSiameseModel(tail if cached else embedding, mining="semi-hard")
        model.compile(keras.optimizers.Adam(1e-3))
        sample = lambda epoch: pk_batches(LABELS, 4, 3, seed=epoch)  # noqa: E731
        model.fit(IndexBatches(inputs, LABELS, sample), epochs=10, verbose=0)  # 20 steps
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
    assert seen.std() > 20, "still a picture"


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


# ------------------------------------------------------------------------- batches and epochs

VECTORS = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)
A, P, N = np.split(VECTORS, 3)


def dense(kind, **options):
    """A compiled `SiameseModel` of that kind of mining, or a plain one, over one dense layer."""
    keras.utils.set_random_seed(0)
    tail = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, **options)])
    model = su.SiameseModel(tail) if kind == "plain" else MinedSiameseModel(tail, mining=kind)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def one_batch(*data):
    return tf.data.Dataset.from_tensors(data)


TRIPLET = r"a batch is \(\(anchor, positive, negative\),\).*"
WRONG = {  # (kind of model, what is passed, what the error says)
    "no outer tuple": ("plain", [one_batch(A, P, N)], TRIPLET),
    "no outer tuple, of two": ("plain", [one_batch(A[:2], P[:2], N[:2])], TRIPLET),
    "no outer tuple, mining None": (None, [one_batch(A, P, N)], TRIPLET),
    "two of three": ("plain", [one_batch((A, P))], TRIPLET),
    "unequal": ("plain", [one_batch((A, P, N[:2]))], TRIPLET),
    "images alone": ("plain", [VECTORS], TRIPLET),
    "labels without mining": ("plain", [VECTORS, LABELS], TRIPLET + "MinedSiameseModel"),
    "labels, mining None": (None, [VECTORS, LABELS], TRIPLET),
    "mining without labels": ("hard", [VECTORS], r"mining='hard' a batch is \(images, labels\)"),
    "triplets, mining": ("hard", [one_batch((A, P, N))], "are for mining=None"),
    "triplets without outer tuple, mining": ("hard", [one_batch(A, P, N)], "are for mining=None"),
    "words": ("hard", [VECTORS, LABELS.astype(str)], r"np\.unique\(labels"),
    "words in a dataset": ("hard", [one_batch(VECTORS, LABELS.astype(str))], r"np\.unique\(lab"),
    "one-hot": ("hard", [VECTORS, np.eye(6)[LABELS]], r"labels\.argmax\(1\)"),
    "one-hot in a dataset": ("hard", [one_batch(VECTORS, np.eye(6)[LABELS])], r"labels\.argmax"),
    "fractions": ("hard", [VECTORS, LABELS / 2], "a whole number"),
    "fewer labels": ("hard", [one_batch(VECTORS, LABELS[:8])], "8 labels for 24 images"),
}


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_what_is_no_batch_is_refused_and_the_error_says_what_to_pass(eager):
    for name, (kind, data, message) in WRONG.items():
        model = dense(kind)
        model.run_eagerly = eager
        with pytest.raises(ValueError, match=message) as caught:
            model.fit(*data, verbose=0, shuffle=False)
        assert caught, name


@pytest.mark.parametrize("kind, data", [("plain", [[A, P, N]]), ("hard", [VECTORS, LABELS])])
def test_weights_are_refused(kind, data):
    weights = np.ones(24 if kind == "hard" else 8)
    for options in ({"sample_weight": weights}, {"class_weight": dict.fromkeys(range(6), 1)}):
        with pytest.raises(ValueError, match="sample_weight and class_weight have no meaning"):
            dense(kind).fit(*data, verbose=0, **options)
    if kind == "hard":
        with pytest.raises(ValueError, match="sample_weight and class_weight have no meaning"):
            dense(kind).evaluate(*data, sample_weight=weights, verbose=0)


def test_labels_in_a_column_train_as_labels_in_a_row():
    fits = [LABELS, LABELS[:, None], LABELS.astype(float)]
    losses = [dense("all").fit(VECTORS, y, epochs=2, verbose=0).history["loss"] for y in fits]
    assert losses[0] == losses[1] == losses[2]
    columns = one_batch(VECTORS, LABELS[:, None])
    found = dense("all").evaluate(columns, verbose=0)
    assert found == dense("all").evaluate(VECTORS, LABELS, batch_size=24, verbose=0)


@pytest.mark.parametrize("kind", ["plain", None, "all"])
def test_regularisers_are_minimised_and_logged(kind):
    same = np.ones_like(VECTORS)  # no difference: the loss is the margin, and has no slope
    data = [same, LABELS] if kind == "all" else [[same[:8]] * 3]
    model = dense(kind, kernel_regularizer=keras.regularizers.L2(0.03), use_bias=False)
    (kernel,) = model.get_weights()
    logs = model.fit(*data, batch_size=24, verbose=0).history
    assert logs["loss"][0] == pytest.approx(0.5 + 0.03 * (kernel**2).sum(), rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel * (1 - 0.1 * 2 * 0.03), rtol=1e-5)


NUMBERS = np.arange(24, dtype=np.float32)[:, None]  # images that tell which they are


def drawn(epoch):
    return pk_batches(LABELS, 3, 2, seed=epoch)


def recorded(base, arguments):
    """A model that learns nothing, and keeps the batches that it meets, and which are for what."""

    class Recorded(base):
        def triplet_loss(self, data, training):
            parts = [data[0]] if self.has_labels else data[0]
            numbers = np.stack([np.ravel(part) for part in parts], -1).squeeze()
            self.seen[training].append(numbers.astype(int).tolist())
            return super().triplet_loss(data, training)

    model = Recorded(keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]), **arguments)
    model.has_labels, model.seen = "mining" in arguments, {True: [], False: []}
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


@pytest.mark.parametrize("kind", ["plain", "mined"])
def test_a_batch_depends_on_the_epoch_that_keras_is_in(kind):
    if kind == "plain":
        model = recorded(su.SiameseModel, {})
        sample = lambda epoch: drawn(epoch).reshape(4, 2, 3)  # noqa: E731
    else:
        model, sample = recorded(MinedSiameseModel, {"mining": "all"}), drawn
    batches, watched = (IndexBatches(NUMBERS, LABELS, sample) for _ in range(2))
    of_epochs = lambda *epochs: [b for e in epochs for b in sample(e).tolist()]  # noqa: E731

    def met(function, *data, **options):
        model.seen = {True: [], False: []}
        result = function(*data, verbose=0, **options)
        return result, model.seen[True], model.seen[False]

    options = {"epochs": 3, "shuffle": False}
    _, trained, _ = met(model.fit, batches, **options)
    assert trained == of_epochs(0, 1, 2), "from epoch 0 on"
    _, trained, _ = met(model.fit, batches, initial_epoch=2, **options | {"epochs": 4})
    assert trained == of_epochs(2, 3)
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(model, "stop_training", True)
    )
    met(model.fit, batches, callbacks=stop, **options)
    _, trained, _ = met(model.fit, batches, **options)
    assert trained == of_epochs(0, 1, 2), "also after one that was stopped"

    for validation in (watched, batches):  # its own batches too
        batches.set_epoch(0)
        fit, trained, tested = met(model.fit, batches, validation_data=validation, **options)
        assert trained == of_epochs(0, 1, 2) and tested == of_epochs(0, 0, 0)
        assert len(set(fit.history["val_loss"])) == 1, "a target that stands still"
    if kind == "mined":
        with pytest.raises(ValueError, match="steps_per_epoch would mix epochs"):
            met(model.fit, batches, steps_per_epoch=2)
    one, *_ = met(model.evaluate, watched)
    two, _, tested = met(model.evaluate, watched)
    assert one == two and tested == of_epochs(0)


# --------------------------------------------------------------------------------- what is embedded


def test_no_image_gives_no_embedding_of_the_right_size(images):
    embedding = small_embedding()
    for none in (su.embed(embedding, images[:0]), su.embed(embedding, images, rows=[])):
        assert none.shape == (0, 8) and none.dtype == np.float32


def test_images_in_0_to_1_warn_once(images):
    embedding = small_embedding()
    with pytest.warns(
        UserWarning, match=r"images in 0\.\.1: an embedding model takes 0\.\.255"
    ) as w:
        su.embed(embedding, images / 255, batch_size=4)
    assert len(w) == 1
    _, tail = su.split_at_freeze_point(embedding)
    features = np.random.default_rng(0).random((4, *tail.input_shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        su.embed(embedding, images)
        su.embed(embedding, 0 * images)  # black
        su.embed(tail, features)


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16), (8, 8, 3)])
def test_images_of_another_shape_are_not_embedded(shape):
    with pytest.raises(ValueError, match=r"\(2, .* the model takes \(None, 16, 16, 3\)"):
        su.embed(small_embedding(), np.zeros((2, *shape)))


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64), (64, 64, 4)])
def test_resnet50_takes_colour_and_says_what_to_do_with_grey(shape):
    with pytest.raises(ValueError, match=r"takes RGB, not .*np\.repeat\(grey, 3, axis=-1\)"):
        su.build_embedding_model(shape, weights=None)
