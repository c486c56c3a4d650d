"""Maps: the right groups, what they state of themselves, and embeddings that admit no map."""

import numpy as np
import pytest

from workbook.display.projections import pca_plane, tsne_map, tsne_maps
from workbook.evaluation.collapse import CollapsedError


def groups(count, dimensions=8, classes=3):
    labels = np.arange(count) % classes
    noise = np.random.default_rng(0).normal(0, 0.05, (count, dimensions))
    return np.eye(classes, dimensions)[labels] + noise, labels


@pytest.mark.parametrize(("count", "perplexity"), [(3, 1), (4, 1), (20, 6.3), (61, 20), (210, 20)])
def test_the_perplexity_fits_the_number_of_images_and_is_stated(count, perplexity):
    vectors, labels = groups(count)
    found = tsne_map(vectors, seed=3)
    assert found.points.shape == (count, 2) and np.isfinite(found.points).all()
    assert (found.perplexity, found.seed) == (perplexity, 3)
    assert found.describe() == f"t-SNE of {count} images, perplexity {perplexity:g}, seed 3"
    if count > 60:
        centers = np.stack([found.points[labels == c].mean(0) for c in range(3)])
        nearest = ((found.points[:, None] - centers) ** 2).sum(-1).argmin(1)
        assert (nearest == labels).mean() > 0.9, "three clear groups stay three groups on the map"
    if count == 20:
        assert (tsne_map(vectors, seed=3).points == found.points).all()


@pytest.mark.parametrize(
    "count", [3, 50, 200]
)  # of 200 equal rows scikit-learn's t-SNE would crash
@pytest.mark.parametrize("make", [tsne_map, pca_plane])
def test_collapsed_embeddings_are_said_to_be_so(make, count):
    with pytest.raises(CollapsedError, match=f"^collapsed: all {count} embeddings are equal"):
        make(np.full((count, 8), 0.3, np.float32))


@pytest.mark.parametrize("count", [40, 240])
def test_groups_of_equal_rows_and_a_single_direction_have_a_map(count):
    for vectors in (np.repeat(np.eye(2), count // 2, 0), np.linspace(0, 1, count)[:, None]):
        assert np.isfinite(tsne_map(vectors).points).all()


@pytest.mark.parametrize("make", [tsne_map, pca_plane])
@pytest.mark.parametrize(
    ("bad", "says"), [(np.eye(2), "at least 3 rows"), (np.full((5, 2), np.nan), "NaN")]
)
def test_too_few_rows_or_nan_are_named(make, bad, says):
    with pytest.raises(ValueError, match=says):
        make(bad)


def test_maps_of_several_stages_hold_the_reason_where_there_is_none():
    found = tsne_maps({"good": groups(9)[0], "bad": np.ones((9, 4))}, seed=5)
    assert found["good"].seed == 5 and found["bad"].startswith("collapsed: all 9")


def test_the_plane_is_that_of_the_two_largest_directions():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 5)) * [0.01, 3, 0.02, 1, 0.01]
    plane = pca_plane(vectors)
    assert np.abs(plane.components_).argmax(1).tolist() == [1, 3]
    assert plane.transform(vectors[:7]).shape == (7, 2)
    with pytest.raises(ValueError, match="two dimensions"):
        pca_plane(vectors[:, :1])
