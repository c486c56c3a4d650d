"""The early end of a notebook that cannot go on, for example without its data."""

from IPython import get_ipython

from workbook.support.text import printable


def skip_remaining_cells(reason: str) -> None:
    """Print why, and let every cell that is run from now on do nothing, without an error.

    A restart of the kernel ends this. Outside IPython it only prints.

    Parameters
    ----------
    reason : what is missing and what to do, as sentences.
    """
    print(f"The cells below do nothing: {printable(reason)}")
    if shell := get_ipython():
        shell.input_transformers_cleanup.append(lambda lines: ["pass\n"])
