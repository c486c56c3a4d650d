"""Losses: of mined triplets (notebooks 2 and 3), and of whole labelled batches (`LOSSES`).

Each loss of a batch is a function of its embeddings (b, dim), which have length 1, and of its
labels (b,). One that has proxies also takes these: (c, dim), one trained vector for each of the c
classes, of which only the direction counts; the labels are then 0..c-1. It returns a scalar. To add
a loss, write such a function and add one line to `LOSSES`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from siamese_utils import check_margin
from workbook.support.tensorflow_start import keras, tf
from workbook.training.mining import Miner, Triplets, soft_minimum, squared_distances

FAR = -1e9  # an exponent that adds nothing to a sum; unlike -inf it leaves a finite gradient


class LossAndLogs(NamedTuple):
    """The loss of a batch, a scalar, and what is logged: one value per triplet, all of one shape.

    losses: of each triplet; d_ap, d_an: its two distances; active: whether the plain triplet loss
    is above 0; weight: 1 for a valid triplet, else 0.
    """

    loss: Any
    losses: Any
    d_ap: Any
    d_an: Any
    active: Any
    weight: Any


@dataclass(frozen=True)
class TripletLoss:
    """The triplet loss max(d(a, p) - d(a, n) + margin, 0), or its soft form.

    Parameters
    ----------
    margin : by how much a negative has to be farther away than the positive; above 0.
    temperature : T of the soft form, or None for the plain one. In the soft form every negative of
        the batch counts: d(a, n) becomes the `soft_minimum` over all of them, and the hinge
        becomes T log(1 + exp((d(a, p) - d(a, n) + margin) / T)), which is never quite 0. This is
        the N-tuplet loss of Sohn (2016, section 3.1) on squared distances.
    active_only : average over the triplets with a loss above 0 instead of all (Hermans et al.
        2017, section 3).

    Raises
    ------
    ValueError : for a margin that is not above 0, or a temperature that is not a number above 0.
    """

    margin: float = 0.5
    temperature: float | None = None
    active_only: bool = False

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature!r} must be a number above 0, or None for the "
                "plain triplet loss"
            )

    def __call__(self, distances: Any, labels: Any, triplets: Triplets) -> LossAndLogs:
        """Return the mean loss of these triplets of a batch: distances (b, b), labels (b,)."""
        d_ap = tf.gather_nd(distances, tf.stack([triplets.anchor, triplets.positive], -1))
        d_an = tf.gather_nd(distances, tf.stack([triplets.anchor, triplets.negative], -1))
        active = tf.cast(d_ap - d_an + self.margin > 0, tf.float32)
        if self.temperature is None:
            losses = tf.maximum(d_ap - d_an + self.margin, 0)
        else:
            T = self.temperature
            soft = tf.gather(soft_minimum(distances, labels, T), triplets.anchor)
            losses = T * tf.nn.softplus((d_ap - soft + self.margin) / T)
        weight = tf.cast(triplets.valid, tf.float32)
        counted = weight * active if self.active_only else weight
        loss = tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)
        return LossAndLogs(loss, losses, d_ap, d_an, active, weight)


def triplet(embeddings: Any, labels: Any, margin: float = 0.5) -> Any:
    """Return the plain `TripletLoss` of the semi-hard triplets (Schroff et al. 2015, section 3)."""
    distances = squared_distances(embeddings)
    return TripletLoss(margin)(distances, labels, Miner("semi-hard")(distances, labels)).loss


def soft_triplet(
    embeddings: Any, labels: Any, margin: float = 0.5, temperature: float = 0.2
) -> Any:
    """Return the soft `TripletLoss` of all positive pairs (Sohn 2016, equation 6).

    With the margin 0 it is T times the NT-Xent loss (Chen et al. 2020, equation 1) with the
    temperature T / 2, because squared distances are 2 - 2 cosine.
    """
    distances = squared_distances(embeddings)
    triplets = Miner("hard")(distances, labels)
    return TripletLoss(margin, temperature)(distances, labels, triplets).loss


def contrastive(
    embeddings: Any, labels: Any, positive_margin: float = 0.0, negative_margin: float = 1.0
) -> Any:
    """Pull pairs of a class closer than one distance, and push others beyond another one.

    The mean of max(d - positive_margin, 0) over positive pairs plus that of
    max(negative_margin - d, 0) over negative ones, each over the pairs above 0 (Hadsell et al.
    2006, equation 4, in the form of Musgrave et al. 2020, with squared distances d).
    """
    positive, negative = _pairs(labels)
    distances = 2 - 2 * _cosines(embeddings, embeddings)
    too_far = tf.where(positive, tf.nn.relu(distances - positive_margin), 0)
    too_close = tf.where(negative, tf.nn.relu(negative_margin - distances), 0)
    return _mean_above_0(too_far) + _mean_above_0(too_close)


def supervised_contrastive(embeddings: Any, labels: Any, temperature: float = 0.1) -> Any:
    """Name each anchor's positives among all other images by a softmax over cosine / temperature.

    The mean over anchors of the mean of -log p(positive) (Khosla et al. 2020, equation 2).
    """
    positive, negative = _pairs(labels)
    logits = tf.where(positive | negative, _cosines(embeddings, embeddings) / temperature, FAR)
    log_shares = tf.where(positive, tf.nn.log_softmax(logits), 0)
    count = tf.cast(tf.math.count_nonzero(positive, 1), logits.dtype)
    return _mean_above_0(-tf.math.divide_no_nan(tf.reduce_sum(log_shares, 1), count))


def multi_similarity(
    embeddings: Any,
    labels: Any,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> Any:
    """Weigh each pair by its cosine and by how it compares with the anchor's other pairs.

    Pairs that are easier by epsilon than the hardest pair of the other kind are left out (Wang et
    al. 2019, equations 7, 8 and 10; base is their lambda).
    """
    cosines = _cosines(embeddings, embeddings)
    positive, negative = _pairs(labels)
    closest = tf.reduce_max(tf.where(negative, cosines, FAR), 1, keepdims=True)
    farthest = tf.reduce_min(tf.where(positive, cosines, -FAR), 1, keepdims=True)
    pull = _log_1_plus(-alpha * (cosines - base), positive & (cosines - epsilon < closest), 1)
    push = _log_1_plus(beta * (cosines - base), negative & (cosines + epsilon > farthest), 1)
    return tf.reduce_mean(pull / alpha + push / beta)


def proxy_anchor(
    embeddings: Any, labels: Any, proxies: Any, alpha: float = 32.0, margin: float = 0.1
) -> Any:
    """Compare each proxy with all images of the batch (Kim et al. 2020, equation 4).

    The first mean is over the proxies whose class is in the batch, the second one over all.
    """
    cosines = _cosines(embeddings, proxies)
    positive = labels[:, None] == tf.range(tf.shape(proxies)[0], dtype=labels.dtype)
    pull = _log_1_plus(-alpha * (cosines - margin), positive, 0)
    push = _log_1_plus(alpha * (cosines + margin), ~positive, 0)
    return _mean_above_0(pull) + tf.reduce_mean(push)


def cosine_softmax(embeddings: Any, labels: Any, proxies: Any, scale: float = 16.0) -> Any:
    """Classify by scale * cosine(embedding, proxy) (Wang et al. 2017, equation 6).

    With squared distances in place of cosines this is ProxyNCA++ (Teh et al. 2020, equation 6).
    """
    return _cross_entropy(labels, scale * _cosines(embeddings, proxies))


def arcface(
    embeddings: Any, labels: Any, proxies: Any, scale: float = 16.0, margin: float = 0.3
) -> Any:
    """Classify by cosines, with `margin` radians added to the angle to the own class's proxy.

    Deng et al. (2019), equation 3. Where the sum would pass 180 degrees, its cosine would rise
    again: cosine - margin sin(margin) takes its place.
    """
    cosines = _cosines(embeddings, proxies)
    own = labels[:, None] == tf.range(tf.shape(proxies)[0], dtype=labels.dtype)
    sines = tf.sqrt(tf.maximum(1 - cosines**2, 1e-12))
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    beyond = cosines - margin * math.sin(margin)
    harder = tf.where(cosines >= -math.cos(margin), turned, beyond)
    return _cross_entropy(labels, scale * tf.where(own, harder, cosines))


def softmax(embeddings: Any, labels: Any, proxies: Any) -> Any:
    """Classify by the products of embeddings, of any length, and of proxies as class weights."""
    return _cross_entropy(labels, tf.matmul(embeddings, proxies, transpose_b=True))


def _cosines(embeddings: Any, others: Any) -> Any:
    """Return (b, c) cosines of embeddings (b, dim) of length 1 and other vectors (c, dim)."""
    if others is not embeddings:
        others = keras.ops.normalize(others)
    return tf.matmul(embeddings, others, transpose_b=True)


def _pairs(labels: Any) -> tuple[Any, Any]:
    """Return which pairs (b, b) of a batch are positive, and which are negative."""
    same = labels[:, None] == labels
    return same & ~tf.eye(tf.size(labels), dtype=tf.bool), ~same


def _log_1_plus(exponents: Any, counted: Any, axis: int) -> Any:
    """Return log(1 + the sum of exp over the counted exponents of an axis)."""
    return tf.nn.softplus(tf.reduce_logsumexp(tf.where(counted, exponents, FAR), axis))


def _mean_above_0(values: Any) -> Any:
    """Return the mean of the values that are above 0; without any it is 0."""
    count = tf.cast(tf.math.count_nonzero(values), values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values), count)


def _cross_entropy(labels: Any, logits: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


class BatchLoss(NamedTuple):
    """A loss of a batch, and between which values each of its options is searched."""

    function: Callable
    ranges: Mapping[str, tuple[float, float]]

    @property
    def has_proxies(self) -> bool:
        return "proxies" in inspect.signature(self.function).parameters


PROXIES = {"proxy_length": (0.03, 1.0)}  # at the start; shorter ones turn faster
LOSSES = {
    "triplet": BatchLoss(triplet, {"margin": (0.05, 1.0)}),
    "soft triplet": BatchLoss(soft_triplet, {"margin": (0.05, 1.0), "temperature": (0.05, 0.5)}),
    "contrastive": BatchLoss(
        contrastive, {"positive_margin": (0.01, 0.3), "negative_margin": (0.3, 2.0)}
    ),
    "supervised contrastive": BatchLoss(supervised_contrastive, {"temperature": (0.03, 0.3)}),
    "multi-similarity": BatchLoss(
        multi_similarity,
        {"alpha": (0.5, 10.0), "beta": (10.0, 80.0), "base": (0.2, 0.8), "epsilon": (0.03, 0.3)},
    ),
    "proxy-anchor": BatchLoss(
        proxy_anchor, {"alpha": (8.0, 64.0), "margin": (0.03, 0.3), **PROXIES}
    ),
    "cosine softmax": BatchLoss(cosine_softmax, {"scale": (5.0, 50.0), **PROXIES}),
    "arcface": BatchLoss(arcface, {"scale": (5.0, 50.0), "margin": (0.05, 0.6), **PROXIES}),
    "softmax": BatchLoss(softmax, PROXIES),
}
