"""Retrieval measures against pytorch-metric-learning's AccuracyCalculator, recorded once.

This file is its own recipe: `python tests/test_metrics_reference.py`, where pytorch-metric-learning
2.9.0, torch 2.13.0 (CPU), faiss-cpu 1.15.1 and numpy 2.4.6 are installed, printed RECORDED.
Both sides leave out lone queries (no other image of their class to find). Where all queries are
lone the definitions part: theirs gives nan, ours an error.
"""

import numpy as np
import pytest

from workbook.evaluation.retrieval import retrieval_metrics

NAMES = {  # theirs: ours
    "precision_at_1": "precision@1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map@r",
}


def make_case(name, seed):
    """(query, query labels) or (query, query labels, gallery, gallery labels), seeded."""
    rng = np.random.default_rng(seed)
    if name == "imbalanced":
        labels = np.repeat(np.arange(5), [2, 3, 8, 20, 67])
    elif name == "lone labels":  # ten classes of one image, ten of five
        labels = np.concatenate([np.arange(10), np.repeat(np.arange(10, 20), 5)])
    else:
        labels = rng.integers(0, 8, 100)
    centers = rng.normal(size=(labels.max() + 1, 6))
    x = (centers[labels] + rng.normal(size=(len(labels), 6))).astype(np.float32)
    if name != "gallery":
        return x, labels
    labels[:40][labels[:40] == 0] = 99  # query labels that the gallery does not have
    return x[:40], labels[:40], x[40:], labels[40:]


RECORDED = {
    ("random", 0): {
        "precision_at_1": 0.53,
        "r_precision": 0.37968452380952383,
        "mean_average_precision_at_r": 0.24458258269783564,
    },
    ("random", 1): {
        "precision_at_1": 0.27,
        "r_precision": 0.2561843711843712,
        "mean_average_precision_at_r": 0.12925779399182222,
    },
    ("imbalanced", 0): {
        "precision_at_1": 0.74,
        "r_precision": 0.665168603326498,
        "mean_average_precision_at_r": 0.5548858108607294,
    },
    ("imbalanced", 1): {
        "precision_at_1": 0.87,
        "r_precision": 0.6857552973342448,
        "mean_average_precision_at_r": 0.5917631764459378,
    },
    ("gallery", 0): {
        "precision_at_1": 0.59375,
        "r_precision": 0.3528409090909091,
        "mean_average_precision_at_r": 0.2647975542374893,
    },
    ("gallery", 1): {
        "precision_at_1": 0.34285714285714286,
        "r_precision": 0.3038095238095238,
        "mean_average_precision_at_r": 0.179851064499874,
    },
    ("lone labels", 0): {
        "precision_at_1": 0.24,
        "r_precision": 0.24,
        "mean_average_precision_at_r": 0.15625,
    },
    ("lone labels", 1): {
        "precision_at_1": 0.18,
        "r_precision": 0.24,
        "mean_average_precision_at_r": 0.14958333333333332,
    },
}


@pytest.mark.parametrize(("name", "seed"), RECORDED)
def test_measures_equal_the_recorded_reference(name, seed):

    found = retrieval_metrics(*make_case(name, seed))
    for theirs, ours in NAMES.items():
        assert found[ours] == pytest.approx(RECORDED[name, seed][theirs], abs=1e-9), ours


if __name__ == "__main__":
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(include=tuple(NAMES), k="max_bin_count")
    for name in ("random", "imbalanced", "gallery", "lone labels"):
        for seed in (0, 1):
            print(f"{(name, seed)}: {calculator.get_accuracy(*make_case(name, seed))},")
