"""The method file: triplets, the embedding model, the Siamese network, its training, checks."""

import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import LABELS, VECTORS, dense_model, make_images, small_embedding

import siamese_utils as su
from workbook.models.backbones import build_from_config
from workbook.settings import read_config
from workbook.training.batches import EpochSetter, IndexBatches

# ---------------------------------------------------------------------------------- the file alone

ALONE = """
import importlib.util, os, sys
sys.path.insert(0, os.getcwd())
assert importlib.util.find_spec("workbook") is None, "the package must not be in reach"
import keras, numpy as np
import siamese_utils as su

keras.utils.set_random_seed(0)
labels = np.repeat([0, 1], 3)
images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype("float32")
embedding = su.build_embedding_model((64, 64, 3), weights=None)
model = su.SiameseModel(su.build_siamese_network(embedding))
model.compile(keras.optimizers.Adam(1e-4), run_eagerly=True)
before = [w.numpy() for w in embedding.trainable_weights]
batch = tuple(images[column] for column in su.random_triplets(labels, 2).T)
logs = model.train_on_batch(batch, return_dict=True)
changed = [(w.numpy() != b).any() for w, b in zip(embedding.trainable_weights, before)]
print(sum(changed), len(changed), np.isfinite(logs["loss"]), *embedding.output_shape)
"""


def test_copied_alone_into_an_empty_folder_it_trains_the_specified_model(tmp_path):
    (tmp_path / "siamese_utils.py").write_bytes(Path(su.__file__).read_bytes())
    command = [sys.executable, "-I", "-c", ALONE]  # -I: no variables, and no folder of its own
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    changed, trained, *rest = done.stdout.split()
    assert changed == trained and int(trained) > 0 and rest == ["True", "None", "256"]


# ---------------------------------------------------------------------------------------- triplets


def batch(seed, n=24, classes=5, dim=6, integers=False):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (n, dim)) if integers else rng.normal(size=(n, dim))
    return x.astype(np.float32), rng.integers(0, classes, n)


def squared(x, i, j):
    return float(((x[i].astype(np.float64) - x[j]) ** 2).sum())


def loop_close_distance(x, labels):
    triplets = []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if labels[i] == labels[j]:
                gaps = [
                    (abs(squared(x, i, n) - squared(x, i, j)), n)
                    for n in range(len(x))
                    if labels[n] != labels[i]
                ]
                if gaps:
                    triplets.append([i, j, min(gaps)[1]])
    return triplets


@pytest.mark.parametrize("integers", [False, True], ids=["random", "many ties"])
@pytest.mark.parametrize("seed", range(5))
def test_close_distance_equals_a_plain_triple_loop(seed, integers):
    x, labels = batch(seed, integers=integers)
    assert su.close_distance_triplets(x, labels).tolist() == loop_close_distance(x, labels)


def test_close_distance_of_5000_images_holds_far_less_than_all_its_gaps():
    vectors, labels = np.random.default_rng(0).normal(size=(5000, 64)), np.arange(5000) % 500
    tracemalloc.start()
    try:
        su.close_distance_triplets(vectors, labels)
        assert tracemalloc.get_traced_memory()[1] < 150e6  # all distances would be 200 MB
    finally:
        tracemalloc.stop()


def test_close_distance_crosses_block_boundaries():
    x, labels = batch(0, n=1600, classes=400, dim=3)  # two blocks of 800 anchors
    triplets = su.close_distance_triplets(x, labels)
    pairs = sum(m * (m - 1) // 2 for m in np.bincount(labels))
    assert len(triplets) == pairs and triplets[:, 0].max() > 800
    for a, p, n in triplets[::97]:
        distances = ((x[a].astype(np.float64) - x) ** 2).sum(1)
        gaps = np.where(labels == labels[a], np.inf, abs(distances - distances[p]))
        assert n == gaps.argmin()


def test_random_triplets_are_valid_and_reach_every_choice():
    labels = np.array([0, 1, 1, 2, 0, 2, 2, 3])
    triplets = su.random_triplets(labels, 4000, seed=1)
    a, p, n = triplets.T
    assert (labels[a] == labels[p]).all() and (labels[a] != labels[n]).all() and (a != p).all()
    assert set(n) == set(range(8)) and set(a) == set(range(7)), "a lone image is a negative only"
    others = n[a == 3]
    share = np.bincount(others, minlength=8)[[0, 1, 2, 4, 7]] / len(others)
    assert np.abs(share - 0.2).max() < 0.06, "negatives are uniform over the other classes' images"


def test_random_triplets_depend_on_the_seed_alone():
    labels = np.arange(20) % 4
    one, two, other = (su.random_triplets(labels, seed=s) for s in (1, 1, 2))
    assert (one == two).all() and (one != other).any() and one.shape == (20, 3)


def test_10000_random_triplets_of_2500_images_are_practical():
    labels = np.arange(2500) % 500
    a, p, n = su.random_triplets(labels, 10_000).T
    assert (labels[a] == labels[p]).all() and (labels[a] != labels[n]).all() and (a != p).all()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [], [5]])
@pytest.mark.parametrize(
    "choose",
    [su.random_triplets, lambda y: su.close_distance_triplets(np.zeros((len(y), 2)), y)],
    ids=["random", "close-distance"],
)
def test_no_triplet_is_a_clear_error(choose, labels):
    with pytest.raises(ValueError, match="two classes are needed, one of them with two images"):
        choose(np.array(labels, int))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_refused(value):
    x = VECTORS.copy()
    x[5, 0] = value
    with pytest.raises(ValueError, match="an embedding holds NaN or infinity"):
        su.close_distance_triplets(x, LABELS)


# ----------------------------------------------------------------------------------------- labels

WORDS = ["a", "b", float("nan"), "d"]
MISSING = "a label is missing"


@pytest.mark.parametrize(
    "labels, message",
    {
        "list of words": (WORDS, MISSING),
        "column of words": ([[word] for word in WORDS], MISSING),
        "list of floats": ([0.0, float("nan"), 1.0], "labels of shape"),
        "array of floats": (np.array([0, np.nan]), "labels of shape"),
        "objects": (np.array(WORDS, object), "labels of shape"),
        "objects that are numbers": (np.array([0, np.nan], object), "labels of shape"),
        "None among words": (["a", None], "labels of shape"),
    }.values(),
)
def test_a_missing_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        su.check_labels(labels)


def test_a_word_that_reads_like_a_missing_number_is_a_word():
    assert su.check_labels(["nan", "none"]).tolist() == ["nan", "none"]


# ----------------------------------------------------------------------------- the embedding model


def count(weights):
    return sum(int(np.prod(w.shape)) for w in weights)


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
    reference = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    names = [layer.name for layer in reference.layers]
    first = names.index("conv5_block1_out")
    assert set(names[1:first]) <= frozen and set(names[first:]) <= trained


def test_preprocessing_is_inside_once(embedding):
    image = make_images(1)
    layer = su.ResNetPreprocessing()
    expected = image[..., ::-1] - [103.939, 116.779, 123.68]  # BGR minus ImageNet's means
    np.testing.assert_allclose(layer(image), expected, atol=1e-4)
    np.testing.assert_allclose(layer(image.astype(np.uint8)), expected, atol=1e-4)
    layers = [type(layer) for layer in embedding._flatten_layers()]
    assert layers.count(su.ResNetPreprocessing) == 1


def test_options_of_the_embedding():
    unit = su.embed(small_embedding(), make_images())
    np.testing.assert_allclose((unit**2).sum(1), 1, atol=1e-5)
    averaged = small_embedding(head=su.slim_head, train_from=None)
    assert averaged.get_layer("frozen_trunk").output_shape == (None, 3, 3, 8)
    assert averaged.get_layer("trainable_tail").get_layer("embedding").kernel.shape == (8, 256)
    with pytest.raises(ValueError, match="train_from='conv_c' is no layer"):
        small_embedding(train_from="conv_c")


def test_a_slim_head_is_a_batch_norm_and_one_dense_layer_also_on_resnet():
    options = {"preset": "full", "dataset": "toys", "weights": "none", "head": "slim", "size": 64}
    _, tail = su.split_at_freeze_point(build_from_config(read_config({}, **options)))
    names = [layer.name for layer in tail.layers[2:]]
    assert names == ["average", "feature_norm", "embedding", "unit_length"]
    assert tail.get_layer("embedding").kernel.shape == (2048, 256)
    assert tail.get_layer("feature_norm").momentum == 0.9


def test_another_model_cannot_be_split():
    tail = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="was not made by build_embedding_model"):
        su.split_at_freeze_point(tail)


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64), (64, 64, 4)])
def test_resnet50_takes_colour_and_says_what_to_do_with_grey(shape):
    with pytest.raises(ValueError, match=r"takes RGB images, not .*np\.repeat\(grey, 3, axis=-1\)"):
        su.build_embedding_model(shape, weights=None)


# --------------------------------------------------------------------------------------- embedding


def test_no_image_gives_an_empty_array_of_the_right_size():
    embedding, images = small_embedding(), make_images()
    for none in (su.embed(embedding, images[:0]), su.embed(embedding, images, rows=[])):
        assert none.shape == (0, 8) and none.dtype == np.float32


def test_images_in_0_to_1_warn_once():
    embedding, images = small_embedding(), make_images()
    message = r"images in 0\.\.1, but an embedding model takes 0\.\.255"
    with pytest.warns(UserWarning, match=message) as caught:
        su.embed(embedding, images / 255, batch_size=4)
    assert len(caught) == 1
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


# ---------------------------------------------------------------- the Siamese network, its training


def test_distance_layer_by_hand():
    a, p, n = map(tf.constant, ([[1.0, 2]], [[1.0, 0]], [[4.0, 6]]))
    d_ap, d_an = su.DistanceLayer()(a, p, n)
    assert d_ap.numpy().tolist() == [4] and d_an.numpy().tolist() == [25]


def test_siamese_network_shares_its_weights():
    embedding, images = small_embedding(), make_images()
    network = su.build_siamese_network(embedding)
    assert count(network.weights) == count(embedding.weights)
    e = su.embed(embedding, images)
    d_ap, d_an = network.predict_on_batch([images[:8], images[8:16], images[16:]])
    np.testing.assert_allclose(d_ap, ((e[:8] - e[8:16]) ** 2).sum(1), atol=1e-5)
    np.testing.assert_allclose(d_an, ((e[:8] - e[16:]) ** 2).sum(1), atol=1e-5)


@pytest.mark.parametrize("over", ["embedding", "network"])
def test_loss_on_explicit_triplets_by_hand(over):
    embedding, images = small_embedding(), make_images()
    model = su.SiameseModel(
        embedding if over == "embedding" else su.build_siamese_network(embedding)
    )
    a, p, n = np.split(images, 3)
    e = np.split(su.embed(embedding, images), 3)
    d_ap, d_an = ((e[0] - e[1]) ** 2).sum(1), ((e[0] - e[2]) ** 2).sum(1)
    losses = np.maximum(d_ap - d_an + 0.5, 0)
    loss = model.triplet_loss(((a, p, n),), training=False)
    logs = {tracker.name: float(tracker.result()) for tracker in model.metrics}
    expected = {"loss": losses, "d_ap": d_ap, "d_an": d_an, "active": losses > 0}
    assert float(loss) == pytest.approx(losses.mean(), abs=1e-5)
    assert logs == pytest.approx({k: v.mean() for k, v in expected.items()}, abs=1e-5)


def test_training_lowers_the_loss_and_leaves_the_trunk_alone():
    keras.utils.set_random_seed(0)
    embedding = small_embedding()
    trunk, tail = su.split_at_freeze_point(embedding)
    frozen, moving = trunk.get_weights(), tail.get_layer("batch_norm_1").moving_mean.numpy()
    batches = IndexBatches(
        make_images(), LABELS, lambda e: su.random_triplets(LABELS, 24, e).reshape(1, 24, 3)
    )
    model = su.SiameseModel(embedding)
    model.compile(keras.optimizers.Adam(1e-3))
    options = {"callbacks": [EpochSetter(batches)], "shuffle": False, "verbose": 0}
    history = model.fit(batches, epochs=15, **options).history
    assert history.keys() == {"loss", "d_ap", "d_an", "active"}
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    for before, after in zip(frozen, trunk.get_weights()):
        np.testing.assert_array_equal(before, after)
    assert np.abs(tail.get_layer("batch_norm_1").moving_mean.numpy() - moving).max() > 0


def test_regularisers_are_minimised_and_logged():
    model = dense_model(None, kernel_regularizer=keras.regularizers.L2(0.03), use_bias=False)
    (kernel,) = model.get_weights()
    same = (np.ones_like(VECTORS[:8]),) * 3  # no difference: the loss is the margin, without slope
    logs = model.train_on_batch(same, return_dict=True)
    assert logs["loss"] == pytest.approx(0.5 + 0.03 * (kernel**2).sum(), rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel * (1 - 0.1 * 2 * 0.03), rtol=1e-5)


@pytest.mark.parametrize("margin", [0, -1, float("nan")])
def test_a_margin_that_is_not_above_0_is_refused(margin):
    with pytest.raises(ValueError, match="must be above 0, or all embeddings may collapse"):
        su.SiameseModel(keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]), margin)


A, P, N = np.split(VECTORS, 3)


def one_batch(*data):
    return tf.data.Dataset.from_tensors(data)


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    "data",
    {
        "no outer tuple": [one_batch(A, P, N)],
        "no outer tuple, of two": [one_batch(A[:2], P[:2], N[:2])],
        "two of three": [one_batch((A, P))],
        "unequal": [one_batch((A, P, N[:2]))],
        "images alone": [VECTORS],
        "labels": [VECTORS, LABELS],
        "triplets with labels": [one_batch((A, P, N), LABELS[:8])],
        "triplets with weights": [one_batch((A, P, N), LABELS[:8], np.ones(8))],
    }.values(),
)
def test_a_batch_that_is_no_triplet_is_refused_and_the_error_says_what_to_pass(data, eager):
    model = dense_model(None)
    model.run_eagerly = eager
    message = r"a batch must be \(\(anchor, positive, negative\),\).* this one has the shapes"
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0, shuffle=False)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(
    "options", [{"sample_weight": np.zeros(len(A))}, {"class_weight": {0: 1, 1: 9}}]
)
def test_weights_are_refused_instead_of_dropped(method, options):
    model = dense_model(None)
    with pytest.raises(ValueError, match="sample_weight and class_weight have no meaning"):
        getattr(model, method)((A, P, N), verbose=0, **options)
    getattr(model, method)((A, P, N), verbose=0, sample_weight=None)


def test_a_siamese_model_survives_saving(tmp_path):
    model = dense_model(None)
    model.margin = 0.7
    model.train_on_batch((A, P, N))
    model.save(tmp_path / "siamese.keras")
    again = keras.models.load_model(tmp_path / "siamese.keras")
    assert again.margin == 0.7
    one, two = (m.train_on_batch((A, P, N), return_dict=True) for m in (model, again))
    assert one == two, "the optimizer's state is saved too"
    np.testing.assert_array_equal(
        su.embed(again.embedding, VECTORS), su.embed(model.embedding, VECTORS)
    )
