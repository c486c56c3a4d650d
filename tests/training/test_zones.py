"""The zones of triplets, and the features that training has to beat."""

import numpy as np
import pytest

from workbook.data.images import ImageDataset
from workbook.models.backbones import load_backbone
from workbook.settings import read_config
from workbook.training import zones
from workbook.training.trainer import plain_features


def test_distances_of_triplets_are_those_of_their_images_block_by_block(monkeypatch):
    monkeypatch.setattr(zones, "BLOCK", 2)
    x = np.array([[0, 0], [3, 4], [1, 0], [0, 2]], np.float32)
    d_ap, d_an = zones.triplet_distances(x, [[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert d_ap.tolist() == [25, 25, 5]
    assert d_an.tolist() == [1, 13, 1]
    assert [len(d) for d in zones.triplet_distances(x, [])] == [0, 0]


@pytest.mark.parametrize(
    "d_an, zone",
    [(0.99, "hard"), (1, "semi-hard"), (1.49, "semi-hard"), (1.5, "easy"), (9, "easy")],
)
def test_a_triplet_lies_in_one_zone_also_on_the_borders(d_an, zone):
    shares = zones.zone_shares([1.0], [d_an], margin=0.5)
    assert shares == {"hard": 0, "semi-hard": 0, "easy": 0} | {zone: 1}


def test_shares_of_zones_add_up_to_one():
    shares = zones.zone_shares([1, 1, 1, 1], [0.5, 1.2, 2, 3], margin=0.5)
    assert shares == {"hard": 0.25, "semi-hard": 0.25, "easy": 0.5}


def test_plain_features_are_the_mean_of_the_backbones_feature_map_at_length_1(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    splits = np.array(["train", "train", "test"])
    data = ImageDataset("three", images, np.array([0, 1, 0]), ["a", "b"], ["x"] * 3, splits)
    config = read_config({}, runs=tmp_path, size=64)
    backbone, _ = load_backbone(config.backbone, config.weights, (64, 64, 3), tmp_path / "cache")
    expected = backbone.predict_on_batch(images.astype(np.float32)).mean((1, 2))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(plain_features(config, data), expected, atol=2e-3)
