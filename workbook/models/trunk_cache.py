"""The frozen trunk's output, computed once and kept; also of augmented views of each image.

Notebook 04, "Compute the frozen trunk once", explains it.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from workbook import ROOT
from workbook.models.augmentation import augmentation
from workbook.support.atomic_files import mark_used, temporary_build_folder
from workbook.support.tensorflow_start import keras, tf

VERSION = 2  # of how the numbers are computed; raise it whenever a digit of them may change


def trunk_features(
    trunk: keras.Model,
    images: np.ndarray,
    cache_dir: str | Path | None = None,
    dtype: str = "float16",
    batch_size: int = 64,
    views: int = 1,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the frozen trunk's output for images, or open it if it was computed before.

    The output is kept under a key made of the images, the trunk, its weights, `dtype` and, for
    several views, the augmentation and `batch_size`. A half-written file, or one of other images,
    is never used.

    Parameters
    ----------
    trunk : the frozen part of an embedding model.
    images : (n, h, w, 3), 0..255. They are read a batch at a time, so they may be a memmap that is
        larger than the memory.
    cache_dir : where the output is kept (default: `<root>/runs/cache`).
    dtype : "float16" needs half the disk; "float32" makes cached and uncached training agree to
        rounding.
    batch_size : images per batch.
    views : the first view is the image as it is; the others come from `augmentation`.
    rows : (r,) the images to use, in this order; by default all.

    Returns
    -------
    memmap (views * r, height, width, channels), read-only: first the output for all images as they
    are, then view by view.

    Raises
    ------
    ValueError : if the output is too large for float16.
    """
    cache_dir = Path(cache_dir or ROOT / "runs/cache")
    cache_dir.mkdir(parents=True, exist_ok=True)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    augment = augmentation()
    key = _make_key(trunk, images, rows, dtype, batch_size, views, augment)
    cache = cache_dir / f"trunk-{key}.npy"
    try:
        kept = np.load(cache, mmap_mode="r")
        mark_used(cache)
        return kept
    except (OSError, ValueError):  # absent or cut short
        pass
    shape = (views * len(rows), *trunk.output_shape[1:])
    print(f"computing the frozen trunk's output of {shape[0]:,} images, once", flush=True)
    progress = keras.utils.Progbar(shape[0], unit_name="image")
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with temporary_build_folder(cache) as folder:  # removed if anything fails or is interrupted
        with open(folder / "new.npy", "wb") as file:  # a mapped file would hide a full disk
            np.lib.format.write_array_header_2_0(file, header)
            for count, batch in padded_batches(images, rows, views, augment, batch_size):
                features = trunk.predict_on_batch(batch)[: int(count)]
                if not np.abs(features).max() <= np.finfo(dtype).max:
                    raise ValueError(f"the trunk's output does not fit {dtype}: use float32")
                file.write(features.astype(dtype).tobytes())
                progress.add(len(features))
        os.replace(folder / "new.npy", cache)
    return np.load(cache, mmap_mode="r")


def _make_key(
    trunk: keras.Model,
    images: np.ndarray,
    rows: np.ndarray,
    dtype: str,
    batch_size: int,
    views: int,
    augment: keras.Sequential,
) -> str:
    """Return 16 hexadecimal digits that stand for everything the output depends on."""
    layers = [layer.get_config() | {"name": ""} for layer in augment.layers]
    recipe = [batch_size, *layers] if views > 1 else []  # what is drawn depends on the batch
    about = f"{VERSION} {len(rows)} {images.shape[1:]} {dtype} {views} {recipe} {trunk.to_json()}"
    digest = hashlib.sha256(about.encode())
    for array in trunk.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    for first in range(0, len(rows), batch_size):
        digest.update(np.ascontiguousarray(images[rows[first : first + batch_size]]).data)
    return digest.hexdigest()[:16]


def padded_batches(
    images: np.ndarray, rows: np.ndarray, views: int, augment: keras.Sequential, batch_size: int
) -> tf.data.Dataset:
    """Return a dataset of (count, batch): these rows of the images, then their further views.

    A batch is (size, h, w, 3) float32. All batches have one size, so that one program is compiled
    for all: the last is filled up with zeros, and only the first `count` of its images are real. A
    batch is read and augmented while the trunk works on the one before. Batches are made in turn,
    so the views of a seed are the same each time.
    """
    total = views * len(rows)
    size = min(batch_size, total)

    def read(first: int) -> np.ndarray:
        return images[rows[np.arange(first, min(first + size, total)) % len(rows)]]

    def add_views(batch: tf.Tensor, plain: tf.Tensor) -> tf.Tensor:
        """Augment all images of a batch but the first `plain`."""
        return tf.concat([batch[:plain], augment(batch[plain:], training=True)], axis=0)

    def make(first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.numpy_function(read, [first], images.dtype)
        batch = tf.cast(tf.ensure_shape(batch, (None, *images.shape[1:])), tf.float32)
        count, plain = tf.shape(batch)[0], tf.maximum(len(rows) - tf.cast(first, tf.int32), 0)
        if views > 1:
            batch = tf.cond(plain < count, lambda: add_views(batch, plain), lambda: batch)
        return count, tf.pad(batch, [[0, size - count], *[[0, 0]] * (batch.shape.rank - 1)])

    return tf.data.Dataset.range(0, total, size).map(make).prefetch(2)
