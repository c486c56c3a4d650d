"""Batches of P classes with K images each, given as indices. Notebook 2 explains them."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from siamese_utils import check_labels
from workbook.support.tensorflow_start import keras

Logs = dict[str, float]  # what Keras tells a callback: name -> value
NUMBERS = "training takes whole numbers, such as np.unique(labels, return_inverse=True)[1]"


def check_numbers(labels: Any, count: int | None = None) -> np.ndarray:
    """Return labels (n,) as int64, as training takes them; raise ValueError for words."""
    found = check_labels(labels, count)
    if found.dtype.kind != "i":
        raise ValueError(f"labels such as {found[:1]}: {NUMBERS}")
    return found


def pk_batches(
    labels: Any,
    classes: int = 16,
    images: int = 4,
    seed: Any = 42,
    steps: int | None = None,
    views: int = 1,
) -> np.ndarray:
    """Draw one epoch of P x K batches: P different classes, and K different images of each.

    Parameters
    ----------
    labels : (n,) whole numbers or words.
    classes, images : P and K. Classes with fewer than K images are never drawn.
    seed : of the random numbers.
    steps : how many batches; by default enough to draw n images.
    views : how many views each image has. One is drawn per image; view v of image i is
        v * n + i, as in `trunk_features`.

    Returns
    -------
    (steps, P * K) int64 : indices of images, or of their views.

    Raises
    ------
    ValueError : if fewer than P classes have K images; the message names numbers that work.

    References
    ----------
    Hermans et al. (2017), section 2.
    """
    labels, rng = check_labels(labels), np.random.default_rng(seed)
    values, counts = np.unique(labels, return_counts=True)
    usable = values[counts >= images]
    if len(usable) < classes:
        largest = int(np.sort(counts)[::-1][classes - 1]) if len(counts) >= classes else 0
        working = [f"P = {len(usable)}"] * (len(usable) > 1)
        working += [f"a K of at most {largest}"] * (largest > 1)
        raise ValueError(
            f"P x K = {classes} x {images}: {len(usable)} of {len(values)} classes have that many "
            f"images; the largest class has {counts.max(initial=0)}. "
            + (f"Try {' or '.join(working)}" if working else "Add images, or classes")
        )
    members = {label: np.flatnonzero(labels == label) for label in usable}
    batches = []
    for _ in range(steps or -(-len(labels) // (classes * images))):
        chosen = rng.choice(usable, classes, replace=False)
        batches.append([rng.choice(members[c], images, replace=False) for c in chosen])
    indices = np.reshape(batches, (len(batches), classes * images))
    return indices + len(labels) * rng.integers(views, size=indices.shape)


def largest_batch_shape(labels: Any, classes: int = 16, images: int = 4) -> tuple[int, int]:
    """Return the largest (P, K) up to (classes, images), with K >= 2, that `pk_batches` can draw.

    K shrinks only where fewer than two classes have K images.

    Raises
    ------
    ValueError : if there are not two classes with two images each.
    """
    counts = np.unique(check_labels(labels), return_counts=True)[1]
    for k in range(images, 1, -1):
        usable = int((counts >= k).sum())
        if usable >= 2:
            return min(classes, usable), k
    raise ValueError("training needs at least two classes with two training images each")


class IndexBatches(keras.utils.PyDataset):
    """Batches for Keras's `fit`, held as indices: images are gathered when they are needed.

    Parameters
    ----------
    images : (n, ...) array or memory map.
    labels : (n,) whole numbers.
    sample : a function of the epoch that returns the epoch's batches as indices: (steps, batch)
        gives batches (images, labels), and (steps, batch, 3) gives batches of triplets
        ((anchor, positive, negative),). Images come as float32.

    A batch depends on `sample` and the epoch alone. The epoch changes only through `set_epoch`,
    which `EpochSetter` calls, so evaluation sees the same batches each time.

    Raises
    ------
    ValueError : for labels or indices that do not fit the images.
    """

    def __init__(self, images: np.ndarray, labels: Any, sample: Callable[[int], Any]):
        super().__init__()
        self.images, self.sample = images, sample
        self.labels = check_numbers(labels, len(images))
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple:
        index = self.batches[step]
        if index.ndim == 1:
            return np.float32(self.images[index]), self.labels[index]
        return (tuple(np.float32(self.images[column]) for column in index.T),)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of an epoch; the first one is 0."""
        batches = np.asarray(self.sample(epoch))
        right = batches.dtype.kind in "iu" and (batches.ndim == 2 or batches.shape[2:] == (3,))
        if not right or not np.isin(batches, np.arange(len(self.images))).all():
            raise ValueError(
                f"sample({epoch}) returned shape {batches.shape}, type {batches.dtype}, but "
                f"indices of {len(self.images)} images are needed: (steps, batch), or (steps, "
                "batch, 3) for triplets"
            )
        self.epoch, self.batches = epoch, batches


class EpochSetter(keras.callbacks.Callback):
    """Tells `IndexBatches` which epoch begins, so that each epoch has batches of its own."""

    def __init__(self, batches: IndexBatches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.batches.set_epoch(epoch)

    @classmethod
    def added_to(cls, options: dict, batches: IndexBatches) -> dict:
        """Return options of `fit` with this callback in front.

        Batches that are also the validation data are copied, so that those stay at one epoch.
        """
        callbacks = [cls(batches), options.get("callbacks") or []]
        if options.get("validation_data") is batches:
            options = options | {"validation_data": copy.copy(batches)}
        return options | {"callbacks": callbacks}
