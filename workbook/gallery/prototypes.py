"""One mean per class, its *prototype*, in place of every image: what a gallery may compare with.

References
----------
Snell, Swersky and Zemel 2017, "Prototypical networks for few-shot learning",
https://arxiv.org/abs/1703.05175, section 2.2: the mean of a class's embeddings, which is not
scaled to length 1.
"""

import numpy as np

from workbook.gallery.calibration import relative_margins
from workbook.gallery.entries import Entries
from workbook.gallery.threshold import Comparison


def average_classes(entries: Entries) -> Entries:
    """Return the mean of each class as an entry without a path or image, sorted by label."""
    names, classes = np.unique(entries.labels, return_inverse=True)
    sums, counts = _sum_groups(entries.embeddings, classes)
    means = (sums / counts[:, None]).astype(np.float32)
    nothing = [""] * len(names)
    return Entries.new(means, names, nothing, nothing, np.zeros(len(names), bool))


def compare_with_other_means(entries: Entries, means: Entries) -> Comparison:
    """Compare each entry with the means of the classes, its own without its image.

    An image that is alone in its class counts as not known. The strangers are simulated.

    Parameters
    ----------
    means
        `average_classes` of these entries.
    """
    _, classes = np.unique(entries.labels, return_inverse=True)  # also the place of each mean
    to_own = _measure_to_rest_of_class(entries, classes)
    to_others, _ = means.search(entries.embeddings, 2, classes, np.arange(len(means)))
    first, second = to_others.T
    is_right = to_own <= first
    distances = np.minimum(to_own, first)
    return Comparison(
        distances=distances,
        is_known=np.isfinite(to_own),
        is_right=np.isfinite(to_own) & is_right,
        margins=relative_margins(distances, np.where(is_right, first, np.minimum(to_own, second))),
        classes=classes,
        distances_to_other_classes=first,
        strangers_are_simulated=True,
    )


def _measure_to_rest_of_class(entries: Entries, classes: np.ndarray) -> np.ndarray:
    """Return squared distances (m,) to the mean of the class's other images; infinity without."""
    sums, counts = _sum_groups(entries.embeddings, classes)
    _, images = np.unique(entries.images, return_inverse=True)
    own_sums, own_counts = _sum_groups(entries.embeddings, images)
    left = counts[classes] - own_counts[images]
    means = (sums[classes] - own_sums[images]) / np.maximum(left, 1)[:, None]
    return np.where(left > 0, np.square(entries.embeddings - means).sum(axis=1), np.inf)


def _sum_groups(vectors: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the vectors (n, dim) of each group 0..g-1: (g, dim) float64; and the sizes (g,)."""
    counts = np.bincount(groups)
    if not len(counts):
        return np.empty((0, vectors.shape[1])), counts
    order = np.argsort(groups, kind="stable")
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64), counts
