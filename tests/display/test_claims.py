"""Claims: what is printed where they hold and where they do not, and how it is read again."""

import numpy as np
import pytest

from workbook.display.claims import check_claim, read_claims


@pytest.mark.parametrize(
    ("holds", "expected_here", "printed"),
    [
        (True, True, "✓ mining gains most\n"),
        (np.float32(2) > 1, True, "✓ mining gains most\n"),
        (True, False, "✓ mining gains most\n"),
        (False, True, "here it is different: mining gains most does not hold\n"),
        (np.nan > 1, True, "here it is different: mining gains most does not hold\n"),
        (False, False, "not claimed for this data: mining gains most does not hold\n"),
    ],
)
def test_a_claim_prints_one_line_and_raises_nothing(capsys, holds, expected_here, printed):
    check_claim("mining gains\n  most", holds, expected_here)
    assert capsys.readouterr().out == printed


def test_what_was_printed_is_read_again(capsys):
    print("recall 0.9")
    check_claim("a > b", True)
    check_claim("b > c does not hold", False)
    check_claim("c > d", False, expected_here=False)
    assert read_claims(capsys.readouterr().out) == {"a > b": True, "b > c does not hold": False}
