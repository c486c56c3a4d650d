"""Guesses and exercises in the notebooks: is the answer right?"""

import numpy as np


def reveal(guess, value):
    """Print `value` beside the guess made before it; `...` means that none was made.

    Explained in notebook 01, "The baseline to beat: raw pixels".
    """
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    print(f"it is {text}; your guess: {'none' if guess is ... else guess}")


def check(answer, expected, hint):
    """Print whether `answer` is right; where it is not, print the hint.

    expected: a number, text or array that must be equal (floats to 1e-6), or a function that says
    whether an answer is right. An answer `...` counts as not given.
    Explained in notebook 01, "Exercises".
    """
    if answer is ...:
        print("Not answered yet: replace the ... above, run that cell, then this one.")
        return
    if callable(expected):
        right = expected(answer)
    elif isinstance(expected, str):
        right = answer == expected
    else:
        same_shape = np.shape(answer) == np.shape(expected)
        right = same_shape and np.allclose(answer, expected, rtol=0, atol=1e-6)
    print("Right." if right else f"Not yet. {hint}")
