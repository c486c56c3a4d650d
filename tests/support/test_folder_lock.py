"""Locks of folders: one process at a time, and none is left by a killed one."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from workbook import ROOT
from workbook.support.folder_lock import (
    FolderInUseError,
    hold_folder,
    lock_folder,
    unlock_folder,
)

HOLDER = """
import sys; sys.path.insert(0, {root!r})
from workbook.support.folder_lock import hold_folder, lock_folder
{code}
print("held", flush=True)
sys.stdin.readline()
"""
LOCK = "lock_folder({folder!r})"
HOLD = "hold = hold_folder({folder!r}, 'adding entries'); hold.__enter__()"


@pytest.fixture
def other_process(tmp_path):
    """other_process(code): a process that runs this and keeps what it holds until it is ended."""
    children = []

    def start(code):
        program = HOLDER.format(root=str(ROOT), code=code.format(folder=str(tmp_path / "run")))
        child = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def hold_briefly(folder):
    with hold_folder(folder, "reading", timeout=0.2):
        yield


@contextlib.contextmanager
def train_in(folder):
    lock_folder(folder)
    yield
    unlock_folder(folder)


@pytest.mark.parametrize(
    "code, take, says",
    [
        (LOCK, train_in, "process {pid} is training in {folder}. Wait .* SIAMESE_RUNS to another"),
        (HOLD, hold_briefly, "process {pid} is adding entries in {folder}. Wait .* run again$"),
    ],
    ids=["lock", "hold"],
)
def test_another_process_is_refused_until_the_first_is_killed(
    tmp_path, other_process, code, take, says
):
    folder = tmp_path / "run"
    child = other_process(code)
    with pytest.raises(FolderInUseError, match=says.format(pid=child.pid, folder=folder)):
        take(folder).__enter__()
    if os.name == "nt":
        child.kill()
    else:
        child.send_signal(signal.SIGKILL)
    child.communicate()
    with take(folder):
        pass
    with take(folder):
        pass
    assert not list(folder.glob("*.owner")), "nobody holds it"


def test_a_folder_in_use_is_an_error_of_both_kinds():
    """Callers that expect a RuntimeError, and a command line that prints each OSError in a line."""
    assert issubclass(FolderInUseError, RuntimeError) and issubclass(FolderInUseError, OSError)
    assert str(FolderInUseError("process 1 is training")) == "process 1 is training"


def test_a_process_may_lock_its_folder_again_and_by_another_name(tmp_path):
    (tmp_path / "run").mkdir()
    lock_folder(tmp_path / "run")
    lock_folder(tmp_path / "run")
    try:
        (tmp_path / "other name").symlink_to(tmp_path / "run")
        lock_folder(tmp_path / "other name")
        unlock_folder(tmp_path / "other name")
    except OSError:
        unlock_folder(tmp_path / "run")
    free = FileLock(tmp_path / "run" / "training.lock")
    free.acquire(timeout=0)
    free.release()


def test_a_folder_that_was_never_locked_is_unlocked_without_an_error(tmp_path):
    unlock_folder(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_thread_waits_for_the_other_to_finish(tmp_path):
    order = []

    def second():
        with hold_folder(tmp_path, "reading", timeout=60):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold_folder(tmp_path, "adding entries"):
        thread.start()
        thread.join(0.3)
        with hold_folder(tmp_path, "saving"):  # whoever holds it may hold it again
            order.append("first")
        assert thread.is_alive(), "leaving the inner hold does not give the folder free"
        order.append("still first")
    thread.join(60)
    assert order == ["first", "still first", "second"]


def test_an_error_gives_the_folder_free(tmp_path):
    with pytest.raises(KeyError), hold_folder(tmp_path, "reading"):
        raise KeyError
    with hold_folder(tmp_path, "reading", timeout=0):
        pass


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to", "mkdir"])
@pytest.mark.parametrize(
    "take, name",
    [(train_in, "training.lock"), (hold_briefly, ".folder.lock")],
    ids=["lock", "hold"],
)
def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path, link, take, name):
    (tmp_path / "mine").write_text("mine")
    lock = tmp_path / "run" / name
    lock.parent.mkdir()
    try:
        getattr(lock, link)(*[tmp_path / "mine"] * (link != "mkdir"))
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    with pytest.raises(FolderInUseError, match=rf"{name} is a link or not a file: delete it"):
        take(lock.parent).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_drive_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    def acquire(self, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with hold_folder(tmp_path, "reading"):
        assert "cannot be locked" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path, monkeypatch):
    def acquire(self, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(PermissionError):
        lock_folder(tmp_path)
