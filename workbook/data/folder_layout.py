"""From a folder to a list of image files: what is a class, what is a split. Nothing is decoded.

`images` reads the files. Explained in notebook 01.
"""

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from workbook.data.report import explain_os_error, report_entry
from workbook.support.text import list_first, printable

LAYOUTS = {  # word: how a folder is read
    "auto": "train, validation and test folders are known by their names and by what they hold",
    "classes": "every sub-folder is a class, whatever it is called",
    "splits": "every sub-folder is a part (train, test, ...), the folders in it are the classes",
}
SPLITS = {
    "train": "train training trainval",
    "validation": "val valid validation validate",
    "test": "test testing",
    "query": "pred prediction predictions unlabeled unlabelled",  # pictures without a class
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words.split()}
FILLERS = {  # words that say nothing of what a folder holds
    "set", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures",
    "photo", "photos",
}  # fmt: skip
BESIDE = {  # what datasets lay beside their pictures
    "mask", "masks", "annotation", "annotations", "label", "labels", "segmentation",
    "segmentations", "trimap", "trimaps", "groundtruth", "gt", "box", "boxes", "bbox", "bboxes",
}  # fmt: skip
SYSTEM = {  # made by computers for themselves, in lower case
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "recycler", "@eadir",
    "system volume information", "$recycle.bin", "lost+found", "@recycle", "#recycle", "#snapshot",
    "network trash folder", "temporary items",
}  # fmt: skip


@dataclass
class Listing:
    """What a folder holds. entries: (path, split, class name), a split of "" is to be divided.

    level: where the classes were found, in words; aside: what was left out, in words; coarse: class
    name -> coarse class, if the dataset has such; problems and warnings as in
    `images.ImageDataset`.
    """

    folder: Path
    entries: list = field(default_factory=list)
    level: str = ""
    aside: list = field(default_factory=list)
    coarse: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)

    def warn(self, path, reason, remedy):
        self.warnings.append(report_entry(path, reason, remedy))

    def shown(self, folder):
        """A folder within this one, as it is called from here."""
        return Path(folder).relative_to(self.folder).as_posix()


def read_folder(folder, layout="auto"):
    """The `Listing` of a folder, read as `LAYOUTS` says.

    Raises FileNotFoundError for no folder, PermissionError for one that may not be opened,
    ValueError for another layout, or for a folder that can be read in two ways.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is not one of: {' | '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{printable(folder)} is not a folder; give one with a sub-folder a class"
        )
    found = Listing(folder)
    _Reading(found).read(layout)
    return found


def list_image_files(folder: str | os.PathLike) -> list[Path]:
    """Return the files in a folder and its sub-folders that `load_images` would try to decode.

    Hidden files and what systems leave behind (`Thumbs.db`, `__MACOSX`, the Finder's icons) are
    skipped. Links to folders are followed, each folder is listed once.

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
    files, _, _ = _files(Path(folder), None, on_error=_raise_unopened)
    return sorted(map(Path, files))


def _raise_unopened(error):
    reason, remedy = explain_os_error(error.filename, error)
    raise type(error)(f"{printable(error.filename)}: {reason}: {remedy}") from error


# ------------------------------------------------------------------------- 1 names, and a look in


def _is_hidden(name):
    return name.startswith(".") or name == "Icon\r" or name.strip().lower() in SYSTEM


def _children(folder, folders_only=False):
    """What is in it, hidden or not, in a fixed order; a folder may hold a million files."""

    def is_folder(child):
        return os.path.isdir(child.path) if child.is_symlink() else child.is_dir()

    try:
        with os.scandir(folder) as found:
            names = [child.name for child in found if not folders_only or is_folder(child)]
    except PermissionError as error:
        reason = "no permission to look into it; give yourself the right (chmod u+rx)"
        raise PermissionError(error.errno, reason, printable(folder)) from error
    return [folder / name for name in sorted(names, key=lambda n: unicodedata.normalize("NFC", n))]


def _subfolders(folder):
    return [child for child in _children(folder, folders_only=True) if not _is_hidden(child.name)]


def _look_into(folder):
    """Its sub-folders; none where it may not be opened, which is listed when its files are."""
    try:
        return _subfolders(folder)
    except OSError:
        return []


def _alike(name):
    return unicodedata.normalize("NFC", name).casefold()


def _words(name):
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return re.findall(r"[^\W\d_]+", spaced.lower())


def _named(name):
    """(split or None, the other words): "Seg_TrainSet2" is ("train", ("seg",))."""
    splits, rest = set(), []
    for word in _words(name):
        stems = {word.removesuffix(filler) for filler in FILLERS} & SPLIT_OF.keys()
        splits |= {SPLIT_OF[stem] for stem in stems}
        if not stems and word not in FILLERS:
            rest.append(word)
    return (splits.pop() if len(splits) == 1 else None), tuple(rest)


def _split_folders(folders):
    """{folder: split} of those that are named so, or so but for words that another shares."""
    named = {folder: _named(folder.name) for folder in folders}
    named = {folder: both for folder, both in named.items() if both[0]}
    pairs = set(named.values())
    return {
        folder: split
        for folder, (split, rest) in named.items()
        if not rest or any(other != split and words == rest for other, words in pairs)
    }


def _is_beside(folder):
    return bool(_words(folder.name)) and BESIDE.issuperset(_words(folder.name))


def _is_filler(folder):
    return bool(_words(folder.name)) and _named(folder.name) == (None, ())


def _inner(place, whatever_its_name=False):
    """(the folder within `place` that holds what `place` is about, others left aside), or None.

    The only folder, if it is called like `place` or says nothing ("images"), or if it must hold the
    classes; or a folder "images" beside nothing but such as "masks".
    """
    folders = _look_into(place)
    besides = [f for f in folders if _is_beside(f)]
    rest = [f for f in folders if f not in besides]
    if len(rest) != 1 or (besides and not _is_filler(rest[0])):
        return None
    [only] = rest
    if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(only)):
        return None  # a link that leads back
    doubled = only.name == place.name or (_named(only.name) == _named(place.name) != (None, ()))
    deeper = whatever_its_name and _look_into(only)
    return (only, besides) if _is_filler(only) or doubled or deeper else None


# -------------------------------------------------------------------------------- 2 what is what


class _Reading:
    """Fills a `Listing`: first which folders are classes, then their files."""

    def __init__(self, found):
        self.found = found
        self.classes = []  # (folder, split, class name)
        self.passed = {}  # folder on the way to the classes: what is wrong with others in it
        self.taken = set()  # folders that need no mention: passed, classes, left aside
        self.hidden = []

    def read(self, layout):
        place = self.found.folder
        if layout == "classes":
            self.as_classes(_subfolders(place), place, "")
        elif layout == "splits":
            self.as_named_parts(place)
        else:
            self.understand(place)
        self.list_files()

    def understand(self, place):
        """Go down to the level where the splits are, or else the classes."""
        while True:
            folders = _subfolders(place)
            splits = _split_folders(folders)
            holding = [f for f in splits if splits[f] != "query" and _subfolders(self.end(f))]
            lonely_test = len(folders) == 1 and holding and splits[holding[0]] != "train"
            if holding and not lonely_test:
                return self.as_splits(place, folders, splits, holding)
            step = _inner(place, whatever_its_name=True)
            if step is None:
                return self.as_classes_by_name(place, folders, splits)
            place = self.enter(place, *step)

    def enter(self, place, inner, besides=()):
        self.passed[place] = "beside the folder of classes"
        self.taken.add(inner)
        for folder in besides:
            self.leave_aside(folder, "no pictures of classes, by its name", "nothing")
        return inner

    def end(self, part, enter=False):
        """The folder that holds the classes of a part, behind doubled levels and "images"."""
        while step := _inner(part):
            part = self.enter(part, *step) if enter else step[0]
        return part

    def as_splits(self, place, folders, splits, holding):
        """Folders of which some are splits that hold class folders."""
        parts = {f: splits[f] for f in holding}
        others = [f for f in folders if f not in splits and not _is_beside(f)]
        others = [f for f in others if os.access(f, os.R_OK) and os.listdir(f)]
        inner = {c.name for f in holding for c in _subfolders(self.end(f))}
        rivals = [f for f in others if inner & {c.name for c in _look_into(self.end(f))}]
        has_train = "train" in parts.values()
        if has_train and (not others or (len(set(parts.values())) > 1 and not rivals)):
            return self.as_parts(place, parts, splits)
        if has_train or not others:
            raise ValueError(
                f"{printable(place)} can be read in two ways: {list_first(f.name for f in folders)} as "
                f"classes; or {list_first(f.name for f in holding)} as a part of it, with the classes "
                f"{list_first(sorted(inner))}. Say which: SIAMESE_LAYOUT=classes or SIAMESE_LAYOUT=splits"
                " (load_images: layout=), or give the folders other names"
            )
        if {_alike(f.name) for f in others} & {_alike(name) for name in inner}:
            return self.as_parts(place, parts, splits, rest="train")
        for folder, split in parts.items():
            reason = f"read as a class: called like a {split} split, but the folders in it "
            reason += f"({list_first(sorted(inner))}) are called like none of the classes beside it"
            remedy = "nothing; or, if it is a split, call the folders in it like the classes"
            self.found.warn(folder, reason, remedy)
        flat = {f: split for f, split in splits.items() if f not in parts}
        return self.as_classes_by_name(place, folders, flat)

    def as_named_parts(self, place):
        """Every sub-folder is a part, because the reader says so; a nameless one is for training.

        Where none is called train, or none otherwise, all are one undivided heap.
        """
        while (step := _inner(place, True)) and any(map(_look_into, _look_into(step[0]))):
            if _split_folders(step[:1]):
                break
            place = self.enter(place, *step)
        splits = {folder: _named(folder.name)[0] or "train" for folder in _subfolders(place)}
        parts = {f: split for f, split in splits.items() if _subfolders(self.end(f))}
        if "train" not in parts.values():
            parts = dict.fromkeys(parts, "train")
        self.as_parts(place, parts, splits)

    def as_parts(self, place, parts, splits, rest=None):
        """`parts` {folder: split} hold class folders; flat ones of `splits` are left aside.

        With `rest`, the other folders of `place` are classes of that split.
        """
        self.passed[place] = "beside the train and test folders"
        kinds = {*parts.values(), rest}
        roles = {"train": "train", "validation": "validation", "test": "test", "query": "test"}
        # without a test folder, the validation folder is the test, or there is none
        if not kinds & {"test", "query"}:
            roles |= {"train": "train" if "validation" in kinds else "", "validation": "test"}
        for folder in splits:
            self.taken.add(folder)
            if folder not in parts:
                self.leave_flat_aside(folder)
        ends = {part: self.end(part, enter=True) for part in parts}
        inside = {part: _subfolders(end) for part, end in ends.items()}
        names = {folder.name for folders in inside.values() for folder in folders}
        if len(names) == 1 and not rest and all(_look_into(f) for [f] in inside.values()):
            ends = {part: self.enter(ends[part], only) for part, [only] in inside.items()}
        level = [f"a folder a class ({rest})"] * bool(rest)
        for part, split in sorted(parts.items(), key=lambda item: list(SPLITS).index(item[1])):
            level.append(f"{self.found.shown(ends[part])}/ ({roles[split] or 'undivided'})")
            self.as_classes(_subfolders(ends[part]), ends[part], roles[split])
        if rest:
            others = [f for f in _subfolders(place) if f not in splits]
            self.as_classes(others, place, roles[rest])
        self.found.level = "splits: " + (list_first(level) or "none")
        self.warn_of_deeper_level("move them up one level")

    def as_classes_by_name(self, place, folders, splits):
        """No split holds class folders: classes, but for flat folders that are called test."""
        classes = [f for f in folders if splits.get(f, "train") == "train"]
        if splits and len(folders) > 1 and len(splits) == len(folders):
            raise ValueError(
                f"{printable(place)}: {list_first(f.name for f in splits)} are called like splits, but "
                "hold no class folders, so that no picture has a class. Put a folder a class into "
                "each; or, if these are the classes themselves, say so: SIAMESE_LAYOUT=classes"
            )
        for folder in splits:
            if folder in classes:
                reason = "read as a class: it is called like a split, but holds no class folders"
                remedy = "nothing; or put class folders into it"
                self.found.warn(folder, reason, remedy)
            else:
                self.leave_flat_aside(folder)
        inner = {}
        for folder in classes:
            inner[folder] = {part: _named(part.name)[0] for part in _look_into(folder)}
            if not inner[folder] or None in inner[folder].values():
                break
        else:
            kinds = {split for parts in inner.values() for split in parts.values()}
            if len(kinds) > 1 and "train" in kinds and "query" not in kinds:
                return self.as_splits_in_classes(place, inner, kinds)
        self.as_classes(classes, place, "")
        if classes:
            self.warn_of_deeper_level("say so: SIAMESE_LAYOUT=splits")

    def as_splits_in_classes(self, place, inner, kinds):
        self.found.level = f"a folder a class, in each of them {list_first(sorted(kinds))}"
        self.passed[place] = "not in a class folder"
        for folder, parts in inner.items():
            self.passed[folder] = "beside the train and test folders"
            for part, split in parts.items():
                role = "test" if "test" not in kinds and split == "validation" else split
                self.taken |= {folder, part}
                self.classes.append((part, role, folder.name))

    def as_classes(self, folders, place, split):
        self.passed.setdefault(place, "not in a class folder")
        self.taken |= set(folders)
        self.classes += [(folder, split, folder.name) for folder in folders]
        inner = "" if place == self.found.folder else f" in {self.found.shown(place)}/"
        self.found.level = "a folder a class" + inner

    def leave_flat_aside(self, folder):
        reason = "no class folders in it, so that its pictures have no class"
        if _subfolders(self.end(folder)):
            reason = "called like a folder of pictures without a class"
        remedy = "give them to `python -m workbook identify`, or sort them into class folders; or, "
        self.leave_aside(folder, reason, remedy + "if it is a class itself: SIAMESE_LAYOUT=classes")

    def leave_aside(self, folder, reason, remedy):
        files, hidden, trouble = _files(folder, self.found.folder)
        self.taken.add(folder)
        self.hidden += hidden
        self.found.problems += trouble
        self.found.aside.append(f"{self.found.shown(folder)}/ ({len(files)} files)")
        self.found.warn(folder, f"left aside, {len(files)} files: {reason}", remedy)

    def warn_of_deeper_level(self, how):
        """Every class holds several folders, of the same names or all that there is in it."""
        inner, names = [], sorted({name for _, _, name in self.classes})
        if len(names) < 2:
            return
        for folder, _, _ in self.classes:
            inner.append({f.name for f in _look_into(self.end(folder))})
            if len(inner[-1]) < 2:
                return
        same = set.intersection(*inner)
        children = [child for folder, _, _ in self.classes for child in _children(folder)]
        if len(same) > 1 or not any(c.is_file() and not _is_hidden(c.name) for c in children):
            reason = f"every class holds folders ({list_first(sorted(same or set.union(*inner)))}): read "
            remedy = f"nothing, if that is right; if those in them are the classes, {how}"
            self.found.warn(
                self.found.folder, reason + f"as the classes {list_first(names)}", remedy
            )

    def list_files(self):
        found, spellings = self.found, {}
        for place, reason in self.passed.items():
            for child in _children(place):
                if _is_hidden(child.name):
                    self.hidden.append(str(child))
                elif child not in self.taken:
                    into = " into one" if "class folder" in reason else ""
                    found.problems.append(report_entry(child, reason, f"move it{into}"))
        for folder, split, name in self.classes:
            files, hidden, trouble = _files(folder, found.folder)
            if not files and not trouble:
                trouble = [report_entry(folder, "empty class", "add images or delete it")]
            found.problems += trouble
            self.hidden += hidden
            normal = unicodedata.normalize("NFC", name)
            spellings.setdefault(normal, set()).add(name)
            found.entries += [(path, split, normal) for path in files]
        for name, forms in spellings.items():
            if len(forms) > 1:
                which = f"Unicode forms of one name, merged: {', '.join(map(ascii, sorted(forms)))}"
                found.warn(found.folder / name, which, "rename the folders alike")
        if self.hidden:
            names = ", ".join(sorted({os.path.basename(path) for path in self.hidden})[:5])
            reason = f"{len(self.hidden)} hidden files or folders left aside: {names}"
            found.warn(found.folder, reason, "nothing, unless they are images: rename those")
        self.warn_of_links_out()
        found.entries.sort(key=lambda e: (e[2], e[1] != "train", e[0]))

    def warn_of_links_out(self, limit=20):
        """Pictures that lie elsewhere would be trained on, and shown in figures, unasked."""
        links = _links_out(sorted(path for path, _, _ in self.found.entries), self.found.folder)
        remedy = "nothing, if you made it; else delete it: those pictures are trained on and shown"
        for link, count in list(links.items())[:limit]:
            target = os.path.realpath(link)
            reason = f"a link that leads out of the folder, to {target}: {count} files come by it"
            self.found.warn(link, reason, remedy)
        if rest := list(links)[limit:]:
            count = sum(links[link] for link in rest)
            reason = f"{len(rest)} more links that lead out of the folder, with {count} files"
            self.found.warn(rest[0], f"{reason}: {list_first(map(os.path.basename, rest))}", remedy)


def _links_out(paths, top):
    """{link that leads out of `top`: how many of these files come by it}, in their order."""
    inside, links, places = os.path.realpath(top), {}, {}

    def leads_out(path):
        real = os.path.realpath(path)
        return real != inside and not real.startswith(os.path.join(inside, ""))

    def first_link_out(place):  # of the folders between `top` and there
        if leads_out(place):
            way = [place, *(p for p in map(str, Path(place).parents) if len(p) > len(str(top)))]
            return next((p for p in reversed(way) if os.path.islink(p) and leads_out(p)), place)
        return None

    for path in paths:
        place = os.path.dirname(path)
        if place not in places:
            places[place] = first_link_out(place)
        link = places[place]
        if link is None and os.path.islink(path) and leads_out(path):
            link = path
        if link is not None:
            links[link] = links.get(link, 0) + 1
    return links


def _files(folder, top, on_error=None):
    """(paths of the files below `folder`, hidden paths, problems); links lead once to a place."""
    visible, hidden, problems = [], [], []
    seen = {os.path.realpath(top)} if top else set()

    def leads_back(path):
        real = os.path.realpath(path)
        back = any(place == real or place.startswith(real + os.sep) for place in seen)
        if back and os.path.islink(path):
            remedy = "delete the link, or put the images themselves here"
            problems.append(report_entry(path, "a link to a folder that is read already", remedy))
            return True
        seen.add(real)
        return False

    def unreadable(error):
        problems.append(report_entry(error.filename, *explain_os_error(error.filename, error)))

    if leads_back(folder):
        return visible, hidden, problems
    for place, folders, files in os.walk(folder, onerror=on_error or unreadable, followlinks=True):
        if not folders and not files and place != str(folder):
            problems.append(report_entry(place, "an empty folder", "delete it"))
        hidden += [os.path.join(place, name) for name in folders + files if _is_hidden(name)]
        visible += [os.path.join(place, name) for name in files if not _is_hidden(name)]
        keep = [name for name in folders if not _is_hidden(name)]
        links = {name for name in keep if os.path.islink(os.path.join(place, name))}
        folders[:] = [n for n in keep if n not in links or not leads_back(os.path.join(place, n))]
    return visible, hidden, problems
