"""The gallery: adding, removing, identifying, the unknown, files, and the command line."""

import hashlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from test_model import small_embedding

import siamese_utils as su
from workbook import ROOT
from workbook.__main__ import main
from workbook.gallery import Gallery
from workbook.images import decode_image
from workbook.retrieval import nearest_neighbors


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small_embedding()


@pytest.fixture
def folder(tmp_path):
    """Two classes of three noisy pictures, red and blue, and a file that is no image."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (230, 20, 20)), ("東京 blue", (20, 20, 230))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            noise = rng.integers(-20, 21, (16, 16, 3))
            pixels = np.uint8(np.clip(color + noise, 0, 255))
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i} é.png")
    (tmp_path / "images" / "red" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def gallery(model, folder):
    paths = sorted(folder.rglob("*.png"))
    filled = Gallery(model)
    filled.add(paths, [path.parent.name for path in paths])
    return filled


def line(model, values):
    """Embeddings that differ in their first number only."""
    x = np.zeros((len(values), model.output_shape[-1]), np.float32)
    x[:, 0] = values
    return x


def test_a_path_and_its_array_are_one_image(gallery, folder):
    path = folder / "red" / "1 é.png"
    by_path, by_array = gallery.identify(path), gallery.identify(decode_image(path, 16))
    assert by_path == by_array
    assert by_path.label == "red" and by_path.distance == pytest.approx(0, abs=1e-6)
    assert by_path.nearest[0] == ("red", by_path.distance, str(path))
    distances = [distance for _, distance, _ in by_path.nearest]
    assert len(distances) == 5 and distances == sorted(distances)
    assert len(gallery.identify(path, k=100).nearest) == 6


def test_distances_are_squared_and_those_of_embed(gallery, model, folder):
    images = np.stack([decode_image(path, 16) for path in gallery.paths])
    expected = su.embed(model, images)
    np.testing.assert_allclose(gallery.embeddings, expected, atol=1e-5)
    found = {path: distance for _, distance, path in gallery.identify(images[0], k=6).nearest}
    for path, vector in zip(gallery.paths, expected):
        assert found[path] == pytest.approx(((vector - expected[0]) ** 2).sum(), abs=1e-5)


def test_what_is_added_or_removed_counts_at_once(gallery, folder):
    image = np.full((16, 16, 3), 128, np.uint8)
    assert gallery.identify(image).label != "grey"
    gallery.add(image[None], ["grey"])
    assert gallery.identify(image, k=1).nearest[0][0::2] == ("grey", None)
    assert gallery.remove(label="grey") == 1 and gallery.identify(image).label != "grey"
    path = folder / "red" / "0 é.png"
    assert gallery.remove(path=path) == 1
    assert gallery.identify(path).distance > 1e-6
    assert gallery.remove("red") == 2 and set(gallery.labels) == {"東京 blue"}
    for nothing in ({"label": "red"}, {"path": path}, {}):
        with pytest.raises(ValueError, match="no entry with label"):
            gallery.remove(**nothing)


def test_embeddings_can_be_added_with_integer_labels(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 1]), np.array([7, 8]))
    assert gallery.labels.tolist() == ["7", "8"] and gallery.paths.tolist() == ["", ""]


def test_threshold_separates_known_from_unknown(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 10]), ["a", "b"])
    queries = line(model, [1, 9, 0.5, 6, 4, 15, 20])  # squared: 1 1 .25 | 16 wrong | 16 25 100
    labels = ["a", "b", "a", "a", "x", "x", "y"]
    assert gallery.open_set(queries, labels) == {"known_accuracy": 0.75, "unknown_rejection": 0}
    found = gallery.fit_threshold(queries, labels)
    assert found == {"known_accuracy": 0.75, "unknown_rejection": 1, "threshold": 1}
    assert gallery.threshold == 1
    assert np.isnan(gallery.open_set(queries[:2], labels[:2])["unknown_rejection"])
    with pytest.raises(ValueError, match="2 of 2 queries are of known classes"):
        gallery.fit_threshold(queries[:2], labels[:2])


@pytest.mark.parametrize("seed", range(3))
def test_fitted_threshold_is_the_best_of_a_plain_loop(model, seed):
    rng, gallery = np.random.default_rng(seed), Gallery(model)
    gallery.add_embeddings(line(model, rng.normal(size=30)), rng.integers(0, 4, 30))
    queries, labels = line(model, 2 * rng.normal(size=50)), rng.integers(0, 7, 50)
    found = gallery.fit_threshold(queries, labels)
    best = 0
    for limit in nearest_neighbors(queries, gallery.embeddings)[0][:, 0]:
        gallery.threshold = limit
        best = max(best, sum(gallery.open_set(queries, labels).values()))
    assert found["known_accuracy"] + found["unknown_rejection"] == pytest.approx(best)


def test_beyond_the_threshold_is_unknown(gallery):
    image = np.zeros((16, 16, 3), np.uint8)
    distance = gallery.identify(image).distance
    gallery.threshold = distance * 0.99
    match = gallery.identify(image)
    assert match.label == "unknown" and match.distance == distance and len(match.nearest) == 5
    gallery.threshold = distance * 1.01
    assert gallery.identify(image).label == match.nearest[0][0]


def test_bad_input_is_named(gallery, model, folder):
    good = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="the gallery is empty"):
        Gallery(model).identify(good)
    with pytest.raises(ValueError, match=r"shape \(8, 16, 3\).*takes \(16, 16, 3\)"):
        gallery.identify(good[:8])
    with pytest.raises(ValueError, match=r"values up to 1.0.*0\.\.255"):
        gallery.identify(np.ones((16, 16, 3)))
    with pytest.raises(ValueError, match=r"notes\.txt: not an image"):
        gallery.add([folder / "red" / "0 é.png", folder / "red" / "notes.txt"], ["red", "red"])
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        gallery.identify("absent.png")
    with pytest.raises(ValueError, match="for 2 labels"):
        gallery.add([good], ["a", "b"])
    with pytest.raises(ValueError, match=r"it takes embeddings \(1, 8\)"):
        gallery.add_embeddings(np.zeros((1, 9)), ["a"])
    with pytest.raises(ValueError, match='"unknown"'):
        gallery.add([good], ["unknown"])
    with pytest.raises(ValueError, match="not finite"):
        gallery.add_embeddings(np.full((1, 8), np.nan), ["a"])
    assert len(gallery.labels) == 6, "what failed added nothing"
    with pytest.raises(ValueError, match="k=0: ask for at least 1"):
        gallery.identify(good, k=0)
    with pytest.raises(ValueError, match=r"not \(batch, s, s, 3\)"):
        Gallery(keras.Sequential([keras.Input((16, 8, 3)), keras.layers.Flatten()]))


def kinds(folder):
    """The files of a saved gallery, by what comes before the content's name."""
    return sorted(path.name.split("-")[0].split(".")[0] for path in folder.iterdir())


def test_saved_and_loaded_it_is_the_same(gallery, tmp_path):
    gallery.threshold = 0.25
    gallery.save(tmp_path / "new" / "g")
    assert kinds(tmp_path / "new" / "g") == ["embedding", "entries", "gallery"]
    again = Gallery.load(tmp_path / "new" / "g")
    for name in ("embeddings", "labels", "paths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(gallery, name))
    image = np.full((16, 16, 3), 99, np.uint8)
    assert again.threshold == 0.25 and again.identify(image) == gallery.identify(image)
    again.remove("red")
    again.threshold = None
    again.save(tmp_path / "new" / "g")
    assert kinds(tmp_path / "new" / "g") == ["embedding", "entries", "gallery"], "old ones go"
    third = Gallery.load(tmp_path / "new" / "g")
    assert third.threshold is None and len(third.labels) == 3


def test_an_empty_gallery_can_be_saved(model, tmp_path):
    Gallery(model).save(tmp_path)
    assert Gallery.load(tmp_path).embeddings.shape == (0, 8)


def edit(folder, **changes):
    path = folder / "gallery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_refuses_what_does_not_belong_together(gallery, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no whole gallery"):
        Gallery.load(tmp_path / "absent")
    gallery.save(tmp_path)
    edit(tmp_path, format=2)
    with pytest.raises(ValueError, match=r"newer version \(format 2"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    edit(tmp_path, embedding_size=9)
    with pytest.raises(ValueError, match="gives 8 numbers, not 9"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    small_embedding().save(next(tmp_path.glob("embedding-*.keras")))
    with pytest.raises(ValueError, match="other weights"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    entries = next(tmp_path.glob("entries-*.npz"))
    entries.write_bytes(entries.read_bytes() + b"x")
    with pytest.raises(ValueError, match="was changed"):
        Gallery.load(tmp_path)
    entries.unlink()
    with pytest.raises(FileNotFoundError, match="holds no whole gallery"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    (tmp_path / "gallery.json").write_text('{"format"')
    with pytest.raises(FileNotFoundError, match="holds no whole gallery"):
        Gallery.load(tmp_path)


@pytest.mark.parametrize("name", ["embedding", "entries", "gallery.json"])
def test_a_save_that_is_cut_short_leaves_the_older_gallery(gallery, tmp_path, monkeypatch, name):
    """Saving fails just before `name` gets its name, over an older gallery and over none."""
    replace = os.replace

    def failing(source, target):
        if os.path.basename(target).startswith(name):
            raise OSError("the disk is full")
        replace(source, target)

    gallery.save(tmp_path / "old")
    old = len(gallery.labels)
    gallery.remove("red")
    monkeypatch.setattr(os, "replace", failing)
    for folder in ("old", "none"):
        with pytest.raises(OSError, match="disk is full"):
            gallery.save(tmp_path / folder)
    with pytest.raises(FileNotFoundError):
        Gallery.load(tmp_path / "none")
    assert len(Gallery.load(tmp_path / "old").labels) == old


def test_a_pickle_in_the_place_of_the_entries_is_not_read(gallery, tmp_path):
    gallery.save(tmp_path)
    hidden, entries = np.array([{"a": 1}], object), next(tmp_path.glob("entries-*.npz"))
    np.savez(entries, embeddings=gallery.embeddings, labels=hidden, paths=hidden)
    edit(tmp_path, entries_sha256=hashlib.sha256(entries.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="allow_pickle"):
        Gallery.load(tmp_path)


def command(*words):
    environment = os.environ | {"PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-m", "workbook", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", env=environment, cwd=ROOT,
    )  # fmt: skip


def test_command_line_in_a_fresh_process(model, folder, tmp_path):
    model.save(tmp_path / "embedding.keras")
    built = command("build", tmp_path / "embedding.keras", folder, tmp_path / "g")
    assert built.returncode == 0, built.stderr
    assert "6 images of 2 classes" in built.stdout and "notes.txt" in built.stdout
    one, two = folder / "red" / "2 é.png", folder / "東京 blue" / "0 é.png"
    asked = command("identify", tmp_path / "g", one, two, "-k", 2)
    assert asked.returncode == 0, asked.stderr
    gallery, expected = Gallery.load(tmp_path / "g"), []
    for path in (one, two):
        match = gallery.identify(path, k=2)
        expected.append(f"{path}: {path.parent.name} (distance {match.distance:.3f})")
        expected += [f"  {d:.3f} {label} {entry}" for label, d, entry in match.nearest]
    assert asked.stdout.splitlines() == expected


def test_command_line_errors_are_one_message(tmp_path, folder, model):
    model.save(tmp_path / "embedding.keras")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["identify", tmp_path / "absent", "a.png"], "holds no whole gallery"),
        (
            ["build", tmp_path / "embedding.keras", tmp_path / "empty", tmp_path / "g"],
            "two sub-folders with images",
        ),
        (["build", tmp_path / "absent.keras", folder, tmp_path / "g"], "absent.keras"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert message in str(stop.value.code)
