"""Arrays in .npz files, checked before anything in them is believed.

Several files that hold the same arrays, row after row, are read into one array of each name. A file
is read in pieces, so that the arrays are in memory once.
"""

import contextlib
import hashlib
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

PIECE = 2**22  # bytes that are read at a time
Kinds = Mapping[str, tuple[int, str]]  # of each array: its dimensions, and NumPy's letter


class NotWholeError(ValueError):
    """The folder holds no gallery as it is written here; the text says why."""


def hash_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, expected: str | None) -> None:
    """Raise NotWholeError for a missing file, ValueError for another one; None expects nothing."""
    if not path.is_file():
        raise NotWholeError(f"{path.name} is missing")
    if expected not in (None, hash_file(path)):
        raise ValueError(f"{path.name} was changed: restore it")


def read_arrays(
    paths: Sequence[Path], kinds: Kinds, counts: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays of files that hold the same ones, and join them along their first axis.

    Parameters
    ----------
    paths
        .npz files, in the order of their rows.
    kinds
        The arrays that each of them has to hold, and no others.
    counts
        How many rows each file's arrays have to have, where that is known.

    Raises
    ------
    NotWholeError
        Before an array is read, if a file holds anything else or less than its headers say: a
        packed file may be a thousand times as large in memory.
    """
    with contextlib.ExitStack() as stack:
        archives, headers = [], []
        for path in paths:
            with _naming(path):
                archives.append(stack.enter_context(zipfile.ZipFile(path)))
                headers.append(_check_members(archives[-1], path.stat().st_size, kinds))
                for name, (shape, *_) in headers[-1].items():
                    if counts is not None and shape[0] != counts[len(headers) - 1]:
                        wanted = counts[len(headers) - 1]
                        raise NotWholeError(f"{shape[0]} {name}, not {wanted} as gallery.json says")
        return {name: _join(name, paths, archives, [h[name] for h in headers]) for name in kinds}


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a NotWholeError that names it."""
    try:
        yield
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise NotWholeError(f"{path.name}: {error}") from error


def _join(
    name: str,
    paths: Sequence[Path],
    archives: Sequence[zipfile.ZipFile],
    headers: Sequence[tuple[tuple[int, ...], bool, np.dtype]],
) -> np.ndarray:
    shapes, dtypes = [header[0] for header in headers], [header[2] for header in headers]
    for path, shape in zip(paths, shapes):
        if shape[1:] != shapes[0][1:]:
            raise NotWholeError(f"{path.name}: {name} {shape} beside {shapes[0]}")
    joined = np.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), np.result_type(*dtypes))
    start = 0
    for path, archive, (shape, is_fortran, dtype) in zip(paths, archives, headers):
        with _naming(path), archive.open(f"{name}.npy") as file:
            _read_header(file)
            _read_rows(file, joined[start : start + shape[0]], dtype, is_fortran)
        start += shape[0]
    return joined


def _read_rows(file: IO[bytes], target: np.ndarray, dtype: np.dtype, is_fortran: bool) -> None:
    row = math.prod(target.shape[1:])
    step = len(target) if is_fortran else max(1, PIECE // max(1, row * dtype.itemsize))
    for start in range(0, len(target), max(1, step)):
        part = target[start : start + step]
        content = np.frombuffer(file.read(part.size * dtype.itemsize), dtype)
        part[...] = content.reshape(part.shape, order="F" if is_fortran else "C")


def _check_members(archive: zipfile.ZipFile, size: int, kinds: Kinds) -> dict[str, tuple]:
    """Return (shape, is_fortran, dtype) of each array; NotWholeError unless it is these alone."""
    members, headers = archive.infolist(), {}
    if sorted(m.filename for m in members) != sorted(f"{name}.npy" for name in kinds):
        raise NotWholeError(f"it does not hold {', '.join(kinds)}")
    if sum(m.file_size for m in members) > size:
        raise NotWholeError("it is packed (a zip bomb?)")
    for member in members:
        name = member.filename[: -len(".npy")]
        with archive.open(member) as file:
            shape, is_fortran, dtype = _read_header(file)
            if (len(shape), dtype.kind) != tuple(kinds[name]):
                raise NotWholeError(f"an array {shape} of {dtype}")
            if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise NotWholeError(f"an array {shape} of {dtype} in {member.file_size} bytes")
        headers[name] = shape, is_fortran, dtype
    return headers


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


def drop_rows(array: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Move the rows that are kept to the front, in place, and return them as a view."""
    count = 0
    for start in range(0, len(array), 2**14):
        part = slice(start, start + 2**14)
        rows = array[part][is_kept[part]]
        array[count : count + len(rows)] = rows
        count += len(rows)
    return array[:count]
