"""Mining: which triplets of a batch are used. Notebook 2 explains the strategies."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from siamese_utils import check_labels
from workbook.support.tensorflow_start import tf

STRATEGIES = ("all", "semi-hard", "hard", "batch-hard", "close-distance")


class Triplets(NamedTuple):
    """Triplets of a batch as index tensors of one shape, int32, and which of them are valid.

    The shape depends on the size of the batch alone, so that XLA can compile the step; where a
    strategy finds no triplet, `valid` (bool) is False and the indices mean nothing.
    """

    anchor: Any
    positive: Any
    negative: Any
    valid: Any


@dataclass(frozen=True)
class Miner:
    """Picks the triplets of a batch by their distances.

    Parameters
    ----------
    strategy : one of `STRATEGIES`.
        "all": every valid triplet.
        "hard": for every ordered pair (a, p) of a class the anchor's closest negative.
        "semi-hard": for every such pair the closest negative that is farther away than the
        positive; a pair without one gives no triplet. FaceNet (Schroff et al. 2015, section 3.2)
        also asks that this negative lies within the margin.
        "batch-hard": for every anchor its farthest positive and its closest negative (Hermans et
        al. 2017, section 2).
        "close-distance": for every pair the negative whose distance is closest to d(a, p).
        Of equal negatives the one with the lowest index is taken.

    Raises
    ------
    ValueError : for another strategy.
    """

    strategy: str = "semi-hard"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"mining={self.strategy!r} is not one of: {', '.join(STRATEGIES)}")

    def __call__(self, distances: Any, labels: Any) -> Triplets:
        """Return the `Triplets` of a batch: distances (b, b) float32, labels (b,) integers."""
        index = tf.range(tf.shape(labels)[0])
        same = labels[:, None] == labels
        is_positive = same & ~tf.eye(tf.size(labels), dtype=tf.bool)  # (anchor, positive)
        is_negative = ~same  # (anchor, negative)
        if self.strategy == "batch-hard":
            farthest = tf.argmax(tf.where(is_positive, distances, -1), 1, tf.int32)
            closest = tf.argmin(tf.where(is_negative, distances, np.inf), 1, tf.int32)
            valid = tf.reduce_any(is_positive, 1) & tf.reduce_any(is_negative, 1)
            return Triplets(index, farthest, closest, valid)

        # From here on every tensor has the axes (anchor, positive, negative).
        d_ap, d_an = distances[:, :, None], distances[:, None, :]
        candidate = is_positive[:, :, None] & is_negative[:, None, :]
        if self.strategy == "all":
            anchor, positive, negative = tf.meshgrid(index, index, index, indexing="ij")
            return Triplets(anchor, positive, negative, candidate)
        if self.strategy == "semi-hard":  # farther by more than the distances are rounded
            rounding = 4 * np.finfo(np.float32).eps * tf.reduce_max(distances, axis=1)
            candidate &= d_an - d_ap > rounding[:, None, None]
        cost = tf.abs(d_an - d_ap) if self.strategy == "close-distance" else d_an
        negative = tf.argmin(tf.where(candidate, cost, np.inf), 2, tf.int32)
        anchor, positive = tf.meshgrid(index, index, indexing="ij")
        return Triplets(anchor, positive, negative, tf.reduce_any(candidate, 2))


def squared_distances(embeddings: Any) -> Any:
    """Return all squared Euclidean distances of a batch: (b, dim) -> (b, b) float32.

    One embedding, the closest to the mean, is subtracted from all: this changes no distance, and
    what the embeddings have in common then costs no digits. A distance that the rounding of the
    embeddings explains is 0: a network gives equal images rows that differ in their last digits.
    """
    x = tf.cast(embeddings, tf.float32)
    rounding = (4 * np.finfo(np.float32).eps) ** 2 * tf.reduce_max(tf.reduce_sum(x * x, axis=1))
    from_mean = tf.reduce_sum((x - tf.reduce_mean(x, axis=0)) ** 2, axis=1)
    x = x - tf.stop_gradient(tf.gather(x, tf.argmin(from_mean)))
    norms = tf.reduce_sum(x * x, axis=1)
    distances = norms[:, None] - 2 * tf.matmul(x, x, transpose_b=True) + norms
    return tf.where(distances > rounding, distances, 0)


def soft_minimum(distances: Any, labels: Any, temperature: float) -> Any:
    """Return each anchor's soft distance to the negatives of a batch.

    It is -T log(sum over the negatives n of exp(-d(a, n) / T)) with the temperature T. All
    negatives count, the closest ones most. It lies below the distance of the closest one by at
    most T log N for N negatives, and approaches it for T -> 0.

    Parameters
    ----------
    distances : (b, b), finite.
    labels : (b,) integers.
    temperature : T, above 0 and finite.

    Returns
    -------
    (b,) float32; 0 for an anchor that has no negative in the batch.
    """
    negative = labels[:, None] != labels
    closest = tf.reduce_min(tf.where(negative, distances, np.inf), axis=1)
    closest = tf.where(tf.reduce_any(negative, 1), closest, 0)
    # Measured from the closest negative, no exponent is above 0, however small T is.
    beyond = tf.where(negative, distances - closest[:, None], 0)
    weights = tf.where(negative, tf.exp(-beyond / temperature), 0)
    total = tf.where(tf.reduce_any(negative, 1), tf.reduce_sum(weights, 1), 1)
    return closest - temperature * tf.math.log(total)


def has_triplet(labels: Any) -> Any:
    """Return whether a batch with these labels (b,) holds a triplet at all: a bool tensor."""
    same = labels[:, None] == labels
    paired = tf.reduce_sum(tf.cast(same, tf.int32), 1) > 1
    return tf.reduce_any(paired & ~tf.reduce_all(same, 1))


def mine_triplets(embeddings: Any, labels: Any, strategy: str = "semi-hard") -> Any:
    """Return the triplets that a `Miner` picks in one batch.

    Parameters
    ----------
    embeddings : (n, dim), finite.
    labels : (n,) whole numbers or words.
    strategy : see `Miner`.

    Returns
    -------
    (count, 3) int32 tensor : rows (anchor, positive, negative) of indices.

    Raises
    ------
    ValueError : for another strategy, for labels that are not one per embedding, or for an
        embedding that is not finite.
    """
    miner = Miner(strategy)
    if not np.isfinite(embeddings).all():
        raise ValueError("an embedding holds NaN or infinity")
    numbers = tf.constant(np.unique(check_labels(labels, len(embeddings)), return_inverse=True)[1])
    *triplet, valid = miner(squared_distances(embeddings), numbers)
    return tf.boolean_mask(tf.stack(triplet, axis=-1), valid)
