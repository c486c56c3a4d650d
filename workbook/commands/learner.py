"""Write the learner's copies of the notebooks to learner/: no solutions, no outputs.

A cell tagged `solution` is left out, and what the text says about solutions; the rest stays.
The copies are made of notebooks/ as it is; what is typed into lab/ does not get into them.
"""

import re
from pathlib import Path

import nbformat

from workbook import ROOT
from workbook.commands import stamp


def learner_copy(notebook):
    """Take solutions, outputs and the Colab badge out of `notebook` (changed in place)."""
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif cell.source.startswith("## Exercises"):
            cell.source = re.sub(r"(?<=[.:])\s[^.]*\bsolutions?\b[^.]*\.", "", cell.source)
    title = notebook.cells[0]
    title.source = stamp.without_badge(title.source)  # it opens the copy with the solutions
    return notebook


def write_copies(folder=None):
    """Write a copy of each notebook to `folder` (default: learner/).

    Raises ValueError for notebooks/ itself: the copies would take the place of the notebooks.
    """
    folder = Path(folder or ROOT / "learner")
    if folder.resolve() == (ROOT / "notebooks").resolve():
        raise ValueError(f"{folder} holds the notebooks themselves: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        copy = learner_copy(nbformat.read(source, as_version=4))
        nbformat.write(copy, folder / source.name)
        print(folder / source.name)
