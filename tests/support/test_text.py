"""Text that is safe to print, and labels of one spelling."""

import numpy as np
import pytest

from workbook.support.text import list_first, normalize_label, printable, printable_lines


def test_control_characters_and_undecodable_bytes_are_escaped():
    assert printable("two\nlines\x1b[2J") == r"two\nlines\x1b[2J"
    assert printable("caf\udce9") == r"caf\udce9"
    assert printable("Școala 東京 🦔") == "Școala 東京 🦔"


def test_meant_line_breaks_are_kept():
    assert printable_lines("one\x07\ntwo") == "one\\x07\ntwo"


@pytest.mark.parametrize(
    "names, shown",
    [
        ([], ""),
        (["b", "a", "b"], "b, a"),
        ("abcde", "a, b, c, d, e"),
        ("abcdef", "a, b, c, d, e, ..."),
        (["a\nb"], r"a\nb"),
    ],
    ids=str,
)
def test_the_first_names_are_listed_once_each(names, shown):
    assert list_first(iter(names)) == shown


@pytest.mark.parametrize(
    "name, label",
    [
        ("Apple", "Apple"),
        ("  Apple \t\n", "Apple"),
        ("red apple", "red apple"),
        ("Cafe\u0301", "Caf\u00e9"),  # two Unicode forms of one name
        ("Caf\u00e9", "Caf\u00e9"),
        (np.str_("Apple"), "Apple"),
        (7, "7"),
        ("Nan", "Nan"),  # a person's name
        ("unknown author", "unknown author"),
    ],
    ids=ascii,
)
def test_a_label_has_one_spelling(name, label):
    normal = normalize_label(name)
    assert normal == label and type(normal) is str
    assert normalize_label(normal) == label


@pytest.mark.parametrize(
    "name, says",
    [
        ("", "the label is empty"),
        (" \t\n", "the label is empty"),
        (None, "the label is empty"),
        ("unknown", 'no class can be called "unknown"'),
        (" unknown ", 'no class can be called "unknown"'),
        ("nan", 'no class can be called "nan"'),
        ("NaN", 'no class can be called "NaN"'),
        (float("nan"), 'no class can be called "nan"'),
        (np.float32("nan"), 'no class can be called "nan"'),
    ],
    ids=ascii,
)
def test_a_label_that_says_nothing_is_refused_in_one_sentence(name, says):
    with pytest.raises(ValueError, match=says) as error:
        normalize_label(name)
    assert "\n" not in str(error.value)
