"""Datasets that can be downloaded by name: as a whole or not at all, verified, unpacked safely.

`images` reads them. Explained in notebook 01.
"""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pooch

from workbook.support.atomic_files import publish_folder, temporary_build_folder
from workbook.support.network import download
from workbook.support.text import printable


class File(NamedTuple):
    """A file of a dataset that is not one archive: its path below the address, and its hash."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Source:
    """A dataset with a name: what a reader wants to know of it, and what `fetch` needs."""

    licence: str
    size: str
    images: int
    classes: int
    address: str
    sha256: str | None = None  # None: the content is checked instead
    folder: str = ""  # its name in the data home
    nested: str = ""  # an archive within the archive
    inside: str = ""  # where the folder is once everything is unpacked
    leave_out: tuple[str, ...] = ()  # classes that are not counted
    at_least: int = 1  # images per class
    files: tuple[File, ...] = ()  # below the address; they are kept as they are


_TRIALS = File(
    "one-shot-classification/all_runs.zip",
    "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)
_OMNIGLOT = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/"
    "057f034baf2ecb8530bc5710e5a23584d2a519cc/python/"
)
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
        ("BACKGROUND_Google", "Faces_easy"),  # not a class; crops of "Faces"
    ),
    "lfw": Source(  # the file, address and hash of scikit-learn's fetch_lfw_people
        "none stated, for research", "233 MB", 6733, 610,
        "https://ndownloader.figshare.com/files/5976015",
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
        "lfw", "", "lfw_funneled", at_least=4,
    ),
    "omniglot": Source(  # both minimal sets of background alphabets, and the trials
        "MIT", "3.3 MB", 4840, 242, _OMNIGLOT, folder="omniglot", files=(
            File(
                "images_background_small1.zip",
                "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
            ),
            File(
                "images_background_small2.zip",
                "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
            ),
            _TRIALS,
        ),
    ),
    "omniglot-full": Source(  # the hash of its first file is the one that TensorFlow Datasets has
        "MIT", "9.8 MB", 19280, 964, _OMNIGLOT, folder="omniglot_full", files=(
            File(
                "images_background.zip",
                "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            ),
            _TRIALS,
        ),
    ),
}  # fmt: skip
# GitHub packs an archive anew for each request, so the hash of its bytes may change. The address
# names the commit instead, and the hash of the lists in the archive is known (see `grocery_lists`).
GROCERY_LISTS = "dfd79fe01ebd11af9bd843a9e3f2c51e6e4ec40551ab04b51e684d009164b8d6"
GROCERY_LINES = {"classes.csv": 82, "train.txt": 2640, "val.txt": 296, "test.txt": 2485}
MAX_UNPACKED = 4 * 10**9  # bytes: ten times what the largest of these archives holds


def is_own_folder(dataset: str) -> bool:
    """Return whether a dataset is a folder or table of the reader's own, not one of `DATASETS`."""
    return dataset not in DATASETS


def fetch(name: str, data_home: str | Path) -> Path:
    """Return the folder of one of `DATASETS`, downloaded as a whole or not at all.

    Parameters
    ----------
    name
        A name in `DATASETS`, except "toys", which are drawn.
    data_home
        The folder that holds one folder per dataset.

    Raises
    ------
    FileNotFoundError
        If the dataset cannot be downloaded, with the reason and what to do. Nothing incomplete is
        left.
    ValueError
        If the folder is there but incomplete.
    """
    source = DATASETS[name]
    target = Path(data_home).absolute() / source.folder
    check = _check_grocery if name == "grocery" else partial(_check_files, source)
    if target.is_dir():
        try:
            check(target)
        except ValueError as error:
            raise ValueError(f"{target} is incomplete: {error}. Delete it and run again") from error
        return target
    try:
        with temporary_build_folder(target) as work:
            if source.files:
                (work / "all").mkdir()
                for file in source.files:
                    target_file = work / "all" / file.name
                    _download_file(source.address + file.path, file.sha256, target_file)
            else:
                _download_file(source.address, source.sha256, work / "archive")
                _unpack(work / "archive", work / "all")
            if source.nested:
                _unpack(work / "all" / source.nested, work / "all")
            if not (work / "all" / source.inside).is_dir():
                raise ValueError(f"the archive holds no {source.inside}")
            check(work / "all" / source.inside)
            publish_folder(work / "all" / source.inside, target)
    except Exception as error:
        raise FileNotFoundError(
            f"{name}: {source.address} could not be downloaded: {printable(error)}. Nothing "
            f"incomplete is left. Run again, or put the dataset into {target}, or set "
            f"SIAMESE_DATA_HOME to the folder that holds {target.name}/, or work without a "
            "network: SIAMESE_DATASET=toys"
        ) from error
    return target


def _download_file(address: str, sha256: str | None, path: Path) -> None:
    print(f"downloading {address}", flush=True)
    download(address, path)
    with open(path, "rb") as file:
        if file.read(200).lstrip().startswith(b"<"):
            raise ValueError(
                "a web page came instead of the archive (a login, a notice, a moved file): open "
                "the address in a browser"
            )
    if sha256 and pooch.file_hash(str(path)) != sha256:
        raise ValueError(f"the file's sha256 is not {sha256}: it was changed or damaged")


def _check_files(source: Source, folder: Path) -> None:
    """Raise ValueError unless the files of this source are there, each with its hash."""
    for file in source.files:
        path = folder / file.name
        if not path.is_file():
            raise ValueError(f"{file.name} is missing")
        if pooch.file_hash(str(path)) != file.sha256:
            raise ValueError(f"{file.name} was changed or damaged: its sha256 is another one")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a folder.

    Raises ValueError for a damaged archive; and for an unsafe one before anything is written. An
    entry is unsafe if it would leave the folder, or if it is neither a file nor a folder: these
    datasets have no links, and a link to another entry can be a way out of the folder. More than
    `MAX_UNPACKED` bytes are unsafe, too.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                check_entries(content.infolist())
                content.extractall(folder)  # compares checksums, and writes no more than announced
        else:
            with tarfile.open(archive) as content:
                _check_each(
                    (entry.name, entry.isfile() or entry.isdir(), entry.size) for entry in content
                )
                # the filter drops set-uid bits and the like; Python has it since 3.11.4
                content.extraction_filter = getattr(tarfile, "data_filter", None)
                content.extractall(folder)
    except getattr(tarfile, "FilterError", ()) as error:
        raise ValueError(f"the archive is unsafe: {error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"the archive is damaged: {error or type(error).__name__}") from error


def check_entries(entries: Iterable[zipfile.ZipInfo], most: int | None = None) -> None:
    """Raise ValueError unless these entries of a zip archive can be unpacked safely.

    Unsafe are entries that would leave the folder, links, and more than `most` bytes in all.
    """
    _check_each(
        ((e.filename, not stat.S_ISLNK(e.external_attr >> 16), e.file_size) for e in entries), most
    )


def _check_each(entries: Iterable[tuple[str, bool, int]], most: int | None = None) -> None:
    """Raise ValueError unless these entries (name, is plain, bytes) can be unpacked safely."""
    total, most = 0, most or MAX_UNPACKED
    for name, is_plain, size in entries:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise ValueError(f"the archive is unsafe: entry {name!r} leaves the folder")
        if not is_plain:
            raise ValueError(f"the archive is unsafe: entry {name!r} is a link or the like")
        total += size
        if total > most:
            raise ValueError(f"the archive is unsafe: it unpacks to over {most / 1e9:g} GB")


def _check_grocery(folder: Path) -> None:
    """Raise ValueError unless the lists are as long as the authors' and all their images exist."""
    for name, lines in GROCERY_LINES.items():
        path = folder / name
        count = len(path.read_text("utf-8").splitlines()) if path.is_file() else 0
        if count != lines:
            raise ValueError(f"{name} has {count} lines, not {lines}")
    classes, images = grocery_lists(folder)
    for path in (*(icon for _, _, icon in classes.values()), *(path for path, _, _ in images)):
        if ".." in Path(path).parts or Path(path).is_absolute() or ":" in path:
            raise ValueError(f"its lists name {path!r}, which is not in the folder")
        if not (folder / path).is_file():
            raise ValueError(f"its lists name {path!r}, which is missing")


def grocery_lists(folder: Path) -> tuple[dict[int, list[str]], list[list]]:
    """Read the authors' lists of the Grocery Store Dataset.

    Returns
    -------
    classes : dict
        Class number -> [name, coarse name, path of its catalogue image].
    images : list
        [path, split, class number] of each photograph. Paths are relative to `folder`.

    Raises
    ------
    ValueError
        For lists of another form.
    """
    rows = (folder / "classes.csv").read_text("utf-8").splitlines()[1:]
    classes = {int(row[1]): [row[0], row[2], row[4].strip("/ ")] for row in map(_cells, rows)}
    images: list[list] = []
    for split, name in (("train", "train.txt"), ("validation", "val.txt"), ("test", "test.txt")):
        for path, label, _ in map(_cells, (folder / name).read_text("utf-8").splitlines()):
            images.append([path, split, int(label)])
    if unknown := {label for *_, label in images} - classes.keys():
        raise ValueError(f"its lists name the class {min(unknown)}, which classes.csv does not")
    return classes, images


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")]
