"""The gradient that a loss puts on a pair of images; notebook 8 draws it."""

from collections.abc import Mapping

import numpy as np

from workbook.support.tensorflow_start import tf
from workbook.training.losses import LOSSES, PROXIES


def pair_gradients(
    name: str, options: Mapping[str, float], d_ap: np.ndarray, d_an: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how strongly a loss pulls a positive and pushes a negative.

    The batch has three images: an anchor, one image of its class and one of another class. A loss
    with proxies gets the anchor alone, and the other two vectors as the proxies of both classes.

    Parameters
    ----------
    name, options : one of `LOSSES`, and its own options. How long proxies are plays no part.
    d_ap, d_an : (m,) squared distances of vectors of length 1, above 0 and below 4.

    Returns
    -------
    pull, push : (m,) the derivatives of the loss by d(a, p), and by -d(a, n), through the anchor's
        vector; 0 or more where the loss does what its name promises.
    """
    loss, count = LOSSES[name], len(d_ap)
    options = {key: value for key, value in options.items() if key not in PROXIES}
    cosines = 1 - np.array([d_ap, d_an], float) / 2  # (2, m)
    sines, zeros = np.sqrt(1 - cosines**2), np.zeros(count)
    anchor = np.tile([1.0, 0.0, 0.0], (count, 1))
    positive = np.stack([cosines[0], sines[0], zeros], 1)  # both turn away from the anchor, at
    negative = np.stack([cosines[1], zeros, sines[1]], 1)  # right angles to each other
    points = np.stack([anchor, positive, negative], 1)  # (m, 3 vectors, 3 numbers)

    @tf.function
    def slope(triple: tf.Tensor) -> tf.Tensor:
        """Return the gradient by the anchor's vector, (3,)."""
        with tf.GradientTape() as tape:
            tape.watch(triple)
            if loss.has_proxies:
                value = loss.function(triple[:1], tf.constant([0]), triple[1:], **options)
            else:
                value = loss.function(triple, tf.constant([0, 0, 1]), **options)
        return tape.gradient(value, triple)[0]

    slopes = np.array([slope(tf.constant(triple)) for triple in points])
    # the gradient is a sum of the three vectors; 2 - 2 cosine is a squared distance
    parts = np.linalg.solve(points.transpose(0, 2, 1), slopes[..., None])[..., 0]
    return -parts[:, 1] / 2, parts[:, 2] / 2
