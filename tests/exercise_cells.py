"""Reads the exercises of the notebooks, for the tests of their checks."""

import re

import nbformat

from workbook import ROOT


def read_exercise(notebook, number):
    """Return (blank, check, solution) of an exercise as code; `notebook` is such as "04".

    The cell that trains with an answer is no part of the check.
    """
    [path] = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    start = [cell.source.startswith(f"### Exercise {number}\n") for cell in cells].index(True)
    texts = {"exercise": [], "check": [], "solution": []}
    for cell in cells[start:]:
        for tag in cell.metadata.get("tags", []):
            texts[tag].append(cell.source)
        if texts["solution"]:  # it comes last
            break
    [blank], [solution] = texts["exercise"], texts["solution"]
    check = "\n".join(text for text in texts["check"] if "Trainer" not in text)
    return blank, check, re.search(r"```python\n(.*?)```", solution, re.DOTALL)[1]
