"""Executed notebooks as HTML pages that need no network."""

import contextlib
import copy
import os
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter

from workbook import ROOT

# A source that is hidden in JupyterLab is one click away in the page, too. Nothing is fetched to
# show the page, because `as_html` has turned the formulas into MathML.
TEMPLATE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block input_group -%}
{%- if cell.metadata.get("jupyter", {}).get("source_hidden") -%}
<details>
<summary style="margin-left: 80px; font: 13px sans-serif">code</summary>{{ super() }}
</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock input_group -%}"""


def as_html(notebook: nbformat.NotebookNode, target: Path) -> str:
    """Return `notebook` as a page that is to lie beside `target`.

    Its links lead to the pages of other notebooks in that folder, and to the workbook's files.
    """

    def adapt_link(match: re.Match[str]) -> str:
        file, mark, section = match[1].partition("#")
        if file.startswith("../"):
            with contextlib.suppress(ValueError):  # there is no relative path to another drive
                file = Path(os.path.relpath(ROOT / file[3:], target.parent)).as_posix()
        return f"]({file.replace('.ipynb', '.html')}{mark}{section})"

    def convert_formula(match: re.Match[str]) -> str:
        return convert(match[1], display="block")

    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([^():\s]+)\)", adapt_link, cell.source)
            cell.source = re.sub(
                r"^\$\$(.+)\$\$$", convert_formula, cell.source, flags=re.MULTILINE
            )
    name = {"metadata": {"name": target.stem}}
    return HTMLExporter(raw_template=TEMPLATE).from_notebook_node(page, name)[0]
