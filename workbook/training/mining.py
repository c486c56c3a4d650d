"""Mining: batches of P x K images, the triplets chosen among them, the model that trains on them.

Explained in notebook 02; several devices in notebook 06.
"""

import numpy as np

from siamese_utils import (
    checked_labels,
)
from workbook.support.tensorflow_start import tf


def squared_distances(embeddings):
    """All squared Euclidean distances in a batch: (b, dim) -> (b, b) float32, never negative.

    Measured from the embedding closest to the mean: distances do not change, and what all
    embeddings have in common costs no digits. (From a row, so that whole numbers stay whole.)
    """
    x = tf.cast(embeddings, tf.float32)
    from_mean = tf.reduce_sum((x - tf.reduce_mean(x, axis=0)) ** 2, axis=1)
    x = x - tf.stop_gradient(tf.gather(x, tf.argmin(from_mean)))
    norms = tf.reduce_sum(x * x, axis=1)
    return tf.maximum(norms[:, None] - 2 * tf.matmul(x, x, transpose_b=True) + norms, 0)


MINING = ("all", "semi-hard", "hard", "batch-hard", "close-distance")


def _select(distances, labels, strategy):
    """(anchor, positive, negative, valid) of one static shape, so that XLA can compile it."""
    size = tf.shape(labels)[0]
    same = labels[:, None] == labels
    positive = same & ~tf.eye(size, dtype=tf.bool)  # (anchor, positive)
    negative = ~same  # (anchor, negative)
    if strategy == "batch-hard":
        anchor = tf.range(size)
        farthest = tf.argmax(tf.where(positive, distances, -1), 1, tf.int32)
        nearest = tf.argmin(tf.where(negative, distances, np.inf), 1, tf.int32)
        return anchor, farthest, nearest, tf.reduce_any(positive, 1) & tf.reduce_any(negative, 1)
    d_ap, d_an = distances[:, :, None], distances[:, None, :]
    candidate = positive[:, :, None] & negative[:, None, :]  # (anchor, positive, negative)
    if strategy == "all":
        grid = tf.meshgrid(tf.range(size), tf.range(size), tf.range(size), indexing="ij")
        return *grid, candidate
    if strategy == "semi-hard":  # farther by more than the rounding of the distances
        rounding = 4 * np.finfo(np.float32).eps * tf.reduce_max(distances, axis=1)
        candidate &= d_an - d_ap > rounding[:, None, None]
    cost = tf.abs(d_an - d_ap) if strategy == "close-distance" else d_an
    nearest = tf.argmin(tf.where(candidate, cost, np.inf), 2, tf.int32)
    anchor, other = tf.meshgrid(tf.range(size), tf.range(size), indexing="ij")
    return anchor, other, nearest, tf.reduce_any(candidate, 2)


def _has_triplet(labels):
    """Whether a batch of these labels (b,) holds a triplet at all: a bool."""
    same = labels[:, None] == labels
    paired = tf.reduce_sum(tf.cast(same, tf.int32), 1) > 1
    return tf.reduce_any(paired & ~tf.reduce_all(same, 1))


def mine_triplets(embeddings, labels, strategy="semi-hard"):
    """The triplets that `strategy` picks in one batch, as (n, 3) int32 indices (a, p, n).

    "all": every valid triplet. "semi-hard": for every ordered pair (a, p) the closest negative
    that is farther than the positive, within the margin or beyond it (a later variant: FaceNet,
    Schroff et al. 2015, section 3.2, takes negatives within the margin); where none is farther,
    the pair gives no triplet. "hard": for every ordered pair the anchor's closest negative.
    "batch-hard": for every anchor its farthest positive and its closest negative (Hermans et al.
    2017, section 2). "close-distance": for every ordered pair the negative whose distance is
    closest to d(a, p). Ties go to the lowest index. embeddings (n, dim), labels (n,). Raises
    ValueError for an unknown strategy, for labels that are not (n,) (see `checked_labels`) and for
    an embedding that is not finite. Explained in notebook 02, "Easy, semi-hard, hard".
    """
    if strategy not in MINING:
        raise ValueError(f"mining={strategy!r} is not one of: {', '.join(MINING)}")
    if not np.isfinite(embeddings).all():
        raise ValueError("NaN or infinity in an embedding")
    labels = tf.constant(checked_labels(labels, len(embeddings)))
    *triplet, valid = _select(squared_distances(embeddings), labels, strategy)
    return tf.boolean_mask(tf.stack(triplet, axis=-1), valid)


def soft_minimum(distances, labels, temperature):
    """Each anchor's distance to the negatives of a batch: all count, the closest ones most.

    distances (b, b), labels (b,) -> (b,) float32, -T log(sum over negatives n of exp(-d(a, n) / T))
    of the temperature T. It is at most the closest one's distance, which it comes to for T -> 0.
    Explained in notebook 02, "All negatives, the close ones most".
    """
    same = labels[:, None] == labels
    closeness = tf.where(same, -1e9, -distances / temperature)  # of infinity there is no gradient
    return -temperature * tf.reduce_logsumexp(closeness, axis=1)
