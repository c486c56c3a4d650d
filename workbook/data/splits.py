"""Which images are trained on and which are held out, and what in that deserves a warning.

`folder_layout` finds the files. Explained in notebook 01.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from workbook.data.folder_layout import Entry, Listing
from workbook.data.folder_names import fold_case
from workbook.data.report import report_entry
from workbook.support.text import list_first, printable

MIN_DIVIDED = 8  # classes from which on whole ones are held out
PER_HELD_OUT = 5  # images of a class for each one that is held out
MAX_STRANGERS = 20  # unknown classes that are listed one by one


def hold_out(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Give each image its split: whole classes are held out first, then images of the others.

    Where the folder has train and test folders, one training image in five becomes validation,
    unless there is a validation folder; classes without training images are unseen. Otherwise a
    quarter of the classes with two images or more becomes unseen (if there are eight such classes),
    and of every other class one image in five is test and one validation.
    """
    by_class: dict[str, dict[str, list[int]]] = {}
    for i, (_, split, name) in enumerate(entries):
        by_class.setdefault(name, {}).setdefault(split, []).append(i)
    rng = np.random.default_rng(seed)
    unseen = _choose_unseen_classes(by_class, rng)
    has_validation = any(entry.split == "validation" for entry in entries)
    splits = [entry.split for entry in entries]
    for name, parts in by_class.items():
        is_trained = name not in unseen and ("train" in parts or "" in parts)
        for split, members in parts.items():
            if split in ("validation", "reference") or (split == "test" and is_trained):
                continue  # as the folder says
            if not is_trained:
                new = ["unseen"] * len(members)
            else:
                fifth = 0 if has_validation else len(members) // PER_HELD_OUT
                new = ["validation"] * fifth + ["test"] * (fifth if split == "" else 0)
                new += ["train"] * (len(members) - len(new))
                members = list(rng.permutation(members))
            for i, kind in zip(members, new):
                splits[i] = kind
    return [Entry(path, split, name) for (path, _, name), split in zip(entries, splits)]


def _choose_unseen_classes(
    by_class: dict[str, dict[str, list[int]]], rng: np.random.Generator
) -> set[str]:
    divided = [name for name, parts in by_class.items() if len(parts.get("", ())) > 1]
    count = len(divided) // 4 if len(divided) >= MIN_DIVIDED else 0
    return set(rng.permutation(divided)[:count])


def describe_layout(
    listing: Listing, class_names: Sequence[str], labels: np.ndarray, splits: Sequence[str]
) -> str:
    """Say in one to three lines how a folder was read: its level, splits, classes, and the rest.

    class_names printable; labels (n,) int and splits (n,) str of the images, as held out.
    """
    split_of = np.asarray(splits)
    kinds = [k for k in ("train", "validation", "test", "unseen", "reference") if k in split_of]
    counts = [f"{kind} {len(np.unique(labels[split_of == kind]))}" for kind in kinds]
    lines = [f"{listing.level}; classes: {', '.join(counts) or 'none'}"]
    lines.append(f"{len(class_names)} classes: {list_first(class_names)}")
    if listing.skipped:
        lines.append(f"skipped: {list_first(listing.skipped)}")
    return "\n".join(map(printable, lines))


def content_warnings(entries: Iterable[Entry], hashes: Iterable[str]) -> list[dict]:
    """Warn of the same file in two classes or in two splits (leakage), once per content."""
    groups: dict[str, list[Entry]] = {}
    for entry, digest in zip(entries, hashes):
        groups.setdefault(digest, []).append(entry)
    warnings = []
    for group in groups.values():
        paths, splits, names = (list(dict.fromkeys(column)) for column in zip(*group))
        others = f"the same image: {', '.join(paths[1:4])}" + ", ..." * (len(paths) > 4)
        if len(names) > 1:
            reason = f"in {len(names)} classes: {', '.join(names[:3])}; {others}"
            warnings.append(report_entry(paths[0], reason, "keep it in the right class"))
        if len(splits) > 1:
            reason = f"leakage: in {' and '.join(splits)}; {others}"
            warnings.append(report_entry(paths[0], reason, "keep one of them"))
    return warnings


def _without_punctuation(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def stranger_warnings(entries: Iterable[Entry]) -> list[dict]:
    """Warn of classes in a test or validation folder that no training folder is called like."""
    trained, first = _first_of_classes(entries)
    if not trained:
        return []
    alike = {_without_punctuation(name): name for name in trained}
    warnings = []
    for name, (path, split, _) in list(first.items())[:MAX_STRANGERS]:
        [nearest] = difflib.get_close_matches(_without_punctuation(name), alike, 1, cutoff=0)
        reason = f"the {split} class {name} is no training class; the nearest of those: "
        remedy = "nothing, if it is meant to be unseen; rename it, if it is a misspelling"
        warnings.append(report_entry(path, reason + alike[nearest], remedy))
    if rest := list(first)[MAX_STRANGERS:]:
        reason = f"{len(rest)} more classes that are no training classes: {list_first(rest)}"
        remedy = "nothing, if they are meant to be unseen"
        warnings.append(report_entry(first[rest[0]].path, reason, remedy))
    return warnings


def _first_of_classes(entries: Iterable[Entry]) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The first image of each training class, and of each class that is only tested."""
    trained: dict[str, Entry] = {}
    tested: dict[str, Entry] = {}
    for entry in entries:
        if entry.split in ("train", ""):
            trained.setdefault(entry.class_name, entry)
        elif entry.split in ("validation", "test"):
            tested.setdefault(entry.class_name, entry)
    return trained, {name: entry for name, entry in tested.items() if name not in trained}


def look_alike_warnings(entries: Iterable[Entry]) -> list[dict]:
    """Warn of training classes whose names differ in upper and lower case or blanks only."""
    trained, _ = _first_of_classes(entries)
    groups: dict[str, list[str]] = {}
    for name in trained:
        groups.setdefault(re.sub(r"[\s_-]+", " ", fold_case(name)), []).append(name)
    remedy = "nothing, if they are different classes; give them one name, if they are one"
    return [
        report_entry(
            Path(trained[names[1]].path).parent,
            f"classes of nearly the same name: {list_first(names)}",
            remedy,
        )
        for names in groups.values()
        if len(names) > 1
    ]


def shortage_warnings(entries: Iterable[Entry], folder: Path) -> list[dict]:
    """Warn of classes with one training image, and of a dataset without test images."""
    counts: dict[str, int] = {}
    training_paths: dict[str, list[str]] = {}
    has_test = False
    for path, split, name in entries:
        counts[name] = counts.get(name, 0) + 1
        has_test |= split == "test"
        if split == "train":
            training_paths.setdefault(name, []).append(path)
    reason = "the only training image of its class: in the gallery, never an anchor"
    single = [paths[0] for paths in training_paths.values() if len(paths) == 1]
    warnings = [report_entry(path, reason, "add images") for path in single]
    if counts and not has_test:
        why = "no training class has images to test on"
        if max(counts.values()) < PER_HELD_OUT:
            why = "no class has five images"
        reason = f"no test image: {why}; leave-one-out is used instead: each image is compared "
        reason += "with all the others"
        remedy = "add images, or a test folder beside train"
        warnings.append(report_entry(folder, reason, remedy))
    return warnings
