"""The distance beyond which an image is called unknown, and how well that works.

A *stranger* is an image of a class that the gallery does not have. Accepting one is a false accept;
calling an image of a known class unknown is a false reject. Notebook 6 explains the policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import binomtest

from workbook.evaluation.retrieval import bootstrap_interval
from workbook.gallery.calibration import Calibrator, fit_calibrator

# Of strangers. With fewer, no share of other strangers can be promised: of six folders of five
# classes, whose plain features let in at most 4 % of the simulated strangers that chose the
# threshold, the galleries let in 6 to 43 % of 90 or 120 images of other classes of their source.
FEWEST_CLASSES = 8
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
    margins
        `relative_margins` of the two nearest labels, (n,) float64.
    classes
        The number of each image's class, (n,) int.
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
    margins: np.ndarray
    classes: np.ndarray
    distances_to_other_classes: np.ndarray
    strangers_are_simulated: bool

    @property
    def stranger_distances(self) -> np.ndarray:
        """The distances (m,) of the images that should be called unknown."""
        return self.find_strangers()[0]

    def find_strangers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (m,) and classes (m,) of the images that should be called unknown."""
        simulated = self.strangers_are_simulated
        distances = self.distances_to_other_classes if simulated else self.distances
        rows = np.isfinite(distances) & (simulated | ~self.is_known)
        return distances[rows], self.classes[rows]

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


@dataclass(frozen=True)
class Trials:
    """How n known images and m strangers compared with the entries, which a gallery keeps.

    Attributes
    ----------
    known_distances, known_margins, known_right, known_classes
        `distances`, `margins`, `is_right` and `classes` of the known images, (n,).
    stranger_distances, stranger_classes
        The same of the strangers, (m,).
    known_held_out
        Whether the known images are no entries; else they were compared leave-one-out.
    strangers_simulated
        Whether the strangers are images of known classes, compared without their class.
    are_current
        False once entries were added or removed.
    """

    known_distances: np.ndarray
    known_margins: np.ndarray
    known_right: np.ndarray
    known_classes: np.ndarray
    stranger_distances: np.ndarray
    stranger_classes: np.ndarray
    known_held_out: bool
    strangers_simulated: bool
    are_current: bool = True

    @property
    def rest_on_entries(self) -> bool:
        """Whether all were entries, compared leave-one-out."""
        return self.strangers_simulated and not self.known_held_out

    @cached_property
    def calibrator(self) -> Calibrator:
        """What `fit_calibrator` learns from the known images; ValueError if they are too few."""
        return fit_calibrator(self.known_margins, self.known_right)


def collect_trials(held_out: Comparison, compare_entries: Callable[[], Comparison]) -> Trials:
    """Collect known images and strangers; where held-out ones are missing, entries stand in.

    Parameters
    ----------
    held_out
        The comparison of images that are not in the gallery; of no image where there are none.
    compare_entries
        Compares the entries with each other. It is called only if `held_out` lacks known images
        or strangers.

    Raises
    ------
    ValueError
        Where nothing can stand in for a stranger.
    """
    known_held_out = bool(held_out.is_known.any())
    simulated = held_out.strangers_are_simulated
    entries = held_out if known_held_out and not simulated else compare_entries()
    known = held_out if known_held_out else entries
    parts = [one.find_strangers() for one in ((held_out, entries) if simulated else (held_out,))]
    distances, classes = (np.concatenate(arrays) for arrays in zip(*parts))
    if not len(distances):
        raise ValueError(ONE_CLASS_ONLY)
    rows = known.is_known
    return Trials(
        known_distances=known.distances[rows],
        known_margins=known.margins[rows],
        known_right=known.is_right[rows],
        known_classes=known.classes[rows],
        stranger_distances=distances,
        stranger_classes=classes,
        known_held_out=known_held_out,
        strangers_simulated=simulated,
    )


def choose_policy(
    trials: Trials, strangers_let_in: float | None = 0.05, known_refused: float | None = None
) -> dict[str, Any]:
    """Choose a threshold and note how it was chosen.

    Parameters
    ----------
    strangers_let_in
        The largest share of strangers to accept, from 0 to below 1; None for the best balance.
    known_refused
        The largest share of known images to refuse, in place of a share of strangers.

    Returns
    -------
    dict
        The threshold, and the shares that it has in the trials, with 95 % intervals.

    Raises
    ------
    ValueError
        For another share, and for a share of known images if there are none.
    """
    for name, share in (("strangers_let_in", strangers_let_in), ("known_refused", known_refused)):
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"{name}={share}: give a share from 0 to below 1")
    known, strangers = trials.known_distances, trials.stranger_distances
    named = known[trials.known_right]
    if known_refused is not None:
        if not len(known):
            raise ValueError("there is no known image to refuse: give a share of strangers instead")
        threshold = float(np.sort(known)[len(known) - 1 - int(known_refused * len(known) + 1e-9)])
    elif strangers_let_in is None:
        threshold = balance_shares(named, len(known), strangers)
    else:
        # simulated strangers lie farther away than real ones do, so they do not raise it
        halfway = not (trials.strangers_simulated and trials.known_held_out)
        threshold = limit_strangers(named, strangers, strangers_let_in, halfway)
    accepted, refused = strangers <= threshold, known > threshold
    return {
        "threshold": threshold,
        "strangers_let_in_at_most": None if known_refused is not None else strangers_let_in,
        "known_refused_at_most": known_refused,
        "strangers": len(strangers),
        "stranger_classes": len(np.unique(trials.stranger_classes)),
        "strangers_simulated": trials.strangers_simulated,
        "strangers_let_in": _share(accepted),
        "strangers_let_in_95": share_interval(accepted, trials.stranger_classes),
        "known": len(refused),
        "known_held_out": trials.known_held_out,
        "known_refused": _share(refused) if len(refused) else None,
        "known_refused_95": share_interval(refused, trials.known_classes),
    }


def share_interval(is_case: np.ndarray, classes: np.ndarray) -> list[float] | None:
    """Return the 95 % interval [low, high] of a share, or None of no images.

    Whole classes are drawn, because their images are alike. Where that cannot vary (no case, only
    cases, or one class) the interval is Wilson's, for single images.
    """
    if not len(is_case):
        return None
    if 0 < is_case.sum() < len(is_case) and len(np.unique(classes)) > 1:
        return list(bootstrap_interval(is_case, classes))
    found = binomtest(int(is_case.sum()), len(is_case)).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


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
        return "no threshold: no image is called unknown"
    if policy is None or policy["threshold"] != threshold:
        return f"threshold {threshold:.3f}, set by hand"
    limit, refused_limit = policy["strangers_let_in_at_most"], policy.get("known_refused_at_most")
    rule = "the best balance" if limit is None else f"at most {100 * limit:g}% of strangers let in"
    if refused_limit is not None:
        rule = f"at most {100 * refused_limit:g}% of known images refused"
    kind = "images of other classes"
    if policy["strangers_simulated"]:
        kind = "simulated by leaving out each image's class; real ones come closer"
    text = f"threshold {threshold:.3f} ({rule}): when it was chosen, "
    text += f"{_show(policy, 'strangers_let_in')} of {policy['strangers']} strangers ({kind}) were"
    if policy["known_refused"] is None:
        return f"{text} let in; there was no known image to refuse{_warn_of_few_classes(policy)}"
    how = "entries, leave-one-out; images taken elsewhere are refused more often"
    if policy["known_held_out"]:
        how = "held out"
    text += f" let in, {_show(policy, 'known_refused')} of {policy['known']} known images ({how})"
    return f"{text} refused{_warn_of_few_classes(policy)}"


def _warn_of_few_classes(policy: dict[str, Any]) -> str:
    classes = policy.get("stranger_classes")  # up to format 5 it was not noted
    if classes is None or classes >= FEWEST_CLASSES:
        return ""
    of_what = "one class" if classes == 1 else f"{classes} classes"
    return (
        f"; CAUTION: strangers of only {of_what} chose it, which is too few to promise how many "
        "others are let in"
    )


def _show(policy: dict[str, Any], name: str) -> str:
    interval = policy.get(f"{name}_95")
    shown = f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval else ""
    return f"{policy[name]:.1%}{shown}"


def _share(kind: np.ndarray) -> float:
    return float(kind.mean()) if len(kind) else float("nan")
