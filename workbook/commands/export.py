"""Write a gallery for programs that do not have this workbook: its model, entries and names.

    python -m workbook export my_gallery/ exported/ --format onnx

docs/export.md identifies an image with what is written here.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from siamese_utils import embed
from workbook.gallery import storage
from workbook.gallery.gallery import Gallery
from workbook.support.atomic_files import temporary_build_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

FORMATS = {  # name: Keras's name, the model's file or folder, the packages that Keras needs for it
    "savedmodel": ("tf_saved_model", "model", ()),
    "onnx": ("onnx", "model.onnx", ("tf2onnx", "onnx")),
    "litert": ("litert", "model.tflite", ()),
}


def export(folder: str, target: str | None = None, kind: str = "savedmodel") -> None:
    """Export the gallery in `folder` into a new folder.

    That folder has the model, and gallery.npz with `embeddings` (m, dim) float32, `labels` (m,)
    str, `threshold` (infinity if there is none) and `size`, the side of its images in pixels. Of a
    gallery of prototypes, `embeddings` are the means of the classes.

    Parameters
    ----------
    target
        The folder to make; by default `<folder>-<kind>`.
    kind
        One of `FORMATS`.

    Raises
    ------
    FileExistsError
        If there is something at `target`.
    ValueError
        If packages are missing or Keras is too old, or for an empty gallery.
    """
    keras_name, file, packages = FORMATS[kind]
    place = Path(target or f"{Path(folder).absolute()}-{kind}")
    if place.exists():
        raise FileExistsError(f"{printable(place)} exists: name another folder, or delete it")
    if missing := [package for package in packages if not find_spec(package)]:
        raise ValueError(f"--format {kind} needs packages: pip install {' '.join(missing)}")
    storage.check_folder_writable(storage.find_existing(place))  # before anything takes time
    gallery = Gallery.load(folder)
    if not len(gallery.labels):
        raise ValueError(f"{printable(folder)} has no entries: enroll images first")
    # for ONNX, Keras wants a model that was called before
    embed(gallery.model, np.zeros((1, gallery.size, gallery.size, 3), np.float32))
    with temporary_build_folder(place) as work:
        try:
            gallery.model.export(str(work / file), format=keras_name, verbose=False)
        except ValueError as error:
            if "nrecognized format" not in str(error):
                raise
            raise ValueError(
                f"Keras {keras.__version__} does not export {kind}: pip install --upgrade keras"
            ) from error
        np.savez(
            work / "gallery.npz",
            embeddings=gallery.compared.embeddings,
            labels=gallery.compared.labels,
            threshold=np.inf if gallery.threshold is None else gallery.threshold,
            size=gallery.size,
        )
        os.replace(work, place)
    print(f"{file} and gallery.npz are in {printable(place)}; docs/export.md says how to use them")
