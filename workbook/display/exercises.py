"""Guesses and exercises in the notebooks: is the answer right?"""

from numbers import Integral
from typing import Any

import numpy as np


def reveal(guess: Any, value: float) -> None:
    """Print `value` beside the guess that was made before; `...` means that none was made.

    Whole numbers, also NumPy's, are printed whole, others with three decimals.
    """
    print(f"it is {format_number(value)}; your guess: {'none' if guess is ... else guess}")


def format_number(value: Any) -> str:
    """Write a whole number with its thousands separated, another one with three decimals."""
    number = np.asarray(value).item()  # of NumPy, TensorFlow or Python
    return f"{number:,}" if isinstance(number, Integral) else f"{number:.3f}"


def as_number(answer: Any) -> float | None:
    """Return an answer as a float, whatever library made the number; None if it is no number.

    A notebook that goes on with a learner's number asks here, because `isinstance(answer, float)`
    is False for NumPy's float32 and for whole numbers.
    """
    try:
        value = np.asarray(answer)
    except ValueError:  # rows of different lengths
        return None
    is_number = value.shape == () and np.issubdtype(value.dtype, np.number)
    return float(value.real) if is_number and np.isfinite(value) else None


def check(answer: Any, expected: Any, hint: str) -> None:
    """Print whether `answer` is right; where it is not, print the hint. No answer raises an error.

    Parameters
    ----------
    answer : what the learner wrote. `...` counts as not answered yet.
    expected : a text (capitals and blanks around it do not matter); a number or an array of the
        same shape (equal to 1e-6, or to the precision of a float32 or float16 answer); or a
        function that tells whether an answer is right.
    hint : one sentence. If the check itself fails on an answer, the hint also names the error; if a
        number was given as text, it says so.
    """
    if answer is ...:
        print("Not answered yet: replace the ... above, run that cell, then this one.")
        return
    try:
        right = is_right(answer, expected)
    except Exception as error:  # whatever was typed, a learner gets the hint, not a traceback
        first_line = str(error).partition("\n")[0]
        right, hint = False, f"{hint} (Your answer led to {type(error).__name__}: {first_line})"
    if not right and not isinstance(expected, str) and _is_number_as_text(answer):
        hint += f" (Your answer {answer!r} is text: write the number without quotation marks.)"
    print("Right." if right else f"Not yet. {hint}")


def _is_number_as_text(answer: Any) -> bool:
    try:
        return isinstance(answer, str) and bool(float(answer) or True)
    except ValueError:
        return False


def is_right(answer: Any, expected: Any) -> bool:
    """Tell whether `answer` is `expected`, or satisfies it; a wrong type may raise an error."""
    if callable(expected):
        return bool(expected(answer))
    if isinstance(expected, str):
        return str(answer).strip().casefold() == expected.casefold()
    answer, expected = np.asarray(answer), np.asarray(expected)
    if not (np.issubdtype(answer.dtype, np.number) and answer.shape == expected.shape):
        return False
    precision = 4 * np.finfo(answer.dtype).eps if np.issubdtype(answer.dtype, np.inexact) else 0
    return bool(np.allclose(answer, expected, rtol=precision, atol=1e-6))
