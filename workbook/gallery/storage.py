"""The files of a saved gallery, checked before anything in them is believed.

A gallery may come from somebody else, or from a copy that was cut short. Explained in notebook 05,
"A gallery to take away".
"""

import hashlib
import io
import json
import math
import re
import zipfile

import numpy as np


def _count(value):
    return type(value) is int and value >= 0


def _number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _truth(value):
    return type(value) is bool


def _or_none(check):
    return lambda value: value is None or check(value)


def _text(pattern):
    return lambda value: type(value) is str and re.fullmatch(pattern, value) is not None


_HASH = _text("[0-9a-f]{64}")
POLICY = {  # what `Gallery.fit_threshold` notes
    "threshold": _number,
    "strangers_let_in_at_most": _or_none(_number),
    "strangers": _count,
    "strangers_simulated": _truth,
    "strangers_let_in": _number,
    "known": _count,
    "known_held_out": _truth,
    "known_refused": _or_none(_number),
}


def _policy(value):
    return type(value) is dict and all(check(value.get(key)) for key, check in POLICY.items())


CONTENT = {  # key of gallery.json: since which format, and what it may be
    "embedding_size": (1, _count),
    "threshold": (1, _or_none(_number)),
    "model": (1, _text(r"embedding-[0-9a-f]{16}\.keras")),  # so that it is in this folder
    "model_weights_sha256": (1, _HASH),
    "entries": (1, _text(r"entries-[0-9a-f]{16}\.npz")),
    "entries_sha256": (1, _HASH),
    "policy": (2, _or_none(_policy)),
    "model_sha256": (3, _HASH),
}


class NotWhole(ValueError):
    """What there is, is no gallery as `Gallery.save` writes it; the text says why."""


def read_about(folder, newest):
    """What gallery.json says, as a dict whose every value is of the kind that it must be.

    Raises NotWhole where one is not, and ValueError for a format above `newest`.
    """
    try:
        with open(folder / "gallery.json", "rb") as file:
            about = json.loads(file.read(10**6))  # ours has a thousand bytes
    except (OSError, ValueError, RecursionError) as error:
        raise NotWhole(f"gallery.json cannot be read: {error}") from error
    version = about.get("format") if isinstance(about, dict) else None
    if not _count(version):
        raise NotWhole("gallery.json names no format")
    if version > newest:
        raise ValueError(
            f"written by a newer version (format {version}; this one reads {newest}): update the "
            "workbook"
        )
    for key, (since, check) in CONTENT.items():
        if version >= since and not (key in about and check(about[key])):
            wrong = f"{about[key]!r:.60} is not what it must be" if key in about else "is missing"
            raise NotWhole(f"gallery.json, {key}: {wrong}")
    return about


def files_of(folder, newest):
    """The names of the two files that a gallery.json in `folder` names; empty where there is none.

    They are what the next save may remove: nothing else in the folder is the gallery's.
    """
    try:
        about = read_about(folder, newest)
    except ValueError:
        return set()
    return {about["model"], about["entries"]}


def hash_of(path):
    """The SHA-256 of a file, as text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path, expected):
    """NotWhole where there is no such file, ValueError for another one; None expects nothing."""
    if not path.is_file():
        raise NotWhole(f"{path.name} is missing")
    if expected not in (None, hash_of(path)):
        raise ValueError(f"{path.name} was changed: restore it")


def read_entries(folder, about):
    """(embeddings (n, dim) float32, labels (n,), paths (n,)) from the file that `about` names.

    Raises ValueError for another file. Raises NotWhole, before an array is read, unless their
    headers say just that and their bytes are all there: a packed file may be a thousand times as
    large in memory.
    """
    path, size = folder / about["entries"], about["embedding_size"]
    check_hash(path, about["entries_sha256"])
    content = path.read_bytes()
    arrays = {"embeddings": (2, "f"), "labels": (1, "U"), "paths": (1, "U")}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != [f"{n}.npy" for n in arrays]:
                raise NotWhole(f"it does not hold {', '.join(arrays)}")
            if sum(member.file_size for member in members) > len(content):
                raise NotWhole("it is packed (a zip bomb?)")
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    _check_header(file, member.file_size, *arrays[name])
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            embeddings, labels, paths = (stored[name] for name in arrays)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise NotWhole(f"{path.name}: {error}") from error
    if embeddings.shape != (len(labels), size) or len(paths) != len(labels):
        counts = f"{len(labels)} labels, {len(paths)} paths"
        raise NotWhole(f"{path.name}: embeddings {embeddings.shape} for {counts}")
    if embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
        raise NotWhole(f"{path.name}: embeddings that are not finite float32")
    if "unknown" in labels:
        raise NotWhole(f'{path.name}: the label "unknown", which is what a stranger is called')
    return embeddings, labels, paths


def _check_header(file, size, dimensions, kind):
    """NotWhole unless an .npy file of `size` bytes is such an array."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != dimensions or dtype.kind != kind:
        raise NotWhole(f"an array {shape} of {dtype}")
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise NotWhole(f"an array {shape} of {dtype} in {size} bytes")
