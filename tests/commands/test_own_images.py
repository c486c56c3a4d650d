"""Images of one's own: the README's lines, word by word, and whether the answers are right."""

import csv
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest
from PIL import Image, ImageDraw

from workbook import ROOT
from workbook.__main__ import main
from workbook.commands import run
from workbook.gallery.gallery import Gallery
from workbook.support.tensorflow_start import keras

BALLS = {
    "red": (220, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 220),
    "yellow": (230, 220, 30), "magenta": (200, 40, 200),
}  # fmt: skip
STRANGERS = {"cyan": (40, 210, 220), "orange": (240, 140, 20)}
NEW = {"brown": (110, 60, 20)}
SMALL = {"PRESET": "quick", "SIZE": "32", "VIEWS": "1", "EPOCHS": "20"}


def ball(color, seed):
    """A ball of about this colour, somewhere on a grey ground."""
    rng = np.random.default_rng([*color, seed])
    image = Image.new("RGB", (48, 48), (int(rng.integers(90, 170)),) * 3)
    radius = rng.integers(9, 15)
    x, y = rng.integers(radius, 48 - radius, 2)
    shade = np.clip(color + rng.integers(-15, 16, 3), 0, 255)
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(image).ellipse(box, fill=tuple(map(int, shade)))
    return image


def draw(folder, colors, count, first_seed):
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            ball(color, first_seed + i).save(folder / name / f"{i}.png")


def readme_lines():
    """The lines to type in the section on own images, as the words of a command."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = re.search(r"## I want to use my own images\n(.*?)\n## ", text, re.DOTALL)[1]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in "".join(blocks).splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README's lines name, and a backbone that needs no download."""
    place = tmp_path_factory.mktemp("own")
    draw(place / "images", BALLS, 15, 0)
    draw(place / "held_out", BALLS, 4, 100)
    draw(place / "strangers", STRANGERS, 4, 200)
    draw(place / "more", NEW, 3, 300)
    (place / "new").mkdir()
    for i in (1, 2):
        ball(NEW["brown"], i).save(place / "new" / f"{i}.jpg")
    ball(BALLS["blue"], 400).save(place / "picture.jpg")
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (32, 64):
        x = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
        x = keras.layers.Dropout(0.1)(x)  # as many a backbone has
    keras.Model(image, x).save(place / "backbone.keras")
    return place


def typed(place, words, *more):
    """What this command prints, run in `place` as a user would; only Python's place differs."""
    python = {"make": [sys.executable, "-m", "workbook"], ".venv/bin/python": [sys.executable]}
    words = [word.replace("/path/to/images", str(place / "images")) for word in words]
    settings = SMALL | {"RUNS": place / "runs", "BACKBONE": place / "backbone.keras"}
    environment = {f"SIAMESE_{name}": str(value) for name, value in settings.items()}
    done = subprocess.run(
        [*python[words[0]], *words[1:], *more], cwd=place, capture_output=True, text=True,
        encoding="utf-8",
        env=os.environ | environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def gallery(place):
    """The gallery that the README's first line leaves; of its notebooks only 3 to 5."""
    train, *_ = readme_lines()
    assert train == ["make", "run", "DATASET=/path/to/images"]
    assert "notebooks 1 to 5" not in typed(place, train, "3", "4", "5")
    return place / "runs" / "images-quick" / "gallery"


def table(gallery, folder):
    """The answers of `identify` for a folder: (true class, label, nearest) of each image."""
    main(["identify", str(gallery), str(folder)])
    with open(folder.with_name(f"{folder.name}-identified.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(os.path.basename(os.path.dirname(r["path"])), r["label"], r["nearest"]) for r in rows]


@pytest.fixture
def unchanged(gallery):
    """The gallery as it is, and as it is again after a test that adds to it."""
    yield gallery
    again = Gallery.load(gallery)
    again.remove("new class")
    again.save(gallery)


def test_the_lines_of_the_readme_name_an_image_and_find_an_added_class(place, unchanged):
    gallery = unchanged
    _, identify, enroll = readme_lines()
    before = typed(place, identify).splitlines()
    limit = Gallery.load(gallery).threshold
    assert fnmatch(before[0], f"picture.jpg: blue (distance 0.???, threshold {limit:.3f})")
    assert "at most 5% of strangers let in" in before[-1]
    # a class that is added without training is found; the others are what they were
    assert "2 images added; new class has 2" in typed(place, enroll)
    answers = table(gallery, place / "more")
    assert [nearest for _, _, nearest in answers] == ["new class"] * 3
    assert {label for _, label, _ in answers} <= {"new class", "unknown"}
    assert typed(place, identify).splitlines()[0] == before[0]


def test_images_of_known_classes_are_named_and_strangers_are_unknown(place, gallery):
    known = table(gallery, place / "held_out")
    named = [label == name for name, label, _ in known]
    assert len(named) == 20 and sum(named) >= 16, known
    assert all(label in (name, "unknown") for name, label, _ in known), known
    strangers = table(gallery, place / "strangers")
    assert sum(label == "unknown" for _, label, _ in strangers) >= 6, strangers


def test_the_threshold_was_chosen_on_images_that_were_no_entries(place, gallery):
    taken = Gallery.load(gallery)
    policy = taken.policy
    assert policy["known_held_out"] and policy["known"] == 15  # three of fifteen a class
    assert policy["strangers_simulated"] and policy["strangers_let_in"] <= 0.05
    assert 0.01 < taken.threshold == policy["threshold"]
    # training and validation images are entries, with the paths of their files from there on
    assert len(taken.labels) == 5 * 12
    assert all((place / "images" / path).is_file() for path in taken.paths)
    assert not any(map(os.path.isabs, taken.paths))


def test_a_run_on_own_images_is_notebooks_1_to_5_unless_others_are_named(
    place, monkeypatch, capsys
):
    executed = []
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(run, "execute", lambda source, *_: executed.append(source.name[:2]))
    words = [f"DATASET={place / 'images'}", f"RUNS={place / 'none'}"]
    run.run(words)
    assert executed == ["01", "02", "03", "04", "05"]
    assert "notebooks 1 to 5" in capsys.readouterr().out
    run.run([*words, "6"])
    assert executed[5:] == ["06"] and "notebooks 1 to 5" not in capsys.readouterr().out
    run.run(["DATASET=toys", words[1]])
    assert executed[6:] == ["01", "02", "03", "04", "05", "06", "07"]
