"""The files of a saved gallery, checked before anything in them is believed.

A gallery may come from somebody else, or from a copy that was cut short. It is gallery.json beside
the files that it names: a model, the entries in one or more parts, and the gallery's state, which
is the rows that were removed from the parts, and the trials. Nothing is pickled. Notebook 6
explains what is kept.

A part is never changed. Entries that are added become a new part, which takes in the parts before
it that are not larger; removed ones are only noted. So a change writes little, there are at most
about log2(m) parts, and all is written anew only where a quarter of the rows has been removed.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbook.gallery.arrays import NotWholeError, check_hash, drop_rows, hash_file, read_arrays
from workbook.support.atomic_files import temporary_build_folder
from workbook.support.folder_lock import FolderInUseError, hold_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

# Of what is written now. Format 1 had no policy, 2 no hash of the model's file, 3 neither the
# images' hashes nor a mark at the entries that were added by hand, 4 no trials, and 5 all arrays
# in one file, and no prototypes.
FORMAT = 6
ARRAYS = {  # name: since which format, how many dimensions, NumPy's kind
    "embeddings": (1, 2, "f"),
    "labels": (1, 1, "U"),
    "paths": (1, 1, "U"),
    "hashes": (4, 1, "U"),
    "enrolled": (4, 1, "b"),
}
REMOVED = {"removed": (1, "i")}  # numbers of rows of the parts, ascending
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
POLICY = {  # what `choose_policy` in threshold.py notes; earlier formats lack what may be null
    "threshold": _number,
    "strangers_let_in_at_most": _or_none(_number),
    "known_refused_at_most": _or_none(_number),
    "strangers": _count,
    "stranger_classes": _or_none(_count),
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


_ENTRIES = _text(r"entries-[0-9a-f]{16}\.npz")
_PART = _has({"file": _ENTRIES, "sha256": _HASH, "entries": _count})


def _parts(value: Any) -> bool:
    is_list = type(value) is list and all(map(_PART, value))
    return is_list and len({part["file"] for part in value}) == len(value)


def _index(value: Any) -> bool:
    checks = {"file": _text(r"index-[0-9a-f]{16}\.faiss"), "sha256": _HASH}
    return _has(checks | {"parts": _count, "recall_at_1": _number})(value)


CONTENT = {  # key of gallery.json: since which format, and what it may be
    "embedding_size": (1, _count),
    "threshold": (1, _or_none(_number)),
    "model": (1, _text(r"embedding-[0-9a-f]{16}\.keras")),  # so that it is in this folder
    "model_weights_sha256": (1, _HASH),
    "policy": (2, _or_none(_has(POLICY))),
    "model_sha256": (3, _HASH),
    "trials": (5, _or_none(_has(FLAGS))),  # its arrays are in the state
    "parts": (6, _parts),
    "prototypes": (6, _truth),
    "state": (6, _text(r"state-[0-9a-f]{16}\.npz")),
    "state_sha256": (6, _HASH),
    "index": (6, _or_none(_index)),
}
ONE_FILE = {"entries": _ENTRIES, "entries_sha256": _HASH}  # in the place of parts, up to format 5


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
    checks = {key: check for key, (since, check) in CONTENT.items() if version >= since}
    for key, check in (checks | (ONE_FILE if version < 6 else {})).items():
        if not (key in about and check(about[key])):
            wrong = f"{about[key]!r:.60} is not what it must be" if key in about else "is missing"
            raise NotWholeError(f"gallery.json, {key}: {wrong}")
    if version < 6:
        about["parts"] = [{"file": about["entries"], "sha256": about["entries_sha256"]}]
    return about


def list_files(folder: Path) -> set[str]:
    """Return the names of the files that gallery.json names; empty where there is none.

    They are what the next save may remove. Nothing else in the folder belongs to the gallery.
    """
    try:
        about = read_about(folder)
    except ValueError:
        return set()
    return name_files(about)


def name_files(about: dict[str, Any]) -> set[str]:
    """Return the names of the files that belong to what gallery.json says."""
    names = {about["model"]} | {part["file"] for part in about["parts"]}
    if about["format"] >= 6:
        names |= {about["state"]} | ({about["index"]["file"]} if about["index"] else set())
    return names


# --------------------------------------------------------------------------------- 2 the entries


def hash_weights(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights as text: two galleries of one model share it."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def read_entries(
    folder: Path, about: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of `ARRAYS`, with `rows`, and those of `TRIALS`, or none.

    `rows` (m,) int64 are the numbers of the entries' rows in the parts that `about` names.

    Raises
    ------
    ValueError
        If a file is not the one that was saved.
    NotWholeError
        Before an array is read, if a file holds anything else or less than its headers say.
    """
    version, parts = about["format"], about["parts"]
    kinds = {name: (size, kind) for name, (since, size, kind) in ARRAYS.items() if version >= since}
    trial_kinds = TRIALS if version >= 5 and about["trials"] else {}
    for part in parts:
        check_hash(folder / part["file"], part["sha256"])
    paths = [folder / part["file"] for part in parts]
    if version < 6:
        arrays = read_arrays(paths, kinds | trial_kinds)
        trials: dict[str, Any] = {name: arrays.pop(name) for name in trial_kinds}
        removed, name = np.zeros(0, int), paths[0].name
    else:
        name = about["state"]
        check_hash(folder / name, about["state_sha256"])
        trials = read_arrays([folder / name], REMOVED | trial_kinds)
        removed = trials.pop("removed")
        if (removed < 0).any() or (np.diff(removed) <= 0).any():
            raise NotWholeError(f"{name}: removed rows that do not ascend")
        arrays = read_arrays(paths, kinds, [part["entries"] for part in parts])
    _check_trials(name, trials)
    names = ", ".join(part["file"] for part in parts)
    return _checked_entries(names, arrays, removed, about), trials


def _check_trials(name: str, trials: dict[str, np.ndarray]) -> None:
    lengths: dict[str, int] = {}
    for key, array in trials.items():
        length = lengths.setdefault(key.partition("_")[0], len(array))
        if len(array) != length:
            raise NotWholeError(f"{name}: {len(array)} {key} beside {length} others")
        if not np.isfinite(array).all():
            raise NotWholeError(f"{name}: {key} that are not finite")


def _checked_entries(
    name: str, arrays: dict[str, np.ndarray], removed: np.ndarray, about: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the entries without those that were removed; NotWholeError if they are none."""
    embeddings, count = arrays["embeddings"], len(arrays["labels"])
    if embeddings.shape != (count, about["embedding_size"]):
        raise NotWholeError(f"{name}: embeddings {embeddings.shape} for {count} labels")
    for key, array in arrays.items():
        if len(array) != count:
            raise NotWholeError(f"{name}: {len(array)} {key} beside {count} others")
    pieces = range(0, count, 2**14)  # because a million entries fill a gigabyte
    if embeddings.dtype != np.float32 or not all(
        np.isfinite(embeddings[start : start + 2**14]).all() for start in pieces
    ):
        raise NotWholeError(f"{name}: embeddings that are not finite float32")
    if "unknown" in arrays["labels"]:
        raise NotWholeError(f'{name}: the label "unknown", which no class can have')
    arrays = {"hashes": np.full(count, "", "U1"), "enrolled": np.zeros(count, bool)} | arrays
    arrays["rows"] = np.arange(count)
    if not len(removed):
        return arrays
    if removed[-1] >= count:
        raise NotWholeError(f"{about['state']}: row {removed[-1]} was removed of {count}")
    is_kept = np.ones(count, bool)
    is_kept[removed] = False
    return {key: drop_rows(array, is_kept) for key, array in arrays.items()}


# --------------------------------------------------------------------------------------- 3 saving


def find_existing(path: Path) -> Path:
    """Return the path if it exists, else the nearest of its parents that does."""
    return next(place for place in [path, *path.absolute().parents] if place.exists())


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


@dataclass(frozen=True)
class Saved:
    """What a gallery was read from or saved as, so that the next save writes what is new.

    Attributes
    ----------
    folder
        The gallery's folder.
    about
        What gallery.json said.
    stamps
        Size and time of each file, by its name: a file that was changed is written anew.
    """

    folder: Path
    about: dict[str, Any]
    stamps: dict[str, tuple[int, int] | None]

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any]) -> "Saved":
        """Return the state of the folder now."""
        names = name_files(about)
        return cls(folder.resolve(), about, {name: _stamp(folder / name) for name in names})


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _is_unchanged(folder: Path, saved: Saved | None) -> bool:
    """Return whether the folder holds just what was saved, in the present format."""
    if saved is None or folder.resolve() != saved.folder or saved.about["format"] < 6:
        return False
    try:
        about = read_about(folder)
    except ValueError:
        return False
    return about == saved.about and Saved.of(folder, about) == saved and None not in saved.stamps


def count_kept_parts(counts: Sequence[int], rows: np.ndarray, indexed: int = 0) -> int:
    """Return how many of the first parts stay as they are; the entries behind them are written.

    Parameters
    ----------
    counts
        The rows of each part.
    rows
        Each entry's row in the parts, ascending, and then -1 for each new one, (m,).
    indexed
        How many of the parts are in an index, which is lost if they are written anew.
    """
    ends = np.cumsum([0, *counts])
    old = rows[rows >= 0]
    if len(old) < 3 / 4 * ends[-1]:
        return 0
    entries = np.diff(np.searchsorted(old, ends))
    kept, new = len(counts), len(rows) - len(old)
    while kept > indexed and new and counts[kept - 1] <= new:
        kept -= 1
        new += entries[kept]
    return kept


def write_gallery(
    folder: Path,
    model: keras.Model,
    entries: dict[str, np.ndarray],
    trials: dict[str, np.ndarray],
    about: dict[str, Any],
    saved: Saved | None,
) -> tuple[Saved, np.ndarray]:
    """Write what is not in the folder yet, and last gallery.json, which names the files.

    The files are named by their content and gallery.json is replaced in one step, so a save that
    is cut short leaves the older gallery as it was. Then the files that are not needed any more
    are removed, and no others.

    Parameters
    ----------
    entries, trials
        The arrays of `ARRAYS` with `rows`, -1 for an entry that is in no part, and of `TRIALS`.
    saved
        What the gallery was read from or saved as, if it was.

    Returns
    -------
    saved, rows
        The same of what is saved now, for the next time.
    """
    with hold_folder(folder, "saving a gallery"):
        rows = entries["rows"]
        former, kept_parts, index = list_files(folder), [], None
        if not _is_unchanged(folder, saved):
            saved = None
        if saved is not None:
            parts, index = saved.about["parts"], saved.about["index"]
            sizes, indexed = [part["entries"] for part in parts], index["parts"] if index else 0
            kept_parts = parts[: count_kept_parts(sizes, rows, indexed)]
            index = index if len(kept_parts) >= indexed else None
        total = sum(part["entries"] for part in kept_parts)
        first = int(np.count_nonzero((rows >= 0) & (rows < total)))
        new = {name: np.ascontiguousarray(entries[name][first:]) for name in ARRAYS}
        count = len(new["labels"])
        removed = np.setdiff1d(np.arange(total), rows[:first], assume_unique=True)
        with temporary_build_folder(folder / "gallery") as work:

            def publish(kind: str, arrays: dict[str, np.ndarray]) -> dict[str, str]:
                np.savez(work / kind, **arrays)  # type: ignore[arg-type]
                return _publish(work / f"{kind}.npz", folder, kind)

            if saved is not None:
                model_file = {key: saved.about[key] for key in ("model", "model_sha256")}
            else:
                model.save(work / "model.keras")
                file = _publish(work / "model.keras", folder, "embedding")
                model_file = {"model": file["file"], "model_sha256": file["sha256"]}
            if count or not kept_parts:
                kept_parts = [*kept_parts, publish("entries", new) | {"entries": count}]
            state = publish("state", {"removed": removed} | trials)
            about = {
                **about,
                "format": FORMAT,
                "embedding_size": entries["embeddings"].shape[1],
                **model_file,
                "parts": kept_parts,
                "state": state["file"],
                "state_sha256": state["sha256"],
                "index": index,
            }
            _publish_about(folder, work, about)
        new_rows = np.concatenate([rows[:first], np.arange(total, total + count)])
        return _finish(folder, former), new_rows


def write_index(
    folder: Path, saved: Saved, write: Callable[[Path], None], recall_at_1: float
) -> Saved:
    """Write an index of all parts beside them, and name it in gallery.json.

    Raises FolderInUseError if the gallery was changed since it was read.
    """
    with hold_folder(folder, "saving an index"):
        if not _is_unchanged(folder, saved):
            raise FolderInUseError(
                f"{printable(folder)} was changed while its index was built: build it again"
            )
        former = name_files(saved.about)
        with temporary_build_folder(folder / "gallery") as work:
            write(work / "index.faiss")
            index = _publish(work / "index.faiss", folder, "index")
            facts = {"parts": len(saved.about["parts"]), "recall_at_1": recall_at_1}
            _publish_about(folder, work, saved.about | {"index": index | facts})
        return _finish(folder, former)


def _publish_about(folder: Path, work: Path, about: dict[str, Any]) -> None:
    (work / "gallery.json").write_text(json.dumps(about, indent=1), "utf-8")
    os.replace(work / "gallery.json", folder / "gallery.json")


def _finish(folder: Path, former: set[str]) -> Saved:
    """Remove the files that are not needed any more, and return what is in the folder now."""
    about = read_about(folder)
    for name in former - name_files(about):
        (folder / name).unlink(missing_ok=True)
    return Saved.of(folder, about)


def _publish(built: Path, folder: Path, kind: str) -> dict[str, str]:
    """Move a file to its place, under a name made of its kind and its content."""
    digest = hash_file(built)
    name = f"{kind}-{digest[:16]}{built.suffix}"
    os.replace(built, folder / name)
    return {"file": name, "sha256": digest}
