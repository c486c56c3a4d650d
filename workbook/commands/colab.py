"""What a notebook needs in Google Colab: its first cell calls `prepare_session`.

Only missing packages are installed: a runtime's own TensorFlow, Keras and NumPy stay. A mounted
Drive is slow and small, so it only gets what must outlive the session.
"""

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from IPython import get_ipython
from packaging.requirements import Requirement

from workbook import ROOT
from workbook.support.atomic_files import atomic_file

DRIVE = Path("/content/drive/MyDrive")
NEVER_REPLACED = ("tensorflow", "keras", "numpy")  # replacing one of them breaks a runtime
NOT_NEEDED = (  # Colab has its own notebook, and no tests run there
    "jupyterlab", "nbconvert", "nbval", "hypothesis", "websocket-client", "ruff", "mypy",
    "import-linter",
)  # fmt: skip
PAUSE = 300  # seconds between two copies of a checkpoint
EXPLANATION = """Datasets and caches stay on this runtime's own disk. These files go to Drive, {}:
- after each cell, what has changed: the trained embedding, gallery, figures, metrics
  (for one run 0.2 GB on the toys, 0.6 GB for ResNet50 at 200 px);
- during the training, at least {} minutes apart, a checkpoint (0.2 GB; 0.7 GB at 200 px), with
  which a new session continues. It is removed at the end.
{:.0f} GB of Drive are free."""


def installed_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def list_missing(lines: Iterable[str]) -> list[str]:
    """Return the requirements that have to be installed, out of the lines of requirements.txt.

    Raises RuntimeError if TensorFlow, Keras or NumPy is installed in a version that does not fit.
    """
    texts = (line.partition("#")[0].strip() for line in lines)
    missing = []
    for requirement in (Requirement(text) for text in texts if text):
        version = installed_version(requirement.name)
        if requirement.name in NOT_NEEDED or (version and requirement.specifier.contains(version)):
            continue
        if requirement.name in NEVER_REPLACED and version:
            raise RuntimeError(
                f"this runtime has {requirement.name} {version}, the workbook needs {requirement}: "
                "choose the latest version in Runtime > Change runtime type"
            )
        missing.append(str(requirement))
    return missing


def prepare_session(drive: Path = DRIVE) -> None:
    """Install what is missing; if Drive is mounted, keep results there and say which."""
    packages = list_missing((ROOT / "requirements.txt").read_text("utf-8").splitlines())
    if packages:
        print("installing", *packages)
        pins = [
            f"{name}=={version}" for name in NEVER_REPLACED if (version := installed_version(name))
        ]
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder, "constraints.txt")
            constraints.write_text("\n".join(pins))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints)]
            subprocess.run([*pip, *packages], check=True)
    if not drive.is_dir():
        print("results end with this session; to keep them: Files > Mount Drive, then run again")
    elif "SIAMESE_RUNS" in os.environ:
        print("results go where SIAMESE_RUNS says:", os.environ["SIAMESE_RUNS"])
    else:
        home = drive / "siamese-networks" / "runs"
        keep_on_drive(ROOT / "runs", home, PAUSE)
        print(EXPLANATION.format(home, PAUSE // 60, shutil.disk_usage(drive).free / 1e9))


class DriveCopy:
    """A copy on Drive, in the folder `home`, of the results in the folder `runs`.

    A file is copied once it has changed, and back if it is missing in `runs`. Caches and locks are
    not copied, nor is the second last checkpoint. Each file is written completely or not at all.
    What is removed from `runs` is removed from `home`.
    """

    # `atomic_files` gives unfinished files and folders the names with "part"
    NOT_COPIED = re.compile(
        r"cache/|.*(\.\d+\.part(\.|$)|\.part-[a-z0-9_]{8}/|\.(lock|owner)$|/checkpoint-before\.npz$)"
    )

    def __init__(self, runs: Path, home: Path) -> None:
        self.runs, self.home = runs, home
        self.copied: dict[Path, tuple[int, int]] = {}  # the state of each file when it was copied
        self.lock = threading.Lock()

    def list_files(self, folder: Path) -> Iterator[Path]:
        """Yield the files in `folder` that are to be copied, relative to it, in order."""
        for path in sorted(folder.rglob("*")):
            file = path.relative_to(folder)
            if path.is_file() and not self.NOT_COPIED.match(file.as_posix()):
                yield file

    def restore(self) -> int:
        """Copy back what an earlier session kept and this one lacks; return the bytes copied."""
        size = 0
        for file in self.list_files(self.home):
            here, there = self.runs / file, self.home / file
            if not here.exists():
                copy_atomically(there, here)
                size += there.stat().st_size
            elif has_changed_since(here, there):
                continue
            self.copied[file] = file_state(here)
        return size

    def update(self, names: Collection[str] | None = None) -> None:
        """Copy to Drive what has changed: all of it, or the files of these names."""
        with self.lock:
            files = [f for f in self.list_files(self.runs) if names is None or f.name in names]
            try:
                for file in files:
                    state = file_state(self.runs / file)
                    if state != self.copied.get(file):
                        copy_atomically(self.runs / file, self.home / file)
                        self.copied[file] = state
                if names is None:
                    self._remove_all_except(files)
            except OSError as error:  # Drive is full or gone: the next cell tries again
                print("not kept on Drive:", error)

    def _remove_all_except(self, files: Collection[Path]) -> None:
        for file in set(self.copied) - set(files):
            if (self.runs / file).parent.is_dir():  # else the user removed a whole run here
                (self.home / file).unlink(missing_ok=True)
                del self.copied[file]


def file_state(path: Path) -> tuple[int, int]:
    """Return what changes when a file does: its size and its time."""
    return path.stat().st_size, path.stat().st_mtime_ns


def has_changed_since(path: Path, copy: Path) -> bool:
    """Whether `path` is of another size than its copy, or newer."""
    (size, changed), (copied_size, copied) = file_state(path), file_state(copy)
    return size != copied_size or changed > copied


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that `target` holds all of it, or what it held before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as part:
        shutil.copyfile(source, part)


@functools.cache  # the first cell may be run again
def keep_on_drive(runs: Path, home: Path, pause: float) -> DriveCopy:
    """Bring back what is on Drive, and from now on update it after each cell.

    While a cell trains, only the checkpoint is copied, every `pause` seconds.
    """
    drive_copy = DriveCopy(runs, home)
    if size := drive_copy.restore():
        print(f"{size / 1e6:.0f} MB of an earlier session are back from Drive")

    def update_after_cell(_: Any) -> None:
        drive_copy.update()

    def copy_checkpoints() -> None:
        while True:
            time.sleep(pause)
            drive_copy.update({"checkpoint.npz"})

    if shell := get_ipython():
        shell.events.register("post_run_cell", update_after_cell)
    threading.Thread(target=copy_checkpoints, daemon=True).start()
    return drive_copy
