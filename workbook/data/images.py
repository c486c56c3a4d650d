"""From files to arrays: a dataset as one object, and the cache of what was decoded.

Images are RGB, uint8, 0..255. `folder_layout` finds the files, `splits` says which are held out,
`decoding` reads one file. Explained in notebook 01.
"""

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from workbook import ROOT
from workbook.data import toys
from workbook.data.decoding import decode, explain, open_image
from workbook.data.downloads import DATASETS, GROCERY_LISTS, Source, fetch, grocery_lists
from workbook.data.folder_layout import Entry, Listing, read_folder, suggest_table
from workbook.data.folder_names import is_table
from workbook.data.image_cache import decode_files, name_cache_folder
from workbook.data.label_table import read_table
from workbook.data.report import report_entry, write_report
from workbook.data.splits import (
    content_warnings,
    describe_layout,
    hold_out,
    look_alike_warnings,
    shortage_warnings,
    stranger_warnings,
)
from workbook.support.atomic_files import mark_used, temporary_build_folder
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

SAMPLED = 2**28  # bytes of images of which a fingerprint reads all


@dataclass
class ImageDataset:
    """Images and what is known about them, made by `load_images`. n images, c classes.

    Attributes
    ----------
    images : (n, size, size, 3) uint8
        RGB, 0..255.
    labels : (n,) int32
        The class of each image, 0..c-1.
    class_names : list of str
    paths : list of str
        They open the files (print them with `printable`).
    splits : (n,) str
        "train", "validation", "test", "unseen" (classes that are never trained on) or "reference"
        (one catalogue image per class).
    test_is_given : bool
        Whether the test images were named as such, and not drawn from the others.
    factors : dict
        Name -> (n,) float32; known for the toys only.
    problems, warnings : list of dict
        What could not be read, and what was read or skipped and deserves a look: one entry with
        path, reason and remedy each. Both are in the CSV file `report` (None for the toys).
    layout : str
        How the folder was read, in one to three lines.
    coarse : list of str
        The coarse class of each class; empty where there are none.
    folder : Path
        Where the paths begin (None for the toys).
    hashes : list of str
        The SHA-256 of each image's file; empty where there are no files.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    paths: list[str]
    splits: np.ndarray
    gallery_splits: tuple[str, ...] = ("train",)
    test_is_given: bool = False
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[dict] = field(default_factory=list)
    warnings: list[dict] = field(default_factory=list)
    report: Path | None = None
    layout: str = ""
    coarse: list[str] = field(default_factory=list)
    folder: Path | None = None
    hashes: list[str] = field(default_factory=list)

    def where(self, *splits: str) -> np.ndarray:
        """Return the indices (int64, ascending) of the images in any of `splits`."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @cached_property
    def short_paths(self) -> list[str]:
        """The paths from the folder on: what a gallery keeps, whatever the machine."""
        folder = self.folder
        return [Path(os.path.relpath(p, folder)).as_posix() if folder else p for p in self.paths]

    @property
    def gallery(self) -> np.ndarray:
        """Indices of every training image: what a test image is compared with."""
        return self.where(*self.gallery_splits)

    @property
    def uses_leave_one_out(self) -> bool:
        """Whether the classes are too small to hold out test images.

        Then each image is compared with all the others instead.
        """
        return not len(self.where("test"))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images, labels, class names and splits, as 64 hexadecimal digits.

        It does not depend on where the folder is. Of images without files and with more than
        `SAMPLED` bytes, evenly spread ones are read.
        """
        facts = [self.class_names, self.labels.tolist(), list(map(str, self.splits)), self.hashes]
        digest = hashlib.sha256(json.dumps(facts).encode())
        if not self.hashes:
            step = 1 + self.images.nbytes // SAMPLED
            digest.update(f"{self.images.shape} {self.images.dtype} {step}".encode())
            for image in self.images[::step]:
                digest.update(image.tobytes())
        return digest.hexdigest()


def load_from_config(config: Config) -> ImageDataset:
    """Return `load_images` of what a `Config` says."""
    return load_images(
        config.dataset,
        config.size,
        config.data_home,
        config.runs / "cache",
        config.data_seed,
        layout=config.layout,
        columns=config.columns,
    )


def load_images(
    dataset: str | Path = "toys",
    size: int = 64,
    data_home: str | Path | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 42,
    strict: bool = False,
    layout: str = "auto",
    columns: str = "auto",
) -> ImageDataset:
    """Load one of `DATASETS`, a folder of images, or a table of file names and labels.

    A folder holds one sub-folder per class, or folders called train, validation and test (also as
    in `training_set`; validation alone is the test) that hold such. At least two classes are
    needed. From five images per class on, some are held out for the test; with fewer, each image is
    compared with all the others (`uses_leave_one_out`).

    Files are decoded and resized once, in parallel, into a memory-mapped array in the cache. What
    cannot be read is listed in `.problems`, and `report.csv` is beside the array.

    Parameters
    ----------
    dataset
        A name in `DATASETS`, a folder, or a .csv or .tsv file (`label_table.read_table`). A named
        dataset is downloaded on first use.
    size
        Side of the square images in pixels.
    data_home
        Where downloads are kept (default: `<root>/data`).
    cache_dir
        Where decoded images are kept (default: `<root>/runs/cache`).
    seed
        Decides what is held out, and how toys are drawn.
    strict
        Whether a file that cannot be read is an error.
    layout
        How a folder is read if it can be read in two ways: "classes" (every sub-folder is a class),
        "splits" (every sub-folder holds classes) or "leaves" (the innermost folders are classes).
    columns
        The columns of a table for file, label and split, with commas between their names.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or table, or a download failed.
    ValueError
        For a folder that can be read in two ways, a table that cannot be understood, fewer than
        two classes of images, or a class whose name cannot be a label, such as "unknown".
    OSError
        If the disk is full.
    """
    data_home, cache_dir = Path(data_home or ROOT / "data"), Path(cache_dir or ROOT / "runs/cache")
    if str(dataset) == "toys" and layout == columns == "auto":
        return _load_toys(size, seed, cache_dir)
    listing = _list_images(dataset, data_home, layout, columns)
    cache = name_cache_folder([entry.path for entry in listing.entries], size, cache_dir)
    if len({entry.class_name for entry in listing.entries}) < 2:
        raise _explain_shortage(dataset, listing, listing.entries, cache)
    images, results = decode_files([entry.path for entry in listing.entries], size, cache)
    entries, hashes, problems, notes = [], [], listing.problems, listing.warnings
    for entry, (digest, remarks) in zip(listing.entries, results):
        rows = [report_entry(entry.path, *remark) for remark in remarks]
        if digest:
            entries.append(entry)
            hashes.append(digest)
            notes.extend(rows)
        else:
            problems.extend(rows)
    if len({entry.class_name for entry in entries}) < 2:
        raise _explain_shortage(dataset, listing, entries, cache)
    given = {entry.split for entry in entries}
    notes += stranger_warnings(entries) + look_alike_warnings(entries)
    entries = hold_out(entries, seed)
    notes += content_warnings(entries, hashes) + shortage_warnings(entries, listing.folder)
    write_report(cache / "report.csv", problems, notes)
    if strict and problems:
        raise ValueError(
            f"{printable(dataset)}: {len(problems)} problems{_show_problems(problems, cache)}"
        )
    names = list(dict.fromkeys(entry.class_name for entry in entries))
    class_names = [printable(name) for name in names]
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[entry.class_name] for entry in entries], np.int32)
    splits = [entry.split for entry in entries]
    return ImageDataset(
        name=printable(Path(dataset).expanduser().absolute().name),
        images=images,
        labels=labels,
        class_names=class_names,
        paths=[entry.path for entry in entries],
        splits=np.array(splits),
        gallery_splits=("train",) if "validation" in given else ("train", "validation"),
        test_is_given="test" in given,
        problems=problems,
        warnings=notes,
        report=cache / "report.csv",
        layout=describe_layout(listing, class_names, labels, splits),
        coarse=[printable(listing.coarse[name]) for name in names if listing.coarse],
        folder=listing.folder,
        hashes=hashes,
    )


def _explain_shortage(
    dataset: str | Path, listing: Listing, entries: list[Entry], cache: Path
) -> ValueError:
    """The error for fewer than two classes; the whole report is beside the cache."""
    write_report(cache / "report.csv", listing.problems, listing.warnings)
    names = list(dict.fromkeys(entry.class_name for entry in entries))
    labels = np.array([names.index(entry.class_name) for entry in entries], np.int32)
    layout = describe_layout(listing, names, labels, [entry.split or "train" for entry in entries])
    text = f"{len(entries)} images in {len(names)} classes, but at least two classes are needed, "
    text += "each in a sub-folder with its images"
    if listing.tables and not entries:
        table = listing.tables[0]
        text = f"{printable(table.name)} may hold the labels: {suggest_table(table)}"
    text += f". Read as: {layout}{_show_problems(listing.problems, cache)}"
    return ValueError(f"{printable(dataset)}: {text}")


def _show_problems(problems: list[dict], cache: Path) -> str:
    if not problems:
        return ""
    first = "".join(f"\n  {p['path']}: {p['reason']}: {p['remedy']}" for p in problems[:5])
    return f"{first}\n  all: {cache / 'report.csv'}"


def decode_image(path: str | Path, size: int) -> np.ndarray:
    """Read one file as a (size, size, 3) uint8 RGB array: upright, sRGB, over white, made square.

    Of an animation, the first image is read. What `load_images` lists as a warning is a
    UserWarning.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not a file or cannot be decoded, with its name, the reason and the remedy.
    """
    try:
        with open_image(path) as file:
            pixels, remarks = decode(file, size)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        reason, remedy = explain(path, error)
        raise ValueError(f"{printable(path)}: {reason}: {remedy}") from error
    for reason, remedy in remarks:
        warnings.warn(f"{printable(path)}: {reason}: {remedy}", stacklevel=2)
    return pixels


def on_white(images: np.ndarray, share: float) -> np.ndarray:
    """Shrink images (n, s, s, 3) uint8 to a share of their size, in the middle of white.

    A catalogue shows a product as large as possible; a photograph of a shelf does not. Raises
    ValueError for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: a share of the image's own size, above 0, at most 1")
    if share == 1:
        return images
    side = images.shape[1]
    inner = max(1, round(share * side))
    before = (side - inner) // 2
    shrunk = keras.ops.image.resize(np.float32(images), (inner, inner), antialias=True)
    made = np.full_like(images, 255)
    made[:, before : before + inner, before : before + inner] = np.clip(np.rint(shrunk), 0, 255)
    return made


def _list_images(dataset: str | Path, data_home: Path, layout: str, columns: str) -> Listing:
    """Return the `Listing` of one of `DATASETS`, a folder or a table; nothing is decoded."""
    source, path = DATASETS.get(str(dataset)), Path(dataset).expanduser().absolute()
    if not source and is_table(path) and not path.is_dir():
        if layout != "auto":
            raise ValueError(f"layout={layout!r} is for a folder of images, not for a table")
        return read_table(path, columns)
    if columns != "auto":
        raise ValueError(f"columns={columns!r} is for a table of labels: {dataset} is none")
    if not source:
        return read_folder(path, layout)
    if source.files:
        raise ValueError(
            f"{dataset} is for notebook 7 alone: make run DATASET={dataset} NOTEBOOKS=7"
        )
    if layout != "auto":
        raise ValueError(f"layout={layout!r} is for a folder of images: {dataset} has its own")
    folder = fetch(str(dataset), data_home)
    if str(dataset) == "grocery":
        return _grocery(folder)
    listing = read_folder(folder, "classes")
    _leave_out(source, listing)
    return listing


def _grocery(folder: Path) -> Listing:
    """Read the authors' splits and coarse classes; catalogue images become "reference"."""
    classes, images = grocery_lists(folder)
    entries = [Entry(str(folder / icon), "reference", name) for name, _, icon in classes.values()]
    entries += [Entry(str(folder / path), split, classes[c][0]) for path, split, c in images]
    entries.sort(key=lambda e: (e.class_name, e.split, e.path))
    coarse = {name: group for name, group, _ in classes.values()}
    listing = Listing(folder, entries, "the authors' lists", coarse=coarse)
    lists = json.dumps([classes, images])
    if hashlib.sha256(lists.encode()).hexdigest() != GROCERY_LISTS:
        remedy = "nothing, if you changed them; else delete the folder, to fetch it again"
        listing.warn(folder, "its lists are not those of the authors' commit", remedy)
    return listing


def _leave_out(source: Source, listing: Listing) -> None:
    """Drop the classes that this dataset, as `DATASETS` has it, does not count."""
    counts = Counter(entry.class_name for entry in listing.entries)
    out = {n for n, k in counts.items() if n in source.leave_out or k < source.at_least}
    if out:
        reason = f"{len(out)} classes, {sum(counts[n] for n in out)} images left out: "
        reason += ", ".join(source.leave_out) or "none by name"
        if source.at_least > 1:
            reason += f" or of fewer than {source.at_least} images"
        listing.warn(listing.folder, reason, "nothing: so this dataset is defined here")
        listing.skipped.append(f"{len(out)} classes")
    listing.entries = [entry for entry in listing.entries if entry.class_name not in out]


# ------------------------------------------------------------------------------- the cache, toys


def _load_toys(
    size: int, seed: int, cache_dir: Path, seen: int = 80, validation: int = 12, unseen: int = 24
) -> ImageDataset:
    """Draw the toys, or read them from the cache.

    Of the 32 images of a seen class every fourth is for the test, so that 24 are left to train on.
    The other classes, of 24 images each, are held out as a whole.
    """
    sizes = [32] * seen + [24] * (validation + unseen)
    recipe = toys.hash_drawing() + str((size, seed, sizes))
    cache = cache_dir / f"toys-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.npz"
    try:
        with open(cache, "rb") as file, np.load(file) as stored:  # np.load leaves a broken one open
            factors = dict(stored)
        mark_used(cache)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # none, or a broken one
        print(f"drawing {sum(sizes):,} toys, once: about half a minute", flush=True)
        images, labels, factors = toys.render_toys(sizes, size, seed)
        factors = {"images": images, "labels": labels} | factors
        with temporary_build_folder(cache) as work:
            np.savez(work / "new.npz", **factors)
            os.replace(work / "new.npz", cache)
    images, labels = factors.pop("images"), factors.pop("labels")
    instance = np.concatenate([np.arange(n) for n in sizes])
    splits = np.where(instance % 4 == 3, "test", "train").astype("<U10")
    splits[labels >= seen] = "validation"
    splits[labels >= seen + validation] = "unseen"
    names = [f"toy {c:03}" for c in range(len(sizes))]
    paths = [f"toys/{names[c]}/{i:02}" for c, i in zip(labels, instance)]
    layout = describe_layout(Listing(ROOT, level="drawn, no folder"), names, labels, list(splits))
    return ImageDataset(
        "toys", images, labels, names, paths, splits, factors=factors, layout=layout
    )
