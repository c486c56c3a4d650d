"""Guesses and exercises: the checking function, and the checking cells with all kinds of answers.

The cells that a check depends on are executed here, in this process, on small pictures.
"""

import ast
import builtins
import re
import symtable

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from workbook import ROOT
from workbook.display import exercises

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


# -------------------------------------------------------------------- the exercises' three cells


def code_of(solution):
    """The code in a solution: Markdown, collapsed, so that Run All overwrites no answer."""
    assert solution.cell_type == "markdown"
    start, end = "<details><summary>Solution</summary>\n\n```python\n", "\n\n</details>"
    assert solution.source.startswith(start) and solution.source.endswith(end)
    return solution.source.removeprefix(start).partition("\n```")[0]


def exercises_of(path):
    """[(name of the answer, checking cell, code of the solution)] of a notebook."""
    blanks, checks, solutions = (cells(path, tag) for tag in ("exercise", "check", "solution"))
    assert 2 <= len(blanks) == len(checks) == len(solutions) <= 3
    names = [blank.source.partition(" = ")[0] for blank in blanks]
    return list(zip(names, checks, map(code_of, solutions)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_each_exercise_has_a_blank_a_check_and_a_collapsed_solution(path):
    for blank in cells(path, "exercise"):
        assert blank.source.partition(" = ")[2].startswith("..."), "the blank is not filled in"
    for name, check, solution in exercises_of(path):
        assert re.search(rf"^(def {name}\(|{name} = )", solution, re.MULTILINE)
        assert re.search(rf"exercises\.check\(\s*{name},", check.source)
    assert cells(path, "prediction"), "a question before an answer"
    for cell in cells(path):
        assert cell.source.count("<details>") == cell.source.count("</details>")


# ------------------------------------------------------------- right, wrong and odd answers, tried


def names_in(code):
    """(names that a cell makes, names that it uses), those within its functions left out."""
    top = symtable.symtable(code, "cell", "exec")
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used, tables = set(), [top]
    while tables:
        table = tables.pop()
        symbols = [s for s in table.get_symbols() if s.is_referenced()]
        used |= {s.get_name() for s in symbols if table is top or s.is_global()}
        tables += table.get_children()
    return made, used


def is_python(cell):
    """Whether a cell is code, and not a question to IPython such as `name?`."""
    try:
        return cell.cell_type == "code" and bool(ast.parse(cell.source))
    except SyntaxError:
        return False


def needed(path, codes):
    """Code of the cells that `codes` depend on by the names they use, in the notebook's order."""
    wanted = set().union(*(names_in(code)[1] for code in codes)) - set(dir(builtins))
    chosen = []
    for cell in reversed([cell for cell in cells(path) if is_python(cell)]):
        made, used = names_in(cell.source)
        if made & wanted and not {"exercise", "check", "colab"} & set(
            cell.metadata.get("tags", [])
        ):
            chosen.insert(0, cell.source)
            wanted |= used
    return chosen


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 12 classes: a faint pattern of 4 x 4 colours each, in 20 noisy pictures of it."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for name in range(12):
        pattern = 128 + 5 * rng.normal(size=(4, 4, 3)).repeat(8, 0).repeat(8, 1)
        (folder / f"class {name}").mkdir()
        for i in range(20):
            noisy = (pattern + 60 * rng.normal(size=pattern.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class {name}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tried(pictures, tmp_path_factory):
    """tried(number): names of notebook `number`, made by the cells that its checks depend on."""
    made, runs = {}, tmp_path_factory.mktemp("runs")
    settings = {"PRESET": "quick", "DATASET": pictures, "RUNS": runs, "SIZE": 32}
    settings |= {"BACKBONE": "ResNet50", "WEIGHTS": "none"}

    def get(number):
        if number not in made:
            path, names = NOTEBOOKS[number - 1], {}
            codes = [
                code for _, check, right in exercises_of(path) for code in (check.source, right)
            ]
            with pytest.MonkeyPatch.context() as patch, plt.rc_context():
                for name, value in settings.items():
                    patch.setenv(f"SIAMESE_{name}", str(value))
                for code in needed(path, codes):
                    exec(code, names)
            made[number] = names
        return made[number]

    return get


def grey_histogram(images):
    grey = np.repeat(np.mean(images, axis=-1, keepdims=True), 3, axis=-1)
    return right_histogram(grey)


def right_histogram(images, edges=range(0, 257, 32)):
    pixels = np.reshape(images, (len(images), -1, 3))
    shares = [[np.histogram(image[:, c], list(edges))[0] for c in range(3)] for image in pixels]
    return np.reshape(shares, (len(images), 24)) / pixels.shape[1]


def unequal_histogram(images):
    return right_histogram(images, [0, 16, 64, 96, 128, 160, 192, 224, 256])


def counted_histogram(images):
    return right_histogram(images) * images[0, ..., 0].size


def triplets_by(pick_positive, pick_negative, anchor_is_companion=False):
    """A function of (x, y): for each image a positive and a negative, picked by their distances."""

    def mine(x, y):
        d = ((x[:, None] - x) ** 2).sum(-1)
        own = np.eye(len(y), dtype=bool) & (not anchor_is_companion)
        same = y[:, None] == y
        worst = {np.argmin: np.inf, np.argmax: -np.inf}
        positive = pick_positive(np.where(same & ~own, d, worst[pick_positive]), 1)
        negative = pick_negative(np.where(same, worst[pick_negative], d), 1)
        return np.stack([np.arange(len(y)), positive, negative], 1)

    return mine


WRONG = {  # notebook: for each exercise, plausible wrong answers
    1: [
        [32, 2, lambda side: side],
        [lambda images: np.full((len(images), 24), 1 / 8), grey_histogram, unequal_histogram,
         counted_histogram],
    ],
    2: [
        [(32, 2), (16, 4), 8],
        ["semi-hard", "easy", "margin"],
        [triplets_by(np.argmax, np.argmin), triplets_by(np.argmin, np.argmax),
         triplets_by(np.argmin, np.argmin, anchor_is_companion=True), lambda x, y: x],
    ],
}  # fmt: skip
EXERCISES = [(number, i) for number, wrong in WRONG.items() for i in range(len(wrong))]


def said(capsys, names, name, check, answer):
    names[name] = answer
    capsys.readouterr()
    exec(check.source, names)
    return capsys.readouterr().out


@pytest.mark.parametrize(("number", "i"), EXERCISES)
def test_a_check_accepts_the_solution_alone_and_answers_kindly_to_all(tried, capsys, number, i):
    names = tried(number)
    name, check, solution = exercises_of(NOTEBOOKS[number - 1])[i]
    assert said(capsys, names, name, check, ...).startswith("Not answered yet")
    exec(solution, names)
    right = names[name]
    assert said(capsys, names, name, check, right) == "Right.\n"
    for answer in (*WRONG[number][i], *ODD):
        assert said(capsys, names, name, check, answer).startswith("Not yet. ")


def test_other_spellings_of_a_right_answer_are_right(tried, capsys):
    cases = [(1, 1, right_histogram), (2, 0, [8, 8]), (2, 1, "Hard"), (2, 1, " hard "),
             (2, 2, triplets_by(np.argmin, np.argmin))]  # fmt: skip
    for number, i, answer in cases:
        name, check, _ = exercises_of(NOTEBOOKS[number - 1])[i]
        assert said(capsys, tried(number), name, check, answer) == "Right.\n"


def test_of_the_sides_of_raw_pixels_only_the_best_is_right(tried, capsys):
    name, check, _ = exercises_of(NOTEBOOKS[0])[0]
    answers = [said(capsys, tried(1), name, check, side).partition(".")[0] for side in (16, 8, 4)]
    assert answers == ["Not yet", "Not yet", "Right"], "the pictures are patterns of 4 x 4"
