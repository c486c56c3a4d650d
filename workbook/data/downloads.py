"""Datasets that can be had by name: downloaded whole or not at all, verified, unpacked safely.

`images` reads them. Explained in notebook 01.
"""

import gzip
import stat
import tarfile
import urllib.error
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbook.support.atomic_files import DISK_FULL_ERRNOS, publish_folder, temporary_build_folder
from workbook.support.network import ATTEMPTS, time_limit
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable


@dataclass(frozen=True)
class Source:
    """A dataset by name: what a reader wants to know, and what `fetch` needs."""

    licence: str
    size: str
    images: int
    classes: int
    address: str
    sha256: str | None = None  # None: checked by its content
    folder: str = ""  # its name below the data home
    nested: str = ""  # an archive within the archive
    inside: str = ""  # where the folder is once all is unpacked
    leave_out: tuple = ()  # classes
    at_least: int = 1  # images a class


_COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
DATASETS = {
    "toys": Source("MIT", "drawn, no download", 3424, 116, "toys.py"),
    "grocery": Source(
        "MIT", "GitHub does not say", 5502, 81,
        f"https://github.com/marcusklasson/GroceryStoreDataset/archive/{_COMMIT}.zip",
        None, "grocery_store", "", f"GroceryStoreDataset-{_COMMIT}/dataset",
    ),
    "caltech101": Source(
        "CC BY 4.0", "137 MB", 8242, 100,
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
        "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
        "caltech101", "caltech-101/101_ObjectCategories.tar.gz", "101_ObjectCategories",
        ("BACKGROUND_Google", "Faces_easy"),  # no class; the faces of "Faces", cut out
    ),
    "lfw": Source(  # the file, address and hash of scikit-learn's fetch_lfw_people
        "none stated, for research", "233 MB", 6733, 610,
        "https://ndownloader.figshare.com/files/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
        "lfw", "", "lfw_funneled", at_least=4,
    ),
}  # fmt: skip
# GitHub packs an archive anew whenever it is asked, so that its bytes have no hash for good. Its
# address names the commit; of the content the lists are known, see `grocery_lists`
GROCERY_LISTS = "dfd79fe01ebd11af9bd843a9e3f2c51e6e4ec40551ab04b51e684d009164b8d6"
GROCERY_LINES = {"classes.csv": 82, "train.txt": 2640, "val.txt": 296, "test.txt": 2485}
UNPACKED = 4 * 10**9  # bytes: ten times what the largest of these archives holds


def fetch(name, data_home):
    """The folder of a dataset below `data_home`, downloaded whole or not at all."""
    source, target = DATASETS[name], Path(data_home).absolute() / DATASETS[name].folder
    check = _check_grocery if name == "grocery" else lambda folder: None
    if target.is_dir():
        try:
            check(target)
        except ValueError as error:
            raise ValueError(f"{target} is incomplete: {error}. Delete it and run again") from error
        return target
    try:
        with temporary_build_folder(target) as work:
            _unpack(_download(source, work), work / "all")
            if source.nested:
                _unpack(work / "all" / source.nested, work / "all")
            if not (work / "all" / source.inside).is_dir():
                raise ValueError(f"the archive holds no {source.inside}")
            check(work / "all" / source.inside)
            publish_folder(work / "all" / source.inside, target)
    except Exception as error:
        raise FileNotFoundError(
            f"{name}: {source.address} could not be had: {printable(error)}. Nothing half-made is "
            f"left. Run again, or put the dataset into {target}, or set SIAMESE_DATA_HOME to the "
            f"folder that holds {target.name}/, or do without a network: SIAMESE_DATASET=toys"
        ) from error
    return target


def _download(source, folder):
    """The file behind a source's address, in `folder`, by Keras; once more if the line is cut."""
    with time_limit():
        for attempt in range(1, ATTEMPTS + 1):
            try:
                path = keras.utils.get_file(
                    "archive", source.address, file_hash=source.sha256, hash_algorithm="sha256",
                    cache_dir=folder, cache_subdir="",
                )  # fmt: skip
                break
            except ValueError as error:  # the hash; or Keras 3.10's, for a file of no bytes
                if not (folder / "archive").is_file():
                    raise ValueError(f"an empty file came ({error})") from error
                _refuse_web_page(folder / "archive")
                raise ValueError(
                    f"the file's sha256 is not {source.sha256}: it was changed or damaged"
                ) from error
            except Exception as error:
                answered = isinstance(error.__context__, urllib.error.HTTPError)  # as with 404
                if (
                    answered
                    or getattr(error, "errno", None) in DISK_FULL_ERRNOS
                    or attempt == ATTEMPTS
                ):
                    raise
                print(f"{printable(error)}: trying again")
    _refuse_web_page(Path(path))
    return Path(path)


def _refuse_web_page(path):
    with open(path, "rb") as file:
        if file.read(200).lstrip().startswith(b"<"):
            raise ValueError(
                "a web page came instead of the archive (a login, a notice, a moved file): open "
                "the address in a browser"
            )


def _unpack(archive, folder):
    """Unpack a zip or tar into `folder`.

    Raises ValueError, before anything is written, for an entry that would leave the folder, for one
    that is neither a file nor a folder (our datasets have no links, and one that leads elsewhere
    within the archive has been a way out of it), and for more than `UNPACKED` bytes; and for an
    archive that is damaged.
    """
    size = 0

    def check(name, plain, bytes_in_it):
        nonlocal size
        size += bytes_in_it
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise ValueError(f"the archive is unsafe: entry {name!r} leaves the folder")
        if not plain:
            raise ValueError(f"the archive is unsafe: entry {name!r} is a link or the like")
        if size > UNPACKED:
            raise ValueError(f"the archive is unsafe: it unpacks to over {UNPACKED / 1e9:g} GB")

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                for entry in content.infolist():
                    is_link = stat.S_ISLNK(entry.external_attr >> 16)
                    check(entry.filename, not is_link, entry.file_size)
                content.extractall(folder)  # checks the sums, and no more than the size
        else:
            with tarfile.open(archive) as content:
                for entry in content:
                    check(entry.name, entry.isfile() or entry.isdir(), entry.size)
                # the filter drops set-uid bits and the like; Python has it from 3.11.4 on
                filtered = hasattr(tarfile, "data_filter")
                content.extractall(folder, **({"filter": "data"} if filtered else {}))
    except getattr(tarfile, "FilterError", ()) as error:
        raise ValueError(f"the archive is unsafe: {error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"the archive is damaged: {error or type(error).__name__}") from error


def _check_grocery(folder):
    """ValueError unless the lists are as long as the authors' and all their pictures are here."""
    for name, lines in GROCERY_LINES.items():
        path = folder / name
        found = len(path.read_text("utf-8").splitlines()) if path.is_file() else 0
        if found != lines:
            raise ValueError(f"{name} has {found} lines, not {lines}")
    classes, pictures = grocery_lists(folder)
    for path in (*(icon for *_, icon in classes.values()), *(path for path, _, _ in pictures)):
        if ".." in Path(path).parts or Path(path).is_absolute() or ":" in path:
            raise ValueError(f"its lists name {path!r}, which is not in the folder")
        if not (folder / path).is_file():
            raise ValueError(f"its lists name {path!r}, which is not there")


def grocery_lists(folder):
    """What the authors' lists say: {class id: [name, coarse name, its icon]}, [[path, split, id]].

    Paths are relative to the folder. Raises ValueError for lists of another form.
    """
    rows = (folder / "classes.csv").read_text("utf-8").splitlines()[1:]
    classes = {int(row[1]): [row[0], row[2], row[4].strip("/ ")] for row in map(_cells, rows)}
    pictures = []
    for split in ("train", "validation", "test"):
        file = folder / f"{split[:3] if split == 'validation' else split}.txt"
        for path, label, _ in map(_cells, file.read_text("utf-8").splitlines()):
            pictures.append([path, split, int(label)])
    if unknown := {label for *_, label in pictures} - classes.keys():
        raise ValueError(f"its lists name the class {min(unknown)}, which classes.csv does not")
    return classes, pictures


def _cells(line):
    return [cell.strip() for cell in line.split(",")]
