"""The gallery: adding, removing, identifying, the unknown, files, and the command line."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tracemalloc

import keras
import numpy as np
import pytest
from PIL import Image
from test_model import small_embedding

import siamese_utils as su
from workbook import ROOT
from workbook.__main__ import main
from workbook.commands import gallery as gallery_commands
from workbook.data.images import decode_image
from workbook.gallery import gallery as gallery_module
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery


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


def test_of_several_references_a_class_the_closest_counts(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 10, 4, 5]), ["a", "a", "b", "b"])
    found = [gallery.identify_embedding(x).label for x in line(model, [1, 4.4, 9, 8])]
    assert found == ["a", "b", "a", "a"], "also where the mean of a (5) lies among b"


# -------------------------------------------------------------------------------- the threshold


def random_gallery(model, seed):
    """30 entries of four classes, and (200 queries, labels): half of them near entries."""
    rng, gallery = np.random.default_rng(seed), Gallery(model)
    values, labels = 10 * rng.normal(size=30), rng.integers(0, 4, 30)
    gallery.add_embeddings(line(model, values), labels)
    near = rng.integers(0, 30, 100)
    values = [*values[near] + 0.1 * rng.normal(size=100), *20 * rng.normal(size=100)]
    queries = line(model, values)
    queries[:, 1] = 0.1  # beside the line of the entries: none is a copy
    return gallery, (queries, [*labels[near], *rng.integers(0, 7, 100)])


@pytest.mark.parametrize("seed", range(3))
def test_a_trial_is_that_of_a_plain_loop(model, seed):
    gallery, (queries, labels) = random_gallery(model, seed)
    gallery.add_embeddings(line(model, [1.5]), ["alone"])
    labels = np.array(labels, str)
    for leave_out, trial in ((False, gallery.trial(queries, labels)), (True, gallery.trial())):
        asked = (gallery.embeddings, gallery.labels) if leave_out else (queries, labels)
        for i, (vector, label) in enumerate(zip(*asked)):
            others = [j for j in range(31) if not (leave_out and j == i)]
            distance = {j: ((gallery.embeddings[j] - vector) ** 2).sum() for j in others}
            closest = min(others, key=distance.get)
            assert trial.distances[i] == pytest.approx(distance[closest], rel=1e-4, abs=1e-4)
            assert trial.known[i] == any(gallery.labels[j] == label for j in others)
            assert trial.right[i] == (gallery.labels[closest] == label)
            foreign = min(distance[j] for j in others if gallery.labels[j] != label)
            assert trial.foreign[i] == pytest.approx(foreign, rel=1e-4, abs=1e-4)
        assert trial.simulated == leave_out
        expected = trial.foreign if leave_out else trial.distances[~trial.known]
        np.testing.assert_array_equal(trial.strangers, expected)
    assert not gallery.trial().known[-1], "a class of one entry has nobody to be found by"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_policy_is_kept_and_refuses_no_more_friends_than_it_must(model, seed, share):
    gallery, (queries, labels) = random_gallery(model, seed)
    policy = gallery.fit_threshold(queries, labels, share)
    found = gallery.threshold
    trial = gallery.trial(queries, labels)
    accepted = lambda limit: (trial.right & (trial.distances <= limit)).sum()  # noqa: E731
    let_in = lambda limit: (trial.strangers <= limit).mean()  # noqa: E731
    allowed = [limit for limit in trial.distances if let_in(limit) <= share]
    best = max(map(accepted, allowed))
    farthest = min(limit for limit in allowed if accepted(limit) == best)
    outside = min(x for x in trial.strangers if let_in(x) > share)
    assert found == pytest.approx((farthest + outside) / 2) and best > 10
    known = np.array(labels) < 4
    assert policy == gallery.policy == {
        "threshold": found,
        "strangers_let_in_at_most": share,
        "strangers": (~known).sum(),
        "strangers_simulated": False,
        "strangers_let_in": let_in(found),
        "known": known.sum(),
        "known_held_out": True,
        "known_refused": (trial.distances[known] > found).mean(),
    }  # fmt: skip
    assert policy["strangers_let_in"] <= share


@pytest.mark.parametrize("seed", range(3))
def test_the_balanced_threshold_is_the_best_of_a_plain_loop(model, seed):
    gallery, (queries, labels) = random_gallery(model, seed)
    gallery.fit_threshold(queries, labels, strangers_let_in=None)
    balance = lambda shares: shares["known_accuracy"] + shares["unknown_rejection"]  # noqa: E731
    found, best = balance(gallery.open_set(queries, labels)), 0
    for limit in gallery.trial(queries, labels).distances:
        gallery.threshold = limit
        best = max(best, balance(gallery.open_set(queries, labels)))
    assert found == pytest.approx(best)


def test_shares_of_known_and_strangers(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 10]), ["a", "b"])
    queries = line(model, [1, 9, 0.5, 6, 4, 15, 20])  # squared: 1 1 .25 | 16 wrong | 16 25 100
    labels = ["a", "b", "a", "a", "x", "x", "y"]
    everybody = {"known_accuracy": 0.75, "known_refused": 0, "unknown_rejection": 0}
    assert gallery.open_set(queries, labels) == everybody
    assert gallery.fit_threshold(queries, labels)["known_refused"] == 0.25
    assert gallery.threshold == pytest.approx((1 + 16) / 2), (
        "friends end at 1, strangers begin at 16"
    )
    right = {"known_accuracy": 0.75, "known_refused": 0.25, "unknown_rejection": 1}
    assert gallery.open_set(queries, labels) == right
    # known ones alone: each again as a stranger, 9 and 9 from the entry of the other class
    assert gallery.trial(queries[:2], labels[:2]).strangers.tolist() == [81, 81]
    assert gallery.open_set(queries[:2], labels[:2])["unknown_rejection"] == 1
    assert np.isnan(gallery.open_set(queries[4:], labels[4:])["known_accuracy"])


def test_a_picture_that_is_an_entry_cannot_choose_the_threshold(model):
    gallery, (queries, labels) = random_gallery(model, 0)
    queries[[3, 7]] = gallery.embeddings[[5, 6]] * (1 + 1e-6)  # embedded again: rounding differs
    assert gallery.holds(queries).nonzero()[0].tolist() == [3, 7]
    with pytest.raises(ValueError, match="2 of 200 pictures are entries of this gallery"):
        gallery.fit_threshold(queries, labels)
    assert gallery.threshold is None and gallery.policy is None, "an error, not a number"


def test_without_held_out_pictures_the_entries_stand_in(model):
    """Two classes of pairs: friends at 1 and 4 of each other, the other class at 36 or more."""
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 1, 7, 9]), ["a", "a", "b", "b"])
    for nothing in ((), (gallery.embeddings[:0], [])):
        policy = gallery.fit_threshold(*nothing)
        assert gallery.threshold == pytest.approx((4 + 36) / 2), "half way"
        assert policy["strangers"] == policy["known"] == 4
        assert policy["strangers_simulated"] and not policy["known_held_out"]
        assert policy["strangers_let_in"] == policy["known_refused"] == 0
    # strangers alone are held out: the friends are still the entries
    policy = gallery.fit_threshold(line(model, [4, 20]), ["x", "y"])
    assert gallery.threshold == pytest.approx((4 + 9) / 2) and policy["strangers"] == 2
    # a class of one entry is no friend of anybody, but a stranger like the others
    gallery.add_embeddings(line(model, [30]), ["alone"])
    policy = gallery.fit_threshold()
    assert (policy["known"], policy["strangers"]) == (4, 5)
    # friends alone are held out: they and the entries, each without its class, are the strangers
    policy = gallery.fit_threshold(line(model, [0.5, 7.25]), ["a", "b"])
    assert gallery.threshold == 0.25 and (policy["known"], policy["strangers"]) == (2, 7)


def test_one_class_and_nobody_else_gives_no_threshold(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 1]), ["a", "a"])
    with pytest.raises(ValueError, match="nothing can play the stranger, so there is no threshold"):
        gallery.fit_threshold()
    assert gallery.threshold is None
    gallery.fit_threshold(line(model, [5]), ["x"])
    assert gallery.threshold == pytest.approx((1 + 16) / 2)


def test_a_threshold_that_refuses_most_is_called_out(model, capsys):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 10]), ["a", "b"])
    queries, labels = line(model, [3, 7, 9.5, 1, 12]), ["a", "b", "b", "x", "x"]
    gallery.fit_threshold(queries, labels)
    assert gallery.threshold == pytest.approx((0.25 + 1) / 2)
    assert "CAUTION: the threshold 0.625 refuses 2 of 3 known pictures" in capsys.readouterr().out
    gallery.fit_threshold(line(model, [0.5, 4]), ["a", "x"])
    assert not capsys.readouterr().out
    # a stranger who looks like an entry: everybody stays outside
    gallery.fit_threshold(line(model, [1e-3, 3]), ["x", "a"])
    assert gallery.open_set(*[line(model, [1e-3, 3]), ["x", "a"]])["unknown_rejection"] == 1
    assert "refuses 1 of 1" in capsys.readouterr().out


def test_the_threshold_says_where_it_comes_from(model):
    gallery, (queries, _) = random_gallery(model, 0)
    assert "no threshold" in gallery.describe_threshold()
    gallery.threshold = 0.5
    assert gallery.describe_threshold() == "threshold 0.500, set by hand"
    gallery.fit_threshold(queries[80:120], np.repeat([0, 9], 20))
    text = gallery.describe_threshold()
    assert "at most 5% of strangers let in" in text and "0.0% of 20 strangers (pictures of" in text
    assert "of 20 known pictures (held out)" in text
    gallery.threshold *= 2
    assert gallery.describe_threshold().endswith("set by hand"), "then the policy is not its own"
    gallery.fit_threshold(strangers_let_in=None)
    text = gallery.describe_threshold()
    assert "the best balance" in text and "simulated" in text and "leave-one-out" in text
    with pytest.raises(ValueError, match="strangers_let_in=5: a share"):
        gallery.fit_threshold(strangers_let_in=5)


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
    with pytest.raises(ValueError, match=r"notes\.txt: .*not an image"):
        gallery.add([folder / "red" / "0 é.png", folder / "red" / "notes.txt"], ["red", "red"])
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file"):
        gallery.identify("absent.png")
    if hasattr(os, "mkfifo"):  # a pipe, which would be waited for
        os.mkfifo(folder / "pipe.png")
        with pytest.raises(ValueError, match=r"pipe\.png"):
            gallery.identify(folder / "pipe.png")
    with pytest.raises(IsADirectoryError, match=r"red is a folder, not a picture: give the"):
        gallery.identify(folder / "red")
    with pytest.raises(ValueError, match=r"'a\.png' is one path: give a list"):
        gallery.add("a.png", ["a"])
    with pytest.raises(ValueError, match="labels='red' is one text: give a list"):
        gallery.add([good], "red")
    with pytest.raises(ValueError, match="for 2 labels"):
        gallery.add([good], ["a", "b"])
    with pytest.raises(ValueError, match=r"it takes embeddings \(1, 8\)"):
        gallery.add_embeddings(np.zeros((1, 9)), ["a"])
    with pytest.raises(ValueError, match="not finite"):
        gallery.add_embeddings(np.full((1, 8), np.nan), ["a"])
    assert len(gallery.labels) == 6, "what failed added nothing"
    with pytest.raises(ValueError, match="k=0: ask for at least 1"):
        gallery.identify(good, k=0)
    with pytest.raises(ValueError, match=r"not \(batch, s, s, 3\)"):
        Gallery(keras.Sequential([keras.Input((16, 8, 3)), keras.layers.Flatten()]))


def test_the_label_unknown_fails_before_anything_is_embedded(gallery, model, folder, monkeypatch):
    def embed(*_):
        raise AssertionError("embedded")

    for module in (gallery_module, gallery_commands):
        monkeypatch.setattr(module, "embed", embed)
    with pytest.raises(ValueError, match='"unknown" is what a stranger is called'):
        gallery.add([folder / "red" / "0 é.png"], ["unknown"])
    (folder / "red").rename(folder / "unknown")
    model.save(folder.parent / "embedding.keras")
    with pytest.raises(ValueError, match=r"images.unknown: .* rename the folder"):
        gallery_commands.build(folder.parent / "embedding.keras", folder, folder.parent / "g")
    assert not (folder.parent / "g").exists()


def test_enrolling_holds_a_batch_of_pixels_at_a_time():
    image = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    gallery = Gallery(keras.Model(image, keras.layers.Dense(4)(pooled)))
    images = np.random.default_rng(0).integers(0, 256, (600, 64, 64, 3), np.uint8)
    gallery.add(images[:64], ["a"] * 64)  # compiles
    tracemalloc.start()
    gallery.add(list(images), ["b"] * 600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # twice a batch as float32 and once as uint8; all of them take 7 MB as uint8, 29 as float32
    assert len(gallery.labels) == 664 and peak < 10e6


def kinds(folder):
    """The files of a saved gallery, by what comes before the content's name."""
    return sorted(path.name.split("-")[0].split(".")[0] for path in folder.iterdir())


def test_saved_and_loaded_it_is_the_same(gallery, tmp_path):
    gallery.fit_threshold()
    chosen, gallery.threshold = gallery.policy, 0.25
    gallery.save(tmp_path / "new" / "g")
    assert kinds(tmp_path / "new" / "g") == ["embedding", "entries", "gallery"]
    again = Gallery.load(tmp_path / "new" / "g")
    for name in ("embeddings", "labels", "paths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(gallery, name))
    image = np.full((16, 16, 3), 99, np.uint8)
    assert again.policy == chosen and chosen["strangers_let_in_at_most"] == 0.05
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
    """Change gallery.json; what it says then."""
    path = folder / "gallery.json"
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(about))
    return about


def test_load_refuses_what_does_not_belong_together(gallery, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent is no folder.*python -m workbook build"):
        Gallery.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no gallery\.json, so it is no gallery"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    edit(tmp_path, format=4)
    with pytest.raises(ValueError, match=r"newer version \(format 4"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    edit(tmp_path, embedding_size=9)
    with pytest.raises(FileNotFoundError, match=r"entries-\w+.npz: embeddings \(6, 8\)"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    model = tmp_path / edit(tmp_path)["model"]
    small_embedding().save(model)
    with pytest.raises(ValueError, match=r"embedding-\w+.keras was changed: restore it"):
        Gallery.load(tmp_path)
    edit(tmp_path, model_sha256=hashlib.sha256(model.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="other weights"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    entries = tmp_path / edit(tmp_path)["entries"]
    entries.write_bytes(entries.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"entries-\w+.npz was changed"):
        Gallery.load(tmp_path)
    entries.unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole gallery \(entries-\w+.npz is missing"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    (tmp_path / edit(tmp_path)["model"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole gallery \(embedding-\w+.keras is miss"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    (tmp_path / "gallery.json").write_text('{"format"')
    with pytest.raises(FileNotFoundError, match="holds no whole gallery"):
        Gallery.load(tmp_path)


def test_of_the_former_format_all_is_read_but_the_threshold(gallery, tmp_path, capsys):
    gallery.save(tmp_path)
    edit(tmp_path, format=1, threshold=2.66e-15)
    again = Gallery.load(tmp_path)
    assert len(again.labels) == 6 and again.threshold is None
    assert "former format" in capsys.readouterr().out
    assert again.identify(again.paths[0]).label == again.labels[0]


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
    with pytest.raises(FileNotFoundError, match=r"no whole gallery \(.*an array \(1,\) of object"):
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
    assert "6 images of 2 classes" in built.stdout and "report.csv" in built.stdout
    assert re.search(r"not read: .*notes\.txt: .*not an image.*: .+", built.stdout), "with a remedy"
    assert "no class has five images: add images" in built.stdout, "warnings too"
    one, two = folder / "red" / "2 é.png", folder / "東京 blue" / "0 é.png"
    asked = command("identify", tmp_path / "g", one, two, "-k", 2)
    assert asked.returncode == 0, asked.stderr
    gallery, expected = Gallery.load(tmp_path / "g"), []
    entries = [f"{name}/{i} é.png" for name in ("red", "東京 blue") for i in range(3)]
    assert gallery.paths.tolist() == entries, "nothing of this machine's folders"
    assert gallery.policy["strangers"] == 6 and not gallery.policy["known_held_out"]
    limit = f"threshold {gallery.threshold:.3f}"
    for path in (one, two):
        match = gallery.identify(path, k=2)
        expected.append(f"{path}: {path.parent.name} (distance {match.distance:.3f}, {limit})")
        expected += [f"  {d:.3f} {label} {entry}" for label, d, entry in match.nearest]
    assert asked.stdout.splitlines() == [*expected, gallery.describe_threshold()]


@pytest.fixture
def saved(gallery, tmp_path):
    gallery.fit_threshold()
    gallery.save(tmp_path / "g")
    return tmp_path / "g"


def stopped(*words):
    """The message with which the command line ends."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return str(stop.value.code)


def test_all_pictures_are_answered_and_the_unreadable_counted(saved, folder, tmp_path, capsys):
    grey, bad = tmp_path / "grey.bmp", tmp_path / "bad.jpg"
    Image.new("RGB", (16, 16), "grey").save(grey)
    bad.write_text("no image")
    known = folder / "red" / "0 é.png"
    end = stopped("identify", saved, known, bad, tmp_path / "absent.png", folder / "*.png", grey)
    assert "no files there" in end and "*.png" in end
    end = stopped("identify", saved, known, bad, tmp_path / "absent.png", grey, "-k", 1)
    assert "2 of 4 pictures could not be read" in end
    gallery = Gallery.load(saved)
    found, limit = gallery.identify(grey), gallery.threshold
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{known}: red (distance 0.000, threshold {limit:.3f})"
    assert lines[2].startswith(f"ERROR {bad}: ") and "not an image" in lines[2]
    assert "absent.png: no such file" in lines[3]
    label = "unknown" if found.distance > limit else found.nearest[0][0]
    assert lines[4] == f"{grey}: {label} (distance {found.distance:.3f}, threshold {limit:.3f})"


def test_a_folder_is_answered_in_a_table(saved, folder, capsys):
    stopped("identify", saved, folder)  # notes.txt is no picture
    table = folder.with_name("images-identified.csv")
    assert f"7 pictures, 0 of them unknown, in {table}" in capsys.readouterr().out
    assert table.read_text("utf-8").startswith('"path","label","distance",'), "all is quoted"
    with open(table, encoding="utf-8", newline="") as file:
        rows = {os.path.relpath(row["path"], folder): row for row in csv.DictReader(file)}
    assert len(rows) == 7 and "not an image" in rows[os.path.join("red", "notes.txt")]["error"]
    for path in folder.rglob("*.png"):
        row = rows[os.path.relpath(path, folder)]
        assert row["label"] == row["nearest"] == path.parent.name
        assert row["entry"] == str(path) and float(row["distance"]) < 1e-3 and not row["error"]
    main(["identify", str(saved), str(folder / "red" / "0 é.png"), "--csv", str(folder / "a.csv")])
    assert len((folder / "a.csv").read_text("utf-8").splitlines()) == 2


def test_a_class_is_added_on_the_command_line(saved, folder, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (20, 200 + i, 20)).save(tmp_path / "new" / f"{i}.png")
    asked = tmp_path / "asked.png"
    Image.new("RGB", (16, 16), (22, 203, 20)).save(asked)
    assert Gallery.load(saved).identify(asked).nearest[0][0] != "green frog"
    main(["enroll", str(saved), "green frog", str(tmp_path / "new" / "*.png")])
    out = capsys.readouterr().out
    assert "3 pictures added; green frog has 3 entries, the gallery 9" in out
    assert "strangers let in" in out
    gallery = Gallery.load(saved)
    assert gallery.identify(asked).label == "green frog"
    assert gallery.paths[-3:].tolist() == ["new/0.png", "new/1.png", "new/2.png"]
    assert gallery.policy["strangers"] == 6, "the threshold is that of before"
    assert "0.png is an entry already" in stopped("enroll", saved, "frog", tmp_path / "new")
    assert "notes.txt" in stopped("enroll", saved, "paper", folder / "red" / "notes.txt")
    assert len(Gallery.load(saved).labels) == 9, "what failed added nothing"


def test_a_catalogue_picture_is_entered_at_four_sizes(saved, tmp_path, capsys):
    product, shelf = tmp_path / "product.png", tmp_path / "shelf.png"
    Image.new("RGB", (16, 16), (20, 200, 20)).save(product)
    white = Image.new("RGB", (16, 16), "white")
    white.paste((20, 200, 20), (2, 2, 13, 13))  # 11 of 16 pixels, as at 0.7
    white.save(shelf)
    main(["enroll", str(saved), "green frog", str(product), "--catalogue"])
    assert "1 pictures added; green frog has 4 entries, the gallery 10" in capsys.readouterr().out
    gallery = Gallery.load(saved)
    match = gallery.identify(shelf, k=10)
    own = [distance for label, distance, _ in match.nearest if label == "green frog"]
    assert match.nearest[0][0] == "green frog" and own[0] < own[-1] / 2
    alone = gallery.trial()
    assert not alone.known[-4:].any(), "the other sizes are the same picture: nobody finds it"
    assert (alone.distances[-4:] == alone.foreign[-4:]).all()
    assert alone.known[:6].all()
    in_python = Gallery(gallery.model)
    in_python.add([product], ["green frog"], sizes=CATALOGUE_SIZES)
    np.testing.assert_allclose(in_python.embeddings, gallery.embeddings[-4:], rtol=1e-5, atol=1e-5)


def test_a_picture_that_is_entered_twice_does_not_find_itself(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 0, 5, 9]), [*"aaab"], ["1.png", "1.png", "2.png", ""])
    assert gallery.trial().distances.tolist() == [25, 25, 16, 16]
    assert gallery.trial().known.tolist() == [True, True, True, False]


def test_command_line_errors_are_one_message(tmp_path, folder, model):
    model.save(tmp_path / "embedding.keras")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["identify", tmp_path / "absent", "a.png"], "absent is no folder, so it is no gallery"),
        (["enroll", tmp_path / "empty", "x", "a.png"], "empty holds no gallery.json"),
        (["identify", tmp_path / "embedding.keras", "a.png"], "embedding.keras is no folder"),
        (
            ["build", tmp_path / "embedding.keras", tmp_path / "empty", tmp_path / "g"],
            "two sub-folders with images",
        ),
        (["build", tmp_path / "absent.keras", folder, tmp_path / "g"], "absent.keras: no such"),
    ):
        assert message in stopped(*words)
