"""List what is kept under `runs/cache`, with sizes, or remove what no run used for some days.

    python -m workbook cache [--remove [--days N]] [runs]

The cache only saves time: a run that needs something that is gone makes it again.
"""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from workbook.support.folder_lock import lock_folder, unlock_folder
from workbook.support.text import printable

SECONDS_PER_DAY = 86400
HASH = "-[0-9a-f]{16}"
KINDS = {  # the pattern of a name, and what it is; nothing of another name is ever removed
    f"images{HASH}": "decoded images of a folder",
    f"toys{HASH}\\.npz": "drawn toys",
    f"trunk{HASH}\\.npy": "a frozen trunk's output",
    "efficientnet_lite0-[0-9a-f]{8}(\\.\\d+\\.part)?\\.keras": "weights of EfficientNetLite0",
    f"(images{HASH}|toys{HASH}\\.npz|trunk{HASH}\\.npy)\\.part-\\w+": "unfinished, of a killed run",
}
IN_OUR_FOLDERS = re.compile(r"pixels\.rgb|files\.json|report\.csv.*|work")


@dataclass
class CacheEntry:
    """A file or folder of the cache: its kind, its bytes, and when a run last used it (seconds)."""

    path: Path
    kind: str
    size: int
    last_used: float

    def is_unused_for(self, days: int) -> bool:
        """Whether no run used this entry for `days` days; with 0 days that is true of all.

        An unfinished entry may belong to a run that is still alive, so it gets at least one day. If
        it is dated further in the future than that, its clock was wrong and it is removed, too.
        """
        age = time.time() - self.last_used
        if ".part-" in self.path.name:
            return abs(age) >= max(days, 1) * SECONDS_PER_DAY
        return days <= 0 or age >= days * SECONDS_PER_DAY

    def remove(self) -> None:
        """Delete the file, or the folder with all that is in it."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def list_cache(runs: str | Path, remove: bool = False, days: int = 7) -> None:
    """Print what is in `<runs>/cache`; with `remove`, delete what no run used for `days` days.

    Only files that this workbook made are removed, which their names and contents show.

    Raises
    ------
    FileNotFoundError
        If there is no cache.
    ValueError
        If something is to be removed while a training runs.
    """
    cache = Path(runs).expanduser() / "cache"
    if not cache.is_dir():
        raise FileNotFoundError(f"{cache}: nothing is kept here yet")
    if remove:
        check_that_nothing_trains(cache.parent)
    entries, others = find_entries(cache)
    kept_bytes = 0
    for entry in entries:
        is_removed = remove and entry.is_unused_for(days)
        if is_removed:
            entry.remove()
        else:
            kept_bytes += entry.size
        day = time.strftime("%Y-%m-%d", time.localtime(entry.last_used))
        text = f"{entry.path.name}  {entry.kind}{', removed' * is_removed}"
        print(f"{entry.size / 1e6:9,.1f} MB  used {day}  {text}")
    for path in others:
        print(f"not made by this workbook, left alone: {printable(path.name)}")
    print(f"{kept_bytes / 1e6:9,.1f} MB in {printable(cache)}; a run makes again what it needs")
    if entries and not remove:
        print("to remove what no run used for a week: python -m workbook cache --remove")


def find_entries(cache: Path) -> tuple[list[CacheEntry], list[Path]]:
    """Return the entries of the folder `cache`, the largest first, and the paths of the rest."""
    entries, others = [], []
    for path in sorted(cache.iterdir()):
        kind = next((kind for name, kind in KINDS.items() if re.fullmatch(name, path.name)), None)
        inside = list(path.iterdir()) if path.is_dir() else []
        is_ours = all(IN_OUR_FOLDERS.fullmatch(child.name) for child in inside)
        if kind is None or path.is_symlink() or not is_ours:
            others.append(path)
            continue
        files = [p for p in (path, *path.rglob("*")) if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        entries.append(CacheEntry(path, kind, size, path.stat().st_mtime))
    return sorted(entries, key=lambda entry: -entry.size), others


def check_that_nothing_trains(runs: Path) -> None:
    """Raise ValueError if a process trains in one of the folders under `runs`."""
    for lock in runs.rglob("training.lock"):
        try:
            lock_folder(lock.parent)
        except RuntimeError as error:
            raise ValueError(f"nothing is removed: {error}") from error
        unlock_folder(lock.parent)
