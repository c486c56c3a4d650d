"""Build the website from the executed notebooks, docs/ and the docstrings.

It is built in docs/site/build/html/. The sources are copied to docs/site/build/source/, where their
links are changed: a link to a module leads to the page made from its docstrings, and a heading is
named as Sphinx names it.
"""

import importlib.util
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat

from workbook import ROOT
from workbook.commands.learner import write_copies
from workbook.commands.notebook_files import list_notebooks

CONTENTS = """

```{{toctree}}
:hidden:
:caption: Notebooks

{notebooks}
```

```{{toctree}}
:hidden:
:caption: Pages

learner
{pages}
```

```{{toctree}}
:hidden:
:caption: Code

api/siamese_utils/index
api/workbook/index
```
"""
LEARNER = """# Learner's copies

These are the notebooks without solutions and outputs. A copy needs the code of the workbook: put it
into a folder `learner/` of the workbook, then open it in JupyterLab. `make learner` writes all of
them there.

"""


def adapt_link(link: str, folder: str) -> str:
    """Return what the website writes for `link` on a page in `folder` (of the workbook, or "")."""
    file, mark, heading = link.partition("#")
    if "://" in link or not file:
        return link
    path = posixpath.normpath(posixpath.join(folder, file))
    if path.endswith(".py"):
        path = f"api/{path[:-3].removesuffix('/__init__')}/index.rst"
    elif path == "README.md":
        path = "index.md"
    slug = re.sub(r"[^\w-]", "", unquote(heading)).lower()
    return f"/{path}{mark}{slug}"


def adapt_text(text: str, folder: str) -> str:
    """Return Markdown with links for the website; the badge of Colab becomes a link in words."""
    text = re.sub(r"!\[(Open in Colab)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\]\(([^)\s]+)\)", lambda match: f"]({adapt_link(match[1], folder)})", text)


def lay_sources(source: Path) -> None:
    """Write to the folder `source` all that Sphinx needs; what was there is removed."""
    shutil.rmtree(source, ignore_errors=True)
    for name in ("figures", "results"):
        shutil.copytree(ROOT / name, source / name)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "workbook", source / "code" / "workbook", ignore=no_caches)
    shutil.copy(ROOT / "siamese_utils.py", source / "code")

    (source / "notebooks").mkdir()
    for path in list_notebooks():
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = adapt_text(cell.source, "notebooks")
        nbformat.write(notebook, source / "notebooks" / path.name)

    (source / "docs").mkdir()
    pages = sorted((ROOT / "docs").glob("*.md"))
    for path in pages:
        text = adapt_text(path.read_text("utf-8"), "docs")
        (source / "docs" / path.name).write_text(text, "utf-8")

    write_copies(source / "learner")
    copies = [f"- {{download}}`{p.stem} <learner/{p.name}>`" for p in list_notebooks()]
    (source / "learner.md").write_text(LEARNER + "\n".join(copies) + "\n", "utf-8")

    contents = CONTENTS.format(
        notebooks="\n".join(f"notebooks/{path.stem}" for path in list_notebooks()),
        pages="\n".join(f"docs/{path.stem}" for path in pages),
    )
    readme = adapt_text((ROOT / "README.md").read_text("utf-8"), "")
    (source / "index.md").write_text(readme + contents, "utf-8")


def build_site(folder: str | Path | None = None) -> None:
    """Build the website in `folder`/html (default: docs/site/build/html), from `folder`/source.

    Raises
    ------
    ValueError
        If Sphinx is not installed, or found something wrong, such as a link that leads nowhere.
    """
    if importlib.util.find_spec("sphinx") is None:
        raise ValueError(
            "Sphinx is not installed here: run `make site`, which installs "
            "docs/site/requirements.txt into .venv-site"
        )
    folder = Path(folder or ROOT / "docs" / "site" / "build").resolve()
    lay_sources(folder / "source")
    shutil.rmtree(folder / "html", ignore_errors=True)
    options = ["-q", "--fail-on-warning", "--keep-going", "-E", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, "-c", str(ROOT / "docs" / "site")]
    done = subprocess.run([*command, str(folder / "source"), str(folder / "html")])
    if done.returncode:
        raise ValueError("the website is incomplete: Sphinx says above what is wrong")
    print(folder / "html" / "index.html")
