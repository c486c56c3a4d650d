"""Class folders nested under groups, such as Fruit/Apple/Royal-Gala: which they are, their names.

`folder_layout` reads them with LAYOUT=leaves.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from workbook.data.file_walk import is_within, look_into
from workbook.data.folder_names import is_filler


@dataclass
class Leaves:
    """What is below a folder: the folders that are classes, those around them, and links back.

    classes: folders without sub-folders. A lone sub-folder whose name says nothing, such as
    "images", belongs to the class around it. groups: folders that hold sub-folders, the first one
    included. links_back: links to what is read anyway, which are not followed.
    """

    classes: list[Path] = field(default_factory=list)
    groups: list[Path] = field(default_factory=list)
    links_back: list[Path] = field(default_factory=list)


def find_leaves(folder: Path, top: Path) -> Leaves:
    """Find the innermost folders below `folder`, which lies in the dataset `top` or is it."""
    leaves, inside, linked = Leaves(), os.path.realpath(top), set[str]()
    waiting = [folder]
    while waiting:
        group = waiting.pop()
        leaves.groups.append(group)
        for child in look_into(group):
            if child.is_symlink():
                real = os.path.realpath(child)
                if is_within(real, inside) or is_within(inside, real) or real in linked:
                    leaves.links_back.append(child)
                    continue
                linked.add(real)
            if _is_class(child):
                leaves.classes.append(child)
            else:
                waiting.append(child)
    return leaves


def name_leaves(paths: Collection[PurePath]) -> dict[PurePath, str]:
    """Return the name of each class: the last part of its path, or as many as tell it from others.

    Two leaves of one name are named by their groups as well, "Greek/character01" and
    "Latin/character01". Parts are compared in Unicode's composed form.
    """
    composed = {path: _compose(path) for path in paths}
    counts = Counter(end for path in set(composed.values()) for end in _list_ends(path))
    names = {}
    for path, spelled in composed.items():
        unique = (end for end in _list_ends(spelled) if counts[end] == 1)
        names[path] = "/".join(path.parts[-len(next(unique, spelled)) :])
    return names


def _is_class(folder: Path) -> bool:
    children = look_into(folder)
    if len(children) == 1 and is_filler(children[0].name):
        return not children[0].is_symlink() and not look_into(children[0])
    return not children


def _compose(path: PurePath) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part).strip() for part in path.parts)


def _list_ends(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the last part, the last two, and so on to all of them."""
    yield from (parts[-n:] for n in range(1, len(parts) + 1))
