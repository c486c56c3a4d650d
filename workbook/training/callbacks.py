"""Callbacks that watch a training: the live plot, and a guard of the numbers. Notebook 4."""

import math
import sys
import time
import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from workbook.support.tensorflow_start import keras
from workbook.training.batches import Logs
from workbook.training.mined_model import StepTracker


class LiveLossPlot(keras.callbacks.Callback):
    """Draws the curves of a training while `fit` runs: loss, distances, active share, recall@1.

    Parameters
    ----------
    title : of the figure.
    live : whether the figure is redrawn in place, often enough to use at most 5 % of the time; it
        is then one display of Jupyter. Otherwise, and outside Jupyter, it is drawn once, at the
        end.

    Attributes
    ----------
    figure : the figure.
    history : what is drawn as dots, name -> one value per epoch.
    steps : what is drawn as lines, name -> (epochs done, mean since the epoch began) per step, and
        NaN where an epoch begins. Steps before an interruption are not known.
    """

    PANELS = (  # y label, the logs drawn in that panel
        ("triplet loss", ("loss", "val_loss")),
        ("mean squared distance", ("d_ap", "d_an")),
        ("share", ("active", "val_recall@1")),
    )

    def __init__(self, title: str = "", live: bool = True):
        super().__init__()
        self.title, self.next_drawing = title, 0.0
        self.figure: Any = None
        self.handle: Any = None
        self.history: dict[str, list[float]] = {}
        self.steps: dict[str, list[tuple[float, float]]] = {}
        self.live = live and "ipykernel" in sys.modules

    def on_train_begin(self, logs: Logs | None = None) -> None:
        # a resumed training brings its first epochs along
        self.history = {name: list(v) for name, v in self.model.history.history.items()}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch
        for points in self.steps.values():
            points.append((epoch, math.nan))

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        # Keras logs the mean of the steps since the epoch began
        place = self.epoch + (batch + 1) / (self.params.get("steps") or math.inf)
        for name, value in logs.items():
            self.steps.setdefault(name, []).append((place, float(value)))
        self._draw_if_due()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._draw_if_due()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._draw()

    def _draw_if_due(self) -> None:
        start = time.monotonic()
        if self.live and start > self.next_drawing:
            self._draw()
            end = time.monotonic()
            self.next_drawing = end + max(1, 19 * (end - start))

    def _draw(self) -> None:
        if self.figure is None:
            self.figure, self.axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
            plt.close(self.figure)  # pyplot would show it a second time when the cell ends
        for axis, (label, names) in zip(self.axes, self.PANELS):
            axis.clear()
            for name in names:
                values, points = self.history.get(name, []), self.steps.get(name, [])
                if values or points:
                    join = "" if points else "-"
                    [dots] = axis.plot(
                        range(1, len(values) + 1), values, marker="o", linestyle=join, label=name
                    )
                    axis.plot(*np.reshape(points, (-1, 2)).T, color=dots.get_color())
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set(xlabel="epoch", ylabel=label, ylim=(0, 1.02 if label == "share" else None))
            if axis.lines:
                axis.legend()
        self.figure.suptitle(self.title, parse_math=False)
        if "ipykernel" in sys.modules:
            if self.handle is None:
                self.handle = display(self.figure, display_id=True)
            else:
                self.handle.update(self.figure)


class Guard(StepTracker):
    """Stops a training whose numbers go wrong; warns when nothing is learned. Place it first.

    Raises FloatingPointError, naming step, epoch and learning rate, after the first step with a
    loss or a weight of the last layer that is NaN or infinite; after an epoch it checks every
    weight, because a ReLU swallows NaN and the loss may look well.

    Warns (RuntimeWarning, once per `fit`) when no batch of an epoch held a triplet, and when the
    embedding has collapsed: when after two epochs in a row both mean distances are below a tenth
    of the margin. The loss then stays at the margin or, with semi-hard mining, is 0 because no
    negative is farther away than the positive.
    """

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.near_zero, self.warned = 0, False
        # the share of batches whose labels allow a triplet; triplets that are given always do
        self.batches_with_triplet = getattr(self.model, "batches_with_triplet", None)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch)
        self.share = 1
        if self.batches_with_triplet is not None:
            self.batches_with_triplet.reset_state()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if self.batches_with_triplet is not None:  # now: validation would count its batches too
            self.share = self.batches_with_triplet.result()
        self._check(logs["loss"], self.model.trainable_weights[-1:])

    def _check(self, loss: float, weights: list) -> None:
        bad = [w.path for w in weights if not np.isfinite(w.numpy()).all()]
        if bad or not math.isfinite(loss):
            found = f"loss {loss}" + (f", NaN or infinity in {', '.join(bad)}" if bad else "")
            remedy = (
                "Lower the rate (try a tenth), clip the gradients (clipnorm=1), or look for images "
                "that are not finite"
            )
            raise self.locate_error(f"{found}. {remedy}")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._check(logs["loss"], self.model.trainable_weights)
        if self.share == 0:
            self._warn(
                f"no batch of epoch {epoch + 1} held a triplet, so nothing is learned: a batch "
                "needs at least two classes, one of them with two images. Draw batches with "
                "pk_batches, or look at the labels"
            )
            return
        small = max(logs["d_ap"], logs["d_an"]) < 0.1 * self.model.margin
        self.near_zero = self.near_zero + 1 if small else 0
        if self.near_zero == 2:
            self._warn(
                f"the embedding has collapsed: after epoch {epoch + 1} all images are at almost "
                f"one point (d(a, p) {logs['d_ap']:.2g}, d(a, n) {logs['d_an']:.2g}, loss "
                f"{logs['loss']:.3g}, margin {self.model.margin}). Lower the learning rate, mine "
                "easier triplets first (semi-hard, then hard), or lower the margin"
            )

    def _warn(self, message: str) -> None:
        if not self.warned:
            self.warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=3)


class TimeBudget(keras.callbacks.Callback):
    """Trains for some seconds instead of some epochs. The rate follows the share that is spent.

    Only the steps count, not what happens between epochs, and not the first step of all, which
    compiles the others. Seconds of processor time are counted, of all cores together, so that other
    work on the machine takes nothing away. The rate rises during the first twentieth and then falls
    to 0 as a half cosine, like `warm_cosine`.

    Parameters
    ----------
    seconds : of processor time, above 0.

    Attributes
    ----------
    spent, steps : seconds and steps so far.
    """

    RISING = 1 / 20

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.spent, self.steps = seconds, 0.0, 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.rate = float(self.model.optimizer.learning_rate)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.begin, share = time.process_time(), self.spent / self.seconds
        falling = (1 + math.cos(math.pi * (share - self.RISING) / (1 - self.RISING))) / 2
        self.model.optimizer.learning_rate = self.rate * min(share / self.RISING, falling)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.spent += (time.process_time() - self.begin) * (self.steps > 0)
        self.steps += 1
        self.model.stop_training = self.spent >= self.seconds
