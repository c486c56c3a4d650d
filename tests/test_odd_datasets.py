"""Datasets as people have them: an error that says what would work, or a warning in the report."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamese_utils as su
from workbook.images import load_images
from workbook.mining import batch_shape, pk_batches

odd = pytest.mark.odd_dataset


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)


def fill(folder, **classes):
    """A folder a class with that many images, all of them different."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for j in range(count):
            seed = [int.from_bytes(str(folder / name).encode()), j]
            Image.fromarray(picture(seed)).save(folder / name / f"{j}.png")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def load(folder, **options):
    return load_images(folder, 8, cache_dir=folder.parent / "cache", **options)


def found(rows, reason):
    """The entries whose reason matches; each has a path and a remedy."""
    rows = [row for row in rows if re.search(reason, row["reason"])]
    assert all(row["path"] and row["remedy"] for row in rows)
    return rows


def test_an_ordinary_dataset_gives_no_warning(folder):
    fill(folder, a=6, b=6)
    data = load(folder, strict=True)
    assert not data.warnings and not data.problems
    assert data.report.read_text("utf-8").splitlines() == ["kind,path,reason,remedy"]


@odd
@pytest.mark.parametrize(
    "classes, says",
    [
        ({}, "0 readable images in 0 classes"),
        ({"a": 3}, "3 readable images in 1 classes"),
        ({"a": 3, "empty": 0}, "3 readable images in 1 classes.*empty class"),
        ({"a": 0, "b": 0}, "0 readable images in 0 classes.*empty class"),
        ({".": 4}, "0 readable images in 0 classes.*not in a class folder"),
        ({"train": 0, "train/a": 2}, "2 readable images in 1 classes"),
    ],
    ids=str,
)
def test_too_few_classes(folder, classes, says):
    fill(folder, **classes)
    with pytest.raises(ValueError, match=f"(?s){says}") as error:
        load(folder)
    assert "two sub-folders with images, one a class" in str(error.value)
    report = re.search(r"all: (.*)", str(error.value)).group(1)
    assert Path(report).is_file(), "the error names the whole report"


@odd
def test_only_one_class_can_be_read(folder):
    fill(folder, a=3, b=1)
    (folder / "b" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)3 readable images in 1 classes.*0\.png: an empty"):
        load(folder)


@odd
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder(folder, kind):
    path = folder / "it.zip"
    if kind == "file":
        path.touch()
    with pytest.raises(FileNotFoundError, match=r"it\.zip is not a folder"):
        load(path)


@odd
def test_an_empty_class_is_listed(folder):
    fill(folder, a=2, b=2, empty=0)
    data = load(folder)
    assert data.class_names == ["a", "b"]
    [problem] = found(data.problems, "empty class")
    assert problem["path"] == str(folder / "empty")


@odd
def test_classes_with_one_image_are_in_the_gallery_and_never_an_anchor(folder):
    fill(folder, **{f"single{i}": 1 for i in range(8)}, **{f"c{i}": 5 for i in range(9)})
    data = load(folder)
    warnings = found(data.warnings, "only training image of its class.*never an anchor")
    assert [w["path"] for w in warnings] == [str(folder / f"single{i}" / "0.png") for i in range(8)]
    singles = [data.paths.index(warning["path"]) for warning in warnings]
    assert set(data.splits[singles]) == {"train"}, "not held out: they would be lost there"
    assert (
        set(singles) <= set(data.gallery) and len(np.unique(data.labels[data.where("unseen")])) == 2
    )
    train = data.where("train")
    triplets = train[su.random_triplets(data.labels[train], 500)]
    assert not np.isin(triplets[:, :2], singles).any() and np.isin(triplets[:, 2], singles).any()
    batches = train[pk_batches(data.labels[train], *batch_shape(data.labels[train]))]
    assert not np.isin(batches, singles).any()


@odd
def test_only_classes_of_one_image(folder):
    fill(folder, a=1, b=1, c=1)
    data = load(folder)
    assert len(found(data.warnings, "never an anchor")) == 3
    assert found(data.warnings, "no test image")
    with pytest.raises(ValueError, match="two classes with two training images each"):
        batch_shape(data.labels[data.where("train")])
    with pytest.raises(ValueError, match="two classes, one of them with two images"):
        su.random_triplets(data.labels)


@odd
def test_three_images_in_all(folder):
    fill(folder, a=2, b=1)
    data = load(folder)
    assert data.splits.tolist() == ["train"] * 3 and len(data.gallery) == 3
    assert found(data.warnings, "no test image: no class has five")
    with pytest.raises(ValueError, match="two classes with two training images each"):
        batch_shape(data.labels)
    assert set(map(tuple, su.random_triplets(data.labels))) == {(0, 1, 2), (1, 0, 2)}


@odd
@pytest.mark.parametrize("parts", [("", ""), ("train", "test")])
def test_two_unicode_forms_of_one_name_are_merged_and_named(folder, parts):
    composed, decomposed = "Şcoală", "S\u0327coala\u0306"
    fill(folder / parts[0], **{composed: 6, "b": 6})
    fill(folder / parts[1], **{decomposed: 7, "b": 6})
    if len({path for path in folder.rglob("*") if path.is_dir()} - {folder}) < 3:
        pytest.skip("this file system takes both forms for one name")
    data = load(folder)
    assert data.class_names == ["b", composed] and len(data.where("train", "test")) > 0
    [warning] = found(data.warnings, "merged")
    assert ascii(composed) in warning["reason"] and ascii(decomposed) in warning["reason"]
    assert (data.labels == 1).sum() == 13


@odd
def test_the_same_image_in_two_classes(folder):
    fill(folder, a=3, b=3)
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "1.png").read_bytes())
    data = load(folder)
    [warning] = found(data.warnings, "in 2 classes: a, b")
    assert warning["path"] == str(folder / "a" / "1.png") and "copy.png" in warning["reason"]
    assert len(data.images) == 7, "warned of, not dropped"
    with open(data.report, encoding="utf-8", newline="") as file:
        assert {"kind": "warning"} | warning in list(csv.DictReader(file))


@odd
def test_train_and_test_share_an_image(folder):
    fill(folder / "train", a=2, b=2)
    fill(folder / "test", a=2, b=2)
    (folder / "test" / "a" / "copy.png").write_bytes(
        (folder / "train" / "a" / "1.png").read_bytes()
    )
    [warning] = found(load(folder).warnings, "leakage: in train and test")
    assert warning["path"] == str(folder / "train" / "a" / "1.png") and "copy" in warning["reason"]


@odd
def test_copies_within_a_class_leak_once_it_is_divided(folder):
    fill(folder, a=1, b=10)
    for j in range(1, 10):
        (folder / "a" / f"{j}.png").write_bytes((folder / "a" / "0.png").read_bytes())
    [warning] = found(load(folder).warnings, "leakage")
    assert "train" in warning["reason"] and "test" in warning["reason"]
    assert warning["reason"].endswith("..."), "ten copies, one warning"


@odd
def test_train_and_val_without_test(folder):
    fill(folder / "train", a=10, b=10)
    fill(folder / "val", a=2, b=2, new=2)
    data = load(folder)
    counts = {split: len(data.where(split)) for split in ("train", "validation", "test", "unseen")}
    assert counts == {"train": 16, "validation": 4, "test": 4, "unseen": 2}


@odd
def test_train_val_and_test(folder):
    for part, count in (("train", 10), ("valid", 2), ("test", 3)):
        fill(folder / part, a=count, b=count)
    fill(folder / "test", new=2)
    data = load(folder)
    counts = {split: len(data.where(split)) for split in ("train", "validation", "test", "unseen")}
    assert counts == {"train": 20, "validation": 4, "test": 6, "unseen": 2}
    assert data.gallery_splits == ("train",)


@odd
def test_train_alone_is_divided(folder):
    fill(folder / "train", a=10, b=10)
    data = load(folder)
    assert data.class_names == ["a", "b"]
    assert [len(data.where(s)) for s in ("train", "validation", "test")] == [12, 4, 4]


@odd
def test_what_lies_beside_train_and_test_is_listed(folder):
    fill(folder / "train", a=5, b=5)
    fill(folder / "test", a=1, b=1)
    fill(folder, extra=2)
    (folder / "README.txt").write_text("about")
    (folder / ".git").mkdir()
    data = load(folder)
    assert {Path(p["path"]).name for p in data.problems} == {"extra", "README.txt"}
    assert found(data.problems, "beside the train and test folders") and len(data.images) == 12
    assert found(data.warnings, r"1 hidden files or folders left aside: \.git")


@odd
def test_classes_that_are_called_train_and_test(folder):
    fill(folder, train=5, bus=5, testudo=5)
    assert load(folder, strict=True).class_names == ["bus", "testudo", "train"]


@odd
def test_a_class_name_that_is_no_utf8(folder):
    fill(folder, b=2)
    try:
        os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    except OSError as error:
        pytest.skip(f"no such name on this file system: {error}")
    Image.fromarray(picture(1)).save(os.fsdecode(os.fsencode(folder) + b"/caf\xe9/x.png"))
    data = load(folder, strict=True)
    assert data.class_names == ["b", r"caf\udce9"] and len(data.images) == 3
    assert "\n".join(data.class_names).encode()


@odd
def test_ten_thousand_classes(folder):
    """Blank bitmaps of different lengths: quick to write, and all different."""
    header = bytes.fromhex("424d3a0000000000000036000000280000000100000001000000010018000000000004")
    header += bytes(54 - len(header))
    for i in range(10_000):
        (folder / f"{i:05}").mkdir()
        for j in range(2):
            (folder / f"{i:05}" / f"{j}.bmp").write_bytes(header + bytes([i % 256, i // 256, j, 0]))
    data = load_images(folder, 4, cache_dir=folder.parent / "cache", strict=True)
    assert data.images.shape == (20_000, 4, 4, 3) and len(data.class_names) == 10_000
    assert len(np.unique(data.labels[data.where("unseen")])) == 2_500
    for i in np.random.default_rng(0).integers(0, 20_000, 50):
        name = data.class_names[data.labels[i]]
        assert Path(data.paths[i]).parent.name == name
        b, g, r = int(name) % 256, int(name) // 256, int(Path(data.paths[i]).stem)
        assert data.images[i, 0, 0].tolist() == [r, g, b]
    assert not found(data.warnings, "the same image")


@odd
@pytest.mark.parametrize(
    "counts, classes, images",
    [([9, 9, 9], 16, 4), ([9, 9, 2], 3, 4), ([3, 3, 3], 2, 4), ([5, 1, 1], 2, 2), ([1, 1], 2, 2)],
    ids=str,
)
def test_fewer_classes_than_p_or_images_than_k(counts, classes, images):
    labels = np.repeat(np.arange(len(counts)), counts)
    with pytest.raises(ValueError, match=rf"P x K = {classes} x {images}") as error:
        pk_batches(labels, classes, images)
    tries = [(int(p), images) for p in re.findall(r"P = (\d+)", str(error.value))]
    tries += [(classes, int(k)) for k in re.findall(r"a K of at most (\d+)", str(error.value))]
    try:
        p, k = batch_shape(labels, classes, images)
    except ValueError as no_batch:
        assert "two classes with two training images each" in str(no_batch)
        assert not tries and "Add images" in str(error.value)
        return
    assert pk_batches(labels, p, k).shape[1] == p * k
    assert tries and all(pk_batches(labels, *shape).size for shape in tries)
