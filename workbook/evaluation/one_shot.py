"""One-shot classification: which of the characters, each shown once, is this? Notebook 7."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import siamese_utils as su
from workbook.data.omniglot import Trials
from workbook.evaluation.retrieval import bootstrap_interval


def trial_distances(vectors: tuple[ArrayLike, ArrayLike]) -> np.ndarray:
    """Compute the squared distance of each query to each example of its run.

    Parameters
    ----------
    vectors : what `embed_trials` returns, (queries, examples): (runs, ways, dim) each.

    Returns
    -------
    (runs, queries, examples) float64.
    """
    queries, support = (np.asarray(each, np.float64) for each in vectors)
    return ((queries[:, :, None] - support[:, None]) ** 2).sum(axis=-1)


def embed_trials(
    embedding: Any, trials: Trials, distortion: Any = None, views: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images of trials.

    Parameters
    ----------
    embedding : an embedding model.
    distortion : a layer that makes random views when it is called with training=True; needed for
        more than one view.
    views : of how many views of each image the mean is taken. The first is the image as it is.

    Returns
    -------
    (queries, examples), two arrays (runs, ways, dim) float32.
    """
    both = np.stack([trials.queries, trials.support])
    images = both.reshape(-1, *both.shape[3:])
    total = su.embed(embedding, images)
    for _ in range(views - 1):
        total += su.embed(embedding, np.asarray(distortion(np.float32(images), training=True)))
    queries, support = (total / views).reshape(*both.shape[:3], -1)
    return queries, support


def embed_pixels(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of trials as vectors of numbers in 0..1, the baseline without a network."""
    queries, support = (
        (images / np.float32(255)).reshape(*images.shape[:2], -1)
        for images in (trials.queries, trials.support)
    )
    return queries, support


def are_correct(distances: ArrayLike, answers: ArrayLike) -> np.ndarray:
    """Tell for each query whether the closest example is the answer.

    Parameters
    ----------
    distances : (runs, queries, examples).
    answers : (runs, queries) whole numbers.

    Returns
    -------
    (runs, queries) bool. Of equal distances the first example counts.
    """
    return np.asarray(distances).argmin(axis=-1) == np.asarray(answers)


def run_numbers(correct: np.ndarray) -> np.ndarray:
    """Return the number of the run of each query, (runs * queries,), for intervals over runs."""
    return np.repeat(np.arange(len(correct)), correct.shape[1])


def run_interval(correct: np.ndarray) -> tuple[float, float]:
    """Compute a 95 % interval of the accuracy by drawing whole runs, see `bootstrap_interval`.

    The queries of a run share its characters, its alphabet and its two drawers, so they are not
    independent of each other.

    Parameters
    ----------
    correct : (runs, queries) bool, or each query's mean over several trainings.
    """
    return bootstrap_interval(correct.ravel(), run_numbers(correct))
