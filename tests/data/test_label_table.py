"""A table of file names and labels: what is read, and what is said about each kind of bad row."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from workbook.data.images import load_from_config, load_images
from workbook.data.label_table import read_table
from workbook.settings import read_config


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(name.encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    draw(tmp_path / "data", *(f"{i}.png" for i in range(6)))
    return tmp_path / "data"


def write(folder, *lines, name="labels.csv", encoding="utf-8", end="\n"):
    (folder / name).write_bytes(end.join([*lines, ""]).encode(encoding))
    return folder / name


def read(folder, *lines, columns="auto", **options):
    """The listing of a table, and {file name: (label, split)} of its images."""
    listing = read_table(write(folder, *lines, **options), columns)
    found = {os.path.relpath(e.path, folder): (e.class_name, e.split) for e in listing.entries}
    assert len(found) == len(listing.entries)
    return listing, {name.replace(os.sep, "/"): value for name, value in found.items()}


def said(rows):
    return [f"{os.path.basename(row['path'])}: {row['reason']}: {row['remedy']}" for row in rows]


TWO = {"0.png": ("cat", ""), "1.png": ("dog, big", "")}


@pytest.mark.parametrize(
    "lines, options",
    [
        (["file,label", "0.png,cat", '1.png,"dog, big"'], {}),
        (["Label,File Name", "cat,0.png", '"dog, big",1.png'], {}),
        (["file, label", "0.png, cat", '1.png, "dog, big"'], {}),
        (["file;label", "0.png;cat", "1.png;dog, big"], {}),
        (["file\tlabel", "0.png\tcat", "1.png\tdog, big"], {"name": "labels.tsv"}),
        (["file,label", "0.png,cat", '1.png,"dog, big"'], {"encoding": "utf-8-sig"}),
        (["file\tlabel", "0.png\tcat", "1.png\tdog, big"], {"encoding": "utf-16"}),
        (["file,label", "0.png,cat", '1.png,"dog, big"'], {"end": "\r\n"}),
        (["", "file,label", "", "0.png,cat", ",", '1.png,"dog, big"'], {}),
        (["id,breed", "0,cat", '1,"dog, big"'], {}),
        (["x,what,where", "1,cat,0.png", '2,"dog, big",1.png'], {"columns": "where,what"}),
        (['"a,b",what', "0.png,cat", '1.png,"dog, big"'], {"columns": '"a,b",what'}),
        (["file,label,split", "0.png,cat,", '1.png,"dog, big",'], {}),
        (["file,label,fold", "0.png,cat,1", '1.png,"dog, big",2'], {}),
    ],
    ids=[
        "commas", "another order", "blanks", "semicolons", "tabs", "BOM", "UTF-16", "CRLF",
        "empty rows", "no suffix", "named columns", "a comma in a name", "no splits",
        "more columns",
    ],
)  # fmt: skip
def test_a_table_is_read(folder, lines, options):
    listing, found = read(folder, *lines, **options)
    assert found == TWO and not listing.problems and not listing.warnings


def test_a_column_of_splits_is_used(folder):
    lines = ["file,label,split", "0.png,a,Train", "1.png,b,TRAINING", "2.png,a,val", "3.png,b,test"]
    splits = {"0.png": "train", "1.png": "train", "2.png": "validation", "3.png": "test"}
    _, found = read(folder, *lines)
    assert {name: split for name, (_, split) in found.items()} == splits
    _, found = read(folder, *lines[:4])  # validation alone is the test
    assert found["2.png"] == ("a", "test") and found["0.png"] == ("a", "train")
    _, found = read(folder, *lines[:3])
    assert {split for _, split in found.values()} == {""}
    _, found = read(folder, *lines, columns="file,label")
    assert len(found) == 4 and {split for _, split in found.values()} == {""}


GOOD = ["file,label", "0.png,cat", "1.png,dog"]


@pytest.mark.parametrize(
    "rows, problem",
    [
        (["9.png,cat"], r"^9\.png: no such file \(row 4, cat\): write its path as seen from the"),
        (["9.png,cow"], r"the label cow has no image: none of its files is there: add"),
        ([",cat"], "row 4 has no file: complete it or delete it"),
        (["2.png,"], "row 4 has no label: complete it or delete it"),
        (["2.png"], "row 4 has 1 fields, the first row 2: put a field that holds a comma in quo"),
        (["2.png,cat,big"], "row 4 has 3 fields, the first row 2"),
        (
            ["2.png,cat", "2.png,dog"],
            r"^2\.png: it has several labels: cat in row 4, dog in row 5:",
        ),
        ([r"C:\photos\2.png,cat"], r"no such file \(row 4, cat\)"),
        (["nowhere/2.png,cat"], r"no such file \(row 4, cat\)"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_used_is_a_problem(folder, rows, problem):
    listing, found = read(folder, *GOOD, *rows)
    assert set(found) == {"0.png", "1.png"}
    assert [p for p in said(listing.problems) if re.search(problem, p)], said(listing.problems)


def test_a_file_in_two_splits_is_a_problem(folder):
    listing, found = read(
        folder, "file,label,split", "0.png,a,train", "1.png,b,test", "0.png,a,test"
    )
    assert set(found) == {"1.png"}
    assert "it has several splits: train in row 2, test in row 4" in said(listing.problems)[0]


def test_rows_that_repeat_are_read_once(folder):
    listing, found = read(folder, *GOOD, "0.png,cat", "./0.png,cat")
    assert set(found) == {"0.png", "1.png"} and not listing.problems
    [warning] = said(listing.warnings)
    assert "2 rows repeat an earlier one: skipped, row 4, 5: nothing, or delete them" in warning


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "labels.csv is empty: its first row names the columns, such as file,label"),
        (" \n\n", "labels.csv is empty"),
        ("file,label\n", "labels.csv has no row with a file and a label"),
        ("file,label\n,\n", "labels.csv has no row with a file and a label"),
        ("file,colour\n0.png,red\n", "no column is called like a label; its columns are file, col"),
        ("0.png,cat\n1.png,dog\n", "no column is called like a file; its columns are 0.png, cat"),
        ("file\n0.png\n", "no column is called like a label; its columns are file"),
        ("file,label,class\n0.png,a,b\n", "label, class may each hold the label. Name the columns"),
        ("file,label,label\n0.png,a,b\n", "has two columns called label: rename one of them"),
        ('file,label\n0.png,"cat\n', "row 2: unexpected end of data; correct its quotes"),
        ("file,label\n0.png,unknown\n", 'row 2: no class can be called "unknown", because'),
        ("file,label,split\n0.png,a,train\n1.png,b,public\n", "row 3: the split 'public' is none"),
        ("file,label,split\n0.png,a,train\n1.png,b,\n", "row 3: the split '' is none of train"),
        ("file,label,split\n0.png,a,test\n1.png,b,test\n", "no row has the split train"),
        (
            b"file,label\n0.png,\xe9t\xe9\n",
            "labels.csv is not text in UTF-8: save it as CSV in UTF",
        ),
        (b"PK\x03\x04\0\0", "labels.csv is not text: save it as CSV in UTF-8"),
    ],
    ids=str,
)
def test_a_table_that_is_not_understood_is_refused_in_one_sentence(folder, text, says):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read_table(folder / "labels.csv")
    assert str(folder / "labels.csv") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "columns, says",
    [
        ("file", "has to name two or three columns, as file,label or file,label,split"),
        ("file,label,split,more", "has to name two or three columns"),
        ("file,kind", "labels.csv has no column kind: its columns are file, label"),
    ],
)
def test_columns_that_are_not_there(folder, columns, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        read(folder, *GOOD, columns=columns)


def test_a_table_that_is_not_there(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such table"):
        load_images(folder / "none.csv", 8)


# -------------------------------------------------------------------------- where the files are


def test_files_in_folders_absolute_paths_and_backslashes(folder):
    draw(folder, "in/a.png", "in/b.png", "in/c.png")
    lines = ["file,label", "in/a.png,x", r"in\b.png,y", f"{folder / 'in' / 'c.png'},y"]
    listing, found = read(folder, *lines)
    assert found == {"in/a.png": ("x", ""), "in/b.png": ("y", ""), "in/c.png": ("y", "")}
    assert not listing.problems and not listing.warnings


def test_paths_that_leave_the_folder_are_read_with_a_warning(folder):
    draw(folder.parent, "other/a.png", "other/b.png")
    outside = folder.parent / "other" / "b.png"
    listing, found = read(folder, *GOOD, "../other/a.png,cat", f"{outside},dog")
    assert found["../other/a.png"] == ("cat", "") and found["../other/b.png"] == ("dog", "")
    [warning] = said(listing.warnings)
    assert "2 rows lead out of the table's folder" in warning and str(outside) in warning
    assert "delete those rows: the images are trained on and shown" in warning


def test_names_without_a_folder_are_found_in_one_beside_the_table(folder):
    draw(folder, "photos/x.png", "photos/y.png", "other/y.png", "labels2/y.png")
    lines = ["file,label", "x.png,a", "y.png,b"]
    listing, found = read(folder, *lines)
    assert found == {"photos/x.png": ("a", "")}
    assert (
        "1 files of labels.csv were found here: the table names no folder"
        in said(listing.warnings)[0]
    )
    assert re.search(
        r"y\.png: several files are called so: .*other/y\.png.*\(row 3, b\)",
        said(listing.problems)[0].replace(os.sep, "/"),
    )
    _, found = read(folder, "id,label", "y,b", name="labels2.csv")
    assert found == {"labels2/y.png": ("b", "")}, "the folder called like the table comes first"


# ------------------------------------------------------------------------------- as a dataset


def load(table, **options):
    return load_images(table, 8, cache_dir=table.parent.parent / "cache", **options)


def test_a_table_becomes_a_dataset(folder):
    splits = ["train", "train", "val", "test", "train", "test"]
    lines = [f"{i}.png,{'ab'[i % 2]},{split}" for i, split in enumerate(splits)]
    data = load(write(folder, "file,label,split", *lines), strict=True)
    assert data.name == "labels.csv" and data.class_names == ["a", "b"]
    rows = sorted(
        (path, data.class_names[label], split)
        for path, label, split in zip(data.short_paths, data.labels.tolist(), data.splits)
    )
    names = {"train": "train", "val": "validation", "test": "test"}
    assert rows == [(f"{i}.png", "ab"[i % 2], names[s]) for i, s in enumerate(splits)]
    assert "6 rows of labels.csv, columns file, label, split" in data.layout
    for path, image in zip(data.paths, data.images):
        assert (np.asarray(Image.open(path)) == image).all(), "each image keeps its own label"


def test_labels_decide_and_folders_do_not(folder):
    draw(folder, *(f"{name}/{i}.png" for name in "xy" for i in range(5)))
    lines = [f"{name}/{i}.png,{'even' if i % 2 == 0 else 'odd'}" for name in "xy" for i in range(5)]
    data = load(write(folder, "file,label", *lines))
    assert data.class_names == ["even", "odd"]
    assert {split: len(data.where(split)) for split in ("train", "validation", "test")} == {
        "train": 8, "validation": 1, "test": 1,
    }  # fmt: skip


def test_too_few_classes_and_settings_of_the_other_kind(folder):
    table = write(folder, "file,label", "0.png,a", "9.png,b")
    with pytest.raises(ValueError, match=r"(?s)1 images in 1 classes.*9\.png: no such file"):
        load(table)
    with pytest.raises(ValueError, match="layout='splits' is for a folder of images, not for a ta"):
        load(table, layout="splits")
    with pytest.raises(
        ValueError, match=r"columns=.file,label. is for a table of labels: .* is non"
    ):
        load_images(folder, 8, columns="file,label")


def test_the_settings_reach_the_loader(folder):
    table = write(folder, "where,what", "0.png,a", "1.png,b")
    environment = {"SIAMESE_DATASET": str(table), "SIAMESE_COLUMNS": "where,what"}
    config = read_config(environment, preset="quick", size=8, runs=folder.parent / "runs")
    assert load_from_config(config).class_names == ["a", "b"]
    assert config.run_dir.name == "labels.csv-quick"
    with pytest.raises(ValueError, match=r"is not one of: toys .* an existing folder or table"):
        read_config({"SIAMESE_DATASET": str(folder / "none.csv")})
