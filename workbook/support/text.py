"""Text that is safe to print, whatever a file or a class is called, and labels of one spelling."""

import unicodedata
from collections.abc import Iterable

LISTED = 5  # names that `list_first` shows
RESERVED_LABELS = {  # how a program spells it: why no class can have that name
    "unknown": "this is the answer for an image that fits no class",
    "nan": "programs write this for a missing value",
    "NaN": "programs write this for a missing value",
    "NAN": "programs write this for a missing value",
}


def printable(text: object) -> str:
    """Return a text or path with control characters and undecodable bytes escaped (\\n, \\udcff).

    A file name may hold any byte. Printing such a name unchanged fails or breaks the line.
    """
    escaped = ("Cc", "Cs")  # control characters, and surrogates, which stand for such bytes
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in escaped else c
        for c in str(text)
    )


def printable_lines(text: object) -> str:
    """Return the same for a text whose line breaks are meant."""
    return "\n".join(map(printable, str(text).split("\n")))


def list_first(names: Iterable[object]) -> str:
    """Return the first five different names, printable, joined by commas; "..." for the others."""
    different = list(dict.fromkeys(names))
    return ", ".join(map(printable, different[:LISTED])) + ", ..." * (len(different) > LISTED)


def normalize_label(name: object) -> str:
    """Return a class label in the one spelling in which labels are compared and stored.

    Parameters
    ----------
    name
        The label as it was typed or read. A folder's name is one, too.

    Returns
    -------
    str
        The label in Unicode's composed form (NFC), without surrounding blanks.

    Raises
    ------
    ValueError
        For an empty label, for "unknown" and for "nan", which no class can be called.
    """
    label = unicodedata.normalize("NFC", "" if name is None else str(name)).strip()
    if not label:
        raise ValueError("the label is empty: give the class a name")
    if label in RESERVED_LABELS:
        raise ValueError(
            f'no class can be called "{label}", because {RESERVED_LABELS[label]}: choose another '
            "name"
        )
    return label
