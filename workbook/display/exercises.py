"""Guesses and exercises in the notebooks: is the answer right?"""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

RIGHT = "Right."
NOT_ANSWERED = "Not answered yet: replace the ... above, run that cell, then this one."


def reveal(guess: Any, value: float) -> None:
    """Print `value` beside the guess that was made before; `...` means that none was made.

    Whole numbers, also NumPy's, are printed whole, others with three decimals.
    """
    print(f"it is {format_number(value)}; your guess: {'none' if guess is ... else guess}")


def format_number(value: Any) -> str:
    """Write a whole number with its thousands separated, another one with three decimals."""
    number = np.asarray(value).item()  # of NumPy, TensorFlow or Python
    return f"{number:,}" if isinstance(number, Integral) else f"{number:.3f}"


def check(answer: Any, expected: Any, hint: str) -> None:
    """Print whether `answer` is right; where it is not, print the hint. No answer raises an error.

    Parameters
    ----------
    answer : what the learner wrote. `...` counts as not answered yet.
    expected : a text (capitals and blanks around it do not matter); a number or an array of the
        same shape (equal to 1e-6, or to the precision of a float32 or float16 answer); or a
        function of the answer that returns whether it is right, `...` if it is not answered yet,
        or a sentence that says what is wrong and takes the place of the hint.
    hint : one sentence. If the answer leads to an error, the hint also names the error; if a number
        was given as text, it says so.
    """
    print(_judge(lambda: answer, expected, hint))


def check_call(call: Callable[[], Any], expected: Any, hint: str) -> None:
    """Call the learner's function and check what it returns, as `check` does; nothing raises.

    Parameters
    ----------
    call : calls the learner's function, such as `lambda: triplet_loss(a, p, n, 0.5)`. A returned
        `...`, or one in a returned list, counts as not answered yet.
    expected, hint : see `check`.
    """
    print(_judge(call, expected, hint))


def passes(answer: Any, expected: Any) -> bool:
    """Tell whether `check` prints "Right."; for a cell that goes on with a right answer."""
    return _judge(lambda: answer, expected, "") == RIGHT


def _judge(call: Callable[[], Any], expected: Any, hint: str) -> str:
    """Return what `check_call` prints."""
    answer = None
    try:
        answer = call()
        if any(part is ... for part in (answer if isinstance(answer, list) else [answer])):
            return NOT_ANSWERED
        verdict = expected(answer) if callable(expected) else is_right(answer, expected)
        if verdict is ...:
            return NOT_ANSWERED
        if isinstance(verdict, str):
            return f"Not yet. {verdict}"
        if verdict:
            return RIGHT
    except Exception as error:  # whatever was typed, a learner gets the hint, not a traceback
        message = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        hint += f" (Your answer led to {message})"
    if not isinstance(expected, str) and _is_number_as_text(answer):
        hint += f" (Your answer {answer!r} is text: write the number without quotation marks.)"
    return f"Not yet. {hint}"


def _is_number_as_text(answer: Any) -> bool:
    try:
        return isinstance(answer, str) and bool(float(answer) or True)
    except ValueError:
        return False


def is_right(answer: Any, expected: Any) -> bool:
    """Tell whether `answer` is the text, number or array `expected`; a wrong type may raise."""
    if isinstance(expected, str):
        return str(answer).strip().casefold() == expected.casefold()
    answer, expected = np.asarray(answer), np.asarray(expected)
    if not (np.issubdtype(answer.dtype, np.number) and answer.shape == expected.shape):
        return False
    precision = 4 * np.finfo(answer.dtype).eps if np.issubdtype(answer.dtype, np.inexact) else 0
    return bool(np.allclose(answer, expected, rtol=precision, atol=1e-6))
