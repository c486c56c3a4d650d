"""The house: what lies where, how long the method is, and which module may import which."""

import ast
import graphlib

import nbformat
import numpy as np

import siamese_utils
from workbook import ROOT

MODULES = {path.stem: path for path in (ROOT / "workbook").glob("*.py")}
MODULES["siamese_utils"] = ROOT / "siamese_utils.py"


def imported(path):
    """The project's modules that a file imports when it is loaded."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            package, _, module = node.module.partition(".")
            names = [module or alias.name for alias in node.names]
            found |= {package, *names} if package in ("workbook", "siamese_utils") else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def test_the_method_is_short_and_stands_alone():
    assert len(MODULES["siamese_utils"].read_text("utf-8").splitlines()) <= 350
    assert imported(MODULES["siamese_utils"]) == {"start"}
    tree = ast.parse(MODULES["siamese_utils"].read_text("utf-8"))
    [model] = [node for node in tree.body if getattr(node, "name", "") == "SiameseModel"]
    assert model.end_lineno - model.lineno < 45
    foreign = {
        name for name, value in vars(siamese_utils).items()
        if getattr(value, "__module__", "siamese_utils").startswith("workbook")
    }  # fmt: skip
    assert not foreign, "it hands on nobody else's names"


def test_imports_run_one_way():
    graph = {name: imported(path) for name, path in MODULES.items()}
    assert "siamese_utils" in graph["mining"], "otherwise imported() finds nothing"
    graphlib.TopologicalSorter(graph).prepare()  # CycleError for a circle


def test_code_cells_are_short():
    notebooks = [nbformat.read(path, as_version=4) for path in ROOT.glob("notebooks/0*.ipynb")]
    code = [cell for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code"]
    lines = [len(cell.source.splitlines()) for cell in code]
    assert len(notebooks) == 7 and np.median(lines) <= 6 and np.percentile(lines, 90) <= 15
