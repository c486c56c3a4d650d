"""The exercises of notebook 7: the solution is accepted, other answers get a hint."""

from collections import defaultdict
from types import SimpleNamespace

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
    names = {
        "np": np, "exercises": exercises, "config": SimpleNamespace(seed=42), "trials": TRIALS,
        "correct": {"raw pixels": CORRECT, "soft loss": CORRECT},
        "soft": SimpleNamespace(name="soft loss"),
        "trainings": defaultdict(lambda: SimpleNamespace(embedding=None)),
        "embed_trials": lambda embedding, trials: embed_pixels(trials),
    }  # fmt: skip
    exec(answer, names)
    exec(check, names)
    return capsys.readouterr().out


def test_the_trials_of_this_test_can_be_answered_in_part():
    assert 0.3 < CORRECT.mean() < 0.95


@pytest.mark.parametrize("number", [1, 2])
def test_the_solution_is_accepted_and_other_answers_get_a_hint(number, capsys):
    blank, check, solution = read_exercise("07", number)
    assert check_answer(blank, check, capsys).startswith("Not answered yet")
    assert check_answer(solution, check, capsys).startswith("Right.\n")
    for wrong in ("0.25", "np.float32(1)", "'2'", "None", "[1, 2]", "np.nan"):
        said = check_answer(blank.replace("...", wrong), check, capsys)
        assert said.startswith("Not yet. "), wrong
    raising = blank.replace("return ...", "raise RuntimeError('a mistake')")
    assert check_answer(raising, check, capsys).endswith("led to RuntimeError: a mistake)\n")


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (1, "argmin(axis=1)", "argmin(axis=0)"),  # the closest query of an example
        (1, "== answer", "== np.arange(20)"),
        (1, "** 2", ""),
        (2, "(answer + ", "(item + "),
        (2, " + runs - run", ""),
        (2, "== run", "== answer"),
    ],
)
def test_a_common_mistake_is_noticed(number, old, new, capsys):
    _, check, solution = read_exercise("07", number)
    assert old in solution
    assert check_answer(solution.replace(old, new), check, capsys).startswith("Not yet. ")


def test_the_mixed_task_is_printed_beside_the_official_one(capsys):
    _, check, solution = read_exercise("07", 2)
    said = check_answer(solution, check, capsys)
    assert "mixed 0." in said or "mixed 1." in said
    assert f"within an alphabet {CORRECT.mean():.3f}" in said
