"""Files and folders that are complete or absent: written under another name, renamed at the end."""

import contextlib
import csv
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbook.support.text import printable

DISK_FULL_ERRNOS = (  # the disk is full, the file is too large for it, or a quota is used up
    errno.ENOSPC,
    errno.EFBIG,
    getattr(errno, "EDQUOT", errno.ENOSPC),
)
DAY = 86400  # seconds


@contextlib.contextmanager
def temporary_build_folder(target: Path) -> Iterator[Path]:
    """Give a new empty folder beside `target` to build it in, and remove that folder at the end.

    What killed processes left of the same target is removed when it is a day old, because a younger
    one may belong to a process that is still at work.

    Raises
    ------
    OSError
        If the disk is full, with the space that is left and what to do.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_old_build_folders(target)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.part-", dir=target.parent) as part:
            work = Path(part, "work")  # unlike its parent, others may read it
            work.mkdir()
            yield work
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise OSError(
            error.errno,
            f"{target} could not be written: the disk or quota is full ({error.strerror}; "
            f"{_free_megabytes(target)} MB are free). Make room and run again, or choose another "
            "folder; nothing incomplete is left",
        ) from error


def _remove_old_build_folders(target: Path) -> None:
    made_here = re.compile(re.escape(target.name) + r"\.part-[a-z0-9_]{8}")  # named by `tempfile`
    for folder in list(target.parent.iterdir()):
        if made_here.fullmatch(folder.name):
            with contextlib.suppress(OSError):
                is_old = time.time() - folder.stat().st_mtime > DAY
                if is_old and {path.name for path in folder.iterdir()} <= {"work"}:
                    shutil.rmtree(folder, ignore_errors=True)


def publish_folder(built: Path, target: Path) -> None:
    """Rename a complete folder to `target`; if another process was faster, keep that one's."""
    try:
        os.rename(built, target)
    except OSError:
        if not target.is_dir():
            raise


def mark_used(path: Path) -> None:
    """Give a kept file the present time: `python -m workbook cache` shows when it was last used."""
    with contextlib.suppress(OSError):  # another user's file, or a disk that is read-only
        os.utime(path)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path to write to; afterwards `path` holds all of it, or what it held before.

    A killed process may leave a file named `*.part*`, which nothing reads.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full; with its name and the
        space that is left.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # its content is on the disk before the file gets its name
        os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}; {_free_megabytes(path)} MB "
            "are free there). What was there before is intact: make room and run again",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_rows(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file: a column for each name that any row has, "" where one has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    with atomic_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def check_replaceable(path: Path, beginnings: Collection[bytes], kind: str) -> None:
    """Raise OSError unless `path` can become a file of this kind without losing another file.

    A file that is there is of this kind if one of `beginnings` is how it begins.
    """
    shown = printable(path)
    if path.is_dir():
        raise IsADirectoryError(f"{shown} is a folder: give the name of a file")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{shown}: there is no folder {printable(path.parent)}; make it, or choose another"
        )
    if path.exists():
        with open(path, "rb") as file:
            if not file.read(max(map(len, beginnings))).startswith(tuple(beginnings)):
                raise FileExistsError(
                    f"{shown} is not {kind}, so it is not overwritten: choose another name"
                )


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed processes left of `atomic_file(path)`, and no others."""
    made_here = re.compile(re.escape(path.stem) + r"\.\d+\.part" + re.escape(path.suffix))
    for file in list(path.parent.iterdir()):
        if made_here.fullmatch(file.name):
            file.unlink()


def _free_megabytes(path: Path) -> int:
    return shutil.disk_usage(path.parent).free // 10**6
