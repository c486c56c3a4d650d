"""The distance beyond which an image is called unknown."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trial:
    """How n pictures fare against a gallery's entries, whatever the threshold: arrays (n,).

    distances: squared, to the closest entry; known: the picture's class is in the gallery; right:
    the closest entry is of that class; foreign: squared distance to the closest entry of *another*
    class, which is what is left if the picture's own class is taken out. strangers (m,): the
    distances of those who should be unknown: the pictures of other classes or, where there are
    none, `foreign` of all (`simulated`).
    """

    distances: np.ndarray
    known: np.ndarray
    right: np.ndarray
    foreign: np.ndarray
    strangers: np.ndarray
    simulated: bool


def _threshold(friends, strangers, let_in, tight):
    """`fit_threshold` by its policy; friends: a `Trial`; strangers: (m,) ascending distances."""
    named = np.sort(friends.distances[friends.right])
    if let_in is None:
        limits = np.unique(np.concatenate([named, strangers]))
        gain = np.searchsorted(named, limits, "right") / max(1, friends.known.sum())
        gain -= np.searchsorted(strangers, limits, "right") / len(strangers)
        return float(limits[gain.argmax()])
    bound = strangers[int(let_in * len(strangers))]  # this stranger stays outside
    bound = float(np.nextafter(bound, np.float32(-np.inf)))
    accepted = named[named <= bound]
    if not len(accepted):
        return bound
    farthest = float(accepted[-1])
    return farthest if tight else (farthest + bound) / 2
