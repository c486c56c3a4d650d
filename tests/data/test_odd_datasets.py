"""Datasets as people have them: an error that says what would work, or a warning in the report."""

import csv
import itertools
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamese_utils as su
from workbook.data import folder_layout, images
from workbook.data.images import load_from_config, load_images
from workbook.settings import read_config
from workbook.training.batches import largest_batch_shape, pk_batches


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)


def fill(folder, **classes):
    """One folder per class with that many images, all of them different."""
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
    assert data.report.read_text("utf-8").splitlines() == ['"kind","path","reason","remedy"']


@pytest.mark.parametrize(
    "classes, says, left_out",
    [
        ({}, "0 images in 0 classes", False),
        ({"a": 3}, "3 images in 1 classes", False),
        ({"a": 3, "empty": 0}, "3 images in 1 classes.*empty class", True),
        ({"a": 0, "b": 0}, "0 images in 0 classes.*empty class", True),
        ({".": 4}, "0 images in 0 classes.*not in a class folder: move it into one", True),
        ({"train": 0, "train/a": 2}, "2 images in 1 classes", False),
    ],
    ids=str,
)
def test_too_few_classes_are_refused_before_anything_is_decoded(
    folder, monkeypatch, classes, says, left_out
):
    monkeypatch.setattr(images, "decode_files", None)
    fill(folder, **classes)
    with pytest.raises(ValueError, match=f"(?s){says}") as error:
        load(folder)
    said = str(error.value)
    assert "at least two classes are needed, each in a sub-folder with its images" in said
    report = re.search(r"all: (.*)", said)
    assert bool(report) == left_out
    assert not report or Path(report.group(1)).is_file(), "the error names the whole report"


def test_only_one_class_can_be_read(folder):
    fill(folder, a=3, b=1)
    (folder / "b" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)3 images in 1 classes.*0\.png: an empty"):
        load(folder)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder(folder, kind):
    path = folder / "it.zip"
    if kind == "file":
        path.touch()
    with pytest.raises(FileNotFoundError, match=r"it\.zip is not a folder"):
        load(path)


def test_an_empty_class_is_listed(folder):
    fill(folder, a=2, b=2, empty=0)
    data = load(folder)
    assert data.class_names == ["a", "b"]
    [problem] = found(data.problems, "empty class")
    assert problem["path"] == str(folder / "empty")


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
    batches = train[pk_batches(data.labels[train], *largest_batch_shape(data.labels[train]))]
    assert not np.isin(batches, singles).any()


def test_only_classes_of_one_image(folder):
    fill(folder, a=1, b=1, c=1)
    data = load(folder)
    assert len(found(data.warnings, "never an anchor")) == 3
    assert found(data.warnings, "no test image")
    with pytest.raises(ValueError, match="two classes with two training images each"):
        largest_batch_shape(data.labels[data.where("train")])
    with pytest.raises(ValueError, match="two classes are needed, one of them with two images"):
        su.random_triplets(data.labels)


def test_three_images_in_all(folder):
    fill(folder, a=2, b=1)
    data = load(folder)
    assert data.splits.tolist() == ["train"] * 3 and len(data.gallery) == 3
    assert found(data.warnings, "no test image: no class has five images; leave-one-out is used")
    assert data.uses_leave_one_out
    with pytest.raises(ValueError, match="two classes with two training images each"):
        largest_batch_shape(data.labels)
    assert set(map(tuple, su.random_triplets(data.labels))) == {(0, 1, 2), (1, 0, 2)}


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


def test_the_same_image_in_two_classes(folder):
    fill(folder, a=3, b=3)
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "1.png").read_bytes())
    data = load(folder)
    [warning] = found(data.warnings, "in 2 classes: a, b")
    assert warning["path"] == str(folder / "a" / "1.png") and "copy.png" in warning["reason"]
    assert len(data.images) == 7, "warned of, not dropped"
    with open(data.report, encoding="utf-8", newline="") as file:
        assert {"kind": "warning"} | warning in list(csv.DictReader(file))


def test_train_and_test_share_an_image(folder):
    fill(folder / "train", a=2, b=2)
    fill(folder / "test", a=2, b=2)
    (folder / "test" / "a" / "copy.png").write_bytes(
        (folder / "train" / "a" / "1.png").read_bytes()
    )
    [warning] = found(load(folder).warnings, "leakage: in train and test")
    assert warning["path"] == str(folder / "train" / "a" / "1.png") and "copy" in warning["reason"]


def test_copies_within_a_class_leak_once_it_is_divided(folder):
    fill(folder, a=1, b=10)
    for j in range(1, 10):
        (folder / "a" / f"{j}.png").write_bytes((folder / "a" / "0.png").read_bytes())
    [warning] = found(load(folder).warnings, "leakage")
    assert "train" in warning["reason"] and "test" in warning["reason"]
    assert warning["reason"].endswith("..."), "ten copies, one warning"


def test_train_and_val_without_test(folder):
    fill(folder / "train", a=10, b=10)
    fill(folder / "val", a=2, b=2, new=2)
    data = load(folder)
    counts = {split: len(data.where(split)) for split in ("train", "validation", "test", "unseen")}
    assert counts == {"train": 16, "validation": 4, "test": 4, "unseen": 2}


def test_train_val_and_test(folder):
    for part, count in (("train", 10), ("valid", 2), ("test", 3)):
        fill(folder / part, a=count, b=count)
    fill(folder / "test", new=2)
    data = load(folder)
    counts = {split: len(data.where(split)) for split in ("train", "validation", "test", "unseen")}
    assert counts == {"train": 20, "validation": 4, "test": 6, "unseen": 2}
    assert data.gallery_splits == ("train",)


def test_train_alone_is_divided(folder):
    fill(folder / "train", a=10, b=10)
    data = load(folder)
    assert data.class_names == ["a", "b"]
    assert [len(data.where(s)) for s in ("train", "validation", "test")] == [12, 4, 4]


def test_what_lies_beside_train_and_test_is_listed(folder):
    fill(folder / "train", a=5, b=5)
    fill(folder / "test", a=1, b=1)
    fill(folder, extra=2)
    (folder / "README.txt").write_text("about")
    (folder / ".git").mkdir()
    data = load(folder)
    assert {Path(p["path"]).name for p in data.problems} == {"extra", "README.txt"}
    assert found(data.problems, "beside the train and test folders") and len(data.images) == 12
    assert found(data.warnings, r"1 hidden files or folders skipped: \.git")


def test_classes_that_are_called_train_and_test(folder):
    fill(folder, train=5, bus=5, testudo=5)
    assert load(folder, strict=True).class_names == ["bus", "testudo", "train"]


# ------------------------------------------------------------------------------ layouts of folders


def leaves(pattern):
    """Braces as in a shell: "{a,b}/{c,d}" -> a/c, a/d, b/c, b/d."""
    choice = re.search(r"\{([^{}]*)\}", pattern)
    if not choice:
        return [pattern]
    options = [
        pattern[: choice.start()] + o + pattern[choice.end() :] for o in choice[1].split(",")
    ]
    return [leaf for option in options for leaf in leaves(option)]


def laid_out(folder, *patterns, count=6):
    for leaf in itertools.chain(*map(leaves, patterns)):
        fill(folder / leaf, **{".": count})
    return folder


DIVIDED, GIVEN = (
    {"train": 8, "validation": 2, "test": 2},
    {"train": 10, "validation": 2, "test": 12},
)
NO_CLASS = "skipped, 6 files: no class folders"
LAYOUTS = {  # what: (folders of six images, classes, images a split, warnings, the printed layout)
    "doubled levels": (
        ["{training_set/training_set,test_set/test_set}/{cats,dogs}"],
        "cats dogs", GIVEN, [], r"training_set/training_set/ \(train\), test_set/test_set/ \(test",
    ),
    "doubled levels and pictures without a class": (
        ["{seg_train/seg_train,seg_test/seg_test}/{sea,forest}", "seg_pred/seg_pred"],
        "forest sea", GIVEN, [NO_CLASS], r"\nskipped: seg_pred/ \(6 files\)",
    ),
    "predictions sorted into classes": (
        ["{train,test}/{x,y}", "pred/x"],
        "x y", GIVEN, ["skipped, 6 files: called like a folder of images without a class"],
        r"skipped: pred/",
    ),
    "a test folder beside the classes": (
        ["{cat,dog}", "test/{cat,dog}"],
        "cat dog", GIVEN, [], r"one folder per class \(train\), test/ \(test\)",
    ),
    "a flat test folder beside the classes": (
        ["{cat,dog,test}"], "cat dog", DIVIDED, [NO_CLASS], r"skipped: test/ \(6 files\)",
    ),
    "flat validation and test folders": (
        ["train/{n01,n02}/images", "{val,test}/images"],
        "n01 n02", DIVIDED, [NO_CLASS, NO_CLASS], r"train/ \(undivided\)",
    ),
    "masks beside the images": (
        ["{images,masks}/{x,y}"], "x y", DIVIDED, ["skipped, 12 files: no images of classes"],
        r"in images/;.*\n.*\nskipped: masks/ \(12 files\)",
    ),
    "masks within the splits": (
        ["{train,test}/{images,masks}/{x,y}"], "x y", GIVEN,
        ["skipped, 12 files"] * 2, r"train/images/ \(train\), test/images/ \(test\)",
    ),
    "a level more in the only split": (
        ["train/images/{x,y}"], "x y", DIVIDED, [], r"train/images/ \(undivided\)",
    ),
    "a level more in each split, by any name": (
        ["{train,test}/leaf/{x,y}"], "x y", GIVEN, [], r"train/leaf/ \(train\)",
    ),
    "a level more above the splits": (
        ["archive/data/{train,test}/{x,y}"], "x y", GIVEN, [], r"archive/data/train/ \(train\)",
    ),
    "a level more above the classes": (["pets/{x,y}"], "x y", DIVIDED, [], "class in pets/;"),
    "a name before the splits": (
        ["mnist_{train,test}/{0,1}"], "0 1", GIVEN, [], r"mnist_train/ \(train\)",
    ),
    "a name behind the splits": (
        ["{Train2017,valSet}/{x,y}"], "x y", GIVEN, [], r"Train2017/ \(train\), valSet/ \(test\)",
    ),
    "splits within the classes": (
        ["{cat,dog}/{train,test}"], "cat dog", GIVEN, [], "class, in each of them test, train",
    ),
    "class names that begin like splits": (
        ["{boots,sandals,trainers,testudo,valley}/{red,blue}"],
        "boots sandals testudo trainers valley", {"train": 40, "validation": 10, "test": 10},
        [r"every class holds folders \(blue, red\): read as .*LAYOUT=leaves; .*LAYOUT=splits"],
        "one folder per class;",
    ),
    "a hierarchy of classes": (
        ["pets/{cat,dog}", "cars/{vw,fiat}"],
        "cars pets", {"train": 16, "validation": 4, "test": 4},
        [r"every class holds folders \(cat, dog, fiat, vw\): read as .* cars, pets.*LAYOUT=leaves"],
        "2 classes",
    ),
    "a class called test with folders of its own": (
        ["{blood,urine}", "test/x"], "blood test urine", {"train": 12, "validation": 3, "test": 3},
        [r"read as a class: called like a test split.*\(x\)"], "3 classes: blood, test, urine",
    ),
    "one word of two is no split": (["{test tube,flask}"], "flask test tube", DIVIDED, [], "flask"),
}  # fmt: skip


def check_layout(folder, data, classes, counts, warnings, layout):
    assert " ".join(data.class_names) == classes
    assert {split: len(data.where(split)) for split in counts} == counts
    assert len(data.images) == sum(counts.values())
    found_warnings = [f"{w['reason']}: {w['remedy']}" for w in data.warnings]
    assert len(found_warnings) == len(warnings)
    for one, pattern in zip(sorted(found_warnings), sorted(warnings)):
        assert re.search(pattern, one)
    assert re.search(layout, data.layout) and 1 <= len(data.layout.splitlines()) <= 3
    for path, label in zip(data.paths, data.labels):
        assert data.class_names[label] in Path(path).relative_to(folder).parent.parts
    aside = sum(int(n) for n in re.findall(r"skipped, (\d+) files", "\n".join(found_warnings)))
    files = sum(path.is_file() for path in folder.rglob("*"))
    assert files == len(data.images) + len(data.problems) + aside, "nothing is dropped in silence"


@pytest.mark.parametrize("what", LAYOUTS)
def test_a_layout_is_understood(folder, what):
    patterns, *expected = LAYOUTS[what]
    check_layout(folder, load(laid_out(folder, *patterns), strict=True), *expected)


@pytest.mark.parametrize(
    "patterns, says",
    [
        (["{bus,train}/{2019,2020}"], "bus, train as classes; or train as a part.* 2019, 2020"),
        (["{bus,test,train}/{2019,2020}"], "two ways: bus, test, train as classes"),
        (["{test,val}/{a,b}"], "test, val as classes; or test, val as a part.* a, b"),
        (["train/{a,b}", "extra"], "extra, train as classes; or train as a part.* a, b"),
        (["{train,test}"], "test, train are called like splits, but hold no class folders"),
        (["images/{train,val}", "labels/{train,val}"], "train, val are called like splits"),
    ],
    ids=str,
)
def test_a_layout_of_two_readings_is_an_error_that_names_both(folder, patterns, says):
    with pytest.raises(ValueError, match=says) as error:
        load(laid_out(folder, *patterns))
    assert "SIAMESE_LAYOUT=classes" in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "layout, patterns, classes, counts",
    [
        ("classes", ["{bus,train}/{2019,2020}"], "bus train", {"train": 16, "test": 4}),
        ("classes", ["{train,test}"], "test train", {"train": 8, "test": 2}),
        ("classes", ["{train,test}/{a,b}"], "test train", {"train": 16, "test": 4}),
        ("classes", ["{boots,trainers}/{red,blue}"], "boots trainers", {"train": 16, "test": 4}),
        ("splits", ["{bus,train}/{2019,2020}"], "2019 2020", {"train": 16, "test": 4}),
        ("splits", ["{boots,trainers}/{red,blue}"], "blue red", {"train": 16, "test": 4}),
        ("splits", ["{train,extra,test}/{a,b}"], "a b", {"train": 20, "test": 12}),
        ("splits", ["archive/{train,test}/{a,b}"], "a b", {"train": 10, "test": 12}),
        ("splits", ["{test,val}/{a,b}"], "a b", {"train": 16, "test": 4}),
        (
            "leaves",
            ["pets/{cat,dog}", "cars/{vw,fiat}"],
            "cat dog fiat vw",
            {"train": 16, "test": 4},
        ),
        ("leaves", ["fruit/{apple/{gala,pink},pear}"], "gala pear pink", {"train": 12, "test": 3}),
        ("leaves", ["{Greek,Latin}/{1,2}"], "Greek/1 Greek/2 Latin/1 Latin/2", {"train": 16}),
        (
            "leaves",
            ["{train,test}/{Greek,Latin}/{1,2/images}"],
            "Greek/1 Greek/2 Latin/1 Latin/2",
            {"train": 20, "test": 24},
        ),
        ("leaves", ["data/{train,val}/{x/a,b}"], "a b", {"train": 10, "test": 12}),
        (
            "leaves",
            ["{bus,train}/{2019,2020}"],
            "bus/2019 bus/2020 train/2019 train/2020",
            {"train": 16},
        ),
        ("leaves", ["{x/a,y/z/a,b}"], "b x/a z/a", {"train": 12, "test": 3}),
    ],
    ids=str,
)
def test_the_setting_says_which_reading_is_meant(folder, layout, patterns, classes, counts):
    data = load(laid_out(folder, *patterns), layout=layout, strict=True)
    assert " ".join(data.class_names) == classes and not data.warnings
    assert {split: len(data.where(split)) for split in counts} == counts


NAMES = [
    "train", "test", "val", "training_set", "seg_train", "seg_test", "pred", "images", "masks",
    "cat", "dog", "a", "b", "data",
]  # fmt: skip


def grow(folder, draw, depth=0):
    """A random tree of these names, files in it here and there."""
    if depth == 4 or (depth and draw.random() < (0.15 if depth == 1 else 0.7)):
        for i in range(draw.choice([0, 1, 2])):
            (folder / f"{i}.png").touch()
        return
    for name in draw.sample(NAMES, draw.choice([1, 2, 2, 3])):
        (folder / name).mkdir()
        grow(folder / name, draw, depth + 1)
    if draw.random() < 0.1:
        (folder / "stray.txt").touch()


def test_of_any_tree_each_file_is_an_image_or_mentioned(tmp_path):
    readings = dict.fromkeys(folder_layout.LAYOUTS, 0)
    for seed in range(80):
        root = tmp_path / f"{seed}"
        root.mkdir()
        grow(root, random.Random(seed))
        for layout in folder_layout.LAYOUTS:
            try:
                listing = folder_layout.read_folder(root, layout)
            except ValueError as error:
                assert layout == "auto" and "SIAMESE_LAYOUT=classes" in str(error)
                continue
            paths = [Path(path) for path, _, _ in listing.entries]
            notes = [n for n in listing.warnings if n["reason"].startswith("skipped")]
            named = {Path(note["path"]) for note in notes + listing.problems}
            assert len(set(paths)) == len(paths), "none is read twice"
            for path in filter(Path.is_file, root.rglob("*")):
                mentions = (path in paths) + len(named & {path, *path.parents})
                assert mentions == 1, (seed, layout, path)
            assert {split for _, split, _ in listing.entries} <= {"", "train", "validation", "test"}
            readings[layout] += 1
    assert readings["classes"] == readings["splits"] == 80 and readings["auto"] > 40


def test_the_variable_reaches_the_loader(folder, monkeypatch):
    laid_out(folder, "{train,test}")
    monkeypatch.setenv("SIAMESE_LAYOUT", "classes")
    settings = {"preset": "quick", "dataset": folder, "size": 8, "runs": folder.parent / "runs"}
    assert load_from_config(read_config(**settings)).class_names == ["test", "train"]
    monkeypatch.setenv("SIAMESE_LAYOUT", "class")
    with pytest.raises(ValueError, match=r"SIAMESE_LAYOUT='class' .*auto \| classes \| splits"):
        read_config(**settings)


def test_a_setting_that_is_none_or_has_no_folder(folder):
    with pytest.raises(ValueError, match=r"'class' is not one of: auto \| classes \| splits"):
        load(folder, layout="class")
    with pytest.raises(ValueError, match="is for a folder of images: toys"):
        load_images("toys", 8, layout="splits")


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "System Volume Information",
     "__MACOSX", "#recycle"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "train", "test/a"])
def test_system_folders_are_no_classes(folder, place, name):
    laid_out(folder, "{train,test}/{a,b}")
    fill(folder / place, **{name: 1, name.swapcase(): 1})
    data = load(folder, strict=True)
    assert data.class_names == ["a", "b"] and len(data.images) == 24
    [warning] = data.warnings
    assert re.match(r"[12] hidden files or folders skipped", warning["reason"])
    assert name in warning["reason"]


def test_a_class_that_only_the_test_folder_has_is_named_with_the_nearest(folder):
    laid_out(folder, "train/{ant,zebra,Golden Retriever,001}")
    laid_out(folder, "test/{Ant,zebras,golden_retriever,zebra,01}")
    data = load(folder, strict=True)
    near = {
        re.search("class (.*) is no", warning["reason"])[1]: warning["reason"].split(": ")[1]
        for warning in found(data.warnings, "is no training class")
    }
    assert near == {
        "Ant": "ant", "zebras": "zebra", "golden_retriever": "Golden Retriever", "01": "001",
    }  # fmt: skip
    assert len(data.where("unseen")) == 24 and len(data.where("test")) == 6
    assert not found(data.warnings, "no test image")


def test_many_strangers_are_counted(folder):
    laid_out(folder, "train/{a,b}", count=1)
    laid_out(folder, "test/{" + ",".join(f"s{i:02}" for i in range(30)) + "}", count=1)
    data = load(folder)
    assert len(found(data.warnings, "is no training class")) == 20
    assert found(data.warnings, "^10 more classes .*: s20, s21, s22, s23, s24, ...$")
    assert found(data.warnings, "no test image: no class has five images")


def test_a_folder_that_leads_back_to_itself(folder):
    try:
        os.symlink(".", folder / "train")
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"no symbolic links here: {error}")
    with pytest.raises(ValueError, match="0 images in 0 classes"):
        load(folder)


def test_what_was_understood_is_printed(folder):
    laid_out(folder, "{training_set,test_set}/{cats,dogs,b\nc}", "test_set/birds")
    assert load(folder).layout == (
        "splits: training_set/ (train), test_set/ (test); "
        "classes: train 3, validation 3, test 3, unseen 1\n"
        r"4 classes: b\nc, birds, cats, dogs"
    )


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


def test_thousands_of_classes(folder):
    """Blank bitmaps of different lengths: quick to write, and all different."""
    header = bytes.fromhex("424d3a0000000000000036000000280000000100000001000000010018000000000004")
    header += bytes(54 - len(header))
    for i in range(2_400):
        (folder / f"{i:05}").mkdir()
        for j in range(2):
            (folder / f"{i:05}" / f"{j}.bmp").write_bytes(header + bytes([i % 256, i // 256, j, 0]))
    data = load_images(folder, 4, cache_dir=folder.parent / "cache", strict=True)
    assert data.images.shape == (4_800, 4, 4, 3) and len(data.class_names) == 2_400
    assert len(np.unique(data.labels[data.where("unseen")])) == 600
    for i in np.random.default_rng(0).integers(0, 4_800, 50):
        name = data.class_names[data.labels[i]]
        assert Path(data.paths[i]).parent.name == name
        b, g, r = int(name) % 256, int(name) // 256, int(Path(data.paths[i]).stem)
        assert data.images[i, 0, 0].tolist() == [r, g, b]
    assert not found(data.warnings, "the same image")


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
        p, k = largest_batch_shape(labels, classes, images)
    except ValueError as no_batch:
        assert "two classes with two training images each" in str(no_batch)
        assert not tries and "Add images" in str(error.value)
        return
    assert pk_batches(labels, p, k).shape[1] == p * k
    assert tries and all(pk_batches(labels, *shape).size for shape in tries)


# ------------------------------------------------------------------------------- names of classes


@pytest.mark.parametrize("part", ["", "train"])
def test_blanks_around_a_name_are_no_other_class_and_another_case_is_warned_of(folder, part):
    fill(folder / part, **{"Apple": 6, "apple": 5, "apple ": 4, "pear": 6})
    if sum(path.is_dir() for path in (folder / part).iterdir()) < 4:
        pytest.skip("this file system takes these for one name")
    data = load(folder)
    assert data.class_names == ["Apple", "apple", "pear"]
    assert np.bincount(data.labels).tolist() == [6, 9, 6]
    [merged] = found(data.warnings, "spellings of one name, merged")
    assert "'apple', 'apple '" in merged["reason"]
    [alike] = found(data.warnings, "classes of nearly the same name: Apple, apple$")
    assert Path(alike["path"]).name.strip() == "apple" and len(data.warnings) == 2


@pytest.mark.parametrize(
    "names, alike",
    [
        (["red_apple", "Red Apple"], 1),
        (["Straße", "STRASSE"], 1),
        (["a", "A", "b", "B"], 2),
        (["1", "01"], 0),
        (["C", "C++", "C#"], 0),
    ],
    ids=str,
)
def test_names_that_are_nearly_the_same(folder, names, alike):
    fill(folder, **dict.fromkeys(names, 5))
    if len(list(folder.iterdir())) < len(names):
        pytest.skip("this file system takes these for one name")
    data = load(folder)
    assert len(data.class_names) == len(names)
    assert len(found(data.warnings, "nearly the same name")) == len(data.warnings) == alike


@pytest.mark.parametrize("name", ["unknown", "nan", "NaN", " "])
def test_a_folder_whose_name_can_be_no_label_is_named(folder, name):
    fill(folder, a=2, b=2, **{name: 2})
    says = f"{re.escape(str(folder / name))}: (no class can be called|the label is empty).*rename"
    with pytest.raises(ValueError, match=says):
        load(folder)


def test_a_folder_name_of_250_letters(tmp_path):
    folder = tmp_path / ("x" * 250)
    fill(folder, **{"a" * 250: 5, "b": 5})
    data = load_images(folder, 8, cache_dir=tmp_path / "cache", strict=True)
    assert data.name == "x" * 250 and data.class_names == ["a" * 250, "b"]


@pytest.mark.parametrize(
    "images, table",
    [("images", "labels.csv"), ("", "labels.csv"), ("images", "images.json"), ("", "Labels.XLSX")],
)
def test_images_beside_a_table_of_labels(folder, images, table):
    fill(folder, **{images or ".": 3})
    (folder / table).write_text("file,label\n0.png,cat\n")
    says = f"{re.escape(table)} may hold the labels: to use its labels, "
    with pytest.raises(ValueError, match=says) as error:
        load(folder)
    assert "move" not in str(error.value), "the table would be lost"
    with open(re.search(r"all: (.*)", str(error.value))[1], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4, "each file is listed"
    [remedy] = {row["remedy"] for row in rows}
    assert remedy == folder_layout.suggest_table(folder / table)
    assert (f"DATASET={folder / table}" in remedy) == table.endswith(".csv"), (
        "others cannot be read"
    )


def test_flat_train_and_test_folders_beside_a_table(folder):
    fill(folder, train=3, test=3)
    (folder / "train.csv").write_text("file,label\n0.png,cat\n")
    with pytest.raises(ValueError, match=r"train\.csv may hold them: .*DATASET=.*train\.csv"):
        load(folder)


def test_a_table_beside_class_folders_is_listed(folder):
    fill(folder, a=5, b=5)
    (folder / "labels.csv").write_text("file,label\n")
    [problem] = load(folder).problems
    assert problem["remedy"] == folder_layout.suggest_table(folder / "labels.csv")


# ---------------------------------------------------------------------- small folders, provenance


@pytest.mark.parametrize("classes", [2, 3, 8, 20])
@pytest.mark.parametrize("count", [2, 4, 5, 9])
def test_small_folders_use_leave_one_out_below_five_images_per_class(folder, classes, count):
    fill(folder, **{f"c{i:02}": count for i in range(classes)})
    data = load(folder, strict=True)
    unseen = classes // 4 if classes >= 8 else 0
    fifth = (classes - unseen) * (count // 5)
    sizes = {split: len(data.where(split)) for split in ("unseen", "test", "validation", "train")}
    assert sizes == {
        "unseen": unseen * count, "test": fifth, "validation": fifth,
        "train": classes * count - unseen * count - 2 * fifth,
    }  # fmt: skip
    assert data.uses_leave_one_out == (count < 5)
    said = found(data.warnings, "no class has five images; leave-one-out is used instead")
    assert len(said) == (count < 5)


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder):
    fill(folder / "one", a=5, b=5)
    shutil.copytree(folder / "one", folder / "two")

    def fingerprint(name, **options):
        return load_images(
            folder / name, 8, cache_dir=folder.parent / "cache", **options
        ).fingerprint

    first = fingerprint("one")
    assert re.fullmatch("[0-9a-f]{64}", first) and fingerprint("two") == first
    assert fingerprint("one", seed=7) != first, "another split"
    Image.fromarray(picture(99)).save(folder / "two" / "a" / "0.png")
    replaced = fingerprint("two")
    (folder / "two" / "a").rename(folder / "two" / "A")
    renamed = fingerprint("two")
    (folder / "two" / "b" / "0.png").unlink()
    assert len({first, replaced, renamed, fingerprint("two")}) == 4


def test_the_fingerprint_of_images_without_files():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)

    def fingerprint(pixels, labels=(0, 0, 0, 1, 1, 1), names=("a", "b"), split="train"):
        return images.ImageDataset(
            "x", pixels, np.array(labels), list(names), [], np.array([split] * 6)
        ).fingerprint

    other = pixels.copy()
    other[5, 7, 7, 2] ^= 1
    all_of_them = {
        fingerprint(pixels), fingerprint(other), fingerprint(pixels, labels=[0, 0, 0, 0, 1, 1]),
        fingerprint(pixels, names=["a", "c"]), fingerprint(pixels, split="test"),
        fingerprint(pixels[:, :4]),
    }  # fmt: skip
    assert len(all_of_them) == 6 and fingerprint(pixels.copy()) in all_of_them
