"""Checkpoints: an interrupted training continues where it stopped."""

import json
import os
import random
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from workbook.support.atomic_files import atomic_file, remove_leftovers
from workbook.support.folder_lock import lock_folder, unlock_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable
from workbook.training.mined_model import OPTIONS, build_optimizer


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
        remove_leftovers(self.files[0])
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
        with atomic_file(self.files[0]) as part:
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
