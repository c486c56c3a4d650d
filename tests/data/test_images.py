"""Datasets: the toys, folders as people have them, and the Grocery Store photographs."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbook import ROOT
from workbook.data import image_cache, toys
from workbook.data import images as image_files
from workbook.data.downloads import DATASETS
from workbook.data.images import decode_image, load_images, on_white
from workbook.data.toys import render_toys

SHARED = ROOT.parent / "shared" / "datasets"


def write_images(folder, names, count, suffix=".jpeg", shade=0):
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for j in range(count):
            color = (20 * i % 256, 25 * j % 256, shade)
            Image.new("RGB", (40 + j, 30), color).save(folder / name / f"imagine {j}{suffix}")


PALETTES = toys._PALETTES
NAMES = ["Școala_Ardeleană", "Bánffy", "東京", "a b", "e", "f", "g", "h", "i", "j", "k", "l"]


def test_toys_are_reproducible_across_processes():
    """An image depends on its class and instance, however many others are drawn with it."""
    code = (
        "from workbook.data import toys; import hashlib;"
        "images, _, _ = toys.render_toys([0] * 110 + [6] * 2, 16, 5);"
        "print(hashlib.sha256(images.tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    images, _, _ = render_toys([1, 2] + [0] * 108 + [6] * 3, 16, 5)
    assert images.shape == (21, 16, 16, 3) and images.dtype == np.uint8
    assert other.stdout.strip() == hashlib.sha256(images[3:15].tobytes()).hexdigest()


@pytest.fixture
def quickly_drawn(monkeypatch):
    """Noise instead of toys, which takes a thousandth of the time."""

    def draw(counts, size, seed):
        labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        images = np.random.default_rng(seed).integers(
            0, 256, (len(labels), size, size, 3), np.uint8
        )
        return images, labels, {"angle": images[:, 0, 0, 0].astype(np.float32)}

    monkeypatch.setattr(image_files.toys, "render_toys", draw)


def test_toys_are_split_by_class(tmp_path, quickly_drawn):
    found = load_images("toys", 8, seed=5, cache_dir=tmp_path)
    assert found.images.shape == (3424, 8, 8, 3) and found.images.dtype == np.uint8
    classes = {split: set(found.labels[found.where(split)]) for split in np.unique(found.splits)}
    assert classes["train"] == classes["test"] and len(classes["train"]) == 80
    assert len(classes["validation"]) == 12 and len(classes["unseen"]) == 24
    assert not classes["train"] & (classes["validation"] | classes["unseen"])
    assert (found.factors["angle"] == found.images[:, 0, 0, 0]).all()
    assert found.layout == (
        "drawn, no folder; classes: train 80, validation 12, test 80, unseen 24\n"
        "116 classes: toy 000, toy 001, toy 002, toy 003, toy 004, ..."
    )


def test_toys_are_drawn_as_before_they_were_drawn_faster():
    with np.load(ROOT / "tests/saved_before/toys.npz") as file:
        before = file["images"].astype(int)  # all silhouettes, patterns and palettes
    images, _, _ = render_toys([1] * 24, 16, 42)
    differs = np.abs(images - before)
    assert (differs > 0).mean() < 1e-3 and differs.max() < 64  # another processor may round


def test_another_seed_draws_other_toys():
    one, same, other = (render_toys([3], 16, seed)[0] for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def change_pattern(monkeypatch):
    original = toys._PATTERNS["dots"]
    monkeypatch.setitem(toys._PATTERNS, "dots", lambda u, v, f: original(u, v, f) + 0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setitem(toys._PROFILES, "fish", "03455431346"),
        lambda patch: patch.setitem(toys._RANGES, "brightness", (0.4, 1.3)),
        lambda patch: patch.setattr(toys, "_WALL", ((0.2, 1.0), (0.25, 1.0))),
        lambda patch: patch.setattr(toys, "_PALETTES", ["ffffff 000000 888888", *PALETTES[1:]]),
        change_pattern,
    ],
    ids=["silhouette", "range", "backdrop", "palette", "pattern"],
)
def test_another_drawing_has_another_hash(monkeypatch, change):
    before = toys.hash_drawing()
    change(monkeypatch)
    toys._toy_recipe.cache_clear()
    assert toys.hash_drawing() != before
    monkeypatch.undo()
    toys._toy_recipe.cache_clear()
    assert toys.hash_drawing() == before


def test_toys_are_kept_until_the_drawing_changes(tmp_path, monkeypatch, quickly_drawn, capsys):
    """A type hint or a comment in the file that draws them changes nothing."""

    def load():
        image_files._load_toys(8, 1, tmp_path, seen=2, validation=1, unseen=1)
        return "drawing" in capsys.readouterr().out

    assert [load(), load()] == [True, False]
    monkeypatch.setattr(toys, "hash_drawing", lambda: "another")
    assert [load(), load()] == [True, False]


def test_folder_with_train_and_test(tmp_path):
    write_images(tmp_path / "training set", NAMES, 9)
    write_images(tmp_path / "Test", [*NAMES, "only tested"], 2, ".JPG", shade=9)
    data = load_images(tmp_path, 32, cache_dir=tmp_path / "cache")
    assert len(data.images) == len(data.paths) == 12 * 11 + 2 and not data.problems
    assert set(data.class_names) == {*NAMES, "only tested"}
    counts = {split: len(data.where(split)) for split in ("train", "validation", "test", "unseen")}
    assert counts == {"train": 96, "validation": 12, "test": 24, "unseen": 2}
    assert len(data.gallery) == 108, "every training image can be matched with"
    for i in (0, 50, 133):
        assert data.class_names[data.labels[i]] == Path(data.paths[i]).parent.name
        assert ("Test" in data.paths[i]) == (data.splits[i] in ("test", "unseen"))
        expected = np.asarray(Image.open(data.paths[i]).resize((32, 32)))
        assert np.abs(expected.astype(int) - data.images[i]).max() <= 8


def test_folder_of_classes_is_divided_and_whole_classes_are_held_out(tmp_path):
    write_images(tmp_path, NAMES, 10)
    data = load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache")
    seen, unseen = set(data.labels[data.where("train")]), set(data.labels[data.where("unseen")])
    assert len(unseen) == 3 and len(seen) == 9 and not seen & unseen
    assert [len(data.where(s)) for s in ("train", "validation", "test")] == [54, 18, 18]
    again = load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache")
    assert (again.splits == data.splits).all() and (again.images == data.images).all()
    other = load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache", seed=1)
    assert (other.splits != data.splits).any()


def test_one_class_in_two_unicode_forms_is_one_class(tmp_path):
    write_images(tmp_path / "train", ["Scoala\u0306", "b"], 3)  # a + combining breve
    write_images(tmp_path / "test", ["Scoal\u0103", "b"], 2)
    data = load_images(tmp_path, 16, cache_dir=tmp_path / "cache")
    assert len(data.class_names) == 2 and set(data.labels[data.where("test")]) == {0, 1}


def test_unreadable_files_are_reported_and_strict_raises(tmp_path):
    write_images(tmp_path, ["a", "b"], 4)
    (tmp_path / "a" / "text.jpg").write_text("not a picture")
    (tmp_path / "b" / "empty.png").touch()
    (tmp_path / "b" / ".DS_Store").touch()
    (tmp_path / "empty class").mkdir()
    whole = (tmp_path / "a" / "imagine 0.jpeg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    data = load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache")
    assert len(data.images) == 8
    assert {Path(p["path"]).name for p in data.problems} == {
        "text.jpg", "empty.png", "cut.jpg", "empty class",
    }  # fmt: skip
    assert all(problem["reason"] and problem["remedy"] for problem in data.problems)
    with pytest.raises(ValueError, match=r"text\.jpg"):
        load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache", strict=True)


@pytest.mark.parametrize("classes", [0, 1])
def test_too_few_classes_is_a_clear_error(tmp_path, classes):
    write_images(tmp_path, ["a"][:classes], 3)
    with pytest.raises(ValueError, match="each in a sub-folder with its images"):
        load_images(tmp_path, 16, cache_dir=tmp_path.parent / "cache")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_images(tmp_path / "nowhere")


def test_decoding_transparency_sixteen_bits_and_rotation(tmp_path):
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode_image(tmp_path / "clear.png", 4) == 255).all(), "transparent is white"
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    decoded = decode_image(tmp_path / "deep.png", 16)
    assert np.abs(decoded[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    upright = np.zeros((20, 20, 3), np.uint8)
    upright[:10] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(upright[::-1]).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    decoded = decode_image(tmp_path / "phone.jpg", 20)
    assert decoded[:8].mean() > 240 and decoded[12:].mean() < 15


@pytest.fixture
def cached(tmp_path):
    """A folder of images, and the function that loads it."""
    write_images(tmp_path / "images", ["a", "b"], 4)
    return lambda: load_images(tmp_path / "images", 16, cache_dir=tmp_path / "cache")


def decoding_fails(*args):
    raise AssertionError("decoded again")


def test_a_whole_cache_is_used(cached, monkeypatch):
    data = cached()
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    monkeypatch.setattr(image_cache, "decode", decoding_fails)
    again = cached()
    assert (again.images == data.images).all() and again.paths == data.paths


@pytest.mark.parametrize("name", ["pixels.rgb", "files.json"])
@pytest.mark.parametrize("keep", [None, 0, 100])
def test_a_half_written_cache_is_made_again(cached, name, keep):
    data = cached()
    pixels, file = data.images.copy(), data.report.parent / name
    del data
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    again = cached()
    assert (again.images == pixels).all() and len(list(file.parent.parent.iterdir())) == 1


def test_a_changed_image_is_decoded_again(cached):
    data = cached()
    before, stat = data.images[0].copy(), Path(data.paths[0]).stat()
    Image.new("RGB", (40, 30), "white").save(data.paths[0], quality=100)
    os.utime(data.paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as old as it was
    again = cached()
    assert (again.images[0] == 255).all() and (data.images[0] == before).all()


def test_a_file_of_images_is_no_cache_until_it_is_complete(cached, monkeypatch):
    decode, calls = image_cache.decode, []

    def interrupted(file, size):
        calls.append(file)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decode(file, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_cache, "decode", interrupted)
        cached()
    data = cached()
    assert len(data.images) == 8 and not data.problems
    assert [path.name for path in data.report.parent.parent.iterdir()] == [data.report.parent.name]


def test_a_broken_cache_of_toys_is_made_again(tmp_path, quickly_drawn):
    def load():
        return image_files._load_toys(8, 1, tmp_path, seen=2, validation=1, unseen=1)

    images = load().images
    [cache] = tmp_path.iterdir()
    for broken in (cache.read_bytes()[:-500], b"", b"no archive"):
        cache.write_bytes(broken)
        assert (load().images == images).all() and list(tmp_path.iterdir()) == [cache]


def test_memory_stays_flat_while_decoding(tmp_path, monkeypatch):
    """400 images of 120,000 bytes: at no time much more than a block of 64 is held."""
    monkeypatch.setattr(image_cache, "BLOCK", 64)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    tracemalloc.start()
    paths = [str(tmp_path / "red.png")] * 400
    images, results = image_cache.decode_files(paths, 200, tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.shape == (400, 200, 200, 3) and len(results) == 400
    assert (images[399] == [255, 0, 0]).all()
    assert peak < 80 * 200 * 200 * 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the Grocery Store photographs are not here")
def test_grocery_has_the_authors_splits_and_coarse_classes(tmp_path, monkeypatch):
    def read_nothing(paths, size, cache):  # that each file is there is checked before
        return np.zeros((len(paths), size, size, 3), np.uint8), [[path, []] for path in paths]

    monkeypatch.setattr(image_files, "decode_files", read_nothing)
    data = load_images("grocery", 32, data_home=SHARED, cache_dir=tmp_path)
    counts = [len(data.where(s)) for s in ("train", "validation", "test", "reference")]
    assert counts == [2640, 296, 2485, 81] and len(data.class_names) == 81 and not data.problems
    assert data.layout.startswith("the authors' lists; classes: train 81, ")
    i = data.where("test")[0]
    assert data.class_names[data.labels[i]] in data.paths[i]
    assert len(data.coarse) == len(data.class_names) == 81 and len(set(data.coarse)) == 43
    kind = dict(zip(data.class_names, data.coarse))
    assert kind["Golden-Delicious"] == kind["Pink-Lady"] == "Apple" and kind["Kiwi"] == "Kiwi"


def test_grocery_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    source = dataclasses.replace(DATASETS["grocery"], address="http://127.0.0.1:9/archive.zip")
    monkeypatch.setitem(DATASETS, "grocery", source)
    with pytest.raises(FileNotFoundError, match=r"archive\.zip.*SIAMESE_DATASET=toys"):
        load_images("grocery", 32, data_home=tmp_path)


def test_a_smaller_picture_stands_in_the_middle_of_white():
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    pictures = pictures.repeat(8, axis=1).repeat(8, axis=2)  # six patterns of 32 pixels a side
    assert (on_white(pictures, 1) == pictures).all()
    half = on_white(pictures, 0.5)
    assert half.shape == pictures.shape and half.dtype == np.uint8
    inner = half[:, 8:24, 8:24].astype(float)
    half[:, 8:24, 8:24] = 255
    assert (half == 255).all()
    np.testing.assert_allclose(inner.mean((1, 2)), pictures.mean((1, 2)), atol=2)
    for share in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match="above 0, at most 1"):
            on_white(pictures, share)
