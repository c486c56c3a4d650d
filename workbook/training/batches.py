"""Batches of P classes with K images each, given as indices."""

import numpy as np

from siamese_utils import (
    checked_labels,
)
from workbook.support.tensorflow_start import keras

NUMBERS = "training takes whole numbers, such as np.unique(labels, return_inverse=True)[1]"


def checked_numbers(labels, count=None):
    """`checked_labels` that are numbers, as training takes them; ValueError for words."""
    found = checked_labels(labels, count)
    if found.dtype.kind != "i":
        raise ValueError(f"labels such as {found[:1]}: {NUMBERS}")
    return found


def pk_batches(labels, classes=16, images=4, seed=42, steps=None, views=1):
    """One epoch of batches of `classes` x `images` (P x K): (steps, P*K) int64 indices.

    Each batch draws P different classes among those with at least K images, and K different images
    of each; by default as many batches as it takes to draw len(labels) images. With `views`, each
    image comes in a random one of its views: view v of image i is v * len(labels) + i, as in
    `trunk_features`. Raises ValueError, with the numbers that would work, if fewer than P classes
    have K images.
    Explained in notebook 02, "Batches of P classes x K images" (Hermans et al. 2017, section 2).
    """
    labels, rng = checked_labels(labels), np.random.default_rng(seed)
    values, counts = np.unique(labels, return_counts=True)
    usable = values[counts >= images]
    if len(usable) < classes:
        largest = int(np.sort(counts)[::-1][classes - 1]) if len(counts) >= classes else 0
        working = [f"P = {len(usable)}"] * (len(usable) > 1)
        working += [f"a K of at most {largest}"] * (largest > 1)
        raise ValueError(
            f"P x K = {classes} x {images}: {len(usable)} of {len(values)} have them; the largest "
            f"class has {counts.max(initial=0)} images. "
            + (f"Try {' or '.join(working)}" if working else "Add images, or classes")
        )
    members = {label: np.flatnonzero(labels == label) for label in usable}
    batches = []
    for _ in range(steps or -(-len(labels) // (classes * images))):
        chosen = rng.choice(usable, classes, replace=False)
        batches.append([rng.choice(members[c], images, replace=False) for c in chosen])
    batches = np.reshape(batches, (len(batches), classes * images))
    return batches + len(labels) * rng.integers(views, size=batches.shape)


def batch_shape(labels, classes=16, images=4):
    """The largest (P, K) up to (classes, images), K >= 2, that `pk_batches` can draw from `labels`.

    K shrinks only where fewer than two classes have K images. Raises ValueError if no K is left.
    """
    counts = np.unique_counts(checked_labels(labels)).counts
    for k in range(images, 1, -1):
        if (usable := int((counts >= k).sum())) >= 2:
            return min(classes, usable), k
    raise ValueError("no batch: it takes two classes with two training images each")


class IndexBatches(keras.utils.PyDataset):
    """Batches for `fit` from indices: what is held is numbers, the images are gathered when needed.

    images (n, ...) array or memmap, labels (n,), sample(epoch) -> (steps, batch) indices, which
    yield (images, labels), or (steps, batch, 3) triplets, which yield ((anchor, positive,
    negative),), images as float32. A batch depends on `sample` and the epoch alone: the `fit` of a
    `SiameseModel` sets the epoch that it is in (another model's needs a callback for it), and
    nothing else does, so that `evaluate` and validation see the same batches each time, at first
    those of epoch 0. Raises ValueError for labels or indices that do not fit the images.
    Explained in notebook 04, "Batches and model".
    """

    def __init__(self, images, labels, sample):
        super().__init__()
        self.images, self.sample = images, sample
        self.labels = checked_numbers(labels, len(images))
        self.set_epoch(0)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, step):
        index = self.batches[step]
        if index.ndim == 1:
            return np.float32(self.images[index]), self.labels[index]
        return (tuple(np.float32(self.images[column]) for column in index.T),)

    def set_epoch(self, epoch):
        """Draw the batches of `epoch`, counted from 0."""
        batches = np.asarray(self.sample(epoch))
        right = batches.dtype.kind in "iu" and (batches.ndim == 2 or batches.shape[2:] == (3,))
        if not right or not np.isin(batches, np.arange(len(self.images))).all():
            raise ValueError(
                f"sample({epoch}) is of shape {batches.shape}, type {batches.dtype}: it takes "
                f"indices of {len(self.images)} images, (steps, batch) or, of triplets, (steps, "
                "batch, 3)"
            )
        self.epoch, self.batches = epoch, batches
