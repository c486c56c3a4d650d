"""What lies under `runs/cache`: a list with sizes, and the removal of what no run used for a while.

    python -m workbook cache [--remove [--days N]] [runs]

All of it saves time and nothing else: a run that needs what is gone makes it again.
"""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from workbook.support.folder_lock import lock_folder, unlock_folder
from workbook.support.text import printable

KEY, DAY = "-[0-9a-f]{16}", 86400
KINDS = {  # name: what it is; nothing of another name is ever removed
    f"images{KEY}": "decoded images of a folder",
    f"toys{KEY}\\.npz": "drawn toys",
    f"trunk{KEY}\\.npy": "a frozen trunk's output",
    "efficientnet_lite0-[0-9a-f]{8}(\\.\\d+\\.part)?\\.keras": "weights of EfficientNetLite0",
    f"(images{KEY}|toys{KEY}\\.npz|trunk{KEY}\\.npy)\\.part-\\w+": "half-made, by a killed run",
}
INSIDE = re.compile(r"pixels\.rgb|files\.json|report\.csv.*|work")  # what is in the folders of ours


@dataclass
class Kept:
    """A file or folder of the cache: its kind, bytes, and when a run used it last (seconds)."""

    path: Path
    kind: str
    size: int
    used: float


def kept_files(cache):
    """What is ours in the folder `cache`, as `Kept`, the largest first; and paths of the rest."""
    ours, others = [], []
    for path in sorted(cache.iterdir()):
        kinds = [kind for name, kind in KINDS.items() if re.fullmatch(name, path.name)]
        inside = list(path.iterdir()) if path.is_dir() else []
        if not kinds or path.is_symlink() or not all(INSIDE.fullmatch(p.name) for p in inside):
            others.append(path)
            continue
        files = [p for p in (path, *path.rglob("*")) if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        ours.append(Kept(path, *kinds, size, path.stat().st_mtime))
    return sorted(ours, key=lambda kept: -kept.size), others


def check_that_nothing_trains(runs):
    """ValueError if a process trains in one of the folders under `runs`."""
    for lock in runs.rglob("training.lock"):
        try:
            lock_folder(lock.parent)
        except RuntimeError as error:
            raise ValueError(f"nothing is removed: {error}") from error
        unlock_folder(lock.parent)


def list_cache(runs, remove=False, days=7):
    """Print what is in `<runs>/cache`; with `remove`, remove what no run used for `days` days.

    runs: the folder of results. Removed are files that this workbook made, by name and content, and
    nothing while a training runs. Raises ValueError then, and FileNotFoundError without a cache.
    """
    cache = Path(runs).expanduser() / "cache"
    if not cache.is_dir():
        raise FileNotFoundError(f"{printable(cache)}: nothing is kept here yet")
    if remove:
        check_that_nothing_trains(cache.parent)
    ours, others = kept_files(cache)
    rest = 0
    for kept in ours:
        wait = max(days, 1) if ".part-" in kept.path.name else days  # a living run's is younger
        goes = remove and time.time() - kept.used >= wait * DAY
        if goes:
            shutil.rmtree(kept.path) if kept.path.is_dir() else kept.path.unlink()
        else:
            rest += kept.size
        day = time.strftime("%Y-%m-%d", time.localtime(kept.used))
        about = f"{kept.path.name}  {kept.kind}{', removed' * goes}"
        print(f"{kept.size / 1e6:9,.1f} MB  used {day}  {about}")
    for path in others:
        print(f"not of this workbook, left alone: {printable(path.name)}")
    print(f"{rest / 1e6:9,.1f} MB in {printable(cache)}; a run makes again what it needs")
    if not remove and ours:
        print("to remove what no run used for a week: python -m workbook cache --remove")
