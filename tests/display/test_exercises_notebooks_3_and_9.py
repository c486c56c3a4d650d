"""The exercises of notebooks 3 and 9: the solution is accepted, other answers get a hint."""

import numpy as np
import pytest
from exercise_cells import read_exercise

import siamese_utils as su
from workbook.display import exercises
from workbook.support.tensorflow_start import keras
from workbook.training.mining import mine_triplets

ODD = [None, True, "", "nineteen", b"7", [], [[1], [1, 2]], {}, np.nan, len, lambda: 0, 3]


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def squared(x, y):
    return ((x - y) ** 2).sum(-1)


def is_active(a, p, n, margin):
    return squared(a, p) - squared(a, n) + margin > 0


def dense_parameters(inputs, units):
    return sum(before * after + after for before, after in zip((inputs, *units), units))


WRONG = {  # (notebook, exercise): plausible wrong answers
    ("03", 1): [
        lambda a, p, n, m: np.maximum(squared(a, p) - squared(a, n) + m, 0),  # no mean
        lambda a, p, n, m: max((squared(a, p) - squared(a, n)).mean() + m, 0),  # mean too early
        lambda a, p, n, m: np.maximum(squared(a, p) ** 0.5 - squared(a, n) ** 0.5 + m, 0).mean(),
        lambda a, p, n, m: np.maximum(squared(a, n) - squared(a, p) + m, 0).mean(),
    ],
    ("03", 2): [
        lambda a, p, n, m: 2 * (n - p),  # also where the loss is 0
        lambda a, p, n, m: (n - p) * is_active(a, p, n, m),
        lambda a, p, n, m: 2 * (p - n) * is_active(a, p, n, m),
    ],
    ("03", 3): [
        lambda inputs, units: inputs * units[0] + units[0],
        dense_parameters,  # without BatchNorm
        lambda inputs, units: dense_parameters(inputs, units) + 4 * sum(units[:-1]),
        lambda inputs, units: dense_parameters(inputs, units) + 2 * sum(units),
    ],
    ("09", 1): [
        lambda P, K: P * K * (K - 1) * (P * K - 1),
        lambda P, K: P * K * (K - 1) // 2 * (P * K - K),
        lambda P, K: P * K * K * (P * K - K),
    ],
    ("09", 2): [
        lambda x, y, block: squared(x[:, None], np.asarray(y)).argmin(1),  # the full matrix
        lambda x, y, block: squared(x[:, None], y[:]).argmin(1),
        lambda x, y, block: squared(x[:, None], y[:block]).argmin(1),  # the first block only
        lambda x, y, block: np.zeros(len(x), int),
    ],
}


@pytest.mark.parametrize("which", WRONG, ids=str)
def test_a_check_accepts_the_solution_alone_and_answers_kindly_to_all(which, capsys):
    blank, check, solution = read_exercise(*which)
    name = blank.partition(" = ")[0]
    names = {
        "np": np, "keras": keras, "su": su, "exercises": exercises, "count": count, "margin": 0.5,
        "mine_triplets": mine_triplets,
    }  # fmt: skip

    def answer_with(answer):
        names[name] = answer
        exec(check, names)
        return capsys.readouterr().out

    assert answer_with(...).startswith("Not answered yet")
    exec(solution, names)
    assert answer_with(names[name]) == "Right.\n"
    for answer in (*WRONG[which], *ODD):
        assert answer_with(answer).startswith("Not yet. "), answer
