"""What the name of a folder or file says: a split, annotations, nothing, or that it is hidden."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

SPLITS = {
    "train": "train training trainval",
    "validation": "val valid validation validate",
    "test": "test testing",
    "query": "pred prediction predictions unlabeled unlabelled",  # images without a class
}
SPLIT_OF_WORD = {word: split for split, words in SPLITS.items() for word in words.split()}
FILLERS = {  # words that say nothing about what a folder holds
    "set", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures",
    "photo", "photos",
}  # fmt: skip
ANNOTATIONS = {  # words for what datasets keep beside their images
    "mask", "masks", "annotation", "annotations", "label", "labels", "segmentation",
    "segmentations", "trimap", "trimaps", "groundtruth", "gt", "box", "boxes", "bbox", "bboxes",
}  # fmt: skip
SYSTEM = {  # files and folders that computers make for themselves, in lower case
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "recycler", "@eadir",
    "system volume information", "$recycle.bin", "lost+found", "@recycle", "#recycle", "#snapshot",
    "network trash folder", "temporary items",
}  # fmt: skip
TABLE_SUFFIXES = (".csv", ".tsv")  # of the tables that can be read
# of whatever may hold labels
TABLES = (*TABLE_SUFFIXES, ".xls", ".xlsx", ".json", ".jsonl", ".parquet", ".feather")
NOTHING: tuple[None, tuple[str, ...]] = (None, ())


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or one that a system made for itself."""
    return name.startswith(".") or name == "Icon\r" or name.strip().lower() in SYSTEM


def is_table(path: Path, suffixes: Collection[str] = TABLE_SUFFIXES) -> bool:
    """Tell by its suffix whether a file is a table that can be read, or one of `suffixes`."""
    return path.suffix.lower() in suffixes


def read_name(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return (split or None, the other words): "Seg_TrainSet2" gives ("train", ("seg",)).

    Words that name two different splits name none. Fillers such as "images" are dropped, so that
    (None, ()) is a name that says nothing.
    """
    splits, others = set(), []
    for word in _list_words(name):
        stems = {word.removesuffix(filler) for filler in FILLERS} & SPLIT_OF_WORD.keys()
        splits |= {SPLIT_OF_WORD[stem] for stem in stems}
        if not stems and word not in FILLERS:
            others.append(word)
    return (splits.pop() if len(splits) == 1 else None), tuple(others)


def find_splits(folders: Iterable[Path]) -> dict[Path, str]:
    """Return {folder: split} of those folders that are called like a split.

    "seg_train" is one only if another folder has the same other words and another split, such as
    "seg_test": "train tracks" may be a class.
    """
    names = {}
    for folder in folders:
        split, others = read_name(folder.name)
        if split:
            names[folder] = (split, others)
    return {
        folder: split
        for folder, (split, others) in names.items()
        if not others or any(s != split and others == o for s, o in names.values())
    }


def is_annotation(name: str) -> bool:
    """Tell whether a folder holds masks, boxes or the like, by its name."""
    words = _list_words(name)
    return bool(words) and ANNOTATIONS.issuperset(words)


def is_filler(name: str) -> bool:
    """Tell whether a folder's name says nothing about its content, as "images" or "data set"."""
    return bool(_list_words(name)) and read_name(name) == NOTHING


def is_doubled(inner: str, outer: str) -> bool:
    """Tell whether a folder is called like the one around it, as in "train/train_set"."""
    return inner == outer or read_name(inner) == read_name(outer) != NOTHING


def fold_case(name: str) -> str:
    """Return a name in the form in which upper and lower case are equal."""
    return unicodedata.normalize("NFC", name).casefold()


def _list_words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return re.findall(r"[^\W\d_]+", spaced.lower())
