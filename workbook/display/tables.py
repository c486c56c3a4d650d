"""Tables in a notebook: whatever a cell says is shown as it is and never run."""

import html
from collections.abc import Iterable
from typing import Any

from IPython.display import HTML

from workbook.support.text import printable

# MathJax skips elements of these classes, in JupyterLab and in the HTML copy. Otherwise it would
# typeset what stands between two dollar signs.
NO_MATH = "mathjax_ignore tex2jax_ignore"


def escaped(text: Any) -> str:
    """Return `text` as HTML that shows just this text, whatever a file or a class is called."""
    return html.escape(printable(text))


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> HTML:
    """Return a table as the output of a notebook cell.

    It is HTML and not Markdown, in which pipes, backticks, stars and addresses have a meaning of
    their own. Every cell is `escaped`: a file called "<img src=x onerror=...>.jpg" is only a name.

    Parameters
    ----------
    head : (c,) texts or numbers.
    rows : (r, c) texts or numbers.
    """

    def line(kind: str, cells: Iterable[Any]) -> str:
        shown = (f'<{kind} style="text-align: left">{escaped(cell)}</{kind}>' for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    lines = [f'<table class="{NO_MATH}">', f"<thead>{line('th', head)}</thead>", "<tbody>"]
    lines += [line("td", row) for row in rows]
    return HTML("\n".join([*lines, "</tbody>", "</table>"]))
