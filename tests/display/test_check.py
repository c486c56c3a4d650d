"""Answers to exercises: numbers of any library are numbers, and text is not a number."""

import numpy as np
import pytest

from workbook.display import exercises
from workbook.support.tensorflow_start import tf

IS_TEXT = " (Your answer {!r} is text: write the number without quotation marks.)"


@pytest.mark.parametrize(
    "answer",
    [16, 16.0, np.int64(16), np.uint8(16), np.float32(16), np.array(16), np.array(16.0)],
    ids=repr,
)
def test_a_number_of_any_library_is_right(capsys, answer):
    for value in (answer, tf.constant(answer)):
        exercises.check(value, 16, "Count.")
        exercises.check(value, np.int32(16), "Count.")
        exercises.check(value, lambda given: given == 16, "Count.")
        assert capsys.readouterr().out == 3 * "Right.\n"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (np.float32(1234.567), True),  # nearest float32: 1234.567016...
        (np.float16(0.1), True),
        (np.float32(1234.568), False),
        (1234.56701, False),
        (np.float16(0.101), False),
        (60_510_721, False),
        (np.float32(60_510_704), True),
    ],
)
def test_a_float_is_compared_with_its_own_precision(answer, right):
    expected = min((1234.567, 0.1, 60_510_720), key=lambda value: abs(value - float(answer)))
    assert exercises.is_right(answer, expected) is right


@pytest.mark.parametrize("expected", [16, 16.5, (1, 2), lambda answer: answer + 1 > 0])
@pytest.mark.parametrize("answer", ["16", " 16.0 ", "1e3"])
def test_a_number_given_as_text_is_said_to_be_text(capsys, answer, expected):
    exercises.check(answer, expected, "Count.")
    said = capsys.readouterr().out
    assert said.startswith("Not yet. Count.") and said.endswith(IS_TEXT.format(answer) + "\n")


@pytest.mark.parametrize(("answer", "expected"), [("sixteen", 16), ("16", "hard"), ("", 16)])
def test_other_texts_get_the_plain_hint(capsys, answer, expected):
    exercises.check(answer, expected, "Count.")
    assert capsys.readouterr().out == "Not yet. Count.\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (np.int64(1234567), "1,234,567"),
        (np.float32(0.5), "0.500"),
        (np.float64(0.5), "0.500"),
        (np.array(3), "3"),
        (tf.constant(0.25), "0.250"),
    ],
    ids=repr,
)
def test_reveal_prints_numbers_of_any_library(capsys, value, text):
    exercises.reveal(np.float32(0.5), value)
    assert capsys.readouterr().out == f"it is {text}; your guess: 0.5\n"
