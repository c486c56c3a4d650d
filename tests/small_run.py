"""A small training in a process of its own, which can be killed: what the tests of training start.

    python small_run.py FOLDER OUT SEED [POINT NAME COUNT]

Trains in FOLDER with checkpoints and writes loss curve and embeddings to OUT. With a point it ends
itself by SIGKILL before the COUNT-th time that this happens: "os.rename" or "os.remove" of a file
called NAME, or "write" of the array NAME into a checkpoint. "wait - COUNT" says "waiting" after
that many steps, and waits.
"""

import os
import signal
import sys
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np

import siamese_utils as su
from workbook.support.tensorflow_start import keras
from workbook.training import callbacks as callbacks_module
from workbook.training import checkpoint as checkpoint_module
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.losses import TripletLoss
from workbook.training.mined_model import MinedSiameseModel, build_optimizer

checkpoint_module.Checkpoint.LONGEST_PAUSE = 0  # a file after each epoch, however long one takes
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


def embedding():
    """Images (16, 16, 3) to unit vectors of 8 numbers, with BatchNorm and Dropout."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(image)
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(x))
    x = keras.layers.UnitNormalization(dtype="float32")(keras.layers.Dense(8)(x))
    return keras.Model(image, x)


def make_batches(seed):
    """48 images of 8 classes, in four batches per epoch."""
    images = np.random.default_rng(0).normal(size=(48, 16, 16, 3)) + LABELS[:, None, None, None] / 8
    sample = lambda epoch: pk_batches(LABELS, 4, 3, (seed, epoch))  # noqa: E731
    return IndexBatches(np.float32(images), LABELS, sample)


def build(seed=1):
    """(model, batches): a new compiled model, with the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    batches = make_batches(seed)
    model = MinedSiameseModel(embedding(), TripletLoss(0.5))
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(batches))
    model.compile(keras.optimizers.AdamW(schedule))
    return model, batches


_compiled = []  # the model that `rebuild` uses again, and the start of its optimizer


def rebuild(seed=1):
    """As `build`, but with one model for all calls: its program is compiled once per process."""
    if not _compiled:
        model, _ = build()
        build_optimizer(model)
        _compiled.append((model, [v.numpy() for v in model.optimizer.variables]))
    model, start = _compiled[0]
    keras.utils.set_random_seed(seed)
    for variable, new in zip(model.embedding.variables, embedding().variables):
        variable.assign(new)
    for variable, value in zip(model.optimizer.variables, start):
        variable.assign(value)
    for metric in [*model.metrics, model.batches_with_triplet]:
        metric.reset_state()
    return model, make_batches(seed)


def fit(folder, seed=1, callbacks=(), new_model=False, **options):
    """Train in `folder` as `Trainer` does; returns the model and its history."""
    model, batches = build(seed) if new_model else rebuild(seed)
    plot = callbacks_module.LiveLossPlot()
    with checkpoint_module.Checkpoint(folder, batches, {"seed": seed}, **options) as checkpoint:
        history = model.fit(
            batches,
            epochs=EPOCHS,
            verbose=0,
            initial_epoch=checkpoint.restore(model),
            callbacks=[callbacks_module.Guard(), *callbacks, checkpoint, plot],
        ).history
    assert plot.history == history, "the live plot shows the whole curve"
    return model, history


def result(model, history):
    """What a training gave: the loss curve, and the embeddings of the 48 images."""
    curves = {name: np.array(values) for name, values in history.items()}
    return curves | {"embeddings": su.embed(model.embedding, make_batches(1).images)}


if __name__ == "__main__":
    folder, out, seed, *point = sys.argv[1:]
    callbacks = []
    if point[:1] == ["wait"]:
        left = iter(range(int(point[2]) - 1, -1, -1))

        def wait(batch, logs):
            if next(left) == 0:
                print("waiting", flush=True)
                time.sleep(600)

        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=wait)]
    elif point:
        kill_at(point[0], point[1], int(point[2]))
    np.savez(out, **result(*fit(folder, int(seed), callbacks, new_model=True)))
