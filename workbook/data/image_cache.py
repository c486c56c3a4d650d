"""Decoded images, kept on disk so that each file is decoded once."""

import contextlib
import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL

from workbook.data.decoding import decode, explain, open_image, pillow_heif
from workbook.support.atomic_files import publish_folder, temporary_build_folder
from workbook.support.tensorflow_start import keras


def _decode_all(paths, size, cache_dir):
    """(folder, images, results) of these files as they are now, from a cache made if need be."""
    key = [5, size, PIL.__version__, pillow_heif is not None]  # 5: version of the cache
    for path in paths:
        with contextlib.suppress(OSError):
            now = os.stat(path)
            key.append((path, now.st_size, now.st_mtime_ns, now.st_ctime_ns))  # c: permissions too
    digest = hashlib.sha256(json.dumps([key, paths]).encode()).hexdigest()[:16]
    cache = cache_dir / f"images-{digest}"
    kept = _read_cache(cache, size)
    if kept is None:
        with temporary_build_folder(cache) as work:
            _decode_into(work, paths, size)
            if _read_cache(cache, size) is None:  # half-written, if it is there at all
                shutil.rmtree(cache, ignore_errors=True)
            publish_folder(work, cache)
        kept = _read_cache(cache, size)
    return cache, *kept


def _read_cache(cache, size):
    """(images memmap, for each path [hash or None, [[reason, remedy], ...]]); None if not whole."""
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


def _decode_into(folder, paths, size):
    def work(path):
        try:
            with open_image(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                pixels, remarks = decode(file, size)
                return [digest, remarks], pixels
        except Exception as error:
            return [None, [explain(path, error)]], None

    results, progress = [], keras.utils.Progbar(len(paths), unit_name="image")
    with open(folder / "pixels.rgb", "wb") as file, ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 512):  # bounded, so memory stays flat
            for result, pixels in pool.map(work, paths[start : start + 512]):
                results.append(result)
                if pixels is not None:
                    file.write(pixels.tobytes())
                progress.update(len(results))
        file.flush()
        os.fsync(file.fileno())
    (folder / "files.json").write_text(json.dumps(results), "utf-8")
