"""Write the Colab cell into every notebook, with the repository's address and a badge.

The cell is kept here, once; the notebooks hold copies of it. Without an address the cell is written
and the address stays as it is.
"""

import re
from pathlib import Path

import nbformat

from workbook.commands.notebook_files import list_notebooks

SITE = "https://colab.research.google.com"
CELL = """# @title In Colab: fetch the workbook (elsewhere this cell does nothing)
import os
import subprocess
import sys

REPOSITORY = ""  # OWNER/NAME on GitHub; `python -m workbook stamp OWNER/NAME` writes it
if "google.colab" in sys.modules:
    if not os.path.exists("../siamese_utils.py"):
        if not os.path.exists("siamese-workbook"):
            if not REPOSITORY:
                raise RuntimeError("run `python -m workbook stamp`, or upload siamese-workbook/")
            url = f"https://github.com/{REPOSITORY}"
            subprocess.run(["git", "clone", "--depth=1", url, "siamese-workbook"], check=True)
        os.chdir("siamese-workbook/notebooks")
    sys.path.insert(0, "..")
    from workbook.commands import colab

    colab.prepare_session()"""
METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["colab"]}


def stamp(path: Path, repository: str | None = None) -> None:
    """Write the cell (before the first code cell) and the badge (below the title) to a notebook."""
    notebook = nbformat.read(path, as_version=4)
    tagged = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
    if tagged:
        cell = tagged[0]
    else:
        cell = nbformat.v4.new_code_cell(id="colab")
        first_code = [cell.cell_type for cell in notebook.cells].index("code")
        notebook.cells.insert(first_code, cell)
    cell.metadata.update(METADATA)
    stamped = re.search(r'^REPOSITORY = "(.*?)"', cell.source, re.MULTILINE)
    repository = repository or (stamped[1] if stamped else "")
    cell.source = CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    title = notebook.cells[0]
    title.source = remove_badge(title.source)
    if repository:
        url = f"{SITE}/github/{repository}/blob/main/notebooks/{path.name}"
        badge = f"[![Open in Colab]({SITE}/assets/colab-badge.svg)]({url})"
        heading, _, rest = title.source.partition("\n\n")
        title.source = f"{heading}\n\n{badge}\n\n{rest}"
    nbformat.write(notebook, path)


def remove_badge(text: str) -> str:
    """Return the Markdown `text` without its Colab badge."""
    return re.sub(r"\[!\[Open in Colab\].*\n\n", "", text)


def stamp_all(repository: str | None = None) -> None:
    """Stamp every notebook. Raises ValueError for an address that is not OWNER/NAME."""
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not OWNER/NAME, a repository on GitHub")
    for path in list_notebooks():
        stamp(path, repository)
