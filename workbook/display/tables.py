"""Tables in a notebook: whatever a cell says is shown as it is, never carried out."""

import html

from IPython.display import HTML

from workbook.support.text import printable

# MathJax leaves these classes alone, in JupyterLab and in the HTML copy: else it would typeset
# what stands between two dollar signs
NO_MATH = "mathjax_ignore tex2jax_ignore"


def escaped(text):
    """`text` as HTML that shows just this text, whatever a stranger called a file or a class."""
    return html.escape(printable(text))


def table(head, rows):
    """A table as the output of a notebook cell: head (c,) and rows (r, c) of texts or numbers.

    It is HTML, not Markdown, where pipes, backticks, stars and addresses have a meaning of their
    own. Every cell is `escaped`: a file called "<img src=x onerror=...>.jpg" is a name, no more.
    Explained in notebook 01, "What could not be read?".
    """

    def line(kind, cells):
        cells = (f'<{kind} style="text-align: left">{escaped(cell)}</{kind}>' for cell in cells)
        return f"<tr>{''.join(cells)}</tr>"

    lines = [f'<table class="{NO_MATH}">', f"<thead>{line('th', head)}</thead>", "<tbody>"]
    lines += [line("td", row) for row in rows]
    return HTML("\n".join([*lines, "</tbody>", "</table>"]))
