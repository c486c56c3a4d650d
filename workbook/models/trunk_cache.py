"""The frozen trunk's output, computed once and kept; with augmented views of each image.

Explained in notebook 04, "Compute the trunk once".
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from workbook import ROOT
from workbook.models.augmentation import augmentation
from workbook.support.atomic_files import mark_used, temporary_build_folder
from workbook.support.tensorflow_start import keras, tf

VERSION = 2  # of how the numbers are computed; another one wherever a digit of them may change


def trunk_features(
    trunk, images, cache_dir=None, dtype="float16", batch_size=64, views=1, rows=None
):
    """The frozen trunk's output for images (n, ...), computed once: (n, h, w, channels) memmap.

    Of `rows` (n,) of the images, if given. With `views` above 1: (views * n, h, w, channels), first
    the images as they are, then each time all of them through `augmentation`. Images are read a
    batch at a time: they may be a memmap that is larger than the memory.

    Kept under `cache_dir` (default `<root>/runs/cache`) under a key made of the images, the trunk,
    its weights, `dtype` and, of views, the augmentation and `batch_size`; a file that is
    half-written or of other images is never used.
    float16 halves the disk; float32 makes cached and uncached training agree to rounding.
    Raises ValueError where float16 overflows. Explained in notebook 04, "Compute the trunk once".
    """
    cache_dir = Path(cache_dir or ROOT / "runs/cache")
    cache_dir.mkdir(parents=True, exist_ok=True)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    augment = augmentation()
    recipe = [layer.get_config() | {"name": ""} for layer in augment.layers]
    recipe = [batch_size, *recipe] if views > 1 else []  # what is drawn depends on the batch
    about = f"{VERSION} {len(rows)} {images.shape[1:]} {dtype} {views} {recipe} {trunk.to_json()}"
    digest = hashlib.sha256(about.encode())
    for array in trunk.get_weights():
        digest.update(np.ascontiguousarray(array))
    for first in range(0, len(rows), batch_size):
        digest.update(images[rows[first : first + batch_size]])
    cache = cache_dir / f"trunk-{digest.hexdigest()[:16]}.npy"
    try:
        kept = np.load(cache, mmap_mode="r")
        mark_used(cache)
        return kept
    except (OSError, ValueError):  # absent or cut short
        pass
    shape = (views * len(rows), *trunk.output_shape[1:])
    print(f"computing the frozen trunk's output of {shape[0]:,} images, once", flush=True)
    progress = keras.utils.Progbar(shape[0], unit_name="image")
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with temporary_build_folder(
        cache
    ) as folder:  # gone again if anything fails, also when interrupted
        with open(folder / "new.npy", "wb") as file:  # not mapped: a full disk is then an error
            np.lib.format.write_array_header_2_0(file, about)
            for count, batch in padded_batches(images, rows, views, augment, batch_size):
                features = trunk.predict_on_batch(batch)[: int(count)]  # as in `embed`
                if not np.abs(features).max() <= np.finfo(dtype).max:
                    raise ValueError(f"the trunk's output does not fit {dtype}: use float32")
                file.write(features.astype(dtype).tobytes())
                progress.add(len(features))
        os.replace(folder / "new.npy", cache)
    return np.load(cache, mmap_mode="r")


def padded_batches(images, rows, views, augment, batch_size):
    """A `tf.data.Dataset` of (count, batch): these rows of the images, then their further views.

    A batch, (size, h, w, 3) float32, is read and augmented while the trunk works on the one before.
    All are of one size, so that one program is compiled for all; the last is filled up with zeros,
    and `count` of its images are real. Batches are made in turn, so that the views of a seed are
    the same each time.
    """
    total = views * len(rows)
    size = min(batch_size, total)

    def read(first):
        return images[rows[np.arange(first, min(first + size, total)) % len(rows)]]

    def augmented(batch, plain):  # all but the first `plain`
        return tf.concat([batch[:plain], augment(batch[plain:], training=True)], axis=0)

    def make(first):
        batch = tf.numpy_function(read, [first], images.dtype)
        batch = tf.cast(tf.ensure_shape(batch, (None, *images.shape[1:])), tf.float32)
        count, plain = tf.shape(batch)[0], tf.maximum(len(rows) - tf.cast(first, tf.int32), 0)
        if views > 1:
            batch = tf.cond(plain < count, lambda: augmented(batch, plain), lambda: batch)
        return count, tf.pad(batch, [[0, size - count], *[[0, 0]] * (batch.shape.rank - 1)])

    return tf.data.Dataset.range(0, total, size).map(make).prefetch(2)
