"""Omniglot: handwritten characters of many alphabets, and the official one-shot trials.

The zip files of Lake et al. (2015) are read as they are, without unpacking. Notebook 7 uses them.
"""

import hashlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from workbook.data.downloads import DATASETS, check_entries, fetch
from workbook.data.images import ImageDataset
from workbook.support.text import printable

SIDE = 35  # pixels: a third of the 105 of the files, so that every pixel is the mean of nine
FILE_SIDE = 105
DRAWERS = 20  # each character was drawn once by each of 20 people
WAYS, RUNS = 20, 20
MINIMAL = {  # the alphabets of the two minimal sets; each stands for a whole training
    "small1": ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"],
    "small2": ["Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"],
}
MAX_UNPACKED = 10**8  # bytes; the largest of these archives holds about 5 MB
BACKGROUND = re.compile(r"[^/]+/(?P<alphabet>[^/]+)/(?P<character>character\d\d)/\d{4}_\d\d\.png")
TRIAL = re.compile(r"run(\d\d)/(test/item|training/class)(\d\d)\.png")


@dataclass(frozen=True)
class Trials:
    """One-shot trials: which of 20 characters, each shown once, does a drawing show?

    Attributes
    ----------
    support : (runs, 20, side, side, 1) uint8, ink 0..255; one example of each character.
    queries : (runs, 20, side, side, 1) uint8; drawings by another person.
    answers : (runs, 20) int64; the row of `support` that shows the query's character.
    """

    support: np.ndarray
    queries: np.ndarray
    answers: np.ndarray


def load_background(dataset: str, data_home: str | Path) -> ImageDataset:
    """Load the alphabets that are trained on, one class per character.

    The two minimal sets have two alphabets in common. Equal images are kept once.

    Parameters
    ----------
    dataset : "omniglot", both minimal sets; or "omniglot-full", all 30 background alphabets.
    data_home : the folder that holds or receives datasets.

    Returns
    -------
    ImageDataset with images (n, 35, 35, 1), ink 0..255. All of them are in the split "train".
    `coarse` names the alphabet of each class.

    Raises
    ------
    FileNotFoundError : if the files are not there and cannot be downloaded.
    ValueError : if a file is damaged, unsafe or not what it should be; the message names it.
    """
    source, folder = DATASETS[dataset], fetch(dataset, data_home)
    digests, images, names, paths = set(), [], [], []
    for file in source.files:
        if file.name == "all_runs.zip":
            continue
        for entry, content in sorted(_read_archive(folder / file.name).items()):
            if not (parts := BACKGROUND.fullmatch(entry)):
                raise _explain(folder / file.name, f"{entry!r} is no image of a character")
            image = _read_image(folder / file.name, entry, content)
            digest = hashlib.sha256(image.tobytes()).digest()
            if digest not in digests:
                digests.add(digest)
                images.append(_shrink(image))
                names.append(f"{parts['alphabet']}/{parts['character']}")
                paths.append(f"{file.name}/{entry}")
    class_names, labels, counts = np.unique(names, return_inverse=True, return_counts=True)
    found = (len(images), len(class_names))
    if found != (source.images, source.classes) or (counts != DRAWERS).any():
        raise _explain(
            folder,
            f"{found[0]} different images of {found[1]} characters, but {source.images} of "
            f"{source.classes} are expected, {DRAWERS} of each",
        )
    return ImageDataset(
        name=dataset,
        images=np.stack(images),
        labels=labels.astype(np.int32),
        class_names=class_names.tolist(),
        paths=paths,
        splits=np.full(len(images), "train"),
        coarse=[name.partition("/")[0] for name in class_names.tolist()],
        folder=folder,
    )


def load_trials(dataset: str, data_home: str | Path) -> Trials:
    """Load the 400 official trials: 20 runs of 20 characters of one alphabet, by two people.

    The parameters are those of `load_background`, and so are the errors.
    """
    path = fetch(dataset, data_home) / "all_runs.zip"
    contents, images, pairs = _read_archive(path), {}, {}
    for entry, content in contents.items():
        if TRIAL.fullmatch(entry):
            images[entry] = _shrink(_read_image(path, entry, content))
        elif re.fullmatch(r"run\d\d/class_labels\.txt", entry):
            for line in content.decode("ascii", "replace").splitlines():
                query, _, answer = line.partition(" ")
                pairs[query] = answer.strip()
        else:
            raise _explain(path, f"{entry!r} is no part of a trial")
    numbers = [(run, item) for run in range(1, RUNS + 1) for item in range(1, WAYS + 1)]
    support = [f"run{run:02}/training/class{item:02}.png" for run, item in numbers]
    queries = [f"run{run:02}/test/item{item:02}.png" for run, item in numbers]
    if set(images) != {*support, *queries} or sorted(pairs) != queries:
        raise _explain(path, f"it does not hold {RUNS} runs of {WAYS} trials")
    row = {name: i for i, name in enumerate(support)}
    answers = np.array([row.get(pairs[name], -WAYS) for name in queries]).reshape(RUNS, WAYS)
    answers -= WAYS * np.arange(RUNS)[:, None]
    if (np.sort(answers) != np.arange(WAYS)).any():
        raise _explain(path, "its answers do not name each character of a run once")
    shape = (RUNS, WAYS, SIDE, SIDE, 1)
    return Trials(
        np.stack([images[name] for name in support]).reshape(shape),
        np.stack([images[name] for name in queries]).reshape(shape),
        answers,
    )


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the files of a zip archive into memory; ValueError for a damaged or unsafe one."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(archive.infolist(), MAX_UNPACKED)
            return {e.filename: archive.read(e) for e in archive.infolist() if not e.is_dir()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _explain(path, str(error)) from error


def _read_image(path: Path, entry: str, content: bytes) -> np.ndarray:
    """Decode a black-and-white drawing: (105, 105) bool, True where there is ink."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (FILE_SIDE, FILE_SIDE):  # before the pixels are decoded
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, not 105 x 105")
            return ~np.asarray(image.convert("1"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's, for a damaged PNG
        raise _explain(path, f"{entry!r}: {error}") from error


def _shrink(ink: np.ndarray) -> np.ndarray:
    """(105, 105) bool -> (35, 35, 1) uint8, 0..255: each pixel is the mean of nine."""
    parts = ink.reshape(SIDE, FILE_SIDE // SIDE, SIDE, FILE_SIDE // SIDE)
    return np.rint(255 * parts.mean(axis=(1, 3))).astype(np.uint8)[..., None]


def _explain(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{printable(path)} cannot be used: {printable(reason)}. Delete it and run again"
    )


def draw_on_paper(ink: np.ndarray) -> np.ndarray:
    """Turn ink (..., h, w, 1), 0..255, into black on white RGB images (..., h, w, 3), uint8."""
    return np.repeat(255 - np.asarray(ink, np.uint8), 3, axis=-1)


def alphabets(data: ImageDataset) -> list[str]:
    """Return the names of the alphabets in a dataset, sorted."""
    return sorted({data.coarse[label] for label in np.unique(data.labels)})


def keep_alphabets(data: ImageDataset, names: list[str]) -> ImageDataset:
    """Return a dataset of these alphabets alone. ValueError for a name that it does not have."""
    if unknown := sorted(set(names) - set(alphabets(data))):
        raise ValueError(f"no alphabet {unknown[0]!r}; there are {', '.join(alphabets(data))}")
    kept = np.flatnonzero(np.isin(np.array(data.coarse)[data.labels], names))
    numbers, labels = np.unique(data.labels[kept], return_inverse=True)
    return replace(
        data,
        images=data.images[kept],
        labels=labels.astype(np.int32),
        class_names=[data.class_names[i] for i in numbers],
        coarse=[data.coarse[i] for i in numbers],
        paths=[data.paths[i] for i in kept],
        splits=data.splits[kept],
    )


def add_classes(data: ImageDataset, mirrored: bool = True) -> ImageDataset:
    """Return a dataset with each image also mirrored, and all turned by 90, 180 and 270 degrees.

    A mirrored or turned character is a class of its own, so there are eight times as many classes,
    or four times as many without the mirrored ones. The first of them are the classes of `data`.
    """
    forms = {"": data.images}
    if mirrored:
        forms[", mirrored"] = data.images[:, :, ::-1]
    forms |= {
        f"{ending}, turned by {90 * turn} degrees": np.rot90(images, turn, axes=(1, 2))
        for turn in (1, 2, 3)
        for ending, images in forms.items()
    }
    return replace(
        data,
        images=np.concatenate(list(forms.values())),
        labels=np.concatenate([data.labels + i * len(data.class_names) for i in range(len(forms))]),
        class_names=[name + ending for ending in forms for name in data.class_names],
        coarse=data.coarse * len(forms),
        paths=data.paths * len(forms),
        splits=np.tile(data.splits, len(forms)),
    )


def draw_trials(data: ImageDataset, runs: int, seed: int) -> Trials:
    """Draw trials like the official ones from a dataset, for choosing settings.

    In each run, 20 characters of one alphabet and two of the 20 people are drawn; the alphabets
    take turns. In order of their paths, the images of a character are by the same people.

    Raises
    ------
    ValueError : if an alphabet has fewer than 20 characters.
    """
    rng, names = np.random.default_rng(seed), alphabets(data)
    by_character = np.argsort(data.labels, kind="stable").reshape(-1, DRAWERS)
    support, queries, answers = [], [], []
    for run in range(runs):
        alphabet = names[run % len(names)]
        own = np.flatnonzero(np.array(data.coarse) == alphabet)
        if len(own) < WAYS:
            raise ValueError(f"{alphabet} has {len(own)} characters; a run needs {WAYS}")
        shown, answer = rng.choice(own, WAYS, replace=False), rng.permutation(WAYS)
        first, second = rng.choice(DRAWERS, 2, replace=False)
        support.append(data.images[by_character[shown, first]])
        queries.append(data.images[by_character[shown[answer], second]])
        answers.append(answer)
    return Trials(np.stack(support), np.stack(queries), np.stack(answers))
