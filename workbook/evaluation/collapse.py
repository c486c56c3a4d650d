"""Has an embedding collapsed to a point, or to a few directions? Notebook 04 explains it."""

import numpy as np
from numpy.typing import ArrayLike

NOT_FINITE = "an embedding holds NaN or infinity: look at the training's loss"
LIMIT = 1e-4  # of the mean squared length: all images within about 1 % of it around one point


class CollapsedError(ValueError):
    """The embeddings lie at one point, so that no map and no direction can be computed."""


def check_embeddings(embeddings: ArrayLike, at_least: int = 2) -> np.ndarray:
    """Return embeddings (n, dim) as float64.

    Raises
    ------
    ValueError : unless they are finite numbers in at least `at_least` rows, all of one length.
    """
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or len(vectors) < at_least or not vectors.shape[1]:
        raise ValueError(
            f"embeddings of shape {vectors.shape}: at least {at_least} rows are needed, (n, dim)"
        )
    if not np.isfinite(vectors).all():
        raise ValueError(NOT_FINITE)
    return vectors


def total_variance(vectors: np.ndarray) -> float:
    """Return the sum of the variances of all dimensions of float64 vectors (n, dim)."""
    return float(vectors.var(axis=0).sum())


def is_collapsed(embeddings: ArrayLike, limit: float = LIMIT) -> bool:
    """Tell whether all embeddings lie at one point.

    Parameters
    ----------
    embeddings : (n, dim) numbers, at least two rows.
    limit : the embeddings have collapsed if their total variance is at most this share (0..1) of
        their mean squared length. The default leaves room for rounding in any precision.

    Raises
    ------
    ValueError : for another shape, fewer than two rows, NaN or infinity.
    """
    vectors = check_embeddings(embeddings)
    return total_variance(vectors) <= limit * float((vectors**2).sum(axis=1).mean())


def refuse_collapsed(embeddings: ArrayLike, at_least: int = 2) -> np.ndarray:
    """Return the embeddings as float64; raise a CollapsedError if `is_collapsed`."""
    vectors = check_embeddings(embeddings, at_least)
    if is_collapsed(vectors):
        raise CollapsedError(describe_spread(vectors))
    return vectors


def effective_rank(embeddings: ArrayLike) -> float:
    """Count the directions in which the embeddings really differ, as the participation ratio.

    With the eigenvalues l of the covariance matrix it is (sum l)^2 / sum l^2: `dim` if the spread
    is the same in all directions, 1 if all embeddings lie on one line.

    Parameters
    ----------
    embeddings : (n, dim) numbers, at least two rows.

    Returns
    -------
    float between 1 and min(n - 1, dim); 0 if all embeddings are equal.

    References
    ----------
    Gao, Trautmann, Yu, Santhanam, Ryu, Shenoy and Ganguli 2017, "A theory of multineuronal
    dimensionality, dynamics and measurement", section 3 (participation ratio). Jing, Vincent, LeCun
    and Tian 2022, "Understanding dimensional collapse in contrastive self-supervised learning".
    """
    vectors = check_embeddings(embeddings)
    centred = vectors - vectors.mean(axis=0)
    largest = np.abs(centred).max()
    if largest <= 1e-12 * np.abs(vectors).max():  # equal to within rounding
        return 0.0
    eigenvalues = np.linalg.svd(centred / largest, compute_uv=False) ** 2
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def describe_spread(embeddings: ArrayLike) -> str:
    """Say in one sentence how far the embeddings are spread, and in how many directions."""
    vectors = check_embeddings(embeddings)
    count, dimensions = vectors.shape
    length = float((vectors**2).sum(axis=1).mean())
    share = total_variance(vectors) / length if length else 0.0
    if share <= 1e-12:
        return f"collapsed: all {count:,} embeddings are equal to within rounding."
    if is_collapsed(vectors):
        return (
            f"collapsed: all {count:,} embeddings lie at almost one point (their total variance is "
            f"{share:.1g} of their mean squared length)."
        )
    return (
        f"not collapsed: the total variance of the {count:,} embeddings is {share:.2f} of their "
        f"mean squared length, and they use {effective_rank(vectors):.1f} of at most "
        f"{min(count - 1, dimensions)} directions (effective rank)."
    )
