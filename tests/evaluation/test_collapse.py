"""Collapse: the effective rank of known shapes, and points that are equal, almost or not at all."""

import numpy as np
import pytest

from workbook.evaluation.collapse import (
    CollapsedError,
    describe_spread,
    effective_rank,
    is_collapsed,
    refuse_collapsed,
)


def cross(dimensions):
    """+e_i and -e_i for each direction i: the covariance is a multiple of the identity."""
    return np.concatenate([np.eye(dimensions), -np.eye(dimensions)])


@pytest.mark.parametrize("dimensions", [1, 2, 7])
@pytest.mark.parametrize("offset", [0, 5])
def test_a_cross_has_as_many_directions_as_dimensions(dimensions, offset):
    assert effective_rank(cross(dimensions) + offset) == pytest.approx(dimensions)
    padded = np.pad(cross(dimensions), ((0, 0), (0, 9)))  # nine dimensions without any spread
    assert effective_rank(padded) == pytest.approx(dimensions)


def test_effective_rank_equals_the_formula_on_the_eigenvalues_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(40, 6)) * [3, 2, 1, 0.5, 0.1, 0]
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    expected = sum(eigenvalues) ** 2 / sum(value**2 for value in eigenvalues)
    assert effective_rank(x) == pytest.approx(expected)
    assert effective_rank(1e200 * x) == effective_rank(1e-200 * x) == pytest.approx(expected)


def test_two_opposite_points_are_spread_but_in_one_direction():
    x = np.tile([[1.0, 0, 0], [-1, 0, 0]], (50, 1))  # their total variance is all of their length
    assert effective_rank(x) == pytest.approx(1) and not is_collapsed(x)
    assert describe_spread(x) == (
        "not collapsed: the total variance of the 100 embeddings is 1.00 of their mean squared "
        "length, and they use 1.0 of at most 3 directions (effective rank)."
    )


COLLAPSED = {
    "equal": np.full((200, 8), 0.3),
    "zero": np.zeros((200, 8)),
    "rounding of float32": np.float32(1) + np.float32(1e-7) * (np.arange(1600).reshape(200, 8) % 3),
    "almost equal": 1 + 1e-3 * np.random.default_rng(0).normal(size=(200, 8)),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_points_in_one_place_have_collapsed(name):
    x = COLLAPSED[name]
    assert is_collapsed(x) and is_collapsed(x.astype(np.float16))
    assert describe_spread(x).startswith("collapsed: all 200 embeddings ")
    with pytest.raises(CollapsedError, match="collapsed: all 200 embeddings"):
        refuse_collapsed(x)
    assert 0 <= effective_rank(x) <= 8


def test_equal_points_have_no_direction():
    assert effective_rank(np.full((5, 3), 0.1)) == 0


@pytest.mark.parametrize("distance", [0.1, 1, 100])
def test_two_points_apart_have_not_collapsed(distance):
    x = np.repeat([[1.0, 0], [1, distance]], 100, axis=0)
    assert not is_collapsed(x) and (refuse_collapsed(x) == x).all()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.ones(5), r"shape \(5,\): at least 2 rows"),
        (np.ones((1, 5)), r"shape \(1, 5\): at least 2 rows"),
        (np.ones((5, 0)), r"shape \(5, 0\)"),
        ([[1, 2], [np.nan, 0]], "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("function", [effective_rank, is_collapsed, describe_spread])
def test_what_is_no_set_of_embeddings_is_named(function, bad, says):
    with pytest.raises(ValueError, match=says):
        function(bad)
