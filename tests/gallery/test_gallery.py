"""The gallery: adding, removing, identifying, and its files."""

import hashlib
import os
import tracemalloc

import keras
import numpy as np
import pytest
from gallery_helpers import as_format, edit, line, line_gallery, put_part
from small_models import small_embedding

import siamese_utils as su
from workbook.commands import gallery as gallery_commands
from workbook.data.images import decode_image
from workbook.gallery import gallery as gallery_module
from workbook.gallery.gallery import Gallery


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
    for nothing in ({"label": "red"}, {"path": path}, {"image": path}):
        with pytest.raises(ValueError, match=f"no entry has the {next(iter(nothing))} "):
            gallery.remove(**nothing)
    with pytest.raises(ValueError, match="say which entries to remove"):
        gallery.remove()


def test_embeddings_can_be_added_with_integer_labels(model):
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, [0, 1]), np.array([7, 8]))
    assert gallery.labels.tolist() == ["7", "8"] and gallery.paths.tolist() == ["", ""]


def test_of_several_references_a_class_the_closest_counts(model):
    gallery = line_gallery(model, [0, 10, 4, 5], ["a", "a", "b", "b"])
    found = [gallery.identify_embedding(x).label for x in line(model, [1, 4.4, 9, 8])]
    assert found == ["a", "b", "a", "a"], "also where the mean of a (5) lies among b"


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
    with pytest.raises(ValueError, match=r"values from 1.0 to 1.0.*0\.\.255"):
        gallery.identify(np.ones((16, 16, 3)))
    with pytest.raises(ValueError, match=r"notes\.txt: .*not an image"):
        gallery.add([folder / "red" / "0 é.png", folder / "red" / "notes.txt"], ["red", "red"])
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file"):
        gallery.identify("absent.png")
    if hasattr(os, "mkfifo"):  # a pipe, which would be waited for
        os.mkfifo(folder / "pipe.png")
        with pytest.raises(ValueError, match=r"pipe\.png"):
            gallery.identify(folder / "pipe.png")
    with pytest.raises(IsADirectoryError, match=r"red is a folder, not an image: give the"):
        gallery.identify(folder / "red")
    with pytest.raises(ValueError, match=r"'a\.png' is one path: give a list"):
        gallery.add("a.png", ["a"])
    with pytest.raises(ValueError, match="labels='red' is one text: give a list"):
        gallery.add([good], "red")
    with pytest.raises(ValueError, match="for 2 labels"):
        gallery.add([good], ["a", "b"])
    with pytest.raises(ValueError, match=r"embeddings \(1, 8\) and one path for each label"):
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
    with pytest.raises(ValueError, match='no class can be called "unknown"'):
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
    gallery.add(images[:64], ["b"] * 64)  # compiles
    tracemalloc.start()
    gallery.add(list(images), ["b"] * 600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # twice a batch as float32 and once as uint8; all of them take 7 MB as uint8, 29 as float32
    assert len(gallery.labels) == 664 and peak < 10e6


KINDS = ["embedding", "entries", "gallery", "state"]


def kinds(folder):
    """The files of a saved gallery, by what comes before the content's name."""
    names = [path.name for path in folder.iterdir() if path.name != ".folder.lock"]
    return sorted(name.split("-")[0].split(".")[0] for name in names)


def test_saved_and_loaded_it_is_the_same(gallery, tmp_path):
    gallery.fit_threshold()
    chosen, gallery.threshold = gallery.policy, 0.25
    gallery.save(tmp_path / "new" / "g")
    assert kinds(tmp_path / "new" / "g") == KINDS
    again = Gallery.load(tmp_path / "new" / "g")
    for name in ("embeddings", "labels", "paths"):
        np.testing.assert_array_equal(getattr(again, name), getattr(gallery, name))
    image = np.full((16, 16, 3), 99, np.uint8)
    assert again.policy == chosen and chosen["strangers_let_in_at_most"] == 0.05
    assert again.threshold == 0.25 and again.identify(image) == gallery.identify(image)
    again.remove("red")
    again.threshold = None
    again.save(tmp_path / "new" / "g")
    assert kinds(tmp_path / "new" / "g") == KINDS, "old ones go"
    third = Gallery.load(tmp_path / "new" / "g")
    assert third.threshold is None and len(third.labels) == 3


def test_an_empty_gallery_can_be_saved(model, tmp_path):
    Gallery(model).save(tmp_path)
    assert Gallery.load(tmp_path).embeddings.shape == (0, 8)


def test_load_refuses_what_does_not_belong_together(gallery, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent is no folder.*python -m workbook build"):
        Gallery.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no gallery\.json, so it is no gallery"):
        Gallery.load(tmp_path)
    gallery.save(tmp_path)
    edit(tmp_path, format=7)
    with pytest.raises(ValueError, match=r"newer version \(format 7"):
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
    entries = tmp_path / edit(tmp_path)["parts"][0]["file"]
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


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_formats_are_read(gallery, tmp_path, capsys, version):
    gallery.fit_threshold()
    gallery.save(tmp_path)
    as_format(tmp_path, version)
    again = Gallery.load(tmp_path)
    assert again.labels.tolist() == gallery.labels.tolist()
    assert again.paths.tolist() == gallery.paths.tolist()
    assert not any(again.hashes) and not again.enrolled.any()
    assert again.identify(again.paths[0]).label == again.labels[0]
    if version == 1:  # its threshold could be chosen on its own entries
        assert again.threshold is None and "is of format 1" in capsys.readouterr().out
    else:
        assert (again.threshold, again.policy) == (gallery.threshold, gallery.policy)


@pytest.mark.parametrize("name", ["embedding", "entries", "state", "gallery.json"])
def test_a_save_that_is_cut_short_leaves_the_older_gallery(gallery, tmp_path, monkeypatch, name):
    """Saving fails just before `name` gets its name, over an older gallery and over none."""
    replace = os.replace

    def failing(source, target):
        if os.path.basename(target).startswith(name):
            raise OSError("the disk is full")
        replace(source, target)

    gallery.save(tmp_path / "old")
    old = len(gallery.labels)
    gallery.save(tmp_path / "another")  # so that over the old one all files are written
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
    with np.load(entries) as stored:
        np.savez(entries, **{**stored, "labels": hidden})
    put_part(tmp_path, entries.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no whole gallery \(.*an array \(1,\) of object"):
        Gallery.load(tmp_path)
