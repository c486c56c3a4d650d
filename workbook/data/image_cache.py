"""Decoded images, kept on disk so that each file is decoded once."""

import contextlib
import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from workbook.data.decoding import decode, explain, open_image, pillow_heif
from workbook.support.atomic_files import publish_folder, temporary_build_folder
from workbook.support.tensorflow_start import keras

VERSION = 5  # of the files in the cache
BLOCK = 512  # images that are decoded before they are written, so that memory stays flat

# for each file its SHA-256, or None if it cannot be read; and [reason, remedy] of each remark
Results = list[tuple[str | None, list[tuple[str, str]]]]


def name_cache_folder(paths: list[str], size: int, cache_dir: Path) -> Path:
    """Return the cache folder of these files as they are now: another one after any change."""
    key: list = [VERSION, size, PIL.__version__, pillow_heif is not None]
    for path in paths:
        with contextlib.suppress(OSError):
            now = os.stat(path)
            # the last of these also changes with the permissions
            key.append((path, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
    digest = hashlib.sha256(json.dumps([key, paths]).encode()).hexdigest()[:16]
    return cache_dir / f"images-{digest}"


def decode_files(paths: list[str], size: int, cache: Path) -> tuple[np.ndarray, Results]:
    """Return the images of these files and what was found out about each file.

    They come from the folder `cache`, which is made if need be (see `name_cache_folder`).

    Returns
    -------
    images : np.memmap (readable, size, size, 3) uint8
        Those that can be read, in the order of `paths`.
    results : list
        One item per path.
    """
    kept = _read_cache(cache, size)
    if kept is None:
        with temporary_build_folder(cache) as work:
            _decode_into(work, paths, size)
            if _read_cache(cache, size) is None:  # incomplete, if it is there at all
                shutil.rmtree(cache, ignore_errors=True)
            publish_folder(work, cache)
        kept = _read_cache(cache, size)
        assert kept, "it was just written"
    return kept


def _read_cache(cache: Path, size: int) -> tuple[np.ndarray, Results] | None:
    """Return the images and results in a cache folder, or None if it is not complete."""
    try:
        results = json.loads((cache / "files.json").read_text("utf-8"))
        shape = (sum(digest is not None for digest, _ in results), size, size, 3)
        if (cache / "pixels.rgb").stat().st_size != math.prod(shape):
            return None
    except (OSError, ValueError, TypeError):
        return None
    if not shape[0]:
        return np.empty(shape, np.uint8), results
    return np.memmap(cache / "pixels.rgb", np.uint8, "r", shape=shape), results


def _decode_into(folder: Path, paths: list[str], size: int) -> None:
    def read(path: str) -> tuple[list, np.ndarray | None]:
        try:
            with open_image(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                pixels, remarks = decode(file, size)
                return [digest, remarks], pixels
        except Exception as error:
            return [None, [explain(path, error)]], None

    results: list = []
    progress = keras.utils.Progbar(len(paths), unit_name="image")
    with open(folder / "pixels.rgb", "wb") as file, ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BLOCK):
            for result, pixels in pool.map(read, paths[start : start + BLOCK]):
                results.append(result)
                if pixels is not None:
                    file.write(pixels.tobytes())
                progress.update(len(results))
        file.flush()
        os.fsync(file.fileno())
    (folder / "files.json").write_text(json.dumps(results), "utf-8")
