"""Write the Colab cell into every notebook, with the repository's address and a badge.

Without an address the cell is written and the address stays as it
is. The cell is kept here, once; the notebooks hold copies of it.
"""

import re

import nbformat

from workbook import ROOT

SITE = "https://colab.research.google.com"
CELL = """# @title In Colab: fetch the workbook (elsewhere this cell does nothing)
import os
import subprocess
import sys

REPOSITORY = ""  # OWNER/NAME on GitHub, written by python -m workbook stamp

if "google.colab" in sys.modules:
    if not os.path.exists("../siamese_utils.py"):
        if not os.path.exists("siamese-workbook"):
            if not REPOSITORY:
                raise RuntimeError(
                    "this notebook does not know where its repository is. Either write its "
                    "OWNER/NAME on GitHub behind REPOSITORY (`python -m workbook stamp` does it in "
                    "all notebooks), or upload the repository as a folder named siamese-workbook"
                )
            address = f"https://github.com/{REPOSITORY}"
            command = ["git", "clone", "--depth=1", address, "siamese-workbook"]
            subprocess.run(command, check=True)
        os.chdir("siamese-workbook/notebooks")
    sys.path.insert(0, "..")
    from workbook.commands import colab

    colab.prepare_session()"""
METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["colab"]}


def stamp(path, repository=None):
    """Put the cell (before the first code cell) and the badge (below the title) into a notebook."""
    notebook = nbformat.read(path, as_version=4)
    found = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
    if not found:
        first = [cell.cell_type for cell in notebook.cells].index("code")
        found = [nbformat.v4.new_code_cell(id="colab", metadata=METADATA)]
        notebook.cells.insert(first, found[0])
    known = re.search(r'^REPOSITORY = "(.*?)"', found[0].source, re.MULTILINE)
    repository = repository or (known[1] if known else "")
    found[0].source = CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    title = notebook.cells[0]
    title.source = without_badge(title.source)
    if repository:
        address = f"{SITE}/github/{repository}/blob/main/notebooks/{path.name}"
        badge = f"[![Open in Colab]({SITE}/assets/colab-badge.svg)]({address})"
        heading, _, rest = title.source.partition("\n\n")
        title.source = f"{heading}\n\n{badge}\n\n{rest}"
    nbformat.write(notebook, path)


def without_badge(text):
    """The Markdown `text` without its badge."""
    return re.sub(r"\[!\[Open in Colab\].*\n\n", "", text)


def stamp_all(repository=None):
    """Stamp every notebook. Raises ValueError for an address that is not OWNER/NAME."""
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not OWNER/NAME, a repository on GitHub")
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        stamp(path, repository)
