"""Checkpoints: an interrupted training continues where it stopped. Notebook 4 uses them.

Keras's own `BackupAndRestore` is not used: it overwrites its one file in place, it notices a cut
file but not a changed byte, and it keeps neither the loss curve nor the random state.
"""

import json
import os
import random
import time
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from workbook.support.atomic_files import atomic_file, remove_leftovers
from workbook.support.folder_lock import lock_folder, unlock_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable
from workbook.training.batches import IndexBatches, Logs
from workbook.training.mined_model import MinedSiameseModel, build_optimizer

FORMAT = 2  # of the facts that a checkpoint notes about its training


def _get_random_state() -> list:
    """Return the state of Python's and NumPy's global generators as JSON holds it."""
    kind, numbers, *rest = np.random.get_state()
    return [random.getstate(), [kind, np.asarray(numbers).tolist(), *rest]]


def _set_random_state(state: list) -> None:
    (version, numbers, gauss), numpy_state = state
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(numpy_state))


def _without_names(config: Any) -> Any:
    """Return an optimizer's settings without names, because Keras numbers those."""
    if not isinstance(config, dict):
        return config
    return {key: _without_names(value) for key, value in config.items() if key != "name"}


def _describe_loss(model: keras.Model) -> dict:
    """Return the options of the loss and the miner."""
    if isinstance(model, MinedSiameseModel):
        return asdict(model.triplet_loss_function) | {"mining": model.miner.strategy}
    return {"margin": getattr(model, "margin", None), "mining": None}


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a training to a folder after epochs, so that it can be continued.

        with Checkpoint(folder, batches, settings) as checkpoint:
            done = checkpoint.restore(model)
            model.fit(batches, initial_epoch=done, callbacks=[..., checkpoint])
            ...  # save what was trained

    Parameters
    ----------
    folder : holds `checkpoint.npz` (arrays and JSON, no pickle) and the one before it, which is
        used if the last one is damaged. Both are removed when the `with` block ends well.
    batches : the `IndexBatches` that is trained on.
    settings : what the result depends on, as JSON holds it. A checkpoint of other settings, data
        or shapes is named and not used.
    resume : False drops an interrupted training.

    The state holds the weights, the optimizer's variables, the seeds inside the model, Python's
    and NumPy's random state, the epoch and the history. It does not cover `tf.random` operations
    without a Keras seed. Writing takes at most a twentieth of the time, but it happens at least
    every five minutes; a kill costs that and the epoch it falls into. Any other early end (the
    stop button, an error) costs no whole epoch, because the state is kept in memory and written
    at the end of the block; a KeyboardInterrupt becomes `Interrupted`.

    Callbacks that add to the logs belong before it, a plot after it.
    """

    SHARE_OF_TIME = 1 / 20  # for writing, at most
    LONGEST_PAUSE = 300  # seconds between two writings, at most

    def __init__(
        self, folder: Path | str, batches: IndexBatches, settings: dict, resume: bool = True
    ):
        super().__init__()
        self.folder, self.batches, self.resume = Path(folder), batches, resume
        self.files = [self.folder / "checkpoint.npz", self.folder / "checkpoint-before.npz"]
        self.settings = settings
        self.state: dict = {}  # epoch and history so far; empty before `restore`
        self.within = False
        self.last: Path | None = None  # the newest good file
        self.unwritten: dict[str, Any] = {}  # arrays of a state that no file holds yet

    @property
    def history(self) -> dict[str, list[float]]:
        """The history of the epochs that are behind."""
        return self.state.get("history", {})

    def __enter__(self) -> Self:
        self.within = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state, self.state, self.within = self.state, {}, False
        if not state:
            return
        if kind is None:
            self._remove()
            unlock_folder(self.folder)
        elif self.unwritten:
            self._write()
        if kind is KeyboardInterrupt:
            raise Interrupted(state["epoch"]) from None

    def restore(self, model: keras.Model) -> int:
        """Lock the folder, load the last good state, and return how many epochs are behind it.

        Raises
        ------
        RuntimeError : if another process trains in the folder.
        """
        lock_folder(self.folder)
        remove_leftovers(self.files[0])
        if not self.resume:
            self._remove()
        build_optimizer(model)
        self.variables = [*model.variables, *model.optimizer.variables]
        self.facts = self._facts(model)
        self.last, self.state = None, {"epoch": 0, "history": {}}
        self.unwritten, self.written, self.took = {}, time.monotonic(), 0.0
        for path in filter(Path.exists, self.files):
            try:
                state, arrays = self._read(path)
            except Exception as error:  # whatever a damaged file raises
                print(printable(f"{path} is damaged and not used: {error}"), flush=True)
                continue
            if state["facts"].get("format") != FORMAT:
                print(f"{printable(path)} was written by another version of the workbook: not used")
                continue
            if differences := self._differences(state["facts"]):
                print(printable(f"{path} is of another training and not used: {differences}"))
                continue
            for variable, array in zip(self.variables, arrays):
                variable.assign(array)
            self.last, self.state = path, state
            print(f"continuing after epoch {state['epoch']}, from {printable(path)}", flush=True)
            break
        return self.state["epoch"]

    def _facts(self, model: keras.Model) -> dict[str, Any]:
        """Return what the result depends on, as JSON holds it; 16 images stand for all."""
        images, labels = self.batches.images, self.batches.labels
        sample = images[:: max(1, len(images) // 16)]
        facts = self.settings | {
            "format": FORMAT,
            "images": [*images.shape, zlib.crc32(sample.tobytes())],
            "labels": zlib.crc32(labels.tobytes()),
            "batches per epoch": len(self.batches),
            "shapes": [list(v.shape) for v in self.variables],
            **_describe_loss(model),
            "optimizer": _without_names(model.optimizer.get_config()),
        }
        return json.loads(json.dumps(facts, default=str))

    def _read(self, path: Path) -> tuple[dict, list[np.ndarray]]:
        if not zipfile.is_zipfile(path):
            raise ValueError("cut short")
        with np.load(path, allow_pickle=False) as file:  # a zip: it checks what it reads (CRC)
            state = json.loads(file["state"].item())
            return state, [file[f"v{i}"] for i in range(len(file.files) - 1)]

    def _differences(self, there: dict[str, Any]) -> str:
        here = self.facts
        names = [name for name in here | there if here.get(name) != there.get(name)]
        return "; ".join(
            f"{n}: {there.get(n)!s:.60} there, {here.get(n)!s:.60} here" for n in names
        )

    def _keep(self) -> None:
        """Take the state down as it is now, and write it if that is due."""
        self.state |= {"facts": self.facts, "random": _get_random_state()}
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(self.variables)}
        self.unwritten = {"state": json.dumps(self.state)} | arrays
        if time.monotonic() - self.written >= min(
            self.took / self.SHARE_OF_TIME, self.LONGEST_PAUSE
        ):
            self._write()

    def _write(self) -> None:
        begin = time.monotonic()
        with atomic_file(self.files[0]) as part:
            np.savez(part, **self.unwritten)
            if self.last == self.files[0]:  # a damaged one must not displace the good one
                os.replace(*self.files)
                self.last = self.files[1]
        self.last, self.unwritten, self.written = self.files[0], {}, time.monotonic()
        self.took = self.written - begin

    def _remove(self) -> None:
        for path in reversed(self.files):
            path.unlink(missing_ok=True)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not self.within or not self.state:
            raise RuntimeError(
                "call fit within `with Checkpoint(...) as checkpoint:` and pass it "
                "initial_epoch=checkpoint.restore(model)"
            )
        past = {name: list(values) for name, values in self.state["history"].items()}
        self.model.history.history.update(past)
        if self.last:
            _set_random_state(self.state["random"])
        else:
            self._keep()  # a full disk shows now, not after the first epoch

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.state["epoch"] = epoch + 1
        for name, value in logs.items():
            self.state["history"].setdefault(name, []).append(float(value))
        self._keep()


class Interrupted(KeyboardInterrupt):
    """Ends a cell whose training was interrupted, with one line instead of a long traceback."""

    def __init__(self, epochs_behind: int):
        super().__init__(
            f"interrupted after epoch {epochs_behind}; run this cell again to continue"
        )

    def _render_traceback_(self) -> list[str]:  # IPython shows this
        return [str(self)]
