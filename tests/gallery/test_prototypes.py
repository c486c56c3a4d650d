"""Galleries of prototypes: every distance is that to the mean of a class."""

from pathlib import Path

import gallery_helpers
import numpy as np
import pytest
from gallery_helpers import edit, line, line_gallery, stopped

from workbook.__main__ import main
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery

LABELS = np.array(["b", "a", "c", "b", "alone"])


def random_prototypes(model, seed=0):
    """A gallery of prototypes with 41 random entries: four classes, and one of a single image."""
    rng = np.random.default_rng(seed)
    labels = np.array([*LABELS[rng.integers(0, 4, 40)], "alone"])
    gallery = Gallery(model, prototypes=True)
    vectors = rng.normal(size=(41, gallery.embeddings.shape[1])).astype(np.float32)
    gallery.add_embeddings(vectors, labels)
    return gallery, rng


def compare_slowly(query, label, gallery, kept):
    """(distance, right?, distance to others, margin) of one image, by the plain formulas."""
    distances = {
        name: np.square(query - gallery.embeddings[rows].mean(axis=0, dtype=float)).sum()
        for name in np.unique(gallery.labels)
        if (rows := kept & (gallery.labels == name)).any()
    }
    nearest = min(distances, key=distances.__getitem__)
    runner_up = min(d for name, d in distances.items() if name != nearest)
    to_others = min(d for name, d in distances.items() if name != label)
    return distances[nearest], nearest == label, to_others, 1 - distances[nearest] / runner_up


def as_rows(comparison):
    return np.transpose(
        [
            comparison.distances,
            comparison.is_right,
            comparison.distances_to_other_classes,
            comparison.margins,
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_new_images_are_compared_with_the_means(model, seed):
    gallery, rng = random_prototypes(model, seed)
    queries = rng.normal(size=(60, gallery.embeddings.shape[1])).astype(np.float32)
    labels = rng.choice(["a", "b", "c", "alone", "stranger"], 60)
    everything = np.ones(41, bool)
    expected = [compare_slowly(*pair, gallery, everything) for pair in zip(queries, labels)]
    found = gallery.compare(queries, labels)
    np.testing.assert_allclose(as_rows(found), np.float64(expected), rtol=1e-4)
    assert found.is_known.tolist() == (labels != "stranger").tolist()
    assert 0 < found.is_right.sum() < found.is_known.sum()


@pytest.mark.parametrize("seed", range(3))
def test_left_out_an_image_has_no_part_in_the_mean_of_its_class(model, seed):
    gallery, _ = random_prototypes(model, seed)
    rows = np.arange(41)
    expected = [
        compare_slowly(gallery.embeddings[i], gallery.labels[i], gallery, rows != i) for i in rows
    ]
    found = gallery.compare_entries()
    np.testing.assert_allclose(as_rows(found), np.float64(expected), rtol=1e-4, atol=1e-6)
    assert found.is_known.tolist() == (gallery.labels != "alone").tolist()


def test_left_out_an_image_takes_all_its_sizes_along(model):
    gallery = Gallery(model, prototypes=True)
    places = [0, 2, 10, 40, 41]
    gallery.add_embeddings(
        line(model, places), list("aaabb"), hashes=["1" * 16, "1" * 16, "2" * 16, "3" * 16, "4"]
    )
    found = gallery.compare_entries().distances
    # the two sizes against the third entry; that one against the mean of the two, which is 1
    np.testing.assert_allclose(found, [100, 64, 81, 1, 1], rtol=1e-6)


def test_the_nearest_mean_names_an_image_and_not_the_nearest_entry(model):
    gallery = line_gallery(model, [0, 10, 6, 5], ["a", "a", "b", "c"])
    query = line(model, [9])[0]
    assert gallery.identify_embedding(query).label == "a"
    gallery.prototypes = True
    match = gallery.identify_embedding(query)
    assert match.label == "b" and match.distance == pytest.approx(9)
    expected = [("b", 9.0, None), ("a", 16.0, None), ("c", 16.0, None)]
    assert [(name, pytest.approx(d), path) for name, d, path in expected] == match.nearest


def test_what_is_added_and_removed_changes_the_mean(model):
    gallery = line_gallery(model, [0, 10], ["a", "b"])
    gallery.prototypes = True

    def mean_of_a():
        means = gallery.compared
        return means.embeddings[means.labels == "a"][0, 0]

    assert mean_of_a() == 0
    gallery.add_embeddings(line(model, [3]), ["a"], ["x/3.png"])
    assert mean_of_a() == 1.5
    other = line_gallery(model, [6], ["a"])
    assert gallery.merge(other) == 1 and mean_of_a() == 3
    assert gallery.remove(path="x/3.png") == 1 and mean_of_a() == 3
    assert gallery.merge(other) == 0, "a copy of an entry is found, although the mean is elsewhere"
    gallery.remove(label="a")
    assert gallery.compared.labels.tolist() == ["b"]
    assert gallery.identify_embedding(line(model, [0])[0]).distance == 100


def test_the_threshold_is_chosen_by_distances_to_means(model):
    gallery = line_gallery(model, [0, 4, 10, 14], ["a", "a", "b", "b"])
    gallery.prototypes = True
    policy = gallery.fit_threshold()
    # left out, an image is 4 from the other of its class; to the other mean it is 8 at least
    assert gallery.threshold == pytest.approx((16 + 64) / 2)
    assert (policy["known"], policy["strangers"]) == (4, 4)
    gallery.fit_threshold(line(model, [3, 11, 7]), ["a", "b", "x"])
    assert gallery.threshold == pytest.approx((1 + 25) / 2)
    assert gallery.open_set(line(model, [3, 30]), ["a", "x"])["unknown_rejection"] == 1


def test_a_saved_gallery_keeps_its_entries_and_compares_with_means(model, tmp_path):
    gallery, rng = random_prototypes(model)
    gallery.fit_threshold()
    gallery.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g")
    assert again.prototypes and again.threshold == gallery.threshold
    np.testing.assert_array_equal(again.embeddings, gallery.embeddings)
    query = rng.normal(size=gallery.embeddings.shape[1])
    assert again.identify_embedding(query) == gallery.identify_embedding(query)
    edit(tmp_path / "g", prototypes="yes")
    with pytest.raises(FileNotFoundError, match="prototypes: 'yes' is not what it must be"):
        Gallery.load(tmp_path / "g")


def test_a_gallery_of_before_compares_with_every_entry(tmp_path):
    saved = Path(__file__).parents[1] / "saved_before/gallery_4"
    gallery = Gallery.load(saved)
    assert not gallery.prototypes and gallery.compared is gallery.entries


def test_the_means_are_added_up_in_double_precision(model):
    vectors = line(model, 1000 + np.random.default_rng(0).normal(size=5_000))
    gallery = Gallery(model, prototypes=True)
    gallery.add_embeddings(vectors, np.array(["z", "y"])[np.arange(5_000) % 2])
    expected = [vectors[half::2].astype(float).mean(axis=0) for half in (1, 0)]
    assert gallery.compared.labels.tolist() == ["y", "z"]
    np.testing.assert_array_equal(gallery.compared.embeddings, np.float32(expected))


def test_on_the_command_line(model, folder, tmp_path, capsys):
    model.save(tmp_path / "embedding.keras")
    place = tmp_path / "g"
    main(["build", str(tmp_path / "embedding.keras"), str(folder), str(place), "--prototypes"])
    assert "one mean per class" in capsys.readouterr().out
    gallery, red = Gallery.load(place), folder / "red/0 é.png"
    assert gallery.prototypes and len(gallery.labels) == 6
    means = {
        name: gallery.embeddings[gallery.labels == name].mean(axis=0) for name in gallery.labels
    }
    vector = gallery.embed_images([red])[0][0]
    main(["identify", str(place), str(red)])
    shown = capsys.readouterr().out.splitlines()
    distances = {name: np.square(vector - mean).sum() for name, mean in means.items()}
    assert shown[1:3] == [f"  {distances[name]:.3f} {name}" for name in ("red", "東京 blue")]

    [green] = gallery_helpers.draw(tmp_path / "green", (20, 230, 20), 1)
    main(["enroll", str(place), "red", str(green), "--catalogue"])
    mean = Gallery.load(place).compared.embeddings[0]
    sizes = gallery.embed_images([green], CATALOGUE_SIZES)[0]
    reds = gallery.embeddings[gallery.labels == "red"]
    np.testing.assert_allclose(mean, np.concatenate([reds, sizes]).mean(axis=0), atol=1e-6)
    assert "is an entry already" in stopped("enroll", place, "green", green)
    main(["remove", str(place), "--image", str(green)])
    np.testing.assert_allclose(Gallery.load(place).compared.embeddings[0], means["red"], atol=1e-6)

    main(["export", str(place), str(tmp_path / "exported")])
    with np.load(tmp_path / "exported/gallery.npz") as exported:
        assert exported["labels"].tolist() == ["red", "東京 blue"]
        np.testing.assert_allclose(exported["embeddings"], list(means.values()), atol=1e-6)
        assert exported["threshold"] == gallery.threshold
