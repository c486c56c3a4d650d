"""Files and folders that are whole or not there: written beside, renamed at the end; and locks."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

DISK_FULL_ERRNOS = (
    errno.ENOSPC,
    errno.EFBIG,
    getattr(errno, "EDQUOT", errno.ENOSPC),
)  # the disk, a quota


@contextlib.contextmanager
def temporary_build_folder(target):
    """A new empty folder beside `target` to build it in; gone at the end, whatever happens.

    What a killed run left of this target goes, too, once it is a day old: a living one is younger.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ours = re.compile(re.escape(target.name) + r"\.part-[a-z0-9_]{8}")  # as `tempfile` names them
    for left in filter(lambda path: ours.fullmatch(path.name), list(target.parent.iterdir())):
        with contextlib.suppress(OSError):
            old = time.time() - left.stat().st_mtime > 86400
            if old and {path.name for path in left.iterdir()} <= {"work"}:
                shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.part-", dir=target.parent) as part:
            (work := Path(part, "work")).mkdir()  # of usual permissions, unlike its parent
            yield work
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise OSError(
            error.errno,
            f"{target} could not be written: the disk or quota is full ({error.strerror}; "
            f"{shutil.disk_usage(target.parent).free / 1e6:.0f} MB free). Make room and run again, "
            "or choose another folder; nothing half-made is left",
        ) from error


def publish_folder(made, target):
    """Give the folder `made` its name `target`, and only then is it trusted; the first one wins."""
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise


def mark_used(path):
    """Give a kept file the time of now: `python -m workbook cache` tells when it was used."""
    with contextlib.suppress(OSError):  # somebody else's, or on a disk that cannot be written to
        os.utime(path)


@contextlib.contextmanager
def atomic_file(path):
    """A temporary path to write to; afterwards `path` holds all of it, or what it held before.

    Survives a kill (a rest named `*.part*` may stay behind, which nothing reads). Raises OSError
    that names the file and the room left where it cannot be written, as on a full disk.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name
        os.replace(part, path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free // 10**6
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}; {free} MB are free there). "
            "What was there before is intact: make room and run the cell again",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def remove_leftovers(path):
    """Remove what killed processes left of `atomic_file(path)`, and nothing else."""
    ours = re.compile(re.escape(path.stem) + r"\.\d+\.part" + re.escape(path.suffix))
    for rest in list(path.parent.iterdir()):
        if ours.fullmatch(rest.name):
            rest.unlink()
