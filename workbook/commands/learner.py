"""Write the learner's copies of the notebooks to learner/: without solutions and outputs.

Cells with the tag `solution` are left out. The copies are made from notebooks/; what is typed into
lab/ does not get into them.
"""

from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

from workbook import ROOT
from workbook.commands import stamp
from workbook.commands.notebook_files import list_notebooks


def make_learner_copy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return `notebook` without solutions, outputs and the Colab badge."""
    notebook, _ = TagRemovePreprocessor(remove_cell_tags={"solution"}).preprocess(notebook, {})
    notebook, _ = ClearOutputPreprocessor().preprocess(notebook, {})
    title = notebook.cells[0]
    title.source = stamp.remove_badge(title.source)  # it opens the notebook with the solutions
    return notebook


def write_copies(folder: str | Path | None = None) -> None:
    """Write a copy of each notebook to `folder` (default: learner/).

    Raises
    ------
    ValueError
        For the folder notebooks/, because the copies would replace the notebooks.
    """
    folder = Path(folder or ROOT / "learner")
    if folder.resolve() == (ROOT / "notebooks").resolve():
        raise ValueError(f"{folder} holds the notebooks themselves: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source in list_notebooks():
        copy = make_learner_copy(nbformat.read(source, as_version=4))
        nbformat.write(copy, folder / source.name)
        print(folder / source.name)
