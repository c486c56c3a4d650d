"""The model that mines its triplets within a batch: what it computes, refuses, learns and saves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import LABELS, VECTORS, dense_model, hinge_losses, make_images, small_embedding

import siamese_utils as su
from workbook.training.batches import IndexBatches
from workbook.training.losses import TripletLoss
from workbook.training.mined_model import MinedSiameseModel
from workbook.training.mining import STRATEGIES, Miner, mine_triplets


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_mined_loss_is_the_mean_over_the_mined_triplets(strategy):
    model = dense_model(strategy, TripletLoss(0.3))
    embeddings = su.embed(model.embedding, VECTORS)
    losses = hinge_losses(embeddings, mine_triplets(embeddings, LABELS, strategy).numpy(), 0.3)
    logs = model.evaluate(VECTORS, LABELS, batch_size=24, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert logs["active"] == pytest.approx((losses > 0).mean(), abs=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_lowers_the_loss(strategy):
    keras.utils.set_random_seed(0)
    tail = keras.Sequential([
        keras.Input((6,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Dense(8),
        keras.layers.UnitNormalization(),
    ])  # fmt: skip
    model = MinedSiameseModel(tail, miner=strategy)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    batches = IndexBatches(VECTORS, LABELS, lambda epoch: np.arange(24)[None])
    history = model.fit(batches, epochs=15, verbose=0).history
    assert history.keys() == {"loss", "d_ap", "d_an", "active"}
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_soft_training_lowers_the_loss_and_leaves_the_trunk_alone():
    keras.utils.set_random_seed(0)
    embedding = small_embedding()
    trunk, tail = su.split_at_freeze_point(embedding)
    frozen, moving = trunk.get_weights(), tail.get_layer("batch_norm_1").moving_mean.numpy()
    model = MinedSiameseModel(embedding, TripletLoss(temperature=0.2), "hard")
    model.compile(keras.optimizers.Adam(1e-3))
    batches = IndexBatches(make_images(), LABELS, lambda epoch: np.arange(24)[None])
    history = model.fit(batches, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["active"][-1] < history["active"][0]
    for before, after in zip(frozen, trunk.get_weights()):
        np.testing.assert_array_equal(before, after)
    assert np.abs(tail.get_layer("batch_norm_1").moving_mean.numpy() - moving).max() > 0


@pytest.mark.parametrize("options", [{"temperature": 0.2}, {"active_only": True}])
@pytest.mark.parametrize("strategy", ["hard", "batch-hard"])
def test_a_model_made_from_its_settings_has_the_same_loss(strategy, options):
    model = dense_model(strategy, TripletLoss(0.3, **options))
    again = MinedSiameseModel.from_config(model.get_config())
    assert again.triplet_loss_function == TripletLoss(0.3, **options) and again.margin == 0.3
    assert again.miner == Miner(strategy)
    again.embedding.set_weights(model.embedding.get_weights())
    losses = [float(m.triplet_loss((VECTORS, LABELS), training=False)) for m in (model, again)]
    assert losses[0] == losses[1] > 0


def test_a_model_of_explicit_triplets_from_before_is_refused():
    config = dense_model("hard").get_config() | {"mining": None}
    with pytest.raises(ValueError, match="explicit triplets: load it as SiameseModel"):
        MinedSiameseModel.from_config(config)


@pytest.mark.parametrize("labels", [0 * LABELS, np.arange(24)], ids=["one class", "single images"])
def test_a_batch_without_a_triplet_teaches_nothing(labels):
    model = dense_model("hard", TripletLoss(temperature=0.2))
    with tf.GradientTape() as tape:
        alone = model.triplet_loss((tf.constant(VECTORS), labels), training=True)
    gradients = tape.gradient(alone, model.trainable_weights)
    assert float(alone) == 0 and all(not np.any(g) for g in gradients)


def test_wrong_arguments_are_named():
    tail = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="mining='semi' is not one of: all, semi-hard"):
        MinedSiameseModel(tail, miner="semi")


def test_embedding_and_mined_model_survive_saving(tmp_path):
    model = dense_model("batch-hard", TripletLoss(0.7))
    model.fit(VECTORS, LABELS, batch_size=24, verbose=0)
    model.embedding.save(tmp_path / "embedding.keras")
    model.save(tmp_path / "siamese.keras")
    embedding = keras.models.load_model(tmp_path / "embedding.keras")
    again = keras.models.load_model(tmp_path / "siamese.keras")
    expected = su.embed(model.embedding, VECTORS)
    np.testing.assert_array_equal(su.embed(embedding, VECTORS), expected)
    np.testing.assert_array_equal(su.embed(again.embedding, VECTORS), expected)
    assert (again.margin, again.miner.strategy) == (0.7, "batch-hard")
    shapes = [[w.shape for w in m.embedding.trainable_weights] for m in (model, again)]
    assert shapes[0] == shapes[1]
    one, two = (m.fit(VECTORS, LABELS, batch_size=24, verbose=0).history for m in (model, again))
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6), "the optimizer's state is saved too"


# --------------------------------------------------------------------------------- what is a batch

A, P, N = np.split(VECTORS, 3)
ONE_HOT = np.eye(6)[LABELS]


def one_batch(*data):
    return tf.data.Dataset.from_tensors(data)


FOR_MINING = r"a batch for mining is \(images, labels\), not .*explicit triplets \(\(anchor"
WRONG = {  # what is passed, what the error says
    "without labels": ([VECTORS], FOR_MINING),
    "triplets": ([one_batch((A, P, N))], FOR_MINING),
    "triplets without outer tuple": ([one_batch(A, P, N)], FOR_MINING),
    "words": ([VECTORS, LABELS.astype(str)], r"np\.unique\(labels"),
    "words in a dataset": ([one_batch(VECTORS, LABELS.astype(str))], r"np\.unique\(labels"),
    "one-hot": ([VECTORS, ONE_HOT], r"labels\.argmax\(1\)"),
    "one-hot in a dataset": ([one_batch(VECTORS, ONE_HOT)], r"labels\.argmax\(1\)"),
    "fractions": ([VECTORS, LABELS / 2], "one whole number or word per image"),
    "fewer labels": ([one_batch(VECTORS, LABELS[:8])], "8 labels for 24 images"),
}


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("data, message", WRONG.values(), ids=WRONG)
def test_what_is_no_batch_is_refused_and_the_error_says_what_to_pass(data, message, eager):
    model = dense_model("hard")
    model.run_eagerly = eager
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0, shuffle=False)


@pytest.mark.parametrize(
    "options", [{"sample_weight": np.ones(24)}, {"class_weight": dict.fromkeys(range(6), 1)}]
)
def test_weights_are_refused(options):
    model = dense_model("hard")
    with pytest.raises(ValueError, match="sample_weight and class_weight have no meaning"):
        model.fit(VECTORS, LABELS, verbose=0, **options)
    if "sample_weight" in options:
        with pytest.raises(ValueError, match="sample_weight and class_weight have no meaning"):
            model.evaluate(VECTORS, LABELS, verbose=0, **options)


def test_labels_in_a_column_train_as_labels_in_a_row():
    model = dense_model("all")
    weights = model.get_weights()

    def first_losses(labels):
        model.set_weights(weights)
        return model.fit(VECTORS, labels, epochs=2, shuffle=False, verbose=0).history["loss"]

    row, column, floats = map(first_losses, (LABELS, LABELS[:, None], LABELS.astype(float)))
    assert row == column == floats
    found = model.evaluate(one_batch(VECTORS, LABELS[:, None]), verbose=0)
    assert found == model.evaluate(VECTORS, LABELS, batch_size=24, verbose=0)


def test_regularisers_are_minimised_and_logged():
    options = {"kernel_regularizer": keras.regularizers.L2(0.03), "use_bias": False}
    model = dense_model("all", **options)
    (kernel,) = model.get_weights()
    same = np.ones_like(VECTORS)  # no difference: the loss is the margin, and has no slope
    logs = model.fit(same, LABELS, batch_size=24, verbose=0).history
    assert logs["loss"][0] == pytest.approx(0.5 + 0.03 * (kernel**2).sum(), rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel * (1 - 0.1 * 2 * 0.03), rtol=1e-5)
