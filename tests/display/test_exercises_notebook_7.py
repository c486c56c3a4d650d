"""The exercise of notebook 7: the solution is accepted, other answers get a hint."""

import numpy as np
import pytest
from exercise_cells import read_exercise

from workbook.data.omniglot import Trials
from workbook.display import exercises
from workbook.evaluation.one_shot import are_correct, embed_pixels, trial_distances

RNG = np.random.default_rng(0)
SUPPORT = RNG.integers(0, 256, (20, 20, 4, 4, 1), np.uint8)
ANSWERS = RNG.permuted(np.tile(np.arange(20), (20, 1)), axis=1)
SHOWN = np.take_along_axis(SUPPORT, ANSWERS[..., None, None, None], axis=1)
NOISE = RNG.normal(0, 90, SHOWN.shape)
TRIALS = Trials(SUPPORT, np.clip(SHOWN + NOISE, 0, 255).astype(np.uint8), ANSWERS)
CORRECT = are_correct(trial_distances(embed_pixels(TRIALS)), ANSWERS)


def check_answer(answer, check, capsys):
    """Run a learner's answer and the check; return what was printed."""
    names = {"np": np, "exercises": exercises, "trials": TRIALS, "correct": {"raw pixels": CORRECT}}
    exec(answer, names)
    exec(check, names)
    return capsys.readouterr().out


def test_the_trials_of_this_test_can_be_answered_in_part():
    assert 0.3 < CORRECT.mean() < 0.95


def test_the_solution_is_accepted_and_other_answers_get_a_hint(capsys):
    blank, check, solution = read_exercise("07", 1)
    assert check_answer(blank, check, capsys).startswith("Not answered yet")
    assert check_answer(solution, check, capsys).startswith("Right.\n")
    for wrong in ("0.25", "np.float32(1)", "'2'", "None", "[1, 2]", "np.nan", "embed", "1 / 0"):
        said = check_answer(blank.replace("...", wrong), check, capsys)
        assert said.startswith("Not yet. "), wrong
    assert check_answer("one_shot_accuracy = 0.25", check, capsys).startswith("Not yet. ")


def test_an_error_in_the_answer_is_named_without_a_traceback(capsys):
    _, check, solution = read_exercise("07", 1)
    said = check_answer(solution.replace("embed(asked)", "embed(asked[99])"), check, capsys)
    assert said.startswith("Not yet. ") and "IndexError" in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("argmin(axis=1)", "argmin(axis=0)"),  # the closest query of an example
        ("== answer", "== np.arange(20)"),
        ("** 2", ""),
    ],
)
def test_a_common_mistake_is_noticed(old, new, capsys):
    _, check, solution = read_exercise("07", 1)
    assert old in solution
    assert check_answer(solution.replace(old, new), check, capsys).startswith("Not yet. ")
