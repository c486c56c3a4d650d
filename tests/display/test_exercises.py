"""Exercises: the checking function, and the checks of the lessons with all kinds of answers."""

import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from exercise_cells import read_exercise

from workbook import ROOT
from workbook.display import exercises
from workbook.evaluation.retrieval import bootstrap_interval, retrieval_metrics
from workbook.training.batches import pk_batches
from workbook.training.mining import squared_distances
from workbook.training.zones import zone_shares

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def cells(path, tag=None):
    found = nbformat.read(path, as_version=4).cells
    return [c for c in found if tag is None or tag in c.metadata.get("tags", [])]


# ------------------------------------------------------------------------- the checking function


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (3, 3, True),
        (3, 4, False),
        (0.1 + 0.2, 0.3, True),
        (0.1 + 0.2, 0.3001, False),
        ([1, 2], (1, 2), True),
        ([1, 2], 1, False),
        ("hard", "hard", True),
        (" Hard ", "hard", True),
        ("easy", "hard", False),
        (4, lambda answer: answer % 2 == 0, True),
        (5, lambda answer: answer % 2 == 0, False),
    ],
)
def test_check_tells_right_from_wrong(capsys, answer, expected, right):
    exercises.check(answer, expected, "Try this.")
    assert capsys.readouterr().out == ("Right.\n" if right else "Not yet. Try this.\n")


ODD = [None, True, "", "nineteen", b"7", [], [[1], [1, 2]], {}, object(), np.nan, len, lambda: 0]


@pytest.mark.parametrize("expected", [7, 0.5, "hard", (1, 2)])
def test_an_answer_of_another_type_is_not_right_and_raises_nothing(capsys, expected):
    for answer in (*ODD, np.zeros((2, 2)), "7"):
        exercises.check(answer, expected, "Try this.")
        assert capsys.readouterr().out.startswith("Not yet. Try this.")


def test_a_check_that_fails_on_an_answer_says_so_in_the_hint(capsys):
    exercises.check("text", lambda answer: answer(1) == 2, "Give a function.")
    said = (
        "Not yet. Give a function. (Your answer led to TypeError: 'str' object is not callable)\n"
    )
    assert capsys.readouterr().out == said


def test_an_unanswered_exercise_is_said_to_be_so_and_does_not_raise(capsys):
    exercises.check(..., lambda answer: answer.missing, "x")
    assert "Not answered yet" in capsys.readouterr().out


def test_reveal_shows_the_guess_or_that_none_was_made(capsys):
    exercises.reveal(..., 1234567)
    exercises.reveal(0.25, 0.5)
    lines = ["it is 1,234,567; your guess: none", "it is 0.500; your guess: 0.25"]
    assert capsys.readouterr().out.splitlines() == lines


# ------------------------------------------------------------------- the checks of the lessons

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(6), 4)
VECTORS = RNG.normal(size=(24, 5)).astype(np.float32)
NAMES = {  # what the cells before the exercises have made, as far as the checks use it
    "np": np, "exercises": exercises, "config": SimpleNamespace(seed=42),
    "retrieval_metrics": retrieval_metrics, "bootstrap_interval": bootstrap_interval,
    "zone_shares": zone_shares, "squared_distances": squared_distances,
    "d_ap": RNG.uniform(size=200), "d_an": RNG.uniform(size=200),
    "labels": LABELS, "embeddings": VECTORS, "batches": pk_batches(LABELS, 6, 4, steps=1),
}  # fmt: skip
EVALUATION = {
    "embeddings": {"trained": VECTORS}, "queries": np.arange(20, 24), "right": np.ones(4, bool),
    "data": SimpleNamespace(labels=LABELS, gallery=np.arange(20)),
}  # fmt: skip


def grey_histogram(images):
    grey = np.repeat(np.mean(images, axis=-1, keepdims=True), 3, axis=-1)
    return shares(grey, range(0, 257, 32))


def shares(images, edges):
    pixels = np.reshape(images, (len(images), -1, 3))
    found = [[np.histogram(image[:, c], list(edges))[0] for c in range(3)] for image in pixels]
    return np.reshape(found, (len(images), 24)) / pixels.shape[1]


def unequal_histogram(images):
    return shares(images, [0, 16, 64, 96, 128, 160, 192, 224, 256])


def recall_that_finds_itself(vectors, labels, k=1):
    return 1.0


def zones_with_wrong_borders(d_ap, d_an, margin):
    return np.where(d_an <= d_ap, "hard", np.where(d_an <= d_ap + margin, "semi-hard", "easy"))


def hardest_positive(distances, labels):
    same = labels[:, None] == labels
    positive = np.where(same, distances, -1).argmax(axis=1)
    negative = np.where(same, np.inf, distances).argmin(axis=1)
    return np.stack([np.arange(len(labels)), positive, negative], axis=1)


WRONG = {  # (notebook, number of the exercise): plausible wrong answers
    ("01", 1): [
        grey_histogram,
        unequal_histogram,
        lambda images: np.full((len(images), 24), 1 / 8),
    ],
    ("01", 2): [recall_that_finds_itself, lambda x, y: 0.5],
    ("02", 1): [zones_with_wrong_borders, lambda d_ap, d_an, m: ["hard"] * len(d_ap)],
    ("02", 2): [hardest_positive, lambda d, y: np.zeros((len(y), 3), int)],
    ("05", 1): [recall_that_finds_itself, lambda x, y, k: 0.5],
    ("05", 2): [lambda q, x, y: y[:1].repeat(len(q)), lambda q, x, y: np.arange(len(q))],
    ("05", 3): [lambda values: (0, 1), lambda values: (values.min(), values.max())],
}
ODD = [None, b"19", [], {}, np.nan, object(), len]


def answered(capsys, which, answer):
    """What the check says of an answer: source code, or an object under the answer's name."""
    blank, check, _ = read_exercise(*which)
    names = dict(NAMES) | (EVALUATION if which[0] == "05" else {})
    if isinstance(answer, str):
        exec(answer, names)
    else:
        exec(blank, names)
        names[re.search(r"^(?:def )?(\w+)", blank)[1]] = answer
    capsys.readouterr()
    exec(check, names)
    return capsys.readouterr().out


@pytest.mark.parametrize("which", WRONG, ids=str)
def test_a_check_accepts_the_solution_alone(capsys, which):
    blank, _, solution = read_exercise(*which)
    assert answered(capsys, which, blank).startswith("Not answered yet")
    assert answered(capsys, which, solution).startswith("Right.\n")
    for answer in WRONG[which]:
        assert answered(capsys, which, answer).startswith("Not yet. "), answer


@pytest.mark.parametrize("which", [which for which in WRONG if which[0] != "05"], ids=str)
def test_an_odd_answer_gets_a_hint_and_no_traceback(capsys, which):
    for answer in ODD:
        assert answered(capsys, which, answer).startswith("Not yet. "), answer


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_exercise_has_a_blank_a_check_and_a_collapsed_solution(path):
    blanks, checks, solutions = (cells(path, tag) for tag in ("exercise", "check", "solution"))
    assert len(blanks) == len(solutions) <= len(checks)
    assert 2 <= len(blanks) <= 3
    assert all("..." in blank.source for blank in blanks), "a blank is filled in"
    for solution in solutions:
        assert solution.source.startswith("<details><summary>Solution</summary>\n\n")
        assert solution.source.endswith("\n\n</details>")
    for cell in cells(path):
        assert cell.source.count("<details>") == cell.source.count("</details>")
