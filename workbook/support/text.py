"""Text that is safe to print, whatever a file or a class is called."""

import unicodedata


def printable(text):
    """`text` or path with control characters and undecodable bytes written out, as in \\n, \\udcff.

    A file name may hold any byte; printing such a name as it is fails, or breaks the line.
    """
    escape = ("Cc", "Cs")  # control characters, and surrogates, which stand for such bytes
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in escape else c
        for c in str(text)
    )


def printable_lines(text):
    """The same for a text whose line breaks are meant."""
    return "\n".join(map(printable, str(text).split("\n")))


def few(names):
    """The first five of these names, printable."""
    names = list(dict.fromkeys(names))
    return ", ".join(map(printable, names[:5])) + ", ..." * (len(names) > 5)
