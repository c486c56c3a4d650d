"""Verification: do two images show the same class? Notebook 05 explains it."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve

from siamese_utils import check_labels, random_triplets
from workbook.evaluation.collapse import check_embeddings

Pairs: TypeAlias = tuple[ArrayLike, ArrayLike]  # distances (n,), same (n,) bool


def pair_distances(
    embeddings: ArrayLike, labels: ArrayLike, count: int = 10_000, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Draw random pairs: `count` of the same class, then `count` of different classes.

    Parameters
    ----------
    embeddings : (n, dim) finite numbers.
    labels : (n,) whole numbers or words.
    count : pairs of each kind. They are the (a, p) and (a, n) of `random_triplets`, so a pair may
        be drawn more than once.

    Returns
    -------
    distances : (2 * count,) float32, squared Euclidean.
    same : (2 * count,) bool, True for a pair of the same class.

    Raises
    ------
    ValueError : if no triplet exists, for NaN, or if there is not one label per embedding.
    """
    vectors = check_embeddings(embeddings).astype(np.float32)
    anchor, positive, negative = random_triplets(check_labels(labels, len(vectors)), count, seed).T
    other = np.concatenate([positive, negative])
    difference = vectors[np.concatenate([anchor, anchor])] - vectors[other]
    return (difference**2).sum(1), np.arange(2 * count) < count


def _check_pairs(name: str, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return (distances, same) as arrays (n,); ValueError unless pairs of both kinds are there."""
    distances, kinds = np.asarray(pairs[0]), check_labels(pairs[1])
    if distances.shape != kinds.shape or set(np.unique(kinds)) != {0, 1}:
        raise ValueError(
            f"{name}: distances of shape {distances.shape} for {len(kinds)} pairs of the kinds "
            f"{np.unique(kinds).tolist()}; distances (n,) and same (n,) bool with pairs of both "
            "kinds are needed, as pair_distances gives them"
        )
    if not np.isfinite(distances).all():
        raise ValueError(f"{name}: a distance is NaN or infinite")
    return distances, kinds == 1


def verification(validation: Pairs, test: Pairs) -> dict[str, float]:
    """Measure how well one threshold on the distance tells same pairs from different pairs.

    Parameters
    ----------
    validation, test : (distances, same) of `pair_distances`.

    Returns
    -------
    dict of floats. From the test pairs' ROC curve: "auc" 0..1; "eer", the error rate at which the
    share of different pairs accepted (false accepts) equals the share of same pairs refused (false
    rejects); "tar@far=<x>", the share of same pairs accepted while at most the share x of different
    pairs is. "threshold": pairs up to this distance are accepted; it is chosen on the *validation*
    pairs for the best balanced accuracy. "accuracy": of the test pairs at that threshold.

    Raises
    ------
    ValueError : if a kind of pair is missing, for NaN, or for other shapes than (n,) and (n,).

    References
    ----------
    Schroff, Kalenichenko and Philbin 2015, "FaceNet", section 4.
    """
    distances, same = _check_pairs("validation", validation)
    far, tar, scores = roc_curve(same, -distances, drop_intermediate=False)
    balanced = (tar - far).round(9)[1:]  # the first point accepts nothing; of ties, the smallest
    threshold = -float(scores[1:][balanced.argmax()])
    distances, same = _check_pairs("test", test)
    far, tar, _ = roc_curve(same, -distances, drop_intermediate=False)
    result = {"auc": roc_auc_score(same, -distances), "eer": np.interp(1, far + tar, far)}
    result |= {f"tar@far={limit}": tar[far <= limit].max() for limit in (0.01, 0.001)}
    result |= {"threshold": threshold, "accuracy": ((distances <= threshold) == same).mean()}
    return {name: float(value) for name, value in result.items()}
