"""From files to arrays: a dataset as one object, and the cache of what was decoded.

Images are RGB, uint8, 0..255. `folders` finds the files, `splits` says which are held out,
`decoding` reads one. Explained in notebook 01.
"""

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from workbook import ROOT
from workbook.data import toys
from workbook.data.decoding import decode, explain, open_image
from workbook.data.downloads import DATASETS, GROCERY_LISTS, fetch, grocery_lists
from workbook.data.folder_layout import Listing, read_folder
from workbook.data.image_cache import _decode_all
from workbook.data.report import _write_report, report_entry
from workbook.data.splits import (
    content_warnings,
    describe,
    hold_out,
    shortage_warnings,
    stranger_warnings,
)
from workbook.support.atomic_files import mark_used, temporary_build_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable


@dataclass
class ImageDataset:
    """Images with what is known of them; made by `load_images`. n images, c classes.

    images (n, size, size, 3) uint8 RGB 0..255; labels (n,) int32 in 0..c-1; splits (n,) of
    "train", "validation", "test", "unseen" (classes that are never trained on) or "reference"
    (one catalogue picture a class); paths open the files (print them with `printable`); factors:
    name -> (n,) float32, known for the toys only; problems: what could not be read; warnings: what
    was read or left aside and deserves a look; both one dict an entry with path, reason and
    remedy, and both in the CSV file `report` (None for the toys); layout: how the folder was read,
    in one to three lines; coarse (c,): the coarse class of each class, empty where there are none;
    folder: where the paths begin (None for the toys).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: list
    paths: list
    splits: np.ndarray
    gallery_splits: tuple = ("train",)
    factors: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    report: Path | None = None
    layout: str = ""
    coarse: list = field(default_factory=list)
    folder: Path | None = None

    def where(self, *splits):
        """Indices (int64, ascending) of the images in any of `splits`."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @cached_property
    def short_paths(self):
        """The paths from the folder on: what a gallery keeps, whatever the machine."""
        folder = self.folder
        return [Path(os.path.relpath(p, folder)).as_posix() if folder else p for p in self.paths]

    @property
    def gallery(self):
        """Indices of every training image: what a test image is compared with."""
        return self.where(*self.gallery_splits)


def load_from_config(config):
    """`load_images` of what a `Config` says. Explained in notebook 01, "What is in the folder?"."""
    return load_images(
        config.dataset,
        config.size,
        config.data_home,
        config.runs / "cache",
        config.data_seed,
        layout=config.layout,
    )


def load_images(
    dataset="toys",
    size=64,
    data_home=None,
    cache_dir=None,
    seed=42,
    strict=False,
    layout="auto",
):
    """Load one of `DATASETS`, or a folder of images, as an `ImageDataset`.

    A folder holds one sub-folder a class, or folders called train, validation and test (also as in
    `training_set`; validation alone is the test) of such. Where that can be read in two ways,
    `layout` decides: "classes" (every sub-folder is a class) or "splits" (every sub-folder holds
    classes). A named dataset is downloaded into `data_home` (default: `<root>/data`) on first use.
    Files are decoded and resized once, in parallel, into a memory-mapped array under `cache_dir`
    (default: `<root>/runs/cache`); `report.csv` is beside it. What cannot be read is listed in
    `.problems`, or raised as ValueError with `strict=True`. Raises FileNotFoundError for a missing
    folder or a failed download, ValueError for a folder that can be read in two ways, without two
    classes of images or with one called "unknown", OSError for a full disk. Explained in notebook
    01.
    """
    data_home, cache_dir = Path(data_home or ROOT / "data"), Path(cache_dir or ROOT / "runs/cache")
    if str(dataset) == "toys" and layout == "auto":
        return _load_toys(size, seed, cache_dir)
    found = _list_images(dataset, data_home, layout)
    for path in (path for path, _, name in found.entries if name == "unknown"):
        raise ValueError(
            f'{printable(Path(path).parent)}: "unknown" is what a gallery calls a stranger, so no '
            "class can have that name: rename the folder"
        )
    cache, images, results = _decode_all([path for path, _, _ in found.entries], size, cache_dir)
    entries, hashes, problems, notes = [], [], found.problems, found.warnings
    for one, (digest, remarks) in zip(found.entries, results):
        (notes if digest else problems).extend(report_entry(one[0], *remark) for remark in remarks)
        if digest:
            entries.append(one)
            hashes.append(digest)
    authors_validation = any(split == "validation" for _, split, _ in entries)
    notes += stranger_warnings(entries)
    entries = hold_out(entries, seed)
    notes += content_warnings(entries, hashes) + shortage_warnings(entries, found.folder)
    _write_report(cache / "report.csv", problems, notes)
    class_names = list(dict.fromkeys(name for _, _, name in entries))
    number = {name: i for i, name in enumerate(class_names)}
    class_names = [printable(name) for name in class_names]
    paths, splits, names = map(list, zip(*entries)) if entries else ([], [], [])
    labels = np.array([number[name] for name in names], np.int32)
    layout = describe(found, class_names, labels, splits)
    wrong = f"{len(problems)} problems" if strict and problems else ""
    if len(class_names) < 2:
        wrong = f"{len(entries)} readable images in {len(class_names)} classes; it takes two "
        wrong += f"sub-folders with images, one a class. Read as: {layout}"
    if wrong:
        first = "".join(f"\n  {p['path']}: {p['reason']}: {p['remedy']}" for p in problems[:5])
        raise ValueError(f"{printable(dataset)}: {wrong}{first}\n  all: {cache / 'report.csv'}")
    return ImageDataset(
        name=printable(dataset if str(dataset) in DATASETS else found.folder.name),
        images=images,
        labels=labels,
        class_names=class_names,
        paths=paths,
        splits=np.array(splits),
        gallery_splits=("train",) if authors_validation else ("train", "validation"),
        problems=problems,
        warnings=notes,
        report=cache / "report.csv",
        layout=layout,
        coarse=[printable(found.coarse[name]) for name in number if found.coarse],
        folder=found.folder,
    )


def decode_image(path, size):
    """One file as a (size, size, 3) uint8 RGB array: upright, sRGB, over white, made square.

    Of an animation the first picture. What `load_images` lists as a warning is a UserWarning.
    Raises OSError where the file cannot be opened, ValueError where it is no file or cannot be
    decoded, naming the file, the reason and the remedy.
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


def on_white(images, share):
    """Images (n, s, s, 3) uint8 at `share` of their size, above 0 to 1, in the middle of white.

    A catalogue shows a product as large as it can be; a photograph of a shelf does not. Raises
    ValueError for another share. Explained in notebook 05, "One picture a class".
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: a share of the picture's own size, above 0, at most 1")
    if share == 1:
        return images
    side = images.shape[1]
    inner = max(1, round(share * side))
    before = (side - inner) // 2
    shrunk = keras.ops.image.resize(np.float32(images), (inner, inner), antialias=True)
    made = np.full_like(images, 255)
    made[:, before : before + inner, before : before + inner] = np.clip(np.rint(shrunk), 0, 255)
    return made


def _list_images(dataset, data_home, layout):
    """The `Listing` of one of `DATASETS`, or of a folder; nothing is decoded."""
    source = DATASETS.get(str(dataset))
    if not source:
        return read_folder(Path(dataset).expanduser().absolute(), layout)
    if layout != "auto":
        raise ValueError(f"layout={layout!r} is for a folder of images: {dataset} has its own")
    folder = fetch(str(dataset), data_home)
    if str(dataset) == "grocery":
        return _grocery(folder)
    found = read_folder(folder, "classes")
    _leave_out(source, found)
    return found


def _grocery(folder):
    """The authors' splits and coarse classes; their iconic picture of a class as "reference"."""
    classes, pictures = grocery_lists(folder)
    entries = [(str(folder / icon), "reference", name) for name, _, icon in classes.values()]
    entries += [(str(folder / path), split, classes[c][0]) for path, split, c in pictures]
    entries.sort(key=lambda e: (e[2], e[1], e[0]))
    coarse = {name: group for name, group, _ in classes.values()}
    found = Listing(folder, entries, "the authors' lists", coarse=coarse)
    said = json.dumps([classes, pictures])
    if hashlib.sha256(said.encode()).hexdigest() != GROCERY_LISTS:
        remedy = "nothing, if you changed them; else delete the folder, to fetch it again"
        found.warn(folder, "its lists are not those of the authors' commit", remedy)
    return found


def _leave_out(source, found):
    """Drop the classes that this dataset, as `DATASETS` has it, does not count."""
    counts = {}
    for _, _, name in found.entries:
        counts[name] = counts.get(name, 0) + 1
    out = {n for n, k in counts.items() if n in source.leave_out or k < source.at_least}
    if out:
        few = f" or of fewer than {source.at_least} images" * (source.at_least > 1)
        reason = f"{len(out)} classes, {sum(counts[n] for n in out)} images left out: "
        reason += (", ".join(source.leave_out) or "none by name") + few
        found.warn(found.folder, reason, "nothing: so this dataset is defined here")
        found.aside.append(f"{len(out)} classes")
    found.entries = [e for e in found.entries if e[2] not in out]


# ------------------------------------------------------------------------------- the cache, toys


def _load_toys(size, seed, cache_dir, seen=80, validation=12, unseen=24):
    """Of a seen class every fourth image is for test; the other classes are held out whole.

    32 images of a seen class, so that 24 are left to train on, and 24 of each other class.
    """
    sizes = [32] * seen + [24] * (validation + unseen)
    recipe = Path(toys.__file__).read_text("utf-8") + str((size, seed, sizes))
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
    layout = describe(Listing(ROOT, level="drawn, no folder"), names, labels, splits)
    return ImageDataset(
        "toys", images, labels, names, paths, splits, factors=factors, layout=layout
    )
