"""A small training in a process of its own, which can be killed: what the tests of training start.

    python small_run.py FOLDER OUT SEED [POINT NAME COUNT]

Trains in FOLDER with checkpoints and writes loss curve and embeddings to OUT. With a point it ends
itself by SIGKILL before the COUNT-th time that this happens: "os.rename" or "os.remove" of a file
called NAME, or "write" of the array NAME into a checkpoint. "wait - COUNT" halts at that step.
"""

import os
import signal
import sys
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import siamese_utils as su  # noqa: I001
import keras
import numpy as np
import training

EPOCHS = 6
LABELS = np.repeat(np.arange(8), 6)


def kill():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # no cleanup on any system


def kill_at(point, name, count):
    """Kill this process at the `count`-th `point` on `name`: see above."""
    left = iter(range(count - 1, -1, -1))

    def hook(happening, arguments):  # Python reports each rename and removal to it
        if happening == point and str(arguments[0]).endswith(name) and next(left) == 0:
            kill()

    sys.addaudithook(hook)
    opened = zipfile.ZipFile.open

    def watched(file, member, mode="r", **options):  # np.savez opens each array to write it
        if mode == "w":
            hook("write", [member])
        return opened(file, member, mode, **options)

    zipfile.ZipFile.open = watched


def build(seed=1):
    """(model, batches): a compiled SiameseModel with BatchNorm and Dropout over 48 small images."""
    keras.utils.set_random_seed(seed)
    images = np.random.default_rng(0).normal(size=(48, 12)) + LABELS[:, None] / 8
    x = keras.Input((12,))
    y = keras.layers.Dense(32, activation="relu")(x)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.Dropout(0.3)(y)
    y = keras.layers.UnitNormalization()(keras.layers.Dense(8)(y))
    batches = su.IndexBatches(
        np.float32(images), LABELS, lambda epoch: su.pk_batches(LABELS, 4, 3, (seed, epoch))
    )
    model = su.SiameseModel(keras.Model(x, y), margin=0.5, mining="semi-hard")
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(batches))
    model.compile(keras.optimizers.AdamW(schedule))
    return model, batches


def fit(folder, seed=1, callbacks=(), epochs=EPOCHS, **options):
    """Train in `folder` as the notebook does; returns the model and its history."""
    model, batches = build(seed)
    checkpoint = training.Checkpoint(folder, batches, {"seed": seed}, **options)
    plot = su.LiveLossPlot()
    history = model.fit(
        batches,
        epochs=epochs,
        verbose=0,
        initial_epoch=checkpoint.restore(model),
        callbacks=[training.Guard(), *callbacks, checkpoint, plot],
    ).history
    assert plot.history == history, "the live plot shows the whole curve"
    return model, history


if __name__ == "__main__":
    folder, out, seed, *point = sys.argv[1:]
    callbacks = []
    if point[:1] == ["wait"]:
        left = iter(range(int(point[2]) - 1, -1, -1))
        wait = lambda *_, **__: next(left) == 0 and time.sleep(600)  # noqa: E731
        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=wait)]
    elif point:
        kill_at(point[0], point[1], int(point[2]))
    model, history = fit(folder, int(seed), callbacks)
    images = model.embedding(np.random.default_rng(5).normal(size=(64, 12)).astype("float32"))
    np.savez(out, embeddings=images, **history)
