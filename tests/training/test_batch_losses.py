"""The losses of whole batches: against plain loops, and against another library's numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import LABELS, VECTORS, hinge_losses

from workbook.support.tensorflow_start import keras, tf
from workbook.training.batches import IndexBatches
from workbook.training.losses import LOSSES, TripletLoss
from workbook.training.mined_model import BatchLossModel
from workbook.training.mining import Miner, mine_triplets, squared_distances
from workbook.training.recipes import Recipe

RECORDED = json.loads(Path(__file__).with_name("reference_losses.json").read_text("utf-8"))
DOUBLE = VECTORS.astype(float)
UNIT = DOUBLE / np.linalg.norm(DOUBLE, axis=1, keepdims=True)
PROXIES = np.random.default_rng(2).normal(size=(8, 6))  # two classes are not in the batch
COSINES = UNIT @ UNIT.T
TO_PROXIES = UNIT @ (PROXIES / np.linalg.norm(PROXIES, axis=1, keepdims=True)).T
SAME = LABELS[:, None] == LABELS


def value_and_gradients(name, options, embeddings, labels, proxies):
    """A loss of embeddings of any length, and its gradients by them and by the proxies."""
    loss = LOSSES[name]
    x, p = tf.Variable(embeddings), tf.Variable(proxies)
    with tf.GradientTape() as tape:
        given = {"proxies": tf.convert_to_tensor(p)} if loss.has_proxies else {}
        unit = tf.math.l2_normalize(x, 1)
        value = loss.function(unit, tf.constant(labels), **given, **options)
    by_x, by_p = tape.gradient(value, [x, p])
    by_x = tf.convert_to_tensor(by_x).numpy()
    return float(value), by_x, None if by_p is None else tf.convert_to_tensor(by_p).numpy()


@pytest.mark.parametrize("name", RECORDED["losses"])
def test_value_and_gradients_are_those_of_another_library(name):
    expected = RECORDED["losses"][name]
    arrays = [np.array(RECORDED[part]) for part in ("embeddings", "labels", "proxies")]
    value, by_x, by_p = value_and_gradients(name, expected["options"], *arrays)
    within = 1e-5 if "triplet" in name else 1e-9  # triplets are counted in float32
    assert value == pytest.approx(expected["value"], rel=within)
    np.testing.assert_allclose(by_x, expected["by embeddings"], rtol=0, atol=within * 10)
    if LOSSES[name].has_proxies:
        np.testing.assert_allclose(by_p, expected["by proxies"], rtol=0, atol=within * 10)


def test_every_loss_is_compared_with_another_library_or_is_the_softmax_of_a_classifier():
    assert set(LOSSES) == {*RECORDED["losses"], "softmax"}


# --------------------------------------------------------------------- plain loops, by the papers


def others(a, same):
    return [i for i in range(24) if i != a and SAME[a, i] == same]


def loop_triplet(margin):
    return hinge_losses(UNIT, mine_triplets(UNIT, LABELS, "semi-hard").numpy(), margin).mean()


def loop_soft_triplet(margin, temperature):
    """Sohn (2016), equation 6, with squared distances, a margin and a temperature."""
    d, found = 2 - 2 * COSINES, []
    for a in range(24):
        for p in others(a, True):
            excess = [(d[a, p] - d[a, n] + margin) / temperature for n in others(a, False)]
            found.append(temperature * math.log(1 + sum(map(math.exp, excess))))
    return np.mean(found)


def loop_contrastive(positive_margin, negative_margin):
    d = 2 - 2 * COSINES
    far = [d[a, p] - positive_margin for a in range(24) for p in others(a, True)]
    close = [negative_margin - d[a, n] for a in range(24) for n in others(a, False)]
    return sum(np.mean([x for x in part if x > 0]) for part in (far, close))


def loop_supervised_contrastive(temperature):
    """Khosla et al. (2020), equation 2, the mean over anchors in place of their sum."""
    total = 0
    for a in range(24):
        below = sum(math.exp(COSINES[a, k] / temperature) for k in range(24) if k != a)
        shares = [math.exp(COSINES[a, p] / temperature) / below for p in others(a, True)]
        total -= np.mean(np.log(shares)) / 24
    return total


def loop_multi_similarity(alpha, beta, base, epsilon):
    """Wang et al. (2019), equations 7, 8 and 10."""
    total = 0
    for a in range(24):
        p, n = ([COSINES[a, i] for i in others(a, same)] for same in (True, False))
        kept_p = [s for s in p if s < max(n) + epsilon]
        kept_n = [s for s in n if s > min(p) - epsilon]
        total += math.log(1 + sum(math.exp(-alpha * (s - base)) for s in kept_p)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - base)) for s in kept_n)) / beta
    return total / 24


def loop_proxy_anchor(alpha, margin):
    """Kim et al. (2020), equation 4."""
    total = 0
    for c in range(8):
        p = [math.exp(-alpha * (TO_PROXIES[i, c] - margin)) for i in range(24) if LABELS[i] == c]
        n = [math.exp(alpha * (TO_PROXIES[i, c] + margin)) for i in range(24) if LABELS[i] != c]
        total += math.log(1 + sum(p)) / 6 + math.log(1 + sum(n)) / 8
    return total


def loop_cross_entropy(logits):
    return np.mean([np.logaddexp.reduce(row) - row[c] for row, c in zip(logits, LABELS)])


def loop_cosine_softmax(scale):
    return loop_cross_entropy(scale * TO_PROXIES)


def loop_arcface(scale, margin):
    """Deng et al. (2019), equation 3, and what their program does beyond 180 degrees."""
    logits = TO_PROXIES.copy()
    for i, c in enumerate(LABELS):
        angle = math.acos(logits[i, c])
        inside = angle + margin <= math.pi
        logits[i, c] = (
            math.cos(angle + margin) if inside else logits[i, c] - margin * math.sin(margin)
        )
    return loop_cross_entropy(scale * logits)


def loop_softmax():
    return loop_cross_entropy(UNIT @ PROXIES.T)


OPTIONS = {
    "triplet": {"margin": 0.3},
    "soft triplet": {"margin": 0.3, "temperature": 0.2},
    "contrastive": {"positive_margin": 0.2, "negative_margin": 1.3},
    "supervised contrastive": {"temperature": 0.2},
    "multi-similarity": {"alpha": 3, "beta": 20, "base": 0.4, "epsilon": -0.5},
    "proxy-anchor": {"alpha": 8, "margin": 0.2},
    "cosine softmax": {"scale": 7},
    "arcface": {"scale": 7, "margin": 1.2},
    "softmax": {},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_what_a_plain_loop_gives(name):
    loop = globals()["loop_" + name.replace(" ", "_").replace("-", "_")]
    value, *_ = value_and_gradients(name, OPTIONS[name], DOUBLE, LABELS, PROXIES)
    assert value == pytest.approx(loop(**OPTIONS[name]), rel=1e-5 if "triplet" in name else 1e-9)


def test_the_cases_reach_both_branches():
    """The loops above would agree with half a formula, if its other half were never used."""
    angles = np.arccos(TO_PROXIES[np.arange(24), LABELS])
    assert 0 < (angles + OPTIONS["arcface"]["margin"] > np.pi).mean() < 1
    full = loop_multi_similarity(**OPTIONS["multi-similarity"] | {"epsilon": 9})
    assert full > 1.01 * loop_multi_similarity(**OPTIONS["multi-similarity"])


# ------------------------------------------------------------------------------- odd batches


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [0 * LABELS, np.arange(24)], ids=["one class", "no pair"])
def test_a_batch_without_a_triplet_has_finite_numbers(name, labels):
    options = {n: high for n, (_, high) in LOSSES[name].ranges.items() if n != "proxy_length"}
    proxies = np.tile(PROXIES, (3, 1)).astype(np.float32)
    value, by_x, _ = value_and_gradients(name, options, VECTORS, labels, proxies)
    assert math.isfinite(value) and np.isfinite(by_x).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("end", [0, 1], ids=["smallest", "largest"])
def test_the_gradient_is_finite_where_all_images_of_a_class_and_its_proxy_are_one_point(name, end):
    options = {n: r[end] for n, r in LOSSES[name].ranges.items() if n != "proxy_length"}
    points = np.repeat(np.eye(6, dtype=np.float32), 4, axis=0)
    value, by_x, _ = value_and_gradients(name, options, points, LABELS, np.eye(6, dtype=np.float32))
    assert math.isfinite(value) and np.isfinite(by_x).all()


# ------------------------------------------------------------------------------ in a training


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_brings_positives_closer_than_negatives(name):
    recipe = Recipe("any", loss=name, normalize=name != "softmax")
    vectors, labels = (np.array(RECORDED[part]) for part in ("embeddings", "labels"))
    labels = labels * 10 + 3  # numbers with gaps, as where classes are held out
    keras.utils.set_random_seed(0)
    layers = [keras.Input((5,)), keras.layers.Dense(8, use_bias=False)]
    layers += [keras.layers.UnitNormalization()] * recipe.normalize
    tail = keras.Sequential(layers)

    def ratio():  # of the mean distance in a class to that between classes
        x = tf.math.l2_normalize(tail(vectors), 1).numpy()
        d, same = ((x[:, None] - x) ** 2).sum(-1), labels[:, None] == labels
        return d[same].mean() / d[~same].mean()

    model, before = recipe.build_model(tail, labels), ratio()
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    batches = IndexBatches(vectors, labels, lambda epoch: np.tile(np.arange(24), (2, 1)))
    history = model.fit(batches, epochs=20, verbose=0).history
    assert isinstance(model, BatchLossModel)
    assert (model.proxies is not None) == LOSSES[name].has_proxies
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert ratio() < 0.9 * before


@pytest.mark.parametrize("name", ["cosine softmax", "proxy-anchor"])
def test_proxies_are_trained_and_shorter_ones_turn_faster(name):
    turned = []
    for length in (0.03, 3.0):
        options = {"proxy_length": length}
        tail = keras.Sequential([keras.Input((6,)), keras.layers.UnitNormalization()])
        model = Recipe("any", loss=name, options=options).build_model(tail, LABELS)
        start = model.proxies.numpy()
        assert start.shape == (6, 6) and start.std() == pytest.approx(length / 6**0.5, rel=0.4)
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        model.fit(VECTORS, LABELS, batch_size=24, epochs=3, verbose=0)
        end = model.proxies.numpy()
        lengths = [np.linalg.norm(p, axis=1) for p in (start, end)]
        turned.append(1 - ((start * end).sum(1) / lengths[0] / lengths[1]).mean())
    assert turned[0] > 10 * turned[1] > 0


def test_the_two_triplet_losses_are_those_of_the_mined_model():
    unit, labels = tf.constant(UNIT, tf.float32), tf.constant(LABELS)
    distances = squared_distances(unit)
    for name, strategy, loss in (
        ("triplet", "semi-hard", TripletLoss(0.4)),
        ("soft triplet", "hard", TripletLoss(0.4, 0.2)),
    ):
        options = {"margin": 0.4} | ({"temperature": 0.2} if loss.temperature else {})
        expected = loss(distances, labels, Miner(strategy)(distances, labels)).loss
        assert float(LOSSES[name].function(unit, labels, **options)) == float(expected) > 0


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"loss": "hinge"}, "loss='hinge' must be one of: triplet, soft triplet, contrastive"),
        ({"loss": "triplet", "triplets": "random", "mining": None}, "needs mined triplets"),
        ({"loss": "arcface", "options": {"radius": 1}}, "arcface has no option 'radius', only: sc"),
        ({"options": {"margin": 1}}, "the loss None has no option 'margin'"),
    ],
)
def test_an_unknown_loss_or_option_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(Recipe("any"), **fields)
