"""Losses on the distances of mined triplets. Notebooks 2 and 3 explain them."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from siamese_utils import check_margin
from workbook.support.tensorflow_start import tf
from workbook.training.mining import Triplets, soft_minimum


class LossAndLogs(NamedTuple):
    """The loss of a batch, a scalar, and what is logged: one value per triplet, all of one shape.

    losses: of each triplet; d_ap, d_an: its two distances; active: whether the plain triplet loss
    is above 0; weight: 1 for a valid triplet, else 0.
    """

    loss: Any
    losses: Any
    d_ap: Any
    d_an: Any
    active: Any
    weight: Any


@dataclass(frozen=True)
class TripletLoss:
    """The triplet loss max(d(a, p) - d(a, n) + margin, 0), or its soft form.

    Parameters
    ----------
    margin : by how much a negative has to be farther away than the positive; above 0.
    temperature : T of the soft form, or None for the plain one. In the soft form every negative of
        the batch counts: d(a, n) becomes the `soft_minimum` over all of them, and the hinge
        becomes T log(1 + exp((d(a, p) - d(a, n) + margin) / T)), which is never quite 0. This is
        the N-tuplet loss of Sohn (2016, section 3.1) on squared distances.
    active_only : average over the triplets with a loss above 0 instead of all (Hermans et al.
        2017, section 3).

    Raises
    ------
    ValueError : for a margin that is not above 0, or a temperature that is not a number above 0.
    """

    margin: float = 0.5
    temperature: float | None = None
    active_only: bool = False

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature!r} must be a number above 0, or None for the "
                "plain triplet loss"
            )

    def __call__(self, distances: Any, labels: Any, triplets: Triplets) -> LossAndLogs:
        """Return the mean loss of these triplets of a batch: distances (b, b), labels (b,)."""
        d_ap = tf.gather_nd(distances, tf.stack([triplets.anchor, triplets.positive], -1))
        d_an = tf.gather_nd(distances, tf.stack([triplets.anchor, triplets.negative], -1))
        active = tf.cast(d_ap - d_an + self.margin > 0, tf.float32)
        if self.temperature is None:
            losses = tf.maximum(d_ap - d_an + self.margin, 0)
        else:
            T = self.temperature
            soft = tf.gather(soft_minimum(distances, labels, T), triplets.anchor)
            losses = T * tf.nn.softplus((d_ap - soft + self.margin) / T)
        weight = tf.cast(triplets.valid, tf.float32)
        counted = weight * active if self.active_only else weight
        loss = tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)
        return LossAndLogs(loss, losses, d_ap, d_an, active, weight)
