"""Files and folders that are whole or not there: written beside, renamed at the end; and locks."""

import atexit
import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk, a quota


@contextlib.contextmanager
def workshop(target):
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
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"{target} could not be written: the disk or quota is full ({error.strerror}; "
            f"{shutil.disk_usage(target.parent).free / 1e6:.0f} MB free). Make room and run again, "
            "or choose another folder; nothing half-made is left",
        ) from error


def finish(made, target):
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
def whole_file(path):
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


def remove_rests(path):
    """Remove what killed processes left of `whole_file(path)`, and nothing else."""
    ours = re.compile(re.escape(path.stem) + r"\.\d+\.part" + re.escape(path.suffix))
    for rest in list(path.parent.iterdir()):
        if ours.fullmatch(rest.name):
            rest.unlink()


def save_model(model, path):
    """`model.save(path)`, a .keras file, of which no kill or full disk leaves half."""
    with whole_file(path) as part:
        model.save(part)


_held = {}  # lock file -> the open file that holds it


@atexit.register
def _unlock_all():
    """At the end of the process; a killed one's locks go with it."""
    for file in _held.values():
        file.close()


def lock_folder(folder):
    """Hold `folder` for this process until `unlock_folder`, or until the process ends, however.

    Raises RuntimeError, with its number, if another process holds it, and for a lock file that is a
    link: what that leads to would be overwritten. It is a lock of the system, not the mere
    existence of a file, so a killed process leaves none; another machine that mounts the folder too
    does not see it.
    """
    path = _lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path in _held:
        return
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_nlink > 1)):
        raise RuntimeError(f"{path} is a link, or no file at all: delete it, and run again")
    file = open(path, "a+b", opener=_open_no_link)  # noqa: SIM115  open as long as it is held
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**20)  # what is locked cannot be read, and the number shall be
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().decode() or "unknown"
        file.close()
        raise RuntimeError(
            f"process {owner} is training in {path.parent}. Wait for it, or shut down its kernel; "
            "or set SIAMESE_RUNS to another folder"
        ) from error
    except OSError as error:  # some network drives have no locks
        print(f"{path.parent} cannot be locked ({error}): let no other notebook train in it")
    file.truncate(0)
    file.write(b"%d" % os.getpid())
    file.flush()
    _held[path] = file


def unlock_folder(folder):
    """Let go of `folder`. The lock file stays: removing it would race with one who opens it."""
    if file := _held.pop(_lock_file(folder), None):
        file.close()


def _lock_file(folder):
    return Path(folder).resolve() / "training.lock"


def _open_no_link(path, flags):
    """An opener for `open` that refuses a link which was made a moment ago."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
