"""Guesses and exercises in the notebooks: is the answer right?"""

import numpy as np


def reveal(guess, value):
    """Print `value` beside the guess made before it; `...` means that none was made.

    Explained in notebook 01, "The baseline to beat: raw pixels".
    """
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    print(f"it is {text}; your guess: {'none' if guess is ... else guess}")


def check(answer, expected, hint):
    """Print whether `answer` is right; where it is not, print the hint. No answer raises an error.

    expected: text (capitals and blanks around it do not matter), a number or array that must be
    equal (floats to 1e-6), or a function that says whether an answer is right. An answer `...`
    counts as not given; one on which the check itself fails is not right, and the hint names the
    error. Explained in notebook 01, "Exercises".
    """
    if answer is ...:
        print("Not answered yet: replace the ... above, run that cell, then this one.")
        return
    try:
        right = is_right(answer, expected)
    except Exception as error:  # whatever was typed, a learner gets the hint, not a traceback
        first_line = str(error).partition("\n")[0]
        right, hint = False, f"{hint} (Your answer led to {type(error).__name__}: {first_line})"
    print("Right." if right else f"Not yet. {hint}")


def is_right(answer, expected):
    """Whether `answer` is `expected`, or satisfies it; may raise an error for a wrong type."""
    if callable(expected):
        return bool(expected(answer))
    if isinstance(expected, str):
        return str(answer).strip().casefold() == expected.casefold()
    answer, expected = np.asarray(answer), np.asarray(expected)
    if not (np.issubdtype(answer.dtype, np.number) and answer.shape == expected.shape):
        return False
    return np.allclose(answer, expected, rtol=0, atol=1e-6)
