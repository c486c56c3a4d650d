"""What watches a training: the live plot, checkpoints to go on from, a guard of the numbers.

Keras's own `BackupAndRestore` is not used: it overwrites its one file in place and notices a cut
file but not a changed byte, it keeps neither the loss curve nor the random state (not even the
seeds of the model's Dropout layers), and the epoch is in a second file, which a kill can leave
behind the weights. Explained in notebook 04, "Train, and watch".
"""

import json
import math
import os
import random
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from workbook.folders import printable
from workbook.mining import OPTIONS, Place, build_optimizer
from workbook.run_folder import lock_folder, remove_rests, unlock_folder, whole_file
from workbook.start import keras

# ------------------------------------------------------------------------------------- checkpoints


def _random_state():
    """Python's and NumPy's global generators, for JSON: `fit` shuffles batches with Python's."""
    kind, numbers, *rest = np.random.get_state()
    return [random.getstate(), [kind, numbers.tolist(), *rest]]


def _set_random_state(state):
    (version, numbers, gauss), numpy_state = state
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(numpy_state))


def _nameless(config):
    """An optimiser's settings without names, its inner one's too: Keras numbers them."""
    if not isinstance(config, dict):
        return config
    return {key: _nameless(value) for key, value in config.items() if key != "name"}


class Checkpoint(keras.callbacks.Callback):
    """Writes the training's state to `folder` after epochs; an interrupted `fit` goes on.

        with Checkpoint(folder, batches, settings) as checkpoint:
            done = checkpoint.restore(model)
            model.fit(batches, initial_epoch=done, callbacks=[..., checkpoint])
            ...  # save what is trained

    Writing takes a twentieth of the time at most, but is not put off for more than five minutes: a
    kill costs that and the epoch it falls into. Whatever else ends the `with` early (the stop
    button, an error) costs no whole epoch: what was not written yet is kept in memory, and written
    then; a KeyboardInterrupt becomes `Interrupted`.

    batches: the `IndexBatches` that is trained on. settings: a dict of what the result depends on;
    a checkpoint of other settings, data or shapes is named and not used. The state is the weights,
    the optimiser's variables, the seeds inside the model, Python's and NumPy's random state, the
    epoch, and the history: in one file, `checkpoint.npz` (arrays and JSON, no pickle), and the one
    before it, which is used if the last is damaged. Both are removed when the `with` ends well, so
    that the next one trains from the start. `resume=False` drops an interrupted training at once.

    Callbacks that add to the logs belong before it, a plot after it. Not covered: `tf.random` ops
    without a Keras seed. Explained in notebook 04, "Train, and watch".
    """

    share, longest = 1 / 20, 300  # of the time, for writing; seconds from one writing to the next

    def __init__(self, folder, batches, settings, resume=True):
        super().__init__()
        self.folder, self.batches, self.resume = Path(folder), batches, resume
        self.files = [self.folder / "checkpoint.npz", self.folder / "checkpoint-before.npz"]
        self.settings = settings
        self.state = None  # epoch and history so far
        self.within = False

    def __enter__(self):
        self.within = True
        return self

    def __exit__(self, kind, error, trace):
        state, self.state, self.within = self.state, None, False
        if not state:
            return
        if kind is None:
            self._remove()
            unlock_folder(self.folder)
        elif self.unwritten:
            self._write()
        if kind is KeyboardInterrupt:
            raise Interrupted(state["epoch"]) from None

    def restore(self, model):
        """Lock the folder and load the last good state; returns the number of epochs it has behind.

        Raises RuntimeError if another process trains in the folder.
        """
        lock_folder(self.folder)
        remove_rests(self.files[0])
        if not self.resume:
            self._remove()
        build_optimizer(model)
        self.variables = [*model.variables, *model.optimizer.variables]
        self.facts = self._facts(model)
        self.last, self.state = None, {"epoch": 0, "history": {}}
        self.unwritten, self.written, self.took = None, time.monotonic(), 0
        for path in filter(Path.exists, self.files):
            try:
                state, arrays = self._read(path)
            except Exception as error:  # whatever a damaged file raises
                why = f"is damaged, or cannot be read ({error}): not used"
                print(printable(f"{path} {why}"), flush=True)
                continue
            if differences := self._differences(state["facts"]):
                print(printable(f"{path} is of another training: not used. {differences}"))
                continue
            for variable, array in zip(self.variables, arrays):
                variable.assign(array)
            self.last, self.state = path, state
            print(f"going on after epoch {state['epoch']}, from {printable(path)}", flush=True)
            break
        return self.state["epoch"]

    def _facts(self, model):
        """What the result depends on, as JSON holds it; of the images a sample of 16."""
        images, labels = self.batches.images, self.batches.labels
        sample = np.ascontiguousarray(images[:: max(1, len(images) // 16)])
        facts = self.settings | {
            "images": [*images.shape, zlib.crc32(sample)],
            "labels": zlib.crc32(np.ascontiguousarray(labels)),
            "batches an epoch": len(self.batches),
            "shapes": [list(v.shape) for v in self.variables],
            **{name: getattr(model, name, None) for name in ("margin", *OPTIONS)},
            "optimizer": _nameless(model.optimizer.get_config()),
        }
        return json.loads(json.dumps(facts, default=str))

    def _read(self, path):
        if not zipfile.is_zipfile(path):
            raise ValueError("cut short")
        with np.load(path, allow_pickle=False) as file:  # a zip: it checks what it reads (CRC)
            state = json.loads(file["state"].item())
            return state, [file[f"v{i}"] for i in range(len(file.files) - 1)]

    def _differences(self, there):
        here = self.facts
        names = [name for name in here | there if here.get(name) != there.get(name)]
        return "; ".join(
            f"{n}: {there.get(n)!s:.60} there, {here.get(n)!s:.60} here" for n in names
        )

    def _keep(self):
        """Take the state down as it is now, and write it if that is due."""
        self.state |= {"facts": self.facts, "random": _random_state()}
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(self.variables)}
        self.unwritten = {"state": json.dumps(self.state)} | arrays
        if time.monotonic() - self.written >= min(self.took / self.share, self.longest):
            self._write()

    def _write(self):
        begin = time.monotonic()
        with whole_file(self.files[0]) as part:
            np.savez(part, **self.unwritten)
            if self.last == self.files[0]:  # a damaged one must not displace the good one
                os.replace(*self.files)
                self.last = self.files[1]
        self.last, self.unwritten, self.written = self.files[0], None, time.monotonic()
        self.took = self.written - begin

    def _remove(self):
        for path in reversed(self.files):
            path.unlink(missing_ok=True)

    def on_train_begin(self, logs=None):
        if not self.within or self.state is None:
            raise RuntimeError(
                "fit within `with Checkpoint(...) as checkpoint:`, with "
                "initial_epoch=checkpoint.restore(model)"
            )
        past = {name: list(values) for name, values in self.state["history"].items()}
        self.model.history.history.update(past)
        if self.last:
            _set_random_state(self.state["random"])
        else:
            self._keep()  # a full disk shows now, not after the first epoch

    def on_epoch_end(self, epoch, logs=None):
        self.state["epoch"] = epoch + 1
        for name, value in logs.items():
            self.state["history"].setdefault(name, []).append(float(value))
        self._keep()


class Interrupted(KeyboardInterrupt):
    """Ends a cell whose training was interrupted, in one line instead of a long traceback.

    Raised in place of the KeyboardInterrupt. Explained in notebook 04, "Train, and watch".
    """

    def __init__(self, epochs_behind):
        super().__init__(f"interrupted after epoch {epochs_behind}; run this cell again to go on")

    def _render_traceback_(self):  # what IPython shows
        return [str(self)]


# ---------------------------------------------------------------------------------- the live plot


class LiveLossPlot(keras.callbacks.Callback):
    """Redraws one figure in place while `fit` runs: loss, distances, active share, val_recall@1.

    In Jupyter it updates one display handle, at most once a second; headless (no Jupyter, or
    SIAMESE_LIVE=0) it draws once, at the end. The figure is `.figure`; `.history` holds what is
    drawn: name -> list, one value an epoch.
    Explained in notebook 04.
    """

    PANELS = (  # y label, the logs drawn in that panel
        ("triplet loss", ("loss", "val_loss")),
        ("mean squared distance", ("d_ap", "d_an")),
        ("share", ("active", "val_recall@1")),
    )

    def __init__(self, title="", live=None):
        super().__init__()
        self.title, self.history, self.figure, self.handle, self.drawn = title, {}, None, None, 0.0
        wanted = os.environ.get("SIAMESE_LIVE", "1") != "0" if live is None else live
        self.live = wanted and "ipykernel" in sys.modules

    def on_train_begin(self, logs=None):  # a resumed training brings its first epochs along
        self.history = {name: list(v) for name, v in self.model.history.history.items()}

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if self.live and time.monotonic() - self.drawn > 1:
            self._draw()

    def on_train_end(self, logs=None):
        self._draw()

    def _draw(self):
        if self.figure is None:
            self.figure, self.axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
            plt.close(self.figure)  # pyplot would show it a second time when the cell ends
        for axis, (label, names) in zip(self.axes, self.PANELS):
            axis.clear()
            for name in names:
                if values := self.history.get(name):
                    axis.plot(range(1, len(values) + 1), values, marker=".", label=name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set(xlabel="epoch", ylabel=label, ylim=(0, 1.02 if label == "share" else None))
            if axis.lines:
                axis.legend()
        self.figure.suptitle(self.title, parse_math=False)
        self.drawn = time.monotonic()
        if "ipykernel" in sys.modules:
            if self.handle is None:
                self.handle = display(self.figure, display_id=True)
            else:
                self.handle.update(self.figure)


# ------------------------------------------------------------------------- numbers that go wrong


class Guard(Place):
    """Stops a `SiameseModel`'s `fit` where numbers go wrong; warns where nothing is learned.

    A step refuses images and embeddings that are not finite by itself, except under XLA. This
    raises FloatingPointError, naming step, epoch and learning rate, after the first step with a
    loss or a weight of the last layer that is NaN or infinite; after an epoch, with any such
    weight: a ReLU swallows NaN, so the loss may look well. Warns (RuntimeWarning, once a `fit`)
    when no batch of an epoch held a triplet, and of a collapsed embedding: when after two epochs in
    a row the mean distances are below a tenth of the margin. Then the loss sits at the margin, or
    (semi-hard) no negative is farther than the positive and it is 0. Place it first.
    Explained in notebook 04, "Has the embedding collapsed?".
    """

    def on_train_begin(self, logs=None):
        self.near_zero, self.warned = 0, False
        # the share of batches whose labels allow a triplet; triplets that are given always do
        self.possible = getattr(self.model, "possible", None)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        self.share = 1
        if self.possible is not None:
            self.possible.reset_state()

    def on_train_batch_end(self, batch, logs=None):
        if self.possible is not None:  # now: validation would count its batches too
            self.share = self.possible.result()
        self._check(logs["loss"], self.model.trainable_weights[-1:])

    def _check(self, loss, weights):
        bad = [w.path for w in weights if not np.isfinite(w.numpy()).all()]
        if bad or not math.isfinite(loss):
            found = f"loss {loss}" + (f", NaN or infinity in {', '.join(bad)}" if bad else "")
            remedy = (
                "Lower the rate (try a tenth), clip the gradients (clipnorm=1), or look for images "
                "that are not finite"
            )
            raise self.numbers_went_wrong(f"{found}. {remedy}")

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs["loss"], self.model.trainable_weights)
        if self.share == 0:
            self._warn(
                f"no triplet in the batches of epoch {epoch + 1}, so nothing is learned: a batch "
                "takes two classes, one of them with two images. Draw batches with pk_batches, or "
                "look at the labels"
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

    def _warn(self, message):
        if not self.warned:
            self.warned = True
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def warm_cosine(learning_rate, steps, warm_up=30):
    """A learning rate that rises linearly for `warm_up` steps, then falls to 0 as a half cosine.

    Rises for a quarter of the `steps` at most. Explained in notebook 04, "Batches and model".
    """
    rising = min(warm_up, steps // 4)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=learning_rate, warmup_steps=rising
    )
