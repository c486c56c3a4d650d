"""From a folder to a list of image files: what is a class, what is a split. Nothing is decoded.

`images` reads the files. Explained in notebook 01.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from workbook.data.file_walk import (
    find_links_out,
    is_within,
    list_children,
    list_image_files,
    list_subfolders,
    look_into,
    walk_files,
)
from workbook.data.folder_names import (
    SPLITS,
    TABLES,
    find_splits,
    fold_case,
    is_annotation,
    is_doubled,
    is_filler,
    is_hidden,
    is_table,
    read_name,
)
from workbook.data.leaves import find_leaves, name_leaves
from workbook.data.report import report_entry
from workbook.support.text import list_first, normalize_label, printable

LAYOUTS = {  # word: how a folder is read
    "auto": "train, validation and test folders are known by their names and by what they hold",
    "classes": "every sub-folder is a class, whatever it is called",
    "splits": "every sub-folder is a part (train, test, ...), the folders in it are the classes",
    "leaves": "every folder without sub-folders is a class, those around it are groups",
}
MAX_LINKS = 20  # links that lead out of the folder and are listed one by one
IF_CLASSES = "SIAMESE_LAYOUT=classes"
IF_LEAVES = "SIAMESE_LAYOUT=leaves"

SplitOf = dict[Path, str]  # folder -> split

__all__ = ["LAYOUTS", "Entry", "Listing", "assign_roles", "list_image_files", "read_folder"]


class Entry(NamedTuple):
    """An image file with its split and its class; a split of "" is still to be divided."""

    path: str
    split: str
    class_name: str


@dataclass
class Listing:
    """What a folder holds.

    entries: the image files; level: where the classes were found, in words; skipped: what was
    skipped, in words; coarse: class name -> coarse class, if the dataset has such; tables: files
    that may hold labels; problems and warnings: as in `images.ImageDataset`.
    """

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    level: str = ""
    skipped: list[str] = field(default_factory=list)
    coarse: dict[str, str] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)
    problems: list[dict] = field(default_factory=list)
    warnings: list[dict] = field(default_factory=list)

    def warn(self, path: str | Path, reason: str, remedy: str) -> None:
        """Add a warning to the report."""
        self.warnings.append(report_entry(path, reason, remedy))

    def shorten(self, folder: Path) -> str:
        """Return the path of a folder within this one."""
        return Path(folder).relative_to(self.folder).as_posix()


def read_folder(folder: Path, layout: str = "auto") -> Listing:
    """Return the `Listing` of a folder, read as `LAYOUTS` says.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    PermissionError
        If it may not be opened.
    ValueError
        For another layout, for a folder that can be read in two ways, and for a class folder whose
        name cannot be a label, such as "unknown".
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is not one of: {' | '.join(LAYOUTS)}")
    require_folder(folder)
    listing = Listing(folder)
    _Reader(listing).read(layout)
    return listing


def require_folder(folder: Path) -> None:
    """Raise FileNotFoundError unless there is this folder."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{printable(folder)} is not a folder; give one with one sub-folder per class"
        )


def require_images(source: Path) -> None:
    """Raise OSError or ValueError unless there is this folder of images, or this table."""
    if not (is_table(source) and source.is_file()):
        require_folder(source)
        refuse_gallery(source)


def refuse_gallery(folder: Path) -> None:
    """Raise ValueError for a folder that is a gallery and has no folder of images in it."""
    is_gallery = (folder / "gallery.json").is_file() and any(folder.glob("entries-*.npz"))
    if is_gallery and not any(path.is_dir() for path in folder.iterdir()):
        raise ValueError(
            f"{printable(folder)} is a gallery, which holds no images: give the folder of images"
        )


def assign_roles(kinds: Collection[str]) -> dict[str, str]:
    """Return {kind of part: the split of its images}; validation alone is the test.

    A split of "" is still to be divided: so is train, if it is alone.
    """
    roles = {"train": "train", "validation": "validation", "test": "test", "query": "test"}
    if not {"test", "query"} & set(kinds):
        roles |= {"train": "train" if "validation" in kinds else "", "validation": "test"}
    return roles


def suggest_table(table: Path) -> str:
    """Return what to do with a table of labels that lies in a folder of images."""
    if is_table(table):
        return f"to use its labels, give the table and not the folder: DATASET={table}"
    return "to use its labels, save it as a CSV file, and give that and not the folder as DATASET"


# ------------------------------------------------------------------- 1 levels that say nothing


def _find_inner_folder(outer: Path, any_name: bool = False) -> tuple[Path, list[Path]] | None:
    """Find the folder that holds all of `outer`, if `outer` is a level without a meaning.

    That is its only folder, if it is called like `outer` ("train/train") or has a name that says
    nothing ("images"); with `any_name` also if it only holds folders itself. Annotations beside a
    folder such as "images" do not count.

    Returns (the inner folder, the folders of annotations beside it), or None.
    """
    folders = look_into(outer)
    annotations = [folder for folder in folders if is_annotation(folder.name)]
    others = [folder for folder in folders if folder not in annotations]
    if len(others) != 1 or _leads_back(others[0], outer):
        return None
    [inner] = others
    if is_filler(inner.name):
        return inner, annotations
    if not annotations and (is_doubled(inner.name, outer.name) or (any_name and look_into(inner))):
        return inner, []
    return None


def _leads_back(inner: Path, outer: Path) -> bool:
    """Tell whether `inner` is a link to `outer`, or to a folder around it."""
    return is_within(os.path.realpath(outer), os.path.realpath(inner))


def _find_class_level(part: Path) -> Path:
    """Return the folder whose sub-folders are the classes of a part such as "train"."""
    while step := _find_inner_folder(part):
        part = step[0]
    return part


def _class_folders(part: Path) -> list[Path]:
    return list_subfolders(_find_class_level(part))


def _names(folders: Iterable[Path]) -> set[str]:
    return {folder.name for folder in folders}


# ------------------------------------------------------------------------------ 2 the reading


class _Reader:
    """Fills a `Listing`: first which folders are classes, then which files are in them."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.classes: list[tuple[Path, str, str]] = []  # folder, split, name
        self.passed: dict[Path, str] = {}  # folder around the classes: why others in it are wrong
        self.known: set[Path] = set()  # folders that need no mention: around classes, or skipped
        self.hidden: list[str] = []

    def read(self, layout: str) -> None:
        """Find the classes as `layout` says, and list their files."""
        folder = self.listing.folder
        if layout == "classes":
            self.add_classes(list_subfolders(folder), folder, "")
        elif layout == "splits":
            self.read_all_as_splits(folder)
        elif layout == "leaves":
            self.read_leaves(folder)
        else:
            self.read_by_names(folder)
        self.list_files()

    def read_by_names(self, folder: Path) -> None:
        """Go down to the level where the splits are, or else the classes."""
        while True:
            folders = list_subfolders(folder)
            splits = find_splits(folders)
            parts = {f: s for f, s in splits.items() if s != "query" and _class_folders(f)}
            is_lonely_test = len(folders) == 1 and "train" not in parts.values()
            if parts and not is_lonely_test:
                return self.read_splits_or_classes(folder, splits, parts)
            step = _find_inner_folder(folder, any_name=True)
            if step is None:
                return self.read_classes_by_name(folder, folders, splits)
            folder = self.enter(folder, *step)

    def read_splits_or_classes(self, folder: Path, splits: SplitOf, parts: SplitOf) -> None:
        """Decide whether folders called train or test are splits, or classes of that name.

        splits: the folders that are called so; parts: those of them that hold folders.
        """
        folders = list_subfolders(folder)
        others = [f for f in folders if f not in splits and not is_annotation(f.name)]
        others = [f for f in others if os.access(f, os.R_OK) and os.listdir(f)]
        names = {child.name for part in parts for child in _class_folders(part)}
        other_holds_the_same = any(
            names & _names(look_into(_find_class_level(other))) for other in others
        )
        has_train, has_several = "train" in parts.values(), len(set(parts.values())) > 1
        if has_train and (not others or (has_several and not other_holds_the_same)):
            return self.read_splits(folder, parts, splits)
        if has_train or not others:
            raise ValueError(
                f"{printable(folder)} can be read in two ways: "
                f"{list_first(f.name for f in folders)} as classes; or "
                f"{list_first(f.name for f in parts)} as a part of it, with the classes "
                f"{list_first(sorted(names))}. Say which: {IF_CLASSES} or SIAMESE_LAYOUT=splits "
                f"or, if the classes are deeper, {IF_LEAVES} (load_images: layout=), or give the "
                "folders other names"
            )
        if {fold_case(f.name) for f in others} & {fold_case(name) for name in names}:
            return self.read_splits(folder, parts, splits, split_of_others="train")
        for part, split in parts.items():
            reason = f"read as a class: called like a {split} split, but the folders in it "
            reason += f"({list_first(sorted(names))}) are called like none of the classes beside it"
            remedy = "nothing; or, if it is a split, call the folders in it like the classes"
            self.listing.warn(part, reason, remedy)
        without_folders = {f: split for f, split in splits.items() if f not in parts}
        return self.read_classes_by_name(folder, folders, without_folders)

    def read_all_as_splits(self, folder: Path) -> None:
        """Read every sub-folder as a part, because the setting says so; others than test train.

        Where none is called train, or all are, they are one dataset that is still to be divided.
        """
        while step := _find_inner_folder(folder, any_name=True):
            inner, _ = step
            if find_splits([inner]) or not any(look_into(f) for f in look_into(inner)):
                break
            folder = self.enter(folder, *step)
        splits = {f: read_name(f.name)[0] or "train" for f in list_subfolders(folder)}
        parts = {f: split for f, split in splits.items() if _class_folders(f)}
        if "train" not in parts.values():
            parts = dict.fromkeys(parts, "train")
        self.read_splits(folder, parts, splits)

    def read_splits(
        self, folder: Path, parts: SplitOf, splits: SplitOf, split_of_others: str = ""
    ) -> None:
        """Read the class folders in each part; skip the other `splits`, which hold none.

        With `split_of_others`, the other folders in `folder` are classes of that split.
        """
        self.passed[folder] = "beside the train and test folders"
        roles = assign_roles({*parts.values(), split_of_others})
        for split_folder in splits:
            self.known.add(split_folder)
            if split_folder not in parts:
                self.skip_split_without_classes(split_folder)
        levels = {part: self.enter_class_level(part) for part in parts}
        inside = {part: list_subfolders(level) for part, level in levels.items()}
        names = {child.name for children in inside.values() for child in children}
        if len(names) == 1 and not split_of_others and all(look_into(f) for [f] in inside.values()):
            levels = {part: self.enter(levels[part], only) for part, [only] in inside.items()}
        shown = [f"one folder per class ({split_of_others})"] if split_of_others else []
        for part, split in sorted(parts.items(), key=lambda item: list(SPLITS).index(item[1])):
            level, role = levels[part], roles[split]
            shown.append(f"{self.listing.shorten(level)}/ ({role or 'undivided'})")
            self.add_classes(list_subfolders(level), level, role)
        if split_of_others:
            others = [f for f in list_subfolders(folder) if f not in splits]
            self.add_classes(others, folder, roles[split_of_others])
        self.listing.level = "splits: " + (list_first(shown) or "none")
        self.warn_of_deeper_level()

    def read_leaves(self, folder: Path) -> None:
        """Read the innermost folders as classes, in train and test folders if there are such."""
        while "train" not in find_splits(list_subfolders(folder)).values():
            step = _find_inner_folder(folder, any_name=True)
            if step is None:
                break
            folder = self.enter(folder, *step)
        folders = list_subfolders(folder)
        splits = find_splits(folders)
        parts = {f: s for f, s in splits.items() if s != "query" and look_into(f)}
        kinds = set(parts.values())
        if "train" in kinds and (len(kinds) > 1 or len(splits) == len(folders)):
            self.passed[folder] = "beside the train and test folders"
            self.known |= set(splits)
            for split_folder in splits.keys() - parts.keys():
                self.skip_split_without_classes(split_folder)
        else:
            parts = {folder: "train"}
        self.add_leaves(parts)

    def add_leaves(self, parts: SplitOf) -> None:
        """Note the innermost folders of each part as classes; equal paths are the same class."""
        roles, shown = assign_roles(set(parts.values())), []
        inside: dict[Path, tuple[Path, str]] = {}  # class folder -> its path in the part, split
        for part, split in parts.items():
            leaves = find_leaves(part, self.listing.folder)
            self.known |= {*leaves.classes, *leaves.groups, *leaves.links_back}
            for group in leaves.groups:
                self.passed.setdefault(group, "not in a class folder")
            for link in leaves.links_back:
                reason, remedy = "a link to a folder that is read already", "delete the link"
                self.listing.problems.append(report_entry(link, reason, remedy))
            inside |= {leaf: (leaf.relative_to(part), roles[split]) for leaf in leaves.classes}
            if part != self.listing.folder:
                shown.append(f"{self.listing.shorten(part)}/ ({roles[split] or 'undivided'})")
        names = name_leaves({path for path, _ in inside.values()})
        self.classes += [(leaf, role, names[path]) for leaf, (path, role) in inside.items()]
        self.listing.level = "every innermost folder is a class"
        self.listing.level += f", in {list_first(shown)}" if shown else ""

    def read_classes_by_name(self, folder: Path, folders: list[Path], splits: SplitOf) -> None:
        """Read folders as classes, except flat ones that are called like a test split.

        splits: the folders that are called like splits but hold no class folders.
        """
        classes = [f for f in folders if splits.get(f, "train") == "train"]
        if len(folders) > 1 and len(splits) == len(folders):
            remedy = "Put one folder per class into each; or, if these are the classes themselves, "
            remedy += f"say so: {IF_CLASSES}"
            for table in (f for f in list_children(folder) if is_table(f, TABLES) and f.is_file()):
                remedy = f"{printable(table.name)} may hold them: {suggest_table(table)}"
                break
            raise ValueError(
                f"{printable(folder)}: {list_first(f.name for f in splits)} are called like "
                f"splits, but hold no class folders, so that no image has a class. {remedy}"
            )
        for split_folder in splits:
            if split_folder in classes:
                reason = "read as a class: it is called like a split, but holds no class folders"
                remedy = "nothing; or put class folders into it"
                self.listing.warn(split_folder, reason, remedy)
            else:
                self.skip_split_without_classes(split_folder)
        if inner := self.find_splits_in_classes(classes):
            return self.read_splits_in_classes(folder, inner)
        self.add_classes(classes, folder, "")
        if classes:
            self.warn_of_deeper_level("; if those around them are parts, SIAMESE_LAYOUT=splits")

    def find_splits_in_classes(self, classes: list[Path]) -> dict[Path, SplitOf]:
        """Return {class folder: {folder in it: split}} if all those are called like splits."""
        inner: dict[Path, SplitOf] = {}
        for class_folder in classes:
            parts = {child: read_name(child.name)[0] for child in look_into(class_folder)}
            inner[class_folder] = {child: split for child, split in parts.items() if split}
            if not parts or inner[class_folder] != parts:
                return {}
        kinds = {split for parts in inner.values() for split in parts.values()}
        return inner if {"train"} < kinds and "query" not in kinds else {}

    def read_splits_in_classes(self, folder: Path, inner: dict[Path, SplitOf]) -> None:
        """Read a layout such as cat/train, cat/test, dog/train, dog/test."""
        kinds = {split for parts in inner.values() for split in parts.values()}
        self.listing.level = f"one folder per class, in each of them {list_first(sorted(kinds))}"
        self.passed[folder] = "not in a class folder"
        for class_folder, parts in inner.items():
            self.passed[class_folder] = "beside the train and test folders"
            for part, split in parts.items():
                role = "test" if "test" not in kinds and split == "validation" else split
                self.known |= {class_folder, part}
                self.classes.append((part, role, class_folder.name))

    def add_classes(self, folders: list[Path], around: Path, split: str) -> None:
        """Note folders as classes of a split."""
        self.passed.setdefault(around, "not in a class folder")
        self.known |= set(folders)
        self.classes += [(folder, split, folder.name) for folder in folders]
        place = "" if around == self.listing.folder else f" in {self.listing.shorten(around)}/"
        self.listing.level = "one folder per class" + place

    # ------------------------------------------------------------- 3 what is passed or skipped

    def enter(self, outer: Path, inner: Path, annotations: Iterable[Path] = ()) -> Path:
        """Go down from a level without a meaning; return the inner folder."""
        self.passed[outer] = "beside the folder of classes"
        self.known.add(inner)
        for folder in annotations:
            self.skip(folder, "no images of classes, by its name", "nothing")
        return inner

    def enter_class_level(self, part: Path) -> Path:
        """Go down to the folder whose sub-folders are the classes of a part."""
        while step := _find_inner_folder(part):
            part = self.enter(part, *step)
        return part

    def skip_split_without_classes(self, folder: Path) -> None:
        """Skip a folder of images that have no class."""
        reason = "no class folders in it, so that its images have no class"
        if _class_folders(folder):
            reason = "called like a folder of images without a class"
        remedy = "give them to `python -m workbook identify`, or sort them into class folders; or, "
        self.skip(folder, reason, f"{remedy}if it is a class itself: {IF_CLASSES}")

    def skip(self, folder: Path, reason: str, remedy: str) -> None:
        """Count the files of a folder instead of listing them."""
        files = walk_files(folder, self.listing.folder)
        count = len(files.visible)
        self.known.add(folder)
        self.hidden += files.hidden
        self.listing.problems += files.problems
        self.listing.skipped.append(f"{self.listing.shorten(folder)}/ ({count} files)")
        self.listing.warn(folder, f"skipped, {count} files: {reason}", remedy)

    def warn_of_deeper_level(self, or_else: str = "") -> None:
        """Warn if every class holds folders, several ones of the same names, or nothing else.

        or_else: another reading than that the folders in them are the classes.
        """
        class_names = sorted({name for _, _, name in self.classes})
        if len(class_names) < 2:
            return
        inside: list[set[str]] = []
        for folder, _, _ in self.classes:
            inside.append(_names(look_into(_find_class_level(folder))))
            if not inside[-1]:
                return
        if max(map(len, inside)) < 2:
            return
        same = set.intersection(*inside)
        children = [child for folder, _, _ in self.classes for child in list_children(folder)]
        has_files = any(child.is_file() and not is_hidden(child.name) for child in children)
        if len(same) > 1 or not has_files:
            names = list_first(sorted(same or set.union(*inside)))
            reason = f"every class holds folders ({names}): read as the classes "
            remedy = "nothing, if that is right; if those in them are the classes, say so: "
            remedy += IF_LEAVES + or_else
            self.listing.warn(self.listing.folder, reason + list_first(class_names), remedy)

    # ------------------------------------------------------------------------------- 4 the files

    def list_files(self) -> None:
        """List the files of the classes, and everything beside them."""
        self.list_what_is_beside()
        self.list_class_files()
        listing = self.listing
        if self.hidden:
            names = ", ".join(sorted({os.path.basename(path) for path in self.hidden})[:5])
            reason = f"{len(self.hidden)} hidden files or folders skipped: {names}"
            listing.warn(listing.folder, reason, "nothing, unless they are images: rename those")
        self.warn_of_links_out()
        listing.entries.sort(key=lambda e: (e.class_name, e.split != "train", e.path))

    def list_what_is_beside(self) -> None:
        """List files and folders that are around the classes, but in none of them, as problems."""
        beside = []
        for folder, reason in self.passed.items():
            for child in list_children(folder):
                if is_hidden(child.name):
                    self.hidden.append(str(child))
                elif child not in self.known:
                    beside.append((child, reason))
        listing = self.listing
        listing.tables = [f for f, _ in beside if is_table(f, TABLES) and f.is_file()]
        for child, reason in beside:
            remedy = "move it into one" if "class folder" in reason else "move it"
            if child in listing.tables:
                remedy = suggest_table(child)
            elif listing.tables and not self.classes:
                remedy = suggest_table(listing.tables[0])
            listing.problems.append(report_entry(child, reason, remedy))

    def list_class_files(self) -> None:
        """List the files of each class under the one spelling of its name."""
        listing = self.listing
        spellings: dict[str, set[str]] = {}
        for folder, split, name in self.classes:
            files = walk_files(folder, listing.folder)
            listing.problems += files.problems
            self.hidden += files.hidden
            if not files.visible:
                if not files.problems:
                    listing.problems.append(
                        report_entry(folder, "empty class", "add images or delete it")
                    )
                continue
            try:
                label = normalize_label(name)
            except ValueError as error:
                raise ValueError(f"{printable(folder)}: {error}: rename the folder") from error
            spellings.setdefault(label, set()).add(name)
            listing.entries += [Entry(path, split, label) for path in files.visible]
        for label, names in spellings.items():
            if len(names) > 1:
                reason = f"spellings of one name, merged: {', '.join(map(ascii, sorted(names)))}"
                listing.warn(listing.folder / label, reason, "rename the folders alike")

    def warn_of_links_out(self) -> None:
        """Warn of links that lead out: the images there would be trained on and shown unasked."""
        links = find_links_out(sorted(e.path for e in self.listing.entries), self.listing.folder)
        remedy = "nothing, if you made it; else delete it: those images are trained on and shown"
        for link, count in list(links.items())[:MAX_LINKS]:
            target = os.path.realpath(link)
            reason = f"a link that leads out of the folder, to {target}: {count} files come by it"
            self.listing.warn(link, reason, remedy)
        if rest := list(links)[MAX_LINKS:]:
            count = sum(links[link] for link in rest)
            reason = f"{len(rest)} more links that lead out of the folder, with {count} files"
            names = list_first(map(os.path.basename, rest))
            self.listing.warn(rest[0], f"{reason}: {names}", remedy)
