"""Verification: do two images show the same class?"""

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from siamese_utils import checked_labels, random_triplets


def pair_distances(embeddings, labels, count=10_000, seed=42):
    """Random pairs, `count` of one class and `count` of two: (distances, same), each (2 * count,).

    embeddings (n, dim), labels (n,) -> squared Euclidean distances float32, same bool. The pairs
    are (a, p) and (a, n) of `random_triplets`, so one may come twice. Raises ValueError if there is
    no triplet, or not one label an embedding. Explained in notebook 05, "How far apart?".
    """
    embeddings = np.asarray(embeddings, np.float32)
    a, p, n = random_triplets(checked_labels(labels, len(embeddings)), count, seed).T
    difference = embeddings[np.concatenate([a, a])] - embeddings[np.concatenate([p, n])]
    return (difference**2).sum(1), np.arange(2 * count) < count


def _checked_pairs(name, distances, same):
    """(distances, same) as arrays (n,) of numbers and bool; ValueError unless of both kinds."""
    distances, kinds = np.asarray(distances), checked_labels(same)
    if distances.shape != kinds.shape or set(np.unique(kinds)) != {0, 1}:
        raise ValueError(
            f"{name}: distances of shape {distances.shape}, for {len(kinds)} pairs of the kinds "
            f"{np.unique(kinds).tolist()}; it takes distances (n,) and same (n,) bool, pairs of "
            "both kinds, as pair_distances gives them"
        )
    return distances, kinds == 1


def verification(validation, test):
    """Same class or not, by one threshold on the distance: a dict of floats.

    validation, test: the (distances, same) of `pair_distances`. From the test pairs' ROC curve: auc
    0..1; eer, the error where as large a share of different pairs is accepted as of same pairs is
    refused; tar@far=x, the share of same pairs accepted while at most the share x of different ones
    is (FaceNet, Schroff et al. 2015, section 4). threshold: accept up to this distance; chosen on
    the *validation* pairs, for the best balanced accuracy. accuracy: of the test pairs at it.
    Raises ValueError if a kind of pair is missing, or for another shape than (n,) and (n,) bool.
    Explained in notebook 05, "How far apart?".
    """
    validation, test = _checked_pairs("validation", *validation), _checked_pairs("test", *test)
    far, tar, scores = roc_curve(validation[1], -validation[0], drop_intermediate=False)
    balanced = (tar - far).round(9)[1:]  # the first accepts nothing; of equals the smallest wins
    threshold = -float(scores[1:][balanced.argmax()])
    distances, same = test
    far, tar, _ = roc_curve(same, -distances, drop_intermediate=False)
    result = {"auc": roc_auc_score(same, -distances), "eer": np.interp(1, far + tar, far)}
    result |= {f"tar@far={limit}": tar[far <= limit].max() for limit in (0.01, 0.001)}
    result |= {"threshold": threshold, "accuracy": ((distances <= threshold) == same).mean()}
    return {name: float(value) for name, value in result.items()}
