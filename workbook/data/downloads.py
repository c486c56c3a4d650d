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
from pathlib import Path, PurePosixPath

import pooch

from workbook.support.atomic_files import publish_folder, temporary_build_folder
from workbook.support.network import download
from workbook.support.text import printable


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
}  # fmt: skip
# GitHub packs an archive anew for each request, so the hash of its bytes may change. The address
# names the commit instead, and the hash of the lists in the archive is known (see `grocery_lists`).
GROCERY_LISTS = "dfd79fe01ebd11af9bd843a9e3f2c51e6e4ec40551ab04b51e684d009164b8d6"
GROCERY_LINES = {"classes.csv": 82, "train.txt": 2640, "val.txt": 296, "test.txt": 2485}
MAX_UNPACKED = 4 * 10**9  # bytes: ten times what the largest of these archives holds


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
    check = _check_grocery if name == "grocery" else lambda folder: None
    if target.is_dir():
        try:
            check(target)
        except ValueError as error:
            raise ValueError(f"{target} is incomplete: {error}. Delete it and run again") from error
        return target
    try:
        with temporary_build_folder(target) as work:
            _download_archive(source, work / "archive")
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


def _download_archive(source: Source, path: Path) -> None:
    print(f"downloading {source.address}", flush=True)
    download(source.address, path)
    with open(path, "rb") as file:
        if file.read(200).lstrip().startswith(b"<"):
            raise ValueError(
                "a web page came instead of the archive (a login, a notice, a moved file): open "
                "the address in a browser"
            )
    if source.sha256 and pooch.file_hash(str(path)) != source.sha256:
        raise ValueError(f"the file's sha256 is not {source.sha256}: it was changed or damaged")


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
                _check_entries(
                    (entry.filename, not stat.S_ISLNK(entry.external_attr >> 16), entry.file_size)
                    for entry in content.infolist()
                )
                content.extractall(folder)  # compares checksums, and writes no more than announced
        else:
            with tarfile.open(archive) as content:
                _check_entries(
                    (entry.name, entry.isfile() or entry.isdir(), entry.size) for entry in content
                )
                # the filter drops set-uid bits and the like; Python has it since 3.11.4
                content.extraction_filter = getattr(tarfile, "data_filter", None)
                content.extractall(folder)
    except getattr(tarfile, "FilterError", ()) as error:
        raise ValueError(f"the archive is unsafe: {error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"the archive is damaged: {error or type(error).__name__}") from error


def _check_entries(entries: Iterable[tuple[str, bool, int]]) -> None:
    """Raise ValueError unless these entries (name, is plain, bytes) can be unpacked safely."""
    total = 0
    for name, is_plain, size in entries:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise ValueError(f"the archive is unsafe: entry {name!r} leaves the folder")
        if not is_plain:
            raise ValueError(f"the archive is unsafe: entry {name!r} is a link or the like")
        total += size
        if total > MAX_UNPACKED:
            raise ValueError(f"the archive is unsafe: it unpacks to over {MAX_UNPACKED / 1e9:g} GB")


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
