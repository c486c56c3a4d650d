"""A table of file names and labels, as competitions give them, in place of class folders.

`images` reads it with DATASET=labels.csv. The files are looked for relative to the table.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from workbook.data.file_walk import list_subfolders
from workbook.data.folder_layout import Entry, Listing, assign_roles
from workbook.data.folder_names import read_name
from workbook.data.report import report_entry
from workbook.support.text import list_first, normalize_label, printable

DELIMITERS = ",;\t|"
OBVIOUS = {  # what a column holds, by its name in small letters without blanks and dashes
    "file": "file filename filepath path image imagefile imagename imagepath imageid img id",
    "label": "label class classname category species breed",
    "split": "split subset set partition",
}
AS_DIVIDED = "SIAMESE_COLUMNS=FILE,LABEL"


class Row(NamedTuple):
    """A row of a table: its number in the file and its texts; a split of "" is none."""

    number: int
    file: str
    label: str
    split: str = ""


def read_table(table: Path, columns: str = "auto") -> Listing:
    """Return the `Listing` of the images in a table; nothing is decoded.

    Rows that cannot be used, and files that are not there, are problems of the listing.

    Parameters
    ----------
    table
        A .csv or .tsv file in UTF-8 or UTF-16, whose first row names the columns. Commas,
        semicolons, tabs or bars divide it.
    columns
        The names of the columns that hold file, label and (if there is one) split, with commas
        between them; "auto" finds them by obvious names. A split is train, validation (val) or
        test, in any case.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        For a table without rows, a missing or ambiguous column, text that is no table, a split of
        another name, and a label that no class can have, such as "unknown".
    """
    if not table.is_file():
        raise FileNotFoundError(f"{printable(table)}: there is no such table")
    listing = Listing(table.parent)
    names, rows = _read_rows(table, columns, listing)
    splits = _read_splits(table, rows)
    finder = _FileFinder(table)
    files = _find_files(listing, rows, finder)
    repeated: list[int] = []
    for path, same in files.items():
        if reason := _explain_conflict(same):
            listing.problems.append(report_entry(path, reason, "keep the row that is right"))
        else:
            listing.entries.append(Entry(path, splits[same[0].split], same[0].label))
            repeated += [row.number for row in same[1:]]
    if repeated:
        reason = f"{len(repeated)} rows repeat an earlier one: skipped, row {list_first(repeated)}"
        listing.warn(table, reason, "nothing, or delete them")
    there = {row.label for same in files.values() for row in same}
    for label in dict.fromkeys(row.label for row in rows if row.label not in there):
        reason = f"the label {label} has no image: none of its files is there"
        listing.problems.append(report_entry(table, reason, "add its images or delete its rows"))
    _warn_of_places(listing, table, finder)
    listing.entries.sort(key=lambda e: (e.class_name, e.split != "train", e.path))
    listing.level = f"{len(rows)} rows of {table.name}, columns {', '.join(names)}"
    return listing


def _read_rows(table: Path, columns: str, listing: Listing) -> tuple[list[str], list[Row]]:
    """Return the names of the columns and the usable rows; the others become problems."""
    text, shown = _decode(table), printable(table)
    if not text.strip():
        raise ValueError(f"{shown} is empty: its first row names the columns, such as file,label")
    first = next(line for line in text.splitlines() if line.strip())
    try:
        delimiter = csv.Sniffer().sniff(first, DELIMITERS).delimiter
    except csv.Error:  # a single column
        delimiter = ","
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    rows = []
    try:
        head = [name.strip() for name in next(row for row in reader if any(row))]
        names = _choose_columns(shown, head, columns)
        places = [head.index(name) for name in names]
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            number = reader.line_num
            if len(fields) != len(head):
                reason = f"row {number} has {len(fields)} fields, the first row {len(head)}"
                remedy = "put a field that holds a comma in quotes, or complete the row"
                listing.problems.append(report_entry(table, reason, remedy))
                continue
            row = Row(number, *(fields[place].strip() for place in places))
            if row.file and row.label:
                rows.append(row._replace(label=_check_label(shown, row)))
            else:
                reason = f"row {number} has no {'label' if row.file else 'file'}"
                listing.problems.append(report_entry(table, reason, "complete it or delete it"))
    except csv.Error as error:
        raise ValueError(
            f"{shown}, row {reader.line_num}: {error}; correct its quotes, or save the table anew"
        ) from error
    if not rows:
        raise ValueError(
            f"{shown} has no row with a file and a label below the names of its columns"
        )
    return names, rows


def _find_files(
    listing: Listing, rows: Sequence[Row], finder: "_FileFinder"
) -> dict[str, list[Row]]:
    """Return {path: the rows of that file}; what is not there becomes a problem."""
    first: dict[str, str] = {}  # real path -> path
    files: dict[str, list[Row]] = {}
    for row in rows:
        path = finder.find(row.file)
        if path:
            files.setdefault(first.setdefault(os.path.realpath(path), path), []).append(row)
            continue
        reason = f"{finder.explain_missing(row.file)} (row {row.number}, {row.label})"
        remedy = "write its path as seen from the table, or copy it there"
        listing.problems.append(report_entry(listing.folder / row.file, reason, remedy))
    return files


def _explain_conflict(same: Sequence[Row]) -> str:
    """Return what contradicts itself in the rows of one file, or an empty text."""
    for what, texts in (("labels", [r.label for r in same]), ("splits", [r.split for r in same])):
        if len(set(texts)) > 1:
            listed = list_first(f"{text} in row {row.number}" for text, row in zip(texts, same))
            return f"it has several {what}: {listed}"
    return ""


def _decode(table: Path) -> str:
    content = table.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{printable(table)} is not text in UTF-8: save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{printable(table)} is not text: save it as CSV in UTF-8")
    return text


def _choose_columns(shown: str, head: list[str], columns: str) -> list[str]:
    """Return the names of the columns for file, label and, if there is one, split."""
    if twice := [name for name, count in Counter(head).items() if count > 1]:
        raise ValueError(f"{shown} has two columns called {list_first(twice)}: rename one of them")
    has = f"its columns are {', '.join(map(printable, head))}"
    if columns != "auto":
        names = [name.strip() for name in next(csv.reader([columns]))]
        if len(names) not in (2, 3):
            raise ValueError(
                f"SIAMESE_COLUMNS={columns!r} has to name two or three columns, as file,label or "
                "file,label,split"
            )
        for name in names:
            if name not in head:
                raise ValueError(f"{shown} has no column {printable(name)}: {has}")
        return names
    names = []
    for what, words in OBVIOUS.items():
        fits = [n for n in head if "".join(filter(str.isalnum, n.lower())) in words.split()]
        if len(fits) > 1:
            reason = f"{list_first(fits)} may each hold the {what}"
        elif not fits and what != "split":
            reason = f"no column is called like a {what}; {has}"
        else:
            names += fits
            continue
        raise ValueError(
            f"{shown}: {reason}. Name the columns of file, label and split (if there is one): "
            "SIAMESE_COLUMNS=file,label,split"
        )
    return names


def _check_label(shown: str, row: Row) -> str:
    try:
        return normalize_label(row.label)
    except ValueError as error:
        raise ValueError(f"{shown}, row {row.number}: {error}") from error


def _read_splits(table: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Return {text in the column of splits: the split of its images}."""
    if not any(row.split for row in rows):
        return {"": ""}
    kinds: dict[str, str] = {}
    for row in rows:
        kind = kinds.setdefault(row.split, read_name(row.split)[0] or "")
        if not kind:
            raise ValueError(
                f"{printable(table)}, row {row.number}: the split {printable(row.split)!r} is none "
                f"of train, validation, test; to do without that column: {AS_DIVIDED}"
            )
    if "train" not in kinds.values():
        raise ValueError(
            f"{printable(table)}: no row has the split train, so that nothing can be trained on; "
            f"to do without that column: {AS_DIVIDED}"
        )
    roles = assign_roles(set(kinds.values()))
    return {text: roles[kind] for text, kind in kinds.items()}


# ---------------------------------------------------------------------------- finding the files


class _FileFinder:
    """Finds files as a table calls them: beside it, or else in a folder beside it.

    Tables of competitions name images of a folder without saying which, and some leave out the
    suffix. A folder called like the table, such as train/ for train.csv, comes first.
    """

    def __init__(self, table: Path) -> None:
        self.folder = table.parent
        self.inner = {path: 0 for path in list_subfolders(self.folder)}  # how many were found there
        self.first = self.folder / table.stem
        self.outside: list[str] = []
        self.list_names = cache(self._list_names)

    def find(self, name: str) -> str | None:
        """Return the path of a file, or None if it is missing or several fit."""
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            path = os.path.join(self.folder, spelled)
            if os.path.exists(path):
                path = os.path.normpath(path)
                if not Path(path).is_relative_to(self.folder):
                    self.outside.append(path)
                return path
        found = list(self._find_inside(name))
        if len(found) != 1:
            return None
        if found[0].parent in self.inner:
            self.inner[found[0].parent] += 1
        return str(found[0])

    def explain_missing(self, name: str) -> str:
        """Return why `find` did not find a file."""
        found = [path.relative_to(self.folder) for path in self._find_inside(name)]
        return f"several files are called so: {list_first(found)}" if found else "no such file"

    def _find_inside(self, name: str) -> Iterator[Path]:
        if not set("/\\").isdisjoint(name):
            return
        places = [self.first] if self.first in self.inner else [*self.inner]
        for place in [self.folder, *places]:
            yield from (place / file for file in self.list_names(place).get(name, ()))

    def _list_names(self, place: Path) -> dict[str, list[str]]:
        """Return {name, and name without suffix: the files of a folder that are called so}."""
        names: dict[str, list[str]] = {}
        with os.scandir(place) as children:
            for child in sorted(child.name for child in children if child.is_file()):
                for key in dict.fromkeys((child, os.path.splitext(child)[0])):
                    names.setdefault(key, []).append(child)
        return names


def _warn_of_places(listing: Listing, table: Path, finder: _FileFinder) -> None:
    """Say where files were found that are not where the table says, or outside of its folder."""
    for place, count in finder.inner.items():
        if count:
            reason = f"{count} files of {table.name} were found here: the table names no folder"
            listing.warn(place, reason, "nothing, if these are the images that it means")
    if finder.outside:
        reason = f"{len(finder.outside)} rows lead out of the table's folder, to "
        reason += list_first(finder.outside)
        remedy = "nothing, if you wrote it; else delete those rows: the images are trained on "
        listing.warn(table, reason, remedy + "and shown")
