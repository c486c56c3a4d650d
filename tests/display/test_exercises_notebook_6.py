"""The exercises of notebook 6: the solution is accepted, other answers get a hint."""

import numpy as np
import pytest
from exercise_cells import read_exercise

from workbook.display import exercises


def check_answer(answer, check, capsys):
    """Run a learner's answer and the check; return what was printed."""
    names = {"np": np, "exercises": exercises}
    exec(answer, names)
    exec(check, names)
    return capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 2])
def test_the_solution_is_accepted_and_other_answers_get_a_hint(number, capsys):
    blank, check, solution = read_exercise("06", number)
    assert check_answer(blank, check, capsys).startswith("Not answered yet")
    assert check_answer(solution, check, capsys) == "Right.\n"
    for wrong in ("0.25", "np.float32(1)", "'2'", "None", "[1, 2]", "np.nan", "1 / 0"):
        said = check_answer(blank.replace("...", wrong), check, capsys)
        assert said.startswith("Not yet. "), wrong
    raising = blank.replace("return ...", "raise RuntimeError('a mistake')")
    assert check_answer(raising, check, capsys).endswith("led to RuntimeError: a mistake)\n")


@pytest.mark.parametrize(
    ("number", "part", "wrong"),
    [
        (1, "<= thresholds", "< thresholds"),
        (1, "return accepts, rejects", "return rejects, accepts"),
        (2, "<= threshold", "<= 100"),
        (2, "** 2", "** 4"),
        (2, "*[label] * len(images)", "label"),  # once, not per image
        (2, "[entries, images]", "[entries, images[:1]]"),
        (2, "[entries, images]", "[entries, images.mean(axis=0, keepdims=True)]"),
    ],
)
def test_a_near_miss_gets_a_hint(number, part, wrong, capsys):
    _, check, solution = read_exercise("06", number)
    assert part in solution
    said = check_answer(solution.replace(part, wrong), check, capsys)
    assert said.startswith("Not yet. ")
