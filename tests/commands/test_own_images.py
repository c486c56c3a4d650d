"""Images of one's own: the README's lines, word by word, and whether the answers are right."""

import csv
import os
import re
import shlex
import shutil
from fnmatch import fnmatch

import forked
import numpy as np
import pytest
from PIL import Image, ImageDraw

import siamese_utils as su
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


def save_small_backbone(path):
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (32, 64):
        x = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
        x = keras.layers.Dropout(0.1)(x)  # as many backbones have
    keras.Model(image, x).save(path)


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
    ball(BALLS["blue"], 400).save(place / "image.jpg")
    save_small_backbone(place / "backbone.keras")
    return place


def typed(place, words, *more, **others):
    """What this command prints, run in `place` as a user would; only Python's place differs."""
    python = {"make": ["-m", "workbook"], ".venv/bin/python": []}
    words = [word.replace("/path/to/images", str(place / "images")) for word in words]
    settings = SMALL | {"RUNS": place / "runs", "BACKBONE": place / "backbone.keras"} | others
    environment = {f"SIAMESE_{name}": str(value) for name, value in settings.items()}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = forked.start(
        [*python[words[0]], *words[1:], *more], place, os.environ | environment
    ).finish()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def line(*beginning):
    """The first of the README's lines that contains these words next to each other."""
    found = [words for words in readme_lines() if " ".join(beginning) in " ".join(words)]
    assert found, f"the README no longer says {beginning}"
    return found[0]


@pytest.fixture(scope="module")
def said_by_run(place):
    """What the README's training prints; of its notebooks only 3, 4 and 6."""
    return typed(place, line("make", "run"), "3", "4", "6")


@pytest.fixture(scope="module")
def gallery(place, said_by_run):
    """The gallery that it leaves."""
    return place / "runs" / "images-quick" / "gallery"


@pytest.fixture(scope="module")
def plain_gallery(place):
    """The gallery of pretrained features, made without a training by the README's first line."""
    said = typed(place, line("build", "EfficientNetLite0"), SIZE="96")
    assert "75 images of 5 classes in my_gallery" in said
    return place / "my_gallery"


def table(gallery, folder):
    """The answers of `identify` for a folder: (true class, label, nearest) of each image."""
    main(["identify", str(gallery), str(folder)])
    with open(folder.with_name(f"{folder.name}-identified.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(os.path.basename(os.path.dirname(r["path"])), r["label"], r["nearest"]) for r in rows]


def test_the_lines_of_the_readme_build_a_gallery_without_training_and_change_it(
    place, plain_gallery
):
    identify = line("identify", "my_gallery")
    before = typed(place, identify).splitlines()
    assert before[0].startswith("image.jpg: ") and "threshold" in before[0]
    shutil.copytree(plain_gallery, place / "other_gallery")
    assert "2 images added" in typed(place, line("enroll", "my_gallery"))
    answers = table(plain_gallery, place / "new")
    assert [(label, nearest) for _, label, nearest in answers] == [("new class", "new class")] * 2
    others = table(plain_gallery, place / "more")  # features of photographs, for drawn balls
    assert "new class" in [nearest for _, _, nearest in others]
    typed(place, line("remove", "my_gallery"))
    assert "new class" not in Gallery.load(plain_gallery).labels
    main(["enroll", str(place / "other_gallery"), "brown", str(place / "new/1.jpg")])
    typed(place, line("merge", "my_gallery"))
    assert "brown" in Gallery.load(plain_gallery).labels
    main(["remove", str(plain_gallery), "--label", "brown"])
    assert typed(place, identify).splitlines()[0] == before[0]


def test_the_trained_gallery_names_an_image(place, gallery):
    said = typed(place, line("identify", "runs/images-quick/gallery")).splitlines()
    taken = Gallery.load(gallery)
    assert fnmatch(said[0], f"image.jpg: blue (distance 0.???, threshold {taken.threshold:.3f}*)")
    assert said[-2:] == [taken.describe_threshold(), taken.describe_probability()]
    assert "at most 5% of strangers let in" in said[-2]
    assert ("probability" in said[0]) == (len(taken.trials.known_right) >= 50)


def test_the_last_lines_of_the_run_say_what_is_taken_home(place, gallery, said_by_run):
    said = said_by_run.splitlines()
    start = next(i for i, text in enumerate(said) if text.startswith("taken home: "))
    assert said[start].startswith("taken home: plain features (below 8 classes")
    assert "0 of 60 images are closest to one of another class" in said[start]
    assert "validation images: closest image right" in said[start + 1]
    assert said[start + 2 :] == ["  so the gallery holds the plain features, without a training"]
    _, tail = su.split_at_freeze_point(Gallery.load(gallery).model)
    assert tail.count_params() == 0, "an average and a length"


def test_images_of_known_classes_are_named_and_strangers_are_unknown(place, gallery):
    known = table(gallery, place / "held_out")
    named = [label == name for name, label, _ in known]
    assert len(named) == 20 and sum(named) >= 16, known
    assert all(label in (name, "unknown") for name, label, _ in known), known
    strangers = table(gallery, place / "strangers")
    assert sum(label == "unknown" for _, label, _ in strangers) >= 4, strangers
    assert "CAUTION: strangers of only 5 classes" in Gallery.load(gallery).describe_threshold()


def test_the_threshold_was_chosen_on_images_that_were_no_entries(place, gallery):
    taken = Gallery.load(gallery)
    policy = taken.policy
    assert (
        policy["known_held_out"] and policy["known"] == 23
    )  # 15 validation images, half of 15 test images
    assert policy["strangers_simulated"] and policy["strangers_let_in"] <= 0.05
    assert 0.01 < taken.threshold == policy["threshold"]
    # all images are entries, with the paths of their files from there on
    assert len(taken.labels) == 5 * 15
    assert all((place / "images" / path).is_file() for path in taken.paths)
    assert not any(map(os.path.isabs, taken.paths))


def test_a_run_is_notebooks_1_to_6_unless_others_are_named(place, monkeypatch):
    executed = []
    monkeypatch.setattr(run, "execute", lambda source, *_: executed.append(source.name[:2]))
    words = [f"DATASET={place / 'images'}", f"RUNS={place / 'none'}"]
    run.run(words)
    assert executed == ["01", "02", "03", "04", "05", "06"]
    run.run([*words, "9"])
    assert executed[6:] == ["09"]


@pytest.mark.parametrize("classes, images", [(6, 9), (2, 2)])
def test_the_command_of_the_readme_runs_on_small_folders(tmp_path, classes, images):
    """Every notebook of the command runs, and its gallery knows every class."""
    colors = dict(list((BALLS | STRANGERS).items())[:classes])
    draw(tmp_path / "images", colors, images, 0)
    save_small_backbone(tmp_path / "backbone.keras")
    said = typed(tmp_path, line("make", "run"), EPOCHS="2")  # whether they run, not what is learned
    assert said.count("  ok") == 6, said
    gallery = Gallery.load(tmp_path / "runs/images-quick/gallery")
    assert set(gallery.labels) == set(colors)
