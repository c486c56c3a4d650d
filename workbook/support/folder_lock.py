"""Locks that keep two processes from changing the same folder at once.

They are locks of the operating system, not the mere existence of a file: a killed process leaves
none behind. A process on another machine that mounts the same folder may not see them.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from workbook.support.atomic_files import atomic_file
from workbook.support.text import printable

WAIT = 10.0  # seconds that `hold_folder` waits for another process
NO_LOCKS_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # network drives


class FolderInUseError(RuntimeError, OSError):
    """Another process holds the folder, or its lock file is not one; the text says what to do."""


_training_locks: dict[Path, FileLock] = {}  # lock file -> the lock that this process holds


def lock_folder(folder: str | os.PathLike) -> None:
    """Reserve a folder for a training until `unlock_folder`, or until the process ends, however.

    Reserving it again in the same process changes nothing.

    Raises
    ------
    FolderInUseError
        If another process trains in the folder, with its number; or if the lock file is a link,
        because the file that a link leads to would be overwritten.
    """
    path = Path(folder).resolve() / "training.lock"
    if path not in _training_locks:
        lock = FileLock(path, thread_local=False)
        _acquire(lock, "training", 0, "or set SIAMESE_RUNS to another folder")
        _training_locks[path] = lock


def unlock_folder(folder: str | os.PathLike) -> None:
    """Give a folder free that `lock_folder` reserved; for another folder, do nothing."""
    if lock := _training_locks.pop(Path(folder).resolve() / "training.lock", None):
        _release(lock)


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike, purpose: str, timeout: float = WAIT) -> Iterator[None]:
    """Hold a folder while its content is read, changed and written, so that no change is lost.

    Whoever holds it already, in the same thread, may hold it again. The folder is made if there is
    none.

    Parameters
    ----------
    folder
        The folder to hold.
    purpose
        What this process does there, for the others' message, as in "adding entries".
    timeout
        How many seconds to wait for another process to finish.

    Raises
    ------
    FolderInUseError
        If another process still holds the folder after `timeout` seconds, with its number and its
        purpose; or if the lock file is a link.
    """
    lock = FileLock(Path(folder).resolve() / ".folder.lock", is_singleton=True)
    if lock.is_locked:  # by this thread
        yield
        return
    _acquire(lock, purpose, timeout, "and run again")
    try:
        yield
    finally:
        _release(lock)


def _acquire(lock: FileLock, purpose: str, timeout: float, remedy: str) -> None:
    path = Path(lock.lock_file)
    folder = printable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_nlink > 1)):
        raise FolderInUseError(
            f"{printable(path)} is a link or not a file: delete it and run again"
        )
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise FolderInUseError(
            f"{_describe_owner(path)} in {folder}. Wait until it has finished, or stop it, {remedy}"
        ) from error
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS_ERRNOS:
            raise
        print(f"{folder} cannot be locked ({printable(error)}): let no other process work in it")
    with contextlib.suppress(OSError), atomic_file(_owner_file(path)) as part:
        part.write_text(f"{os.getpid()} {purpose}", "utf-8")


def _release(lock: FileLock) -> None:
    _owner_file(Path(lock.lock_file)).unlink(missing_ok=True)
    lock.release()


def _owner_file(lock_file: Path) -> Path:
    """Where the holder of a lock says who it is: the next attempt to lock may empty the lock."""
    return lock_file.with_suffix(".owner")


def _describe_owner(lock_file: Path) -> str:
    try:
        with open(_owner_file(lock_file), encoding="utf-8") as file:
            number, _, purpose = file.read(200).partition(" ")
    except (OSError, ValueError):
        number, purpose = "", ""
    return f"process {printable(number or 'unknown')} is {printable(purpose or 'working')}"
