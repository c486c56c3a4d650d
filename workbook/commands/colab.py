"""What a notebook needs in Google Colab: its first cell fetches the workbook and calls `prepare_session`.

Installs what is missing and nothing else: a runtime's own TensorFlow, Keras and NumPy stay. A
mounted Drive is slow and small: it gets what must outlive the session, and nothing else.
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
from pathlib import Path

from IPython import get_ipython
from packaging.requirements import Requirement

from workbook import ROOT
from workbook.support.atomic_files import atomic_file

DRIVE = Path("/content/drive/MyDrive")
KEPT = ("tensorflow", "keras", "numpy")  # replacing one of them breaks a runtime
# Colab is the notebook, and nothing is tested in it
ELSEWHERE = ("jupyterlab", "nbconvert", "nbval", "hypothesis", "websocket-client", "ruff")


def version(name):
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(lines):
    """The requirements that a notebook has to install here, of the lines of requirements.txt.

    Raises RuntimeError where a package of `KEPT` is of a version that does not fit.
    """
    lines = (line.partition("#")[0].strip() for line in lines)
    wanted = [Requirement(line) for line in lines if line]
    wanted = [requirement for requirement in wanted if requirement.name not in ELSEWHERE]
    unfit = [r for r in wanted if not (v := version(r.name)) or not r.specifier.contains(v)]
    for requirement in unfit:
        if requirement.name in KEPT and version(requirement.name):
            raise RuntimeError(
                f"this runtime has {requirement.name} {version(requirement.name)}, the workbook "
                f"needs {requirement}: choose the latest version in Runtime > Change runtime type"
            )
    return [str(requirement) for requirement in unfit]


def prepare_session(drive=DRIVE):
    """Install what is missing; keep results on Drive if it is mounted, and say what goes there."""
    packages = missing((ROOT / "requirements.txt").read_text("utf-8").splitlines())
    if packages:
        print("installing", *packages)
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder, "constraints.txt")
            pins.write_text("\n".join(f"{n}=={version(n)}" for n in KEPT if version(n)))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(pins)]
            subprocess.run([*pip, *packages], check=True)
    if not drive.is_dir():
        print("results end with this session; to keep them: Files > Mount Drive, then run again")
    elif "SIAMESE_RUNS" in os.environ:
        print("results go where SIAMESE_RUNS says:", os.environ["SIAMESE_RUNS"])
    else:
        home, pause = drive / "siamese-networks" / "runs", 300
        keep_on_drive(ROOT / "runs", home, pause)
        print(SAID.format(home, pause // 60, shutil.disk_usage(drive).free / 1e9))


SAID = """Datasets and caches stay on this runtime's own disk. To Drive, {}, go
- after each cell what changed: the trained embedding, gallery, figures, metrics
  (a run: 0.2 GB on the toys at 64 px, 0.6 GB for ResNet50 at 200 px);
- during the training, {} minutes apart at least, a checkpoint (0.2 GB; 0.7 GB at 200 px), from
  which a new session goes on; it is removed at the end.
Of Drive {:.0f} GB are free."""


class Keeper:
    """Copies files of `runs` to `home`, on Drive, once they have changed; back, if they are gone.

    Caches and locks stay where they are, as does the second last checkpoint. Each file is written
    whole; what is removed from `runs` is removed from `home`.
    """

    # half-made files and folders are named by `run_folder.atomic_file` and `temporary_build_folder`
    STAYS = re.compile(
        r"cache/|.*(\.\d+\.part(\.|$)|\.part-[a-z0-9_]{8}/|\.lock$|/checkpoint-before\.npz$)"
    )

    def __init__(self, runs, home):
        self.runs, self.home = runs, home
        self.kept = {}  # file: its size and time of change when it was copied
        self.lock = threading.Lock()

    def files(self, folder):
        """The files in `folder` that are worth keeping, as paths from there, in order."""
        for path in sorted(folder.rglob("*")):
            file = path.relative_to(folder)
            if path.is_file() and not self.STAYS.match(file.as_posix()):
                yield file

    def bring_back(self):
        """Copy what an earlier session kept and this one does not have; returns its bytes."""
        size = 0
        for file in self.files(self.home):
            here, there = self.runs / file, self.home / file
            if not here.exists():
                copy_whole(there, here)
                size += there.stat().st_size
            elif state(here)[0] != state(there)[0] or state(here)[1] > state(there)[1]:
                continue  # it has changed since it was copied
            self.kept[file] = state(here)
        return size

    def keep(self, names=None):
        """Bring Drive up to date: all of it, or the files of these names."""
        with self.lock:
            here = [file for file in self.files(self.runs) if names is None or file.name in names]
            try:
                for file in here:
                    if (now := state(self.runs / file)) != self.kept.get(file):
                        copy_whole(self.runs / file, self.home / file)
                        self.kept[file] = now
                for file in set(self.kept) - set(here) if names is None else ():
                    if (self.runs / file).parent.is_dir():  # else somebody made room here
                        (self.home / file).unlink(missing_ok=True)
                        del self.kept[file]
            except OSError as error:  # full, or gone: the next cell tries again
                print("not kept on Drive:", error)


def state(path):
    """What changes when a file does: (size, time)."""
    return (path.stat().st_size, path.stat().st_mtime_ns)


def copy_whole(source, target):
    """Copy a file; `target` is all of it, or what it was before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as part:
        shutil.copyfile(source, part)


@functools.cache  # the first cell may be run again
def keep_on_drive(runs, home, pause):
    """Bring back what is on Drive; from now on keep it: after each cell, and `pause` seconds apart.

    The latter for the checkpoint alone: while it trains, no cell ends.
    """
    keeper = Keeper(runs, home)
    if size := keeper.bring_back():
        print(f"{size / 1e6:.0f} MB of an earlier session are back from Drive")
    if shell := get_ipython():
        shell.events.register("post_run_cell", lambda result: keeper.keep())

    def watch():
        while True:
            time.sleep(pause)
            keeper.keep({"checkpoint.npz"})

    threading.Thread(target=watch, daemon=True).start()
    return keeper
