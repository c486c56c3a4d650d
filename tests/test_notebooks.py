"""The committed notebooks: what their text claims holds in the outputs beside it."""

import ast
import json

import nbformat
import pytest
from nbclient import NotebookClient

from workbook import ROOT
from workbook.display.claims import read_claims

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def printed_text(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_claim_of_the_published_run_holds(path):
    cells = [c for c in read(path).cells if "claim" in c.metadata.get("tags", [])]
    claims = {}
    for cell in cells:
        claims |= read_claims(printed_text(cell))
    assert not [text for text, holds in claims.items() if not holds]
    lessons = path.name[:2] in ("01", "02", "03", "04", "05", "06")
    assert claims or not lessons, "a lesson rests on numbers, so it checks some"


def test_a_kernel_of_these_tests_shows_figures():
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert [list(output.data) for output in notebook.cells[0].outputs] == [
        ["text/plain", "image/png"]
    ]


def test_notebook_3_quotes_what_pretraining_is_worth():
    shares = json.loads((ROOT / "results/grocery/pretraining.json").read_text("utf-8"))
    [notebook] = [path for path in NOTEBOOKS if path.name.startswith("03")]
    text = "".join(c.source for c in read(notebook).cells if c.cell_type == "markdown")
    assert f"{shares['pretrained']:.0%}".replace("%", " %") + " of the photographs" in text
    assert f"{shares['random']:.0%}".replace("%", " %") + " with random ones" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_is_followed_by_its_check_and_its_solution(path):
    kinds = []
    for cell in read(path).cells:
        tags = cell.metadata.get("tags", [])
        kinds += [kind for kind in ("exercise", "check", "solution") if kind in tags]
    runs = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert runs == ["exercise", "check", "solution"] * (len(runs) // 3) and runs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_cells_are_short_and_executed_in_order(path):
    code = [c for c in read(path).cells if c.cell_type == "code" and c.source.strip()]
    counts = [c.execution_count for c in code]
    assert counts == sorted(counts), "published by `make publish`, from top to bottom"
    lengths = sorted(
        len(c.source.splitlines()) for c in code if "colab" not in c.metadata.get("tags", [])
    )
    assert lengths[len(lengths) // 2] <= 8 and lengths[int(0.9 * len(lengths))] <= 16


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_module_of_the_workbook_is_imported_before_what_loads_tensorflow_loudly(path):
    """`support/tensorflow_start.py` silences what TensorFlow writes to stderr while it loads."""
    setup = next(c.source for c in read(path).cells if "setup_notebook()" in c.source)
    imports = [node for node in ast.parse(setup).body if isinstance(node, ast.Import)]
    loud = ("keras", "siamese_utils", "tensorflow")
    loud_lines = [node.lineno for node in imports for name in node.names if name.name in loud]
    quiet = [
        node.lineno
        for node in ast.parse(setup).body
        if isinstance(node, ast.ImportFrom)
        and node.module.startswith(("workbook.data.images", "workbook.models", "workbook.training"))
    ]
    assert quiet and min(quiet) < min(loud_lines, default=10**6)
