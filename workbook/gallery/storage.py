"""The files of a saved gallery, checked before anything in them is believed.

A gallery may come from somebody else, or from a copy that was cut short. It is gallery.json beside
the two files that it names: a model, and the entries as arrays. Nothing is pickled. Notebook 6
explains what is kept.
"""

import hashlib
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from workbook.support.atomic_files import temporary_build_folder
from workbook.support.folder_lock import hold_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

# Of what is written now. Format 1 had no policy, 2 no hash of the model's file, 3 neither the
# images' hashes nor a mark at the entries that were added by hand, and 4 no trials.
FORMAT = 5
ARRAYS = {  # name: since which format, how many dimensions, NumPy's kind
    "embeddings": (1, 2, "f"),
    "labels": (1, 1, "U"),
    "paths": (1, 1, "U"),
    "hashes": (4, 1, "U"),
    "enrolled": (4, 1, "b"),
}
TRIALS = {  # arrays of `Trials` in threshold.py, where the gallery has them: dimensions, kind
    "known_distances": (1, "f"),
    "known_margins": (1, "f"),
    "known_right": (1, "b"),
    "known_classes": (1, "i"),
    "stranger_distances": (1, "f"),
    "stranger_classes": (1, "i"),
}

# ------------------------------------------------------------------------------- 1 gallery.json


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _truth(value: Any) -> bool:
    return type(value) is bool


def _or_none(check: Callable) -> Callable:
    return lambda value: value is None or check(value)


def _text(pattern: str) -> Callable:
    return lambda value: type(value) is str and re.fullmatch(pattern, value) is not None


def _interval(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_number, value))


_HASH = _text("[0-9a-f]{64}")
POLICY = {  # what `choose_policy` in threshold.py notes; up to format 4 without what may be null
    "threshold": _number,
    "strangers_let_in_at_most": _or_none(_number),
    "known_refused_at_most": _or_none(_number),
    "strangers": _count,
    "strangers_simulated": _truth,
    "strangers_let_in": _number,
    "strangers_let_in_95": _or_none(_interval),
    "known": _count,
    "known_held_out": _truth,
    "known_refused": _or_none(_number),
    "known_refused_95": _or_none(_interval),
}
FLAGS = dict.fromkeys(("known_held_out", "strangers_simulated", "are_current"), _truth)


def _has(checks: dict[str, Callable]) -> Callable:
    return lambda value: (
        type(value) is dict and all(check(value.get(key)) for key, check in checks.items())
    )


CONTENT = {  # key of gallery.json: since which format, and what it may be
    "embedding_size": (1, _count),
    "threshold": (1, _or_none(_number)),
    "model": (1, _text(r"embedding-[0-9a-f]{16}\.keras")),  # so that it is in this folder
    "model_weights_sha256": (1, _HASH),
    "entries": (1, _text(r"entries-[0-9a-f]{16}\.npz")),
    "entries_sha256": (1, _HASH),
    "policy": (2, _or_none(_has(POLICY))),
    "model_sha256": (3, _HASH),
    "trials": (5, _or_none(_has(FLAGS))),  # its arrays are beside the entries
}


class NotWholeError(ValueError):
    """The folder holds no gallery as it is written here; the text says why."""


def require_gallery(folder: Path) -> None:
    """Raise FileNotFoundError unless the folder has a gallery.json."""
    if not (folder / "gallery.json").is_file():
        what = "holds no gallery.json" if folder.is_dir() else "is no folder"
        raise FileNotFoundError(
            f"{printable(folder)} {what}, so it is no gallery: give the folder that a notebook "
            "wrote (runs/<run>/gallery), or make one: python -m workbook build MODEL IMAGES GALLERY"
        )


def read_about(folder: Path) -> dict[str, Any]:
    """Return what gallery.json says; every value is of the kind that it must be.

    Raises
    ------
    NotWholeError
        If a value is missing or of another kind, or there is no such file.
    ValueError
        If a newer version of the workbook wrote it.
    """
    try:
        with open(folder / "gallery.json", "rb") as file:
            about = json.loads(file.read(10**6))  # ours has a thousand bytes
    except (OSError, ValueError, RecursionError) as error:
        raise NotWholeError(f"gallery.json cannot be read: {error}") from error
    version = about.get("format") if isinstance(about, dict) else None
    if version is None or not _count(version):
        raise NotWholeError("gallery.json names no format")
    if version > FORMAT:
        raise ValueError(
            f"written by a newer version (format {version}; this one reads {FORMAT}): update the "
            "workbook"
        )
    for key, (since, check) in CONTENT.items():
        if version >= since and not (key in about and check(about[key])):
            wrong = f"{about[key]!r:.60} is not what it must be" if key in about else "is missing"
            raise NotWholeError(f"gallery.json, {key}: {wrong}")
    return about


def list_files(folder: Path) -> set[str]:
    """Return the names of the two files that gallery.json names; empty where there is none.

    They are what the next save may remove. Nothing else in the folder belongs to the gallery.
    """
    try:
        about = read_about(folder)
    except ValueError:
        return set()
    return {about["model"], about["entries"]}


# --------------------------------------------------------------------------------- 2 the entries


def hash_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weights(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights as text: two galleries of one model share it."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def check_hash(path: Path, expected: str | None) -> None:
    """Raise NotWholeError for a missing file, ValueError for another one; None expects nothing."""
    if not path.is_file():
        raise NotWholeError(f"{path.name} is missing")
    if expected not in (None, hash_file(path)):
        raise ValueError(f"{path.name} was changed: restore it")


def read_entries(
    folder: Path, about: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of `ARRAYS`, and those of `TRIALS` or none, that `about` names.

    Raises
    ------
    ValueError
        If the file is not the one that was saved.
    NotWholeError
        Before an array is read, if the file holds anything else or less than its headers say: a
        packed file may be a thousand times as large in memory.
    """
    path = folder / about["entries"]
    check_hash(path, about["entries_sha256"])
    expected = {n: kind for n, (since, *kind) in ARRAYS.items() if about["format"] >= since}
    if about["format"] >= 5 and about["trials"]:
        expected |= {name: list(kind) for name, kind in TRIALS.items()}
    try:
        with open(path, "rb") as content:
            _check_members(content, expected)
            with np.load(content, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in expected}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise NotWholeError(f"{path.name}: {error}") from error
    embeddings, count = arrays["embeddings"], len(arrays["labels"])
    if embeddings.shape != (count, about["embedding_size"]):
        raise NotWholeError(f"{path.name}: embeddings {embeddings.shape} for {count} labels")
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        group = name.partition("_")[0] if name in TRIALS else "entries"
        if len(array) != lengths.setdefault(group, len(array)):
            raise NotWholeError(f"{path.name}: {len(array)} {name} beside {lengths[group]} others")
        if name in TRIALS and not np.isfinite(array).all():
            raise NotWholeError(f"{path.name}: {name} that are not finite")
    rows = range(0, count, 2**14)  # in parts, because a million entries fill a gigabyte
    if embeddings.dtype != np.float32 or not all(
        np.isfinite(embeddings[start : start + 2**14]).all() for start in rows
    ):
        raise NotWholeError(f"{path.name}: embeddings that are not finite float32")
    if "unknown" in arrays["labels"]:
        raise NotWholeError(f'{path.name}: the label "unknown", which no class can have')
    trials = {name: arrays.pop(name) for name in TRIALS if name in arrays}
    return {"hashes": np.full(count, "", "U1"), "enrolled": np.zeros(count, bool)} | arrays, trials


def _check_members(content: BinaryIO, expected: dict[str, list]) -> None:
    """Raise NotWholeError unless an open .npz file holds just these arrays, unpacked."""
    with zipfile.ZipFile(content) as archive:
        members = archive.infolist()
        if sorted(m.filename for m in members) != sorted(f"{name}.npy" for name in expected):
            raise NotWholeError(f"it does not hold {', '.join(expected)}")
        if sum(m.file_size for m in members) > os.fstat(content.fileno()).st_size:
            raise NotWholeError("it is packed (a zip bomb?)")
        for member in members:
            with archive.open(member) as file:
                _check_header(file, member.file_size, *expected[member.filename[: -len(".npy")]])
    content.seek(0)


def _check_header(file: Any, size: int, dimensions: int, kind: str) -> None:
    """Raise NotWholeError unless an .npy file of `size` bytes is such an array."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != dimensions or dtype.kind != kind:
        raise NotWholeError(f"an array {shape} of {dtype}")
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise NotWholeError(f"an array {shape} of {dtype} in {size} bytes")


# --------------------------------------------------------------------------------------- 3 saving


def check_folder_writable(folder: str | os.PathLike) -> None:
    """Raise OSError in one sentence unless files can be written into this folder."""
    try:
        with tempfile.TemporaryFile(dir=Path(folder)):
            pass
    except OSError as error:
        raise OSError(
            f"nothing can be written into {printable(folder)} ({error.strerror}): choose another "
            "place"
        ) from error


def write_gallery(
    folder: Path, model: keras.Model, arrays: dict[str, np.ndarray], about: dict[str, Any]
) -> None:
    """Write the model and the arrays, and last gallery.json, which names the two files.

    The files are named by their content and gallery.json is replaced in one step, so a save that
    is cut short leaves the older gallery as it was. Then its two files are removed, and no others.
    """
    with hold_folder(folder, "saving a gallery"):
        former = list_files(folder)
        with temporary_build_folder(folder / "gallery") as work:
            model.save(work / "model.keras")
            np.savez(work / "entries.npz", **arrays)  # type: ignore[arg-type]
            files = {name: hash_file(work / name) for name in ("model.keras", "entries.npz")}
            about = about | {
                "format": FORMAT,
                "embedding_size": arrays["embeddings"].shape[1],
                "model": f"embedding-{files['model.keras'][:16]}.keras",
                "model_sha256": files["model.keras"],
                "entries": f"entries-{files['entries.npz'][:16]}.npz",
                "entries_sha256": files["entries.npz"],
            }
            (work / "gallery.json").write_text(json.dumps(about, indent=1), "utf-8")
            os.replace(work / "model.keras", folder / about["model"])
            os.replace(work / "entries.npz", folder / about["entries"])
            os.replace(work / "gallery.json", folder / "gallery.json")
        for name in former - {about["model"], about["entries"]}:
            (folder / name).unlink(missing_ok=True)
