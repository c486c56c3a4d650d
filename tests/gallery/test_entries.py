"""What becomes an entry: labels, arrays, one image or several, other galleries, and enrolling."""

import gallery_helpers
import numpy as np
import pytest
from gallery_helpers import as_format, line, line_gallery
from PIL import Image

import siamese_utils as su
from workbook.data.images import decode_image, load_images
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery

# ------------------------------------------------------------------------------ labels, arrays


@pytest.mark.parametrize("label", ["unknown", "nan", float("nan"), "", "  ", None])
def test_labels_that_no_class_can_have_are_refused(gallery, label):
    image = np.full((1, 16, 16, 3), 99, np.uint8)
    for add, given in ((gallery.add, image), (gallery.add_embeddings, gallery.embeddings[:1])):
        with pytest.raises(ValueError, match=r"label is empty|no class can be called"):
            add(given, [label])
    assert len(gallery.labels) == 6


def test_a_label_has_one_spelling(model):
    gallery = line_gallery(model, [0, 1, 2], ["Cafe\u0301", " Caf\u00e9 ", "Caf\u00e9\n"])
    assert set(gallery.labels) == {"Caf\u00e9"}
    assert gallery.remove(label="Cafe\u0301 ") == 3


def with_one(value):
    """Floating-point pixels of 9, of which one has this value."""
    pixels = np.full((16, 16, 3), 9.0)
    pixels[3, 4, 1] = value
    return pixels


@pytest.mark.parametrize(
    "array, says",
    [
        (np.full((16, 16, 3), 200, np.uint16), "an image of uint16"),
        (np.full((16, 16, 3), 200, np.int64), "an image of int64"),
        (np.ones((16, 16, 3), bool), "an image of bool"),
        (with_one(-1), r"values from -1\.0 to 9\.0"),
        (with_one(256), r"values from 9\.0 to 256\.0"),
        (with_one(np.nan), "values from nan to nan"),
        (with_one(np.inf), r"values from 9\.0 to inf"),
        (np.ones((16, 16, 3)), r"values from 1\.0 to 1\.0"),
    ],
)
def test_arrays_of_another_kind_or_range_are_refused(gallery, array, says):
    with pytest.raises(ValueError, match=says):
        gallery.identify(array)
    with pytest.raises(ValueError, match=says):
        gallery.add([array], ["red"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_embedding_that_is_not_finite_or_cannot_be_squared_is_refused(gallery, value):
    with pytest.raises(ValueError, match="not finite"):
        gallery.identify_embedding(np.full(8, value, np.float32))


def test_floating_point_pixels_are_those_of_the_file(gallery, folder):
    path = folder / "red" / "1 é.png"
    pixels = decode_image(path, 16).astype(np.float32)
    assert gallery.identify(pixels) == gallery.identify(path)
    embeddings, hashes = gallery.embed_images([pixels])
    assert gallery.paths[gallery.find_copies(embeddings, hashes)[0]] == str(path)


# ------------------------------------------------------------------------- one image or several


def test_an_image_is_recognised_by_its_content_whatever_its_path(gallery, folder, tmp_path):
    copy = tmp_path / "elsewhere.bmp"
    Image.open(folder / "red" / "2 é.png").save(copy)
    embeddings, hashes = gallery.embed_images([copy, np.full((16, 16, 3), 90, np.uint8)])
    copies = gallery.find_copies(embeddings, hashes)
    assert gallery.paths[copies[0]].endswith("2 é.png") and copies[1] == -1
    with pytest.raises(ValueError, match=r'elsewhere.bmp cannot be "blue": .* as "red" \(.*2 é'):
        gallery.add([copy], ["blue"])
    with pytest.raises(ValueError, match=r'cannot be "second": .* as "first"'):
        gallery.add([np.full((16, 16, 3), 77, np.uint8)] * 2, ["first", "second"])
    assert len(gallery.labels) == 6
    assert gallery.remove(image=copy) == 1 and len(gallery.labels) == 5


def test_of_an_older_gallery_an_image_is_recognised_by_its_embedding(gallery, folder, tmp_path):
    gallery.save(tmp_path / "old")
    as_format(tmp_path / "old", 3)
    old = Gallery.load(tmp_path / "old")
    # as features that were kept as float16 give it: up to 2**-11 of each value off
    noise = np.random.default_rng(0).uniform(-1, 1, old.embeddings.shape) * 2.0**-11
    rounded = old.embeddings * np.float32(1 + noise)
    assert old.find_copies(rounded).tolist() == [*range(6)]
    with pytest.raises(ValueError, match="6 of 6 images are entries of this gallery"):
        old.fit_threshold(rounded, old.labels)
    path = folder / "red" / "1 é.png"
    with pytest.raises(ValueError, match=r'cannot be "blue": the same image .* as "red"'):
        old.add([path], ["blue"])
    assert old.remove(image=path) == 1


def test_two_images_of_one_embedding_are_told_apart_by_their_hashes(model):
    gallery = line_gallery(model, [1, 1], ["a", "b"])
    gallery.add_embeddings(line(model, [5]), ["c"], hashes=["0" * 16])
    assert gallery.find_copies(line(model, [5]), ["1" * 16]).tolist() == [-1]
    assert gallery.find_copies(line(model, [5]), ["0" * 16]).tolist() == [2]
    assert gallery.find_copies(line(model, [5])).tolist() == [2]


def test_files_of_the_same_name_are_several_images(gallery, tmp_path):
    images = [
        *gallery_helpers.draw(tmp_path / "cam1" / "DCIM", (20, 200, 20), 1, name="IMG_{}.png"),
        *gallery_helpers.draw(tmp_path / "cam2" / "DCIM", (20, 190, 20), 1, name="IMG_{}.png"),
    ]
    gallery.add(images, ["green", "green"])
    assert gallery.compare_entries().is_known.all()
    assert gallery.remove(path=images[0]) == 1
    assert gallery.labels.tolist().count("green") == 1


def test_an_array_at_several_sizes_is_one_image(model, folder, tmp_path):
    """By array and by path the shares are the same: no entry matches its own image."""
    paths = sorted(folder.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    by_path, by_array = Gallery(model), Gallery(model)
    by_path.add(paths, labels, CATALOGUE_SIZES)
    by_array.add([decode_image(path, 16) for path in paths], labels, CATALOGUE_SIZES)
    expected = by_path.compare_entries()
    for name in ("distances", "is_known", "is_right"):
        found = getattr(by_array.compare_entries(), name)
        np.testing.assert_array_equal(found, getattr(expected, name))
    assert by_array.fit_threshold() == by_path.fit_threshold()
    by_array.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    assert again.leave_one_out() == by_array.leave_one_out()
    assert again.remove(image=paths[0]) == len(CATALOGUE_SIZES)


def test_an_image_that_is_entered_twice_does_not_match_itself(model):
    gallery = line_gallery(model, [0, 0, 5, 9], "aaab", ["1.png", "1.png", "2.png", ""])
    result = gallery.compare_entries()
    assert result.distances.tolist() == [25, 25, 16, 16]
    assert result.is_known.tolist() == [True, True, True, False]


def test_an_image_in_two_class_folders_is_left_out_and_named(model, folder, tmp_path):
    same = (folder / "red" / "0 é.png").read_bytes()
    (folder / "東京 blue" / "same.png").write_bytes(same)
    data = load_images(folder, 16, cache_dir=tmp_path / "cache")
    embeddings = su.embed(model, data.images)
    gallery = Gallery(model)
    left_out = gallery.add_dataset(data, embeddings)
    assert sorted(row["path"] for row in left_out) == ["red/0 é.png", "東京 blue/same.png"]
    assert all("in several classes: red, 東京 blue" in row["reason"] for row in left_out)
    assert len(gallery.labels) == 5 and all(gallery.hashes) and not gallery.enrolled.any()
    rows = [data.short_paths.index(f"red/{i} é.png") for i in (2, 1)]
    few = Gallery(model)
    assert few.add_dataset(data, embeddings, rows) == []
    assert few.paths.tolist() == ["red/2 é.png", "red/1 é.png"]
    np.testing.assert_array_equal(few.embeddings, embeddings[rows])


# ------------------------------------------------------------------------ galleries of two models


def test_embeddings_of_another_model_are_refused(gallery, other_model):
    other, new = Gallery(other_model), line(other_model, [1])
    with pytest.raises(ValueError, match="the embeddings are of another model"):
        gallery.add_embeddings(new, ["a"], model_weights_sha256=other.model_weights_sha256)
    assert len(gallery.labels) == 6
    gallery.add_embeddings(new, ["a"], model_weights_sha256=gallery.model_weights_sha256)
    assert len(gallery.labels) == 7


def test_galleries_of_one_model_are_merged(gallery, model, folder, tmp_path):
    green = gallery_helpers.draw(tmp_path / "green", (20, 200, 20), 2)
    other = Gallery(model)
    other.add([*green, folder / "red" / "0 é.png"], ["green", "green", "red"])
    image = np.full((16, 16, 3), 50, np.uint8)
    embeddings, hashes = other.embed_images([image])
    other.add_embeddings(embeddings, ["grey"], gallery.paths[:1], hashes)  # a path that is taken
    assert gallery.merge(other) == 3, "one was there already"
    assert gallery.labels.tolist()[6:] == ["green", "green", "grey"]
    assert gallery.paths[-1] == f"{gallery.paths[0]} (2)" and gallery.enrolled[6:].all()
    label, distance, path = gallery.identify(green[1]).nearest[0]
    assert (label, path) == ("green", str(green[1])) and distance == pytest.approx(0, abs=1e-9)
    assert gallery.merge(other) == 0


def test_merging_is_refused_for_another_model_and_for_a_second_label(gallery, model, other_model):
    with pytest.raises(ValueError, match="the two galleries are of different models"):
        gallery.merge(Gallery(other_model))
    other = Gallery(model)
    other.add([gallery.paths[0]], ["pink"])
    with pytest.raises(ValueError, match=r'cannot be "pink": the same image .* as "red"'):
        gallery.merge(other)
    assert len(gallery.labels) == 6


# ------------------------------------------------------------- saving over what was added by hand


def build_anew(gallery, entries=6):
    """The same gallery as `build` makes it: nothing in it was added by hand."""
    new = Gallery(gallery.model)
    new.add_embeddings(
        gallery.embeddings[:entries], gallery.labels[:entries], hashes=gallery.hashes[:entries]
    )
    return new


@pytest.mark.parametrize("version", [4, 3])
def test_what_was_added_by_hand_is_kept(gallery, tmp_path, capsys, version):
    images = gallery_helpers.draw(tmp_path / "frog", (20, 200, 20), 2)
    older = build_anew(gallery)
    older.add(images, ["frog", "frog"])
    older.save(tmp_path / "g")
    if version < 4:
        as_format(tmp_path / "g", version)  # in which entries had no mark
    build_anew(gallery, entries=5).save_over(tmp_path / "g")
    assert "kept from the gallery before: frog (2 entries)" in capsys.readouterr().out
    again = Gallery.load(tmp_path / "g")
    assert again.labels.tolist() == [*gallery.labels[:5], "frog", "frog"]
    assert again.enrolled.tolist() == [False] * 5 + [True] * 2
    label, distance, path = again.identify(images[0]).nearest[0]
    assert (label, path) == ("frog", str(images[0])) and distance == pytest.approx(0, abs=1e-9)
    again.save_over(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").labels.tolist() == again.labels.tolist(), "once"


def test_a_gallery_of_another_model_does_not_replace_it(gallery, other_model, tmp_path):
    gallery.save(tmp_path / "g")  # `add` filled it by hand
    new = Gallery(other_model)
    with pytest.raises(ValueError, match=r"g is not replaced: .*\(red \(3 entries\), 東京 blue"):
        new.save_over(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").labels.tolist() == gallery.labels.tolist()
    build_anew(gallery).save(tmp_path / "g")
    new.save_over(tmp_path / "g")  # nothing of it was added by hand
    assert not len(Gallery.load(tmp_path / "g").labels)


def test_an_image_that_now_has_another_label_is_named(gallery, tmp_path, capsys):
    image = gallery_helpers.draw(tmp_path / "frog", (20, 200, 20), 1)
    older, new = build_anew(gallery), build_anew(gallery)
    older.add(image, ["frog"])
    older.save(tmp_path / "g")
    new.add(image, ["toad"])
    new.save_over(tmp_path / "g")
    assert "now have another label: frog (1 entries)" in capsys.readouterr().out
    assert Gallery.load(tmp_path / "g").labels.tolist()[6:] == ["toad"]


def test_a_broken_gallery_is_replaced(gallery, tmp_path, capsys):
    gallery.save(tmp_path / "g")
    next((tmp_path / "g").glob("entries-*")).unlink()
    build_anew(gallery).save_over(tmp_path / "g")
    assert "holds no whole gallery" in capsys.readouterr().out
    assert len(Gallery.load(tmp_path / "g").labels) == 6
