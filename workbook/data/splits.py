"""Which images are trained on and which are held out, and what of that deserves a warning.

`folders` finds the files. Explained in notebook 01.
"""

import difflib
import re

import numpy as np

from workbook.data.report import report_entry
from workbook.support.text import list_first, printable


def hold_out(entries, seed):
    """Give entries their splits: whole classes first, then images within the other classes.

    With train and test folders given, one training image in five becomes validation (unless there
    is a validation folder), and a class without training images is unseen. Otherwise a quarter of
    the classes with two images becomes unseen (from eight such classes up), and of every other
    class one image in five is test, one validation.
    """
    by_class = {}
    for i, (_, split, name) in enumerate(entries):
        by_class.setdefault(name, {}).setdefault(split, []).append(i)
    rng, splits = np.random.default_rng(seed), [split for _, split, _ in entries]
    divided = "validation" in splits
    undivided = [name for name, parts in by_class.items() if len(parts.get("", ())) > 1]
    unseen = set(rng.permutation(undivided)[: len(undivided) // 4 if len(undivided) >= 8 else 0])
    for name, parts in by_class.items():
        seen = name not in unseen and parts.keys() & {"train", ""}
        for split, members in parts.items():
            kinds = [split if split in ("validation", "reference") or seen else "unseen"]
            kinds *= len(members)
            if seen and split in ("train", ""):
                fifth = 0 if divided else len(members) // 5
                kinds = ["validation"] * fifth + ["test"] * (fifth if split == "" else 0)
                kinds += ["train"] * (len(members) - len(kinds))
                members = rng.permutation(members)
            for i, kind in zip(members, kinds):
                splits[i] = kind
    return [(path, split, name) for (path, _, name), split in zip(entries, splits)]


def describe(found, class_names, labels, splits):
    """How a `Listing` was read, in one to three printable lines: level, splits, classes, the rest.

    class_names printable; labels (n,) int and splits (n,) str of the images, as held out.
    """
    splits = np.asarray(splits)
    kinds = [k for k in ("train", "validation", "test", "unseen", "reference") if k in splits]
    counts = [f"{kind} {len(np.unique(labels[splits == kind]))}" for kind in kinds]
    lines = [f"{found.level}; classes: {', '.join(counts) or 'none'}"]
    lines.append(f"{len(class_names)} classes: {list_first(class_names)}")
    lines += [f"left aside: {list_first(found.aside)}"] * bool(found.aside)
    return "\n".join(map(printable, lines))


def content_warnings(entries, hashes):
    """The same file in two classes, or in two splits (leakage), one warning a content."""
    groups, found = {}, []
    for one, digest in zip(entries, hashes):
        groups.setdefault(digest, []).append(one)
    for group in groups.values():
        paths, splits, names = (list(dict.fromkeys(column)) for column in zip(*group))
        others = f"the same image: {', '.join(paths[1:4])}" + ", ..." * (len(paths) > 4)
        if len(names) > 1:
            reason = f"in {len(names)} classes: {', '.join(names[:3])}; {others}"
            found.append(report_entry(paths[0], reason, "keep it in the right class"))
        if len(splits) > 1:
            reason = f"leakage: in {' and '.join(splits)}; {others}"
            found.append(report_entry(paths[0], reason, "keep one of them"))
    return found


def _plain(name):
    return re.sub(r"[\W_]+", "", name.casefold())


def stranger_warnings(entries, limit=20):
    """Classes of the given test and validation folders that no training class is called like."""
    trained = dict.fromkeys(name for _, split, name in entries if split in ("train", ""))
    first = {}
    for path, split, name in entries:
        if name not in trained and split in ("validation", "test"):
            first.setdefault(name, (path, split))
    alike = {_plain(name): name for name in trained}
    found = []
    for name, (path, split) in list(first.items())[:limit] if trained else ():
        [nearest] = difflib.get_close_matches(_plain(name), alike, 1, cutoff=0)
        reason = f"the {split} class {name} is no training class; the nearest of those: "
        remedy = "nothing, if it is meant to be unseen; rename its folder, if it is a misspelling"
        found.append(report_entry(path, reason + alike[nearest], remedy))
    if len(first) > limit and trained:
        rest = list(first)[limit:]
        reason = f"{len(rest)} more classes that are no training classes: {list_first(rest)}"
        found.append(
            report_entry(first[rest[0]][0], reason, "nothing, if they are meant to be unseen")
        )
    return found


def shortage_warnings(entries, folder):
    """Classes with one training image, and a missing test split."""
    counts, single = {}, {}
    for path, split, name in entries:
        counts[name] = counts.get(name, 0) + 1
        if split == "train":
            single[name] = None if name in single else path
    reason = "the only training image of its class: in the gallery, never an anchor"
    found = [report_entry(path, reason, "add images") for path in single.values() if path]
    if entries and not any(split == "test" for _, split, _ in entries):
        few = max(counts.values()) < 5
        reason = "no class has five images" if few else "no training class has pictures to test on"
        remedy = "add images, or a test folder beside train"
        found.append(report_entry(folder, f"no test image: {reason}", remedy))
    return found
