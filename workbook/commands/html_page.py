"""Executed notebooks as HTML pages that need no network."""

import contextlib
import copy
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import HTMLExporter

from workbook import ROOT

# a source that is hidden in JupyterLab is one click away in the HTML, too; nothing is fetched to
# show the page: formulas are MathML by then, see `as_html`
PAGE = """{%- extends "lab/index.html.j2" -%}
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


def as_html(notebook, target):
    """`notebook` as a page beside `target`: its links lead to pages there, and to the workbook."""

    def lead(match):
        file, mark, section = match[1].partition("#")
        if file.startswith("../"):
            with contextlib.suppress(ValueError):  # another drive
                file = Path(os.path.relpath(ROOT / file[3:], target.parent)).as_posix()
        return f"]({file.replace('.ipynb', '.html')}{mark}{section})"

    def mathml(match):
        return convert(match[1], display="block")

    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(([^():\s]+)\)", lead, cell.source)
            cell.source = re.sub(r"^\$\$(.+)\$\$$", mathml, cell.source, flags=re.MULTILINE)
    name = {"metadata": {"name": target.stem}}
    return HTMLExporter(raw_template=PAGE).from_notebook_node(page, name)[0]
