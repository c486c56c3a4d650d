"""The files and folders below a folder: hidden ones apart, and through each link only once."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

from workbook.data.folder_names import is_hidden
from workbook.data.report import explain_os_error, report_entry
from workbook.support.text import printable


def list_image_files(folder: str | os.PathLike) -> list[Path]:
    """Return the files in a folder and its sub-folders that `load_images` would try to decode.

    Hidden files and what systems leave behind (`Thumbs.db`, `__MACOSX`, the Finder's icons) are
    skipped. Links to folders are followed, and each folder is listed once.

    Parameters
    ----------
    folder
        The folder to look into.

    Returns
    -------
    list of Path
        The files by name; empty if there are none. A file need not be an image: decoding tells.

    Raises
    ------
    NotADirectoryError
        If `folder` is not a folder.
    PermissionError
        If it or one of its sub-folders may not be opened.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{printable(folder)} is not a folder")
    return sorted(map(Path, walk_files(Path(folder), on_error=_raise_with_remedy).visible))


def list_children(folder: Path, folders_only: bool = False) -> list[Path]:
    """Return what is in a folder, hidden or not, in a fixed order.

    Raises PermissionError with a remedy for a folder that may not be opened.
    """

    def is_folder(child: os.DirEntry) -> bool:
        return os.path.isdir(child.path) if child.is_symlink() else child.is_dir()

    try:
        with os.scandir(folder) as children:  # quick, because a folder may hold a million files
            names = [child.name for child in children if not folders_only or is_folder(child)]
    except PermissionError as error:
        reason = "no permission to look into it; give yourself the right (chmod u+rx)"
        raise PermissionError(error.errno, reason, printable(folder)) from error
    return [folder / name for name in sorted(names, key=lambda n: unicodedata.normalize("NFC", n))]


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden."""
    return [
        child for child in list_children(folder, folders_only=True) if not is_hidden(child.name)
    ]


def look_into(folder: Path) -> list[Path]:
    """Return the same, but none for a folder that may not be opened; `walk_files` reports it."""
    try:
        return list_subfolders(folder)
    except OSError:
        return []


@dataclass
class WalkedFiles:
    """Paths below a folder: visible files, hidden files or folders, and entries for the report."""

    visible: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    problems: list[dict] = field(default_factory=list)


def walk_files(
    folder: Path, top: Path | None = None, on_error: Callable[[OSError], None] | None = None
) -> WalkedFiles:
    """List the files below a folder, following links.

    Parameters
    ----------
    folder
        Where to begin.
    top
        The whole dataset. A link to it or to a folder around it leads back and is not followed.
    on_error
        What to do with a folder that may not be opened; by default it becomes a problem.
    """
    files = WalkedFiles()
    walked = {os.path.realpath(top)} if top else set()

    def leads_back(path: str | Path) -> bool:
        real = os.path.realpath(path)
        if os.path.islink(path) and any(is_within(place, real) for place in walked):
            remedy = "delete the link, or put the images themselves here"
            reason = "a link to a folder that is read already"
            files.problems.append(report_entry(path, reason, remedy))
            return True
        walked.add(real)
        return False

    def report(error: OSError) -> None:
        reason = explain_os_error(error.filename, error)
        files.problems.append(report_entry(error.filename, *reason))

    if leads_back(folder):
        return files
    for place, folders, names in os.walk(folder, onerror=on_error or report, followlinks=True):
        if not folders and not names and place != str(folder):
            files.problems.append(report_entry(place, "an empty folder", "delete it"))
        files.hidden += [os.path.join(place, n) for n in folders + names if is_hidden(n)]
        files.visible += [os.path.join(place, n) for n in names if not is_hidden(n)]
        paths = {n: os.path.join(place, n) for n in folders if not is_hidden(n)}
        folders[:] = [n for n, p in paths.items() if not (os.path.islink(p) and leads_back(p))]
    return files


def find_links_out(paths: list[str], top: Path) -> dict[str, int]:
    """Return {link that leads out of `top`: how many of these files come by it}, in order."""
    inside = os.path.realpath(top)

    def leads_out(path: str) -> str | None:
        is_out = os.path.islink(path) and not is_within(os.path.realpath(path), inside)
        return path if is_out else None

    @cache
    def find_outermost(place: str) -> str | None:
        if len(place) <= len(str(top)):
            return None
        return find_outermost(os.path.dirname(place)) or leads_out(place)

    counts = Counter(find_outermost(os.path.dirname(path)) or leads_out(path) for path in paths)
    return {link: count for link, count in counts.items() if link}


def is_within(inner: str, outer: str) -> bool:
    """Tell whether one real path is another, or lies below it."""
    return PurePath(inner).is_relative_to(outer)


def _raise_with_remedy(error: OSError) -> None:
    reason, remedy = explain_os_error(error.filename, error)
    raise type(error)(f"{printable(error.filename)}: {reason}: {remedy}") from error
