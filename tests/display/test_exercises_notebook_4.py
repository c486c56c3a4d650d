"""The exercises of notebook 4: the solution is accepted, other answers get a hint."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from exercise_cells import read_exercise

from workbook.display import exercises
from workbook.evaluation.collapse import effective_rank
from workbook.support.tensorflow_start import tf


def answer_exercise(answer, check, capsys):
    """Run a learner's answer and the check; return what was printed."""
    names = {
        "np": np, "tf": tf, "exercises": exercises, "effective_rank": effective_rank,
        "config": SimpleNamespace(seed=42),
    }  # fmt: skip
    exec(answer, names)
    exec(check, names)
    return capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 3])
def test_a_function_is_written(number, capsys):
    blank, check, solution = read_exercise("04", number)
    assert answer_exercise(blank, check, capsys).startswith("Not answered yet")
    assert answer_exercise(solution, check, capsys) == "Right.\n"
    for wrong in ("0.25", "np.float32(1)", "'2'", "None", "[1, 2]", "np.nan"):
        said = answer_exercise(blank.replace("...", wrong), check, capsys)
        assert said.startswith("Not yet. "), wrong


def test_a_numpy_number_is_as_good_as_an_array_or_a_tensor(capsys):
    _, check, solution = read_exercise("04", 1)
    for convert in ("float", "np.asarray", "tf.constant"):
        wrapped = re.sub(r"return (.*)", rf"return {convert}(\1)", solution)
        assert answer_exercise(wrapped, check, capsys) == "Right.\n", convert


def test_a_miner_is_written(capsys):
    blank, check, solution = read_exercise("04", 2)
    complete = blank.replace("    positive = ...\n    negative = ...\n", solution)
    assert complete != blank
    assert answer_exercise(blank, check, capsys).startswith("Not answered yet")
    assert answer_exercise(complete, check, capsys) == "Right.\n"
    wrong = {
        "itself": complete.replace("where(is_positive,", "where(same,"),
        "farthest": complete.replace("argmin(tf.where(is_positive, distances, np.inf)",
                                     "argmax(tf.where(is_positive, distances, -1)"),
        "no negative": complete.replace("where(same, np.inf", "where(is_positive, np.inf"),
        "not a tensor": blank.replace("...", "None"),
        "half": blank.replace("positive = ...", "positive = index"),
    }  # fmt: skip
    for name, answer in wrong.items():
        start = "Not answered yet" if name == "half" else "Not yet. "
        assert answer_exercise(answer, check, capsys).startswith(start), name
