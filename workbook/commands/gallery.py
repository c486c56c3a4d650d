"""A gallery on the command line: `python -m workbook build`, `enroll` and `identify`.

Explained in notebook 05, "A gallery to take away".
"""

import csv
import glob
from pathlib import Path

from siamese_utils import embed
from workbook.data.images import load_images
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery
from workbook.models.saved_models import load_model
from workbook.settings import read_config
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable


def build(model, images, folder):
    """Make a gallery of a folder of class folders, with the embedding saved in the file `model`.

    Raises FileNotFoundError for no such model, ValueError for a class called "unknown".
    """
    if not Path(model).is_file():
        raise FileNotFoundError(
            f"{printable(model)}: no such model; give an embedding.keras that notebook 04 saved"
        )
    gallery = Gallery(load_model(model))
    images = Path(images).expanduser().resolve()
    config = read_config()
    data = load_images(images, gallery.size, cache_dir=config.runs / "cache", layout=config.layout)
    names = [data.class_names[label] for label in data.labels]
    gallery.add_embeddings(embed(gallery.model, data.images), names, data.short_paths)
    gallery.fit_threshold()
    gallery.save(folder)
    print(f"\n{len(names)} images of {len(data.class_names)} classes in {printable(folder)}")
    print(gallery.describe_threshold())
    for kind, rows in (("not read", data.problems), ("warning", data.warnings)):
        for row in rows:
            print(f"  {kind}: {row['path']}: {row['reason']}: {row['remedy']}")
    print(f"report: {printable(data.report)}")


def enroll(folder, label, images, catalogue=False):
    """Add pictures (files, folders) as entries called `label` to the gallery in `folder`.

    An entry keeps the last two parts of its path, not where that is on this machine. catalogue:
    each is entered at `CATALOGUE_SIZES`. Raises OSError or ValueError, and changes nothing, for
    what is no picture or an entry already.
    """
    gallery = Gallery.load(folder)
    paths = list(dict.fromkeys(path.resolve() for path in _pictures(images)))
    sizes = CATALOGUE_SIZES if catalogue else (1,)
    embeddings = gallery.embeddings_of(paths, sizes)
    if len(gallery.labels) and (twice := gallery.holds(embeddings[: len(paths)])).any():
        path = printable(paths[twice.argmax()])
        raise ValueError(f"{path} is an entry already: it would be in there twice")
    watched = gallery.threshold is not None and len(gallery.labels)
    former = gallery.leave_one_out() if watched else {}
    short = ["/".join(path.parts[-2:]) for path in paths] * len(sizes)
    gallery.add_embeddings(embeddings, [label] * len(short), short)
    gallery.save(folder)
    count, label = int((gallery.labels == label).sum()), printable(label)
    total = len(gallery.labels)
    print(f"{len(paths)} pictures added; {label} has {count} entries, the gallery {total}")
    if watched:
        before, now = (1 - x["unknown_rejection"] for x in (former, gallery.leave_one_out()))
        print(f"strangers let in, each class left out in turn: before {before:.1%}, now {now:.1%}")


def identify(folder, images, k, table=None):
    """Print the label and the k nearest entries of each picture; of a folder, write a CSV file.

    images: files, and folders, all of whose files are asked. table: where the CSV goes (default
    for a folder: `<folder>-identified.csv` beside it). A picture that cannot be read does not stop
    the others; ValueError at the end says how many those were.
    """
    gallery, paths, rows = Gallery.load(folder), _pictures(images), []
    folders = [Path(image).resolve() for image in images if Path(image).is_dir()]
    if folders and not table:
        table = folders[0].with_name(f"{folders[0].name}-identified.csv")
    bar = keras.utils.Progbar(len(paths), unit_name="image") if table else None
    for path in paths:
        rows.append(_answer(gallery, path, k, quiet=bool(table)))
        if bar:
            bar.update(len(rows))
    if table:
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
        unknown = sum(row.get("label") == "unknown" for row in rows)
        print(f"\n{len(rows)} pictures, {unknown} of them unknown, in {printable(table)}")
    print(gallery.describe_threshold())
    if failed := [row for row in rows if "error" in row]:
        where = "its column `error` says why" if table else "see above"
        raise ValueError(f"{len(failed)} of {len(rows)} pictures could not be read: {where}")


COLUMNS = ("path", "label", "distance", "nearest", "entry", "error")  # of the CSV


def _answer(gallery, path, k, quiet):
    """A row of `COLUMNS` for one picture, printed unless `quiet`."""
    row = {"path": printable(path)}
    try:
        match = gallery.identify(path, k)
    except (OSError, ValueError) as error:
        if not quiet:
            print(f"ERROR {printable(error)}")  # which names the file
        return row | {"error": printable(error)}
    if not quiet:
        limit = "" if gallery.threshold is None else f", threshold {gallery.threshold:.3f}"
        print(f"{row['path']}: {printable(match.label)} (distance {match.distance:.3f}{limit})")
        for label, distance, entry in match.nearest:
            print(printable(f"  {distance:.3f} {label} {entry or ''}").rstrip())
    label, distance, entry = match.nearest[0]
    row |= {"label": printable(match.label), "distance": f"{distance:.4f}"}
    return row | {"nearest": printable(label), "entry": printable(entry or "")}


def _pictures(images):
    """The files behind the words of a command line: files, all files of folders, and patterns.

    Raises ValueError for a folder or a pattern without files. Hidden ones are left aside.
    """
    paths = []
    for image in map(Path, images):
        if image.is_dir():
            below = ((path, path.relative_to(image).parts) for path in sorted(image.rglob("*")))
            found = [
                path for path, parts in below
                if not path.is_dir() and not any(part.startswith(".") for part in parts)
            ]  # fmt: skip
        elif "*" in str(image) and not image.exists():  # some shells, as that of Windows, leave
            found = list(map(Path, sorted(glob.glob(str(image)))))  # patterns as they are
        else:
            found = [image]
        if not found:
            raise ValueError(f"{printable(image)}: no files there; give pictures, or their folder")
        paths += found
    return paths
