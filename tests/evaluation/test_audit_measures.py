"""The audit finds what was planted, and nothing else."""

import numpy as np
import pytest

from workbook.data.images import ImageDataset
from workbook.evaluation.audit import audit_images, find_doubtful_labels, find_duplicates

RNG = np.random.default_rng(0)


def smooth(count, side=32):
    """Images of a few large patches, as different from each other as photographs are."""
    small = RNG.integers(0, 256, (count, 4, 4, 3))
    return small.repeat(side // 4, 1).repeat(side // 4, 2).astype(np.uint8)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clusters(sizes, spread=0.02, dim=64):
    """Features of classes of these sizes, each around a corner of its own, and their labels."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return unit(np.eye(dim)[labels] + RNG.normal(0, spread, (len(labels), dim))), labels


def copies(found):
    return [(group.rows.tolist(), group.kind) for group in found]


def test_copies_are_found_by_their_pixels_whatever_the_features_say():
    images = smooth(12)
    images[6] = images[0]  # across classes
    images[7] = np.clip(images[8] * 0.8 + 20, 0, 255)  # darker; across splits
    images[4] = images[3][:, ::-1]  # mirrored
    images[5] = images[4]  # a chain of three
    labels, splits = np.repeat([0, 1], 6), np.array(["train"] * 12)
    splits[8] = "test"
    features = unit(RNG.normal(size=(12, 64)))
    expected = [
        ([0, 6], "across classes"), ([7, 8], "across splits"), ([3, 4, 5], "within a class"),
    ]  # fmt: skip
    assert copies(find_duplicates(images, features, labels, splits)) == expected


@pytest.mark.parametrize("distance, is_found", [(0.09, True), (0.11, False)])
def test_copies_are_found_by_their_features_whatever_the_pixels_say(distance, is_found):
    features = np.eye(20, dtype=np.float32)
    angle = 2 * np.arcsin(np.sqrt(distance) / 2)
    features[1] = np.cos(angle) * features[0] + np.sin(angle) * features[1]
    labels, splits = np.arange(20) // 10, np.array(["train"] * 20)
    found = find_duplicates(smooth(20), features, labels, splits)
    assert copies(found) == [([0, 1], "within a class")] * is_found


def test_wrong_labels_are_found_with_the_right_one_and_correct_ones_are_not():
    features, labels = clusters([12, 12, 12, 2])
    wrong = labels.copy()
    wrong[[3, 20]] = [2, 0]
    found = find_doubtful_labels(features, wrong)
    assert {(image.row, image.suggestion) for image in found} >= {(3, 0), (20, 1)}
    assert {image.row for image in found} <= {3, 20, 36, 37}  # the class of two is not judged well
    for image in found[:2]:
        assert image.share == 1 and (wrong[image.neighbors] == image.suggestion).all()
        assert image.row not in image.neighbors
    assert find_doubtful_labels(*clusters([12, 12, 12])) == []


def test_small_classes_ask_fewer_neighbors():
    features, labels = clusters([5, 5, 5, 5])
    wrong = labels.copy()
    wrong[0] = 3
    [image] = find_doubtful_labels(features, wrong)
    assert (image.row, image.suggestion, len(image.neighbors)) == (0, 0, 5)
    assert image.share == 0.8  # the other four of its class, and one other image


def test_the_only_image_of_a_class_is_not_judged():
    assert find_doubtful_labels(*clusters([5, 5, 5, 1])) == []


def test_a_neighborhood_without_a_majority_is_no_evidence():
    features, labels = unit(RNG.normal(size=(60, 64))), np.arange(60) % 30
    assert find_doubtful_labels(features, labels) == []


def test_the_audit_counts_everything():
    features, labels = clusters([8, 8, 4, 1], spread=0.1)
    images = smooth(21)
    images[1] = images[0]
    data = ImageDataset(
        "x", images, labels.astype(np.int32), list("abcd"), [""] * 21, np.array(["train"] * 21)
    )
    audit = audit_images(data, features)
    assert audit.small_classes == {2: 4, 3: 1}
    assert dict(audit.summarize()) == {
        "groups of near-duplicates across classes": 0,
        "groups of near-duplicates across splits": 0,
        "groups of near-duplicates within a class": len(audit.duplicates),
        "images whose neighbours have another label": len(audit.doubtful),
        "classes with fewer than 5 images": 2,
    }
    assert copies(audit.duplicates) == [([0, 1], "within a class")]
    alone = find_doubtful_labels(features, labels)  # searches the neighbours itself
    assert [image.row for image in audit.doubtful] == [image.row for image in alone]


def test_two_images_are_enough():
    audit = audit_images(
        ImageDataset(
            "x", smooth(2), np.array([0, 1]), ["a", "b"], ["", ""], np.array(["train"] * 2)
        ),
        np.eye(2, dtype=np.float32),
    )
    assert not audit.duplicates and audit.small_classes == {0: 1, 1: 1}
