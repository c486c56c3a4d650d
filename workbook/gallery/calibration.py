"""How probable it is that the nearest entry has the right label.

The score is an image's *margin*: how much farther away the nearest entry of another label is. What
a margin is worth is learned from known images whose answers were checked.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

FEWEST = 50  # images; with fewer no probability is given
FEWEST_ISOTONIC = 200  # images; with fewer two numbers are fitted and not a whole curve

Calibrator = Callable[[np.ndarray], np.ndarray]


def relative_margins(distances: np.ndarray, runner_up_distances: np.ndarray) -> np.ndarray:
    """Return margins (n,) from 0 (two labels equally near) to 1 (no other label is near).

    Parameters
    ----------
    distances, runner_up_distances
        Squared distances (n,) to the nearest entry and to the nearest one of another label.
    """
    comparable = np.isfinite(distances) & (runner_up_distances > 0)
    ratio = np.ones(len(distances))
    return 1 - np.divide(distances, runner_up_distances, out=ratio, where=comparable)


def name_method(count: int) -> str:
    """Return the method by which that many images are calibrated."""
    return "Platt scaling" if count < FEWEST_ISOTONIC else "isotonic regression"


def fit_calibrator(margins: np.ndarray, is_right: np.ndarray) -> Calibrator:
    """Fit the function from margins (n,) to the probability (n,) that the name is right.

    No probability is 0 or 1: n right answers of n count as n + 1 of n + 2.

    Parameters
    ----------
    margins, is_right
        Of known images that are not entries, or were left out: (n,) float and (n,) bool.

    Raises
    ------
    ValueError
        Below `FEWEST` images.

    References
    ----------
    Platt 1999, "Probabilistic outputs for support vector machines", with the targets of its
    section 2.2. Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass
    probability estimates", for isotonic regression.
    """
    n, right = len(margins), int(np.sum(is_right))
    if n < FEWEST:
        raise ValueError(
            f"no probability: it needs {FEWEST} known images to be calibrated on, and there were "
            f"{n}. Add images and build the gallery again"
        )
    if n >= FEWEST_ISOTONIC:
        low = 1 / (n + 2)
        curve = IsotonicRegression(y_min=low, y_max=1 - low, out_of_bounds="clip")
        return curve.fit(margins, is_right).predict
    share = np.where(is_right, (right + 1) / (right + 2), 1 / (n - right + 2))
    logistic = LogisticRegression(C=1e6).fit(  # each image counts as right and as wrong, by shares
        np.tile(margins, 2)[:, None], np.repeat([1, 0], n), np.concatenate([share, 1 - share])
    )
    weight, bias = logistic.coef_.item(), logistic.intercept_.item()
    # predict_proba gives the same, and takes two milliseconds longer for each query
    return lambda values: expit(weight * np.asarray(values) + bias)
