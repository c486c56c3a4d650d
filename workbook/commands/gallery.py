"""A gallery on the command line: build, identify, enroll, remove and merge.

Notebook 6, "Strangers and galleries", explains what a gallery is.
"""

import csv
import glob
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_utils import embed
from workbook.data.folder_layout import list_image_files, refuse_gallery, require_images
from workbook.data.images import load_images
from workbook.gallery import storage
from workbook.gallery.calibration import FEWEST
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery, Match
from workbook.gallery.images import read_image
from workbook.gallery.index import LEAST_RECALL, PAYS_FROM, advise_index
from workbook.models.backbones import LITE, NAMES
from workbook.models.mixture import build_plain_model
from workbook.models.saved_models import load_model
from workbook.settings import read_config
from workbook.support.atomic_files import atomic_file, check_replaceable
from workbook.support.folder_lock import hold_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import list_first, normalize_label, printable

COLUMNS = ("path", "label", "distance", "probability", "nearest", "entry", "error")  # of the table
HEADER = ",".join(f'"{name}"' for name in COLUMNS)  # by it a table of this program is recognised
HEADERS = {HEADER, HEADER.replace('"probability",', "")}  # as earlier versions wrote it, too
WAIT = 600.0  # seconds to wait for another process that changes the same gallery
TOGETHER = 64  # images that are named at a time
MOST_COMPARED = 20_000  # entries; comparing each with each of more takes minutes


def build(model: str, images: str, folder: str, prototypes: bool = False) -> None:
    """Make a gallery of a folder of class folders.

    Threshold and probabilities rest on the images of `test` folders if there are `FEWEST` of them,
    else on the entries, leave-one-out. Entries that were added by hand to a gallery that is already
    in `folder` are kept.

    Parameters
    ----------
    model
        The file of a saved embedding; or a backbone's name, as in `BACKBONE`, for its features as
        they are, without a training.
    images
        A folder with one sub-folder per class, or a table of file names and labels.
    folder
        Where the gallery goes.
    prototypes
        Whether images are compared with one mean per class instead of with every image.

    Raises
    ------
    FileNotFoundError
        If there is no such model, folder or table.
    OSError, ValueError
        If the folder cannot be written to, for a label that no class can have, and if entries were
        added by hand to a gallery of another model, so that they cannot be kept.
    """
    source = Path(images).expanduser().resolve()
    is_file = Path(model).is_file()
    if not is_file and model not in NAMES:
        raise FileNotFoundError(
            f"{printable(model)}: no such model; give an embedding.keras that notebook 04 saved, "
            f"or the name of a backbone, such as {LITE}"
        )
    require_images(source)
    _check_target(Path(folder))
    config = read_config() if is_file else read_config(dataset=str(source), backbone=model)
    plain = None if is_file else build_plain_model(config, train_from=None)
    gallery = Gallery(plain or load_model(model), prototypes)
    data = load_images(
        source, gallery.size, cache_dir=config.runs / "cache", layout=config.layout,
        columns=config.columns,
    )  # fmt: skip
    vectors, test = embed(gallery.model, data.images), data.where("test")
    if data.test_is_given and len(test) >= FEWEST:
        # they are compared with the others before they become entries, too
        measured = Gallery(gallery.model, prototypes)
        measured.add_dataset(data, vectors, np.setdiff1d(np.arange(len(vectors)), test))
        test = test[measured.find_copies(vectors[test]) < 0]
        measured.fit_threshold(vectors[test], np.array(data.class_names)[data.labels[test]])
        gallery.threshold, gallery.policy = measured.threshold, measured.policy
        gallery.trials = measured.trials
    left_out = gallery.add_dataset(data, vectors)
    if gallery.trials is None:
        gallery.fit_threshold()
    count = len(gallery.labels)
    gallery.save_over(folder)
    print(f"\n{count} images of {len(data.class_names)} classes in {printable(folder)}")
    if prototypes:
        print("images are compared with one mean per class; the images are kept")
    if not is_file:
        print(f"features of {model} as they are: nothing was trained on these images")
    print(gallery.describe_threshold())
    print(gallery.describe_probability())
    kinds = (("not read", data.problems), ("left out", left_out), ("warning", data.warnings))
    for kind, rows in kinds:
        for row in rows:
            print(f"  {kind}: {row['path']}: {row['reason']}: {row['remedy']}")
    print(f"report: {printable(data.report)}")


def enroll(folder: str, label: str, images: Sequence[str], catalogue: bool = False) -> None:
    """Add images (files, folders) as entries called `label` to the gallery in `folder`.

    An entry keeps the last parts of its path, at least two and as many as tell it from other
    entries. With `catalogue` each image is entered at `CATALOGUE_SIZES`.

    Raises
    ------
    OSError, ValueError
        For what is no image, for an image that is an entry already, and for a label that no class
        can have. Nothing is changed then.
    """
    storage.require_gallery(Path(folder))
    label = normalize_label(label)
    _check_is_no_image(label)
    paths = list(dict.fromkeys(path.resolve() for path in find_images(images)))

    def add(gallery: Gallery) -> str:
        sizes = CATALOGUE_SIZES if catalogue else (1,)
        embeddings, hashes = gallery.embed_images(paths, sizes)
        short = shorten_paths(paths, gallery.paths)
        _check_no_entry(gallery, paths, label, embeddings[: len(paths)], hashes)
        classes = set(gallery.labels.tolist())
        similar = {one for one in classes if one.casefold() == label.casefold()}
        gallery.add_embeddings(
            embeddings,
            [label] * len(embeddings),
            short * len(sizes),
            hashes * len(sizes),
            enrolled=True,
        )
        count = int((gallery.labels == label).sum())
        entries = _count(count, "entry", "entries")
        shown = f"{printable(label)} has {entries}, the gallery {len(gallery.labels)}"
        notes = [
            f"\nnote: {printable(other)} is another class, because capital letters count"
            for other in similar - {label}
        ]
        return f"{_count(len(paths), 'image')} added; {shown}{''.join(notes)}"

    _change(folder, "adding entries", add)


def remove(folder: str, label: str | None = None, image: str | None = None) -> None:
    """Remove a class, or an image at all its sizes, from the gallery in `folder`.

    Parameters
    ----------
    label
        The class to remove.
    image
        An image file whose entries to remove, whatever they are called; or an entry's path as
        `identify` shows it.

    Raises
    ------
    ValueError
        If no entry fits, or if neither is given.
    """
    if (label is None) == (image is None):
        raise ValueError("say what to remove: either --label or --image")

    def take_out(gallery: Gallery) -> str:
        if label is not None:
            count = gallery.remove(label=label)
        elif image in gallery.paths:
            count = gallery.remove(path=image)
        else:
            count = gallery.remove(image=image)
        return f"{_count(count, 'entry', 'entries')} removed; the gallery has {len(gallery.labels)}"

    _change(folder, "removing entries", take_out)


def merge(folder: str, other: str) -> None:
    """Add the entries of the gallery in `other` to that in `folder`; both must be of one model.

    Raises
    ------
    ValueError
        For galleries of different models, and for an image that has two labels in the two.
    """
    storage.require_gallery(Path(folder))
    more = Gallery.load(other)

    def add(gallery: Gallery) -> str:
        count = gallery.merge(more)
        return (
            f"{_count(count, 'entry', 'entries')} added, already in there: "
            f"{len(more.labels) - count}; the gallery has {len(gallery.labels)}"
        )

    _change(folder, "merging galleries", add)


def _change(folder: str, purpose: str, change: Callable[[Gallery], str]) -> None:
    """Load, change and save a gallery under its lock; print what was done and what still holds.

    The threshold stays. What it lets in and what a probability rests on is measured again, as far
    as the entries can tell.
    """
    storage.require_gallery(Path(folder))
    with hold_folder(folder, purpose, WAIT):
        gallery = Gallery.load(folder)
        before = gallery.measure_let_in() if len(gallery.labels) <= MOST_COMPARED else None
        done, now = change(gallery), None
        if len(gallery.labels) <= MOST_COMPARED:
            gallery.measure_entries_again()
            now = gallery.measure_let_in()
        gallery.save(folder)
    print(done)
    if before is not None and now is not None:
        print(
            f"the threshold stays {gallery.threshold:.3f}; strangers let in, each class left out "
            f"in turn: before {before:.1%}, now {now:.1%}"
        )
    print(gallery.describe_probability())


def index(folder: str) -> None:
    """Build an index of the gallery in `folder`, by which `identify` answers faster.

    Raises
    ------
    FolderInUseError
        If another process changed the gallery meanwhile.
    ValueError
        If faiss is not installed, or if the gallery has too few entries to need an index.
    """
    storage.require_gallery(Path(folder))
    with hold_folder(folder, "building an index", WAIT):
        gallery = Gallery.load(folder)
        if gallery.needs_saving:
            gallery.save(folder)
        start = time.perf_counter()
        measured = gallery.build_index()
    seconds = time.perf_counter() - start
    assert gallery.index is not None
    searched, lists = gallery.index.lists
    print(
        f"index of {len(gallery.labels):,} entries, built in {seconds:.0f} s. With entries "
        f"as queries it finds the nearest in {measured['recall_at_1']:.1%} of the cases, and the "
        f"nearest of another label in {measured['recall_of_others']:.1%}; a query takes "
        f"{measured['milliseconds']:.1f} ms in {searched} of {lists} lists, and "
        f"{measured['milliseconds_exact']:.1f} ms where all entries are compared"
    )
    if min(measured["recall_at_1"], measured["recall_of_others"]) < LEAST_RECALL:
        print(f"CAUTION: less than {LEAST_RECALL:.0%}; where all are compared, nothing is missed")


def identify(
    folder: str,
    images: Sequence[str],
    k: int = 5,
    table: str | None = None,
    threshold: float | None = None,
    false_accepts: float | None = None,
    false_rejects: float | None = None,
) -> None:
    """Print the label and the k nearest entries of each image; for a folder, write a CSV file.

    Parameters
    ----------
    images
        Files, and folders whose files are all identified.
    table
        Where the CSV file goes. The default for a folder is `<folder>-identified.csv` beside it.
    threshold, false_accepts, false_rejects
        At most one of them replaces the gallery's threshold for this call: a squared distance
        (infinity accepts all), or the largest share of strangers to accept or of known images to
        refuse, by the distances that the gallery holds.

    Raises
    ------
    OSError, ValueError
        Before anything is identified, if the table cannot be written or would replace a file
        that is no such table. At the end, if images could not be read: they do not stop the
        others.
    """
    if k < 1:
        raise ValueError(f"-k {k}: ask for at least 1")
    paths = find_images(images)
    folders = [Path(image).resolve() for image in images if Path(image).is_dir()]
    if folders and not table:
        table = str(folders[0].with_name(f"{folders[0].name}-identified.csv"))
    if table:
        check_table(Path(table))
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"--threshold {threshold}: give a distance of 0 or more")
    for error, share in (("accepts", false_accepts), ("rejects", false_rejects)):
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"--max-false-{error} {share}: give a share from 0 to below 1")
    gallery, rows = Gallery.load(folder), []
    if threshold is not None:
        gallery.threshold = threshold if np.isfinite(threshold) else None
    elif false_accepts is not None or false_rejects is not None:
        gallery.choose_threshold(false_accepts, false_rejects)
    bar = keras.utils.Progbar(len(paths), unit_name="image") if table else None
    for start in range(0, len(paths), TOGETHER):
        some = paths[start : start + TOGETHER]
        rows += _identify_some(gallery, some, k, quiet=bool(table))
        if bar:
            bar.update(len(rows))
    if table:
        with atomic_file(table) as part, open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
        named = [row["label"] for row in rows if "label" in row]
        unread = f", {len(rows) - len(named)} not read" if len(named) < len(rows) else ""
        counts = f"{_count(len(named), 'image')}, {named.count('unknown')} of them unknown{unread}"
        print(f"\n{counts}, in {printable(table)}")
    if threshold == np.inf:
        print("no threshold: no image is called unknown, as --accept-all says")
    else:
        print(gallery.describe_threshold())
    print(gallery.describe_probability())
    if len(gallery.labels) >= PAYS_FROM and gallery.index is None:
        print(f"all {len(gallery.labels):,} entries were compared; {advise_index(folder)}")
    if failed := [row for row in rows if "error" in row]:
        where = "the column `error` says why" if table else "see above"
        raise ValueError(f"{len(failed)} of {len(rows)} images could not be read: {where}")


def _identify_some(
    gallery: Gallery, paths: Sequence[Path], k: int, quiet: bool
) -> list[dict[str, Any]]:
    """Return the table's rows for some images, and print the answers unless `quiet`."""
    rows: list[dict[str, Any]] = [{"path": printable(path)} for path in paths]
    pixels = {}
    for number, path in enumerate(paths):
        try:
            pixels[number] = read_image(path, gallery.size)
        except (OSError, ValueError) as error:  # which names the file
            rows[number]["error"] = printable(error)
    answers = {}
    if pixels:
        embeddings, _ = gallery.embed_images(list(pixels.values()))
        answers = dict(zip(pixels, gallery.identify_embeddings(embeddings, k)))
    for number, row in enumerate(rows):
        if not quiet:
            print(_describe(row, answers.get(number), gallery.threshold))
        if match := answers.get(number):
            row |= {"label": printable(match.label), "distance": f"{match.distance:.4f}"}
            if match.probability is not None:
                row["probability"] = f"{match.probability:.4f}"
            label, _, entry = match.nearest[0]
            row |= {"nearest": printable(label), "entry": printable(entry or "")}
    return rows


def _describe(row: dict[str, Any], match: Match | None, threshold: float | None) -> str:
    """Return the lines that answer for one image."""
    if match is None:
        return f"ERROR {row['error']}"
    limit = "" if threshold is None else f", threshold {threshold:.3f}"
    limit += "" if match.probability is None else f", probability {match.probability:.1%}"
    lines = [f"{row['path']}: {printable(match.label)} (distance {match.distance:.3f}{limit})"]
    for label, distance, entry in match.nearest:
        lines.append(printable(f"  {distance:.3f} {label} {entry or ''}").rstrip())
    return "\n".join(lines)


def check_table(path: Path) -> None:
    """Raise OSError or ValueError unless a table can be written to `path` without losing a file."""
    shown = printable(path)
    if _is_image_name(path.name):
        raise ValueError(
            f"{shown} is the name of an image, not of a table: write --csv TABLE.csv, and the "
            "images before it or after --"
        )
    beginnings = [header.encode() + end for header in HEADERS for end in (b"\r\n", b"\n")]
    check_replaceable(path, beginnings, "a table that identify wrote")
    storage.check_folder_writable(path.parent)


def find_images(images: Sequence[str]) -> list[Path]:
    """Return the files behind the words of a command line: files, folders and patterns.

    Of a folder these are the files that `load_images` would try to decode. Raises ValueError for a
    folder or a pattern without files, and for a gallery.
    """
    paths: list[Path] = []
    for image in map(Path, images):
        if image.is_dir():
            refuse_gallery(image)
            found = list_image_files(image)
        elif "*" in str(image) and not image.exists():  # some shells, as that of Windows, leave
            found = list(map(Path, sorted(glob.glob(str(image)))))  # patterns as they are
        else:
            found = [image]
        if not found:
            raise ValueError(f"{printable(image)}: no files there; give images, or their folder")
        paths += found
    return paths


def shorten_paths(paths: Sequence[Path], taken: Iterable[str]) -> list[str]:
    """Return for each path its last parts: at least two, and enough to tell it from all others.

    taken: the paths that other images have already.
    """
    used, short = set(map(str, taken)), []
    for path in paths:
        parts = path.parts[1:]  # without the drive or root
        count = next(
            (n for n in range(2, len(parts)) if "/".join(parts[-n:]) not in used), len(parts)
        )
        short.append("/".join(parts[-count:]))
        used.add(short[-1])
    return short


def _check_target(folder: Path) -> None:
    """Raise OSError in one sentence unless the folder can be made, is empty or has a gallery."""
    existing = storage.find_existing(folder)
    if not existing.is_dir():
        raise NotADirectoryError(f"{printable(existing)} is a file: give a folder for the gallery")
    if existing == folder and not (folder / "gallery.json").is_file():
        others = sorted(path.name for path in folder.iterdir() if not _is_left_over(path))
        if names := list_first(others):
            raise FileExistsError(
                f"{printable(folder)} is no gallery and holds other files ({names}): give a new "
                "folder for the gallery"
            )
    storage.check_folder_writable(existing)


def _is_left_over(path: Path) -> bool:
    """Return whether a system, a lock or an interrupted save left this in a gallery's folder."""
    return path.name.startswith(".") or (path.is_file() and path.suffix in (".keras", ".npz"))


def _count(number: int, one: str, several: str | None = None) -> str:
    """Return "1 image" or "2 images"."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in Image.registered_extensions()


def _check_is_no_image(label: str) -> None:
    """Raise ValueError for a label that is an image, because then the label was left out."""
    is_image = _is_image_name(label)
    if not is_image and Path(label).is_file():
        try:
            is_image = read_image(label, 8) is not None
        except (OSError, ValueError):
            is_image = False
    if is_image:
        raise ValueError(
            f"{printable(label)} is an image, not the name of a class: the label comes before the "
            "images, as in: python -m workbook enroll GALLERY LABEL IMAGE ..."
        )


def _check_no_entry(
    gallery: Gallery,
    paths: Sequence[Path],
    label: str,
    embeddings: np.ndarray,
    hashes: Sequence[str],
) -> None:
    """Raise ValueError, naming its label, if one of the images is an entry already."""
    copies = gallery.find_copies(embeddings, hashes)
    for path, copy in zip(paths, copies):
        if copy >= 0:
            former = gallery.labels[copy]
            remedy = "it is not needed twice"
            if former != label:
                remedy = "remove that entry first, or leave this image out"
            raise ValueError(
                f'{printable(path)} is an entry already, as "{printable(former)}" '
                f"({printable(gallery.paths[copy] or 'without a path')}): {remedy}"
            )
