"""The distance beyond which an image is called unknown, and how well that works.

A *stranger* is an image of a class that the gallery does not have. Accepting one is a false accept;
calling an image of a known class unknown is a false reject. Notebook 6 explains the policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ONE_CLASS_ONLY = (
    "the gallery has one class and no image is of another, so nothing can stand in for a stranger "
    "and there is no threshold. Add a class, or give images of others"
)


@dataclass(frozen=True)
class Comparison:
    """How n images compare with the entries of a gallery, whatever its threshold is.

    Attributes
    ----------
    distances
        Squared distance to the nearest entry, (n,) float64; infinity if there is none.
    is_known
        Whether the gallery has an entry of the image's class, (n,) bool.
    is_right
        Whether the nearest entry is of the image's class, (n,) bool.
    distances_to_other_classes
        Squared distance to the nearest entry of *another* class, (n,) float64: what remains if
        the image's own class is taken out of the gallery. Infinity if there is no other class.
    strangers_are_simulated
        Whether `stranger_distances` are `distances_to_other_classes`, because no image is of
        another class.
    """

    distances: np.ndarray
    is_known: np.ndarray
    is_right: np.ndarray
    distances_to_other_classes: np.ndarray
    strangers_are_simulated: bool

    @property
    def stranger_distances(self) -> np.ndarray:
        """The distances (m,) of the images that should be called unknown."""
        simulated = self.strangers_are_simulated
        found = self.distances_to_other_classes if simulated else self.distances[~self.is_known]
        return found[np.isfinite(found)]

    def measure_shares(self, threshold: float | None) -> dict[str, float]:
        """Measure how known images and strangers fare with this threshold.

        Returns
        -------
        dict
            known_accuracy: the share of the known images that are accepted *and* get the right
            label; known_refused: the share of them that are called unknown (false rejects);
            unknown_rejection: the share of the strangers that are called unknown. NaN for a kind
            that is missing.
        """
        limit = np.inf if threshold is None else threshold
        accepted = self.distances <= limit
        return {
            "known_accuracy": _share((self.is_right & accepted)[self.is_known]),
            "known_refused": _share(~accepted[self.is_known]),
            "unknown_rejection": _share(self.stranger_distances > limit),
        }


def fit_policy(
    held_out: Comparison,
    compare_entries: Callable[[], Comparison],
    strangers_let_in: float | None,
) -> dict[str, Any]:
    """Choose a threshold and note how it was chosen.

    Parameters
    ----------
    held_out
        The comparison of images that are not in the gallery; of no image where there are none.
    compare_entries
        Compares the entries with each other. It is called only if `held_out` lacks known images
        or strangers.
    strangers_let_in
        The largest share of strangers to accept, from 0 to below 1; None for the best balance.

    Returns
    -------
    dict
        The threshold, and the shares that were measured when it was chosen.

    Raises
    ------
    ValueError
        For another share, and where nothing can stand in for a stranger.
    """
    if strangers_let_in is not None and not 0 <= strangers_let_in < 1:
        raise ValueError(f"strangers_let_in={strangers_let_in}: give a share from 0 to below 1")
    known_held_out = bool(held_out.is_known.any())
    real_strangers = not held_out.strangers_are_simulated
    entries = held_out if known_held_out and real_strangers else compare_entries()
    known = held_out if known_held_out else entries
    strangers = held_out.stranger_distances
    if not real_strangers:
        strangers = np.concatenate([strangers, entries.stranger_distances])
    if not len(strangers):
        raise ValueError(ONE_CLASS_ONLY)

    named = known.distances[known.is_right]
    if strangers_let_in is None:
        threshold = balance_shares(named, int(known.is_known.sum()), strangers)
    else:
        # simulated strangers lie farther away than real ones do, so they do not raise it
        halfway = real_strangers or not known_held_out
        threshold = limit_strangers(named, strangers, strangers_let_in, halfway)
    refused = known.distances[known.is_known] > threshold
    return {
        "threshold": threshold,
        "strangers_let_in_at_most": strangers_let_in,
        "strangers": len(strangers),
        "strangers_simulated": not real_strangers,
        "strangers_let_in": _share(strangers <= threshold),
        "known": len(refused),
        "known_held_out": known_held_out,
        "known_refused": _share(refused) if len(refused) else None,
    }


def limit_strangers(named: np.ndarray, strangers: np.ndarray, share: float, halfway: bool) -> float:
    """Return a threshold that accepts at most this share of the strangers.

    It accepts every known image that can be accepted on that condition. With `halfway` it lies
    half way between the farthest of these and the nearest stranger that has to be refused.

    Parameters
    ----------
    named
        Distances of the known images whose nearest entry has the right label.
    strangers
        Distances of the strangers, at least one.
    """
    allowed = int(share * len(strangers) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    nearest_refused = np.sort(strangers)[allowed]
    limit = np.nextafter(nearest_refused, -np.inf)  # a distance equal to the threshold is accepted
    accepted = named[named <= limit]
    if not len(accepted):
        return float(limit)
    farthest = accepted.max()
    return float((farthest + limit) / 2 if halfway else farthest)


def balance_shares(named: np.ndarray, known: int, strangers: np.ndarray) -> float:
    """Return the threshold at which known images named minus strangers accepted is largest.

    Both are shares: of `known` images and of the strangers. Only a distance that was measured can
    be the best threshold, because the shares change nowhere else.
    """
    candidates = np.unique(np.concatenate([named, strangers]))
    named_share = np.searchsorted(np.sort(named), candidates, "right") / max(1, known)
    accepted_share = np.searchsorted(np.sort(strangers), candidates, "right") / len(strangers)
    return float(candidates[np.argmax(named_share - accepted_share)])


def describe_threshold(threshold: float | None, policy: dict[str, Any] | None) -> str:
    """Describe a threshold, the rule that chose it and what was measured then, in a sentence."""
    if threshold is None:
        return "no threshold: no image is called unknown; gallery.fit_threshold() chooses one"
    if policy is None or policy["threshold"] != threshold:
        return f"threshold {threshold:.3f}, set by hand"
    limit, refused = policy["strangers_let_in_at_most"], policy["known_refused"]
    rule = "the best balance" if limit is None else f"at most {limit:.0%} of strangers let in"
    kind = "images of other classes"
    if policy["strangers_simulated"]:
        kind = "simulated by leaving out each image's class; real ones come closer"
    text = f"threshold {threshold:.3f} ({rule}): when it was chosen, "
    text += f"{policy['strangers_let_in']:.1%} of {policy['strangers']} strangers ({kind}) were"
    if refused is None:
        return f"{text} let in; there was no known image to refuse"
    how = "held out" if policy["known_held_out"] else "entries, leave-one-out"
    return f"{text} let in, {refused:.1%} of {policy['known']} known images ({how}) refused"


def _share(kind: np.ndarray) -> float:
    return float(kind.mean()) if len(kind) else float("nan")
