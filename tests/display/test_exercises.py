"""Exercises: the checking function, and the checks of the lessons with all kinds of answers."""

import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from exercise_cells import read_exercise

import siamese_utils as su
from workbook import ROOT
from workbook.display import exercises
from workbook.evaluation.collapse import effective_rank
from workbook.evaluation.retrieval import bootstrap_interval, retrieval_metrics
from workbook.support.tensorflow_start import keras, tf
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


def refuse(*arguments):
    raise RuntimeError("a mistake\nand more about it")


def test_a_call_is_checked_by_what_it_returns(capsys):
    for call, said in {
        lambda: 3: "Right.",
        lambda: 4: "Not yet. Count.",
        lambda: ...: exercises.NOT_ANSWERED,
        refuse: "Not yet. Count. (Your answer led to RuntimeError: a mistake)",
        lambda: "3": "Not yet. Count. (Your answer '3' is text: write the number without "
        "quotation marks.)",
    }.items():
        exercises.check_call(call, 3, "Count.")
        assert capsys.readouterr().out == said + "\n"
    exercises.check_call(lambda: [1, ...], [1, 2], "Count.")
    assert capsys.readouterr().out == exercises.NOT_ANSWERED + "\n"


@pytest.mark.parametrize(
    ("verdict", "said", "passes"),
    [
        (True, "Right.", True),
        (np.bool_(True), "Right.", True),
        (False, "Not yet. Count.", False),
        (..., exercises.NOT_ANSWERED, False),
        ("It is too slow.", "Not yet. It is too slow.", False),
    ],
)
def test_a_function_that_checks_may_say_what_is_wrong(capsys, verdict, said, passes):
    exercises.check(1, lambda answer: verdict, "Count.")
    assert capsys.readouterr().out == said + "\n"
    assert exercises.passes(1, lambda answer: verdict) is passes
    assert exercises.passes(1, refuse) is False


def test_an_error_without_a_message_is_named(capsys):
    def fail():
        raise NotImplementedError

    exercises.check_call(fail, 1, "Count.")
    assert capsys.readouterr().out.endswith("(Your answer led to NotImplementedError)\n")


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
    "np": np, "tf": tf, "keras": keras, "su": su, "exercises": exercises,
    "config": SimpleNamespace(seed=42), "margin": 0.5,
    "count": lambda weights: sum(int(np.prod(weight.shape)) for weight in weights),
    "effective_rank": effective_rank,
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


def gaps(a, p, n):
    return ((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1)


def dense_parameters(inputs, units):
    return sum(before * after + after for before, after in zip((inputs, *units), units))


def closest_label(queries, vectors, labels):
    return labels[((queries[:, None] - vectors) ** 2).sum(axis=-1).argmin(axis=1)]


def two_standard_errors(values):
    error = 1.96 * values.std() / np.sqrt(len(values))
    return values.mean() - error, values.mean() + error


LOSSES = [
    lambda a, p, n, m: np.maximum(gaps(a, p, n) + m, 0),  # no mean
    lambda a, p, n, m: max(gaps(a, p, n).mean() + m, 0),  # mean too early
    lambda a, p, n, m: np.maximum(gaps(a, n, p) + m, 0).mean(),
]
WRONG = {  # (notebook, exercise): plausible wrong answers, or (part of the solution, wrong part)
    ("01", 1): [
        grey_histogram,
        unequal_histogram,
        lambda images: np.full((len(images), 24), 1 / 8),
    ],
    ("01", 2): [recall_that_finds_itself, lambda x, y: 0.5],
    ("02", 1): [zones_with_wrong_borders, lambda d_ap, d_an, m: ["hard"] * len(d_ap)],
    ("02", 2): [hardest_positive, lambda d, y: np.zeros((len(y), 3), int)],
    ("03", 1): LOSSES,
    ("03", 2): [
        lambda a, p, n, m: 2 * (n - p),  # also where the loss is 0
        lambda a, p, n, m: (n - p) * (gaps(a, p, n) + m > 0),
        lambda a, p, n, m: 2 * (p - n) * (gaps(a, p, n) + m > 0),
    ],
    ("03", 3): [
        lambda inputs, units: inputs * units[0] + units[0],
        dense_parameters,  # without BatchNorm
        lambda inputs, units: dense_parameters(inputs, units) + 4 * sum(units[:-1]),
        lambda inputs, units: dense_parameters(inputs, units) + 2 * sum(units),
    ],
    ("04", 1): [
        ("-T * np.log", "-np.log"),
        ("-T * np.log(np.exp(-d_an / T).sum())", "d_an.min()"),
        ("-d_an / T", "d_an / T"),
        ("T * np.log(1 + np.exp((d_ap - soft_minimum + margin) / T))",
         "max(d_ap - soft_minimum + margin, 0)"),
        ("return T *", "return"),
    ],
    ("04", 2): [
        ("where(is_positive,", "where(same,"),  # the anchor itself
        ("positive = tf.argmin(tf.where(is_positive, distances, np.inf",
         "positive = tf.argmax(tf.where(is_positive, distances, -1"),
        ("where(same, np.inf", "where(is_positive, np.inf"),
    ],
    ("04", 3): [("** 2 / (", "/ ("), ("rowvar=False", "rowvar=True")],
    ("05", 1): [recall_that_finds_itself, lambda x, y, k: 0.5, ("[:, :k]", "[:, :1]")],
    ("05", 2): [
        lambda q, x, y: y[:1].repeat(len(q)),
        lambda q, x, y: np.arange(len(q)),
        lambda q, x, y: closest_label(q, x, y),
        lambda q, x, y: closest_label(q, x[::-1], y[::-1]),
    ],
    ("05", 3): [
        lambda values: (0, 1),
        lambda values: (values.min(), values.max()),
        two_standard_errors,
        ("0.025, 0.975", "0.05, 0.95"),
    ],
    ("10", 1): [
        ("len(group) - 1", "len(group)"),
        ("group.mean()", "np.mean(np.concatenate(groups))"),
    ],
    ("10", 2): [("error * ", ""), ("max(axis=1)", "mean(axis=1)")],
}  # fmt: skip
MINER = "    positive = ...\n    negative = ...\n"  # the two lines that exercise 4.2 leaves out


def complete(which):
    """Return the solution as code that can be run."""
    blank, _, solution = read_exercise(*which)
    return blank.replace(MINER, solution) if MINER in blank else solution


def answered(capsys, which, answer):
    """Return what the check says of an answer: source code, or an object under its name."""
    blank, check, _ = read_exercise(*which)
    names = dict(NAMES) | (EVALUATION if which[0] == "05" else {})
    exec(answer if isinstance(answer, str) else blank, names)
    if not isinstance(answer, str):
        names[re.search(r"^(?:def )?(\w+)(?: =|\()", blank, re.MULTILINE)[1]] = answer
    capsys.readouterr()
    exec(check, names)
    return capsys.readouterr().out


@pytest.mark.parametrize("which", WRONG, ids=str)
def test_a_check_accepts_the_solution_alone(capsys, which):
    blank, solution = read_exercise(*which)[0], complete(which)
    assert answered(capsys, which, blank) == exercises.NOT_ANSWERED + "\n"
    assert answered(capsys, which, solution).startswith("Right.\n")
    for answer in WRONG[which]:
        if isinstance(answer, tuple):
            assert answer[0] in solution
            answer = solution.replace(*answer)
        assert answered(capsys, which, answer).startswith("Not yet. "), answer


@pytest.mark.parametrize("which", WRONG, ids=str)
def test_an_answer_that_raises_is_named_in_one_line(capsys, which):
    said = answered(capsys, which, refuse)
    assert said.startswith("Not yet. ") and said.endswith("led to RuntimeError: a mistake)\n")
    assert said.count("\n") == 1


def returns(value):
    return lambda *arguments: value


@pytest.mark.parametrize("which", WRONG, ids=str)
def test_an_answer_of_another_type_gets_a_hint_and_no_traceback(capsys, which):
    results = map(returns, [None, "0.5", {}, object(), [[1], [1, 2]], np.nan, np.zeros(0), True])
    for answer in (None, 3, b"19", [], {}, np.nan, object(), len, *results):
        assert answered(capsys, which, answer).startswith("Not yet. "), answer


@pytest.mark.parametrize("convert", ["float", "np.asarray", "tf.constant"])
def test_a_number_of_any_library_is_as_good_as_an_array(capsys, convert):
    wrapped = re.sub(r"return (.*)", rf"return {convert}(\1)", complete(("04", 1)))
    assert answered(capsys, ("04", 1), wrapped) == "Right.\n"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("    positive = index\n    negative = ...\n", exercises.NOT_ANSWERED),
        (
            "    positive = np.where(is_positive, distances, np.inf).argmin(axis=1)\n"
            "    negative = np.where(same, np.inf, distances).argmin(axis=1)\n",
            "These are the right images, but the training cannot run this miner",
        ),
        (
            "    positive = tf.argmin(tf.where(is_positive, distances, np.inf), axis=1)\n"
            "    negative = tf.argmin(tf.where(same, np.inf, distances), axis=1)\n",
            "not with NumPy, and with output_type=tf.int32 (TypeError)",
        ),
    ],
    ids=["half", "NumPy", "int64"],
)
def test_a_miner_that_cannot_train_is_told_so(capsys, answer, says):
    blank = read_exercise("04", 2)[0]
    said = answered(capsys, ("04", 2), blank.replace(MINER, answer))
    assert says in said and said.count("\n") == 1


def zones_cut_to_four_letters(d_ap, d_an, margin):
    zones = np.full(len(d_ap), "easy")
    zones[d_an < d_ap + margin] = "semi-hard"
    zones[d_an < d_ap] = "hard"
    return zones


@pytest.mark.parametrize(
    ("which", "answer", "says"),
    [
        (("02", 1), zones_cut_to_four_letters, "NumPy cuts none of them"),
        (("03", 3), dense_parameters, "each BatchNorm layer trains two numbers per feature"),
    ],
    ids=["zones cut to four letters", "dense layers only"],
)
def test_the_hint_speaks_of_the_mistake(capsys, which, answer, says):
    assert says in answered(capsys, which, answer)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_exercise_has_a_blank_a_check_and_a_collapsed_solution(path):
    blanks, checks, solutions = (cells(path, tag) for tag in ("exercise", "check", "solution"))
    assert len(blanks) == len(solutions) <= len(checks)
    assert 1 <= len(blanks) <= 3
    assert all("..." in blank.source for blank in blanks), "a blank is filled in"
    for solution in solutions:
        assert solution.source.startswith("<details><summary>Solution</summary>\n\n")
        assert solution.source.endswith("\n\n</details>")
    for cell in cells(path):
        assert cell.source.count("<details>") == cell.source.count("</details>")
