"""The exercises of notebook 9: the solution is accepted, other answers get a hint."""

import numpy as np
import pytest
from exercise_cells import read_exercise

import siamese_utils as su
from workbook.display import exercises
from workbook.training.mining import mine_triplets

ODD = [None, True, "", "nineteen", b"7", [], [[1], [1, 2]], {}, np.nan, len, lambda: 0, 3]


def squared(x, y):
    return ((x - y) ** 2).sum(-1)


WRONG = {  # (notebook, exercise): plausible wrong answers
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
        "np": np, "su": su, "exercises": exercises, "mine_triplets": mine_triplets,
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
