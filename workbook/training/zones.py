"""Distances of triplets, and the share of them that is hard, semi-hard or easy: notebook 2."""

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 4096  # triplets whose embeddings are held in memory at once


def triplet_distances(embeddings: np.ndarray, triplets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distances d(a, p) and d(a, n) of triplets.

    Parameters
    ----------
    embeddings : (n, dim).
    triplets : (t, 3) indices of embeddings: anchor, positive, negative.

    Returns
    -------
    Two arrays (t,), float32: d(a, p) and d(a, n).
    """
    rows = np.asarray(triplets, int).reshape(-1, 3)
    distances = np.empty((2, len(rows)), np.float32)
    for first in range(0, len(rows), BLOCK):
        part = slice(first, first + BLOCK)
        anchor, *others = embeddings[rows[part].T]
        distances[:, part] = [((anchor - other) ** 2).sum(axis=1) for other in others]
    return distances[0], distances[1]


def zone_shares(d_ap: ArrayLike, d_an: ArrayLike, margin: float) -> dict[str, float]:
    """Return the share of triplets in each zone: hard, semi-hard, easy.

    Hard: d(a, n) < d(a, p). Easy: d(a, n) >= d(a, p) + margin, so that the loss is 0. Semi-hard:
    between the two.

    Parameters
    ----------
    d_ap, d_an : (t,) squared distances of the same triplets, t at least 1.
    margin : above 0.
    """
    d_ap, d_an = np.asarray(d_ap), np.asarray(d_an)
    hard = float(np.mean(d_an < d_ap))
    easy = float(np.mean(d_an >= d_ap + margin))
    return {"hard": hard, "semi-hard": 1 - hard - easy, "easy": easy}
