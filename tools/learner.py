"""Write the learner's copies of the notebooks to learner/: no solutions, no outputs.

usage: python tools/learner.py [FOLDER]
A cell tagged `solution` is left out; everything else stays. The copies are made, never edited.
"""

import sys
from pathlib import Path

import nbformat
import stamp

ROOT = Path(__file__).resolve().parent.parent


def learner_copy(notebook):
    """Take solutions, outputs and the Colab badge out of `notebook` (changed in place)."""
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    title = notebook.cells[0]
    title.source = stamp.without_badge(title.source)  # it opens the copy with the solutions
    return notebook


def main(arguments):
    folder = Path(*arguments) if arguments else ROOT / "learner"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        copy = learner_copy(nbformat.read(source, as_version=4))
        nbformat.write(copy, folder / source.name)
        print(folder / source.name)


if __name__ == "__main__":
    main(sys.argv[1:])
