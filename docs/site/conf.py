"""Sphinx's configuration for the website, which `python -m workbook site` builds."""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import docstring_to_rest

project = html_title = "Siamese networks"
author = ""
extensions = [
    "myst_nb",
    "autoapi.extension",
    "sphinx.ext.autodoc",  # for its event only: nothing is imported
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["learner", "code", "results"]  # no pages, but files to download

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # they would be fetched from another host, and no notebook has widgets
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autoapi_dirs = ["code"]
autoapi_root = "api"
autoapi_options = ["members", "undoc-members", "show-inheritance", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_own_page_level = "module"
autoapi_member_order = "bysource"
default_role = "code"  # what docstrings write in single backticks
add_module_names = False
python_use_unqualified_type_names = True
suppress_warnings = [
    "autoapi.python_import_resolution",  # of constants and lazily loaded modules
    "ref.python",  # several classes have an attribute of one name
]

html_theme = "sphinx_book_theme"
html_theme_options = {"use_download_button": False, "show_toc_level": 2, "navbar_persistent": []}
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_last_updated_fmt = None
html_show_copyright = False
html_math_renderer = "mathml"


def show_formula(translator, node):
    """Write a formula as MathML, which browsers show without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def adapt_docstring(app, what, name, obj, options, lines):
    """Change a docstring's lines in place."""
    lines[:] = docstring_to_rest(lines)


def shorten_names(app, page, text):
    """Write a type as the modules do: keras.Model, Path, Iterator, without where it comes from."""
    if page.startswith("api/"):
        text[0] = re.sub(r"workbook\.support\.tensorflow_start\.(?=(keras|tf)\.)", "", text[0])
        text[0] = re.sub(r"\b(collections\.abc|pathlib)\.(?=[A-Z])", "", text[0])


def setup(app):
    """Add what is above to Sphinx."""
    app.add_html_math_renderer("mathml", (show_formula, None), (show_formula, None))
    app.connect("autodoc-process-docstring", adapt_docstring)
    app.connect("source-read", shorten_names)
