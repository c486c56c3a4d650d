"""Locks that keep two processes from working in the same folder."""

import atexit
import os
from pathlib import Path

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
