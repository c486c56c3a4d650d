"""`python -m workbook audit` and tables of labels, as a user types them."""

import os
import re
import shutil
import subprocess
import sys

import forked
import numpy as np
import pytest
from PIL import Image

from workbook import ROOT
from workbook.__main__ import main
from workbook.data import toys


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six toys with eight images each; three faults are planted, and one small class is added."""
    place = tmp_path_factory.mktemp("audit")
    images, labels, _ = toys.render_toys([8] * 6 + [2], 96, 7)
    for i, (image, label) in enumerate(zip(images, labels)):
        (place / "my_images" / f"toy {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / "my_images" / f"toy {label}" / f"{i:02}.png")
    folder = place / "my_images"
    shutil.copy(folder / "toy 0/00.png", folder / "toy 1/copy of 00.png")
    Image.open(folder / "toy 2/16.png").save(folder / "toy 2/again.jpg", quality=60)
    (folder / "toy 3/broken.jpg").write_text("no image")
    return place


def typed(place, *words, **settings):
    environment = {f"SIAMESE_{name}": str(value) for name, value in settings.items()}
    environment |= {"SIAMESE_RUNS": str(place / "runs")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return forked.start(["-m", "workbook", *words], place, os.environ | environment).finish()


def list_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_audit_finds_what_was_planted_and_changes_nothing(place):
    before = list_files(place / "my_images")
    done = typed(place, "audit", "my_images/", BACKBONE="ResNet50", SIZE=32)  # both have no effect
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    counts = {what: int(count) for count, what in said}
    assert counts["groups of near-duplicates across classes"] == 1
    copies = sum(
        counts[f"groups of near-duplicates {kind}"] for kind in ("across splits", "within a class")
    )
    assert copies >= 1
    assert counts["classes with fewer than 5 images"] == 1
    assert counts["files and folders left out"] == 1
    page = (place / "my_images-audit.html").read_text("utf-8")
    for name in ("toy 1/copy of 00.png", "toy 0/00.png", "toy 2/again.jpg", "toy 3/broken.jpg"):
        assert name in page
    assert list_files(place / "my_images") == before
    assert typed(place, "audit", "my_images/").returncode == 0, "its own page is replaced"


@pytest.mark.parametrize(
    "words, says",
    [
        (["nowhere"], "nowhere is not a folder; give one with one sub-folder per class"),
        (["my_images", "page.txt"], "page.txt: give the report a name that ends in .html"),
        (["my_images", "none/page.html"], "there is no folder none; make it"),
        (["my_images", "other.html"], "is not a page that audit wrote, so it is not overwritten"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_computed(place, monkeypatch, words, says):
    (place / "other.html").write_text("<p>mine</p>")
    monkeypatch.chdir(place)
    monkeypatch.setattr("workbook.commands.audit.plain_features", None)
    with pytest.raises(SystemExit) as error:
        main(["audit", *words])
    assert says in str(error.value.code) and "\n" not in str(error.value.code)
    assert (place / "other.html").read_text() == "<p>mine</p>"


@pytest.mark.parametrize("command", [["build", "EfficientNetLite0"], ["audit"]])
def test_nothing_else_is_printed_where_there_are_no_images(command):
    images, last = "nowhere.csv", ["gallery"] * (command[0] == "build")
    command = [sys.executable, "-m", "workbook", *command, images, *last]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    says = f"{images} is not a folder; give one with one sub-folder per class"
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(rf"error: (.*/)?{re.escape(says)}\n", done.stderr)


def test_a_gallery_is_built_from_a_table_of_labels(place):
    rows = [f"my_images/toy {i // 8}/{i:02}.png,thing {i // 8}" for i in range(24)]
    (place / "labels.csv").write_text("\n".join(["file,label", *rows, "gone.png,thing 0", ""]))
    done = typed(place, "build", "EfficientNetLite0", "labels.csv", "my_gallery/", SIZE=96)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 images of 3 classes in my_gallery" in done.stdout
    assert "gone.png: no such file (row 26, thing 0)" in done.stdout
    done = typed(place, "identify", "my_gallery", "my_images/toy 1/09.png")
    assert "toy 1/09.png: thing 1 (distance 0.000" in done.stdout


def test_a_run_takes_a_table_of_labels(place):
    rows = [
        f"toy {i // 8}/{i:02}.png;thing {i // 8};{'test' if i % 4 == 0 else 'train'}"
        for i in range(24)
    ]
    (place / "my_images" / "table.csv").write_text("\n".join(["where;what;part", *rows, ""]))
    words = ["run", f"DATASET={place / 'my_images/table.csv'}", "COLUMNS=where,what,part", "1"]
    done = typed(place, *words, "SIZE=32", PRESET="quick")
    (place / "my_images" / "table.csv").unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    notebook = (place / "runs/table.csv-quick").rglob("01*.ipynb")
    text = next(notebook).read_text("utf-8")
    assert "24 rows of table.csv, columns where, what, part; classes: train 3" in text
    assert np.all([f"thing {i}" in text for i in range(3)])
