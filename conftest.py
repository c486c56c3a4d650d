"""How pytest runs the notebooks (nbval): results go to a temporary folder.

A notebook stops at its first failing cell, because the later ones need what that cell makes. With
several processes (`pytest -n 2 --dist loadfile`, pytest-xdist), a file or notebook stays in one of
them. Notebooks 5 and 6 run notebook 4 first where their process has not.
"""

import os
import tempfile
from pathlib import Path

import pytest

RUNS = tempfile.TemporaryDirectory(prefix="siamese_runs_")
os.environ.update(  # the kernels that nbval starts inherit these variables
    SIAMESE_RUNS=RUNS.name,  # each process has its own
    SIAMESE_LIVE="0",
    SIAMESE_EPOCHS="1",  # every cell runs; what the published run claims is tested on its outputs
    SIAMESE_PRESET="quick",  # where there is a GPU the default is "full", which downloads
)
SHARED = Path(__file__).parent.parent / "shared/datasets"  # notebook 7 needs no network then
if SHARED.is_dir():
    os.environ.setdefault("SIAMESE_DATA_HOME", str(SHARED))
failed_notebooks = set()


def is_cell(item):
    """Whether pytest's `item` is a cell of a notebook."""
    return hasattr(item, "output_timeout")


def pytest_collection_modifyitems(items):
    for item in filter(is_cell, items):
        item.output_timeout = 900  # nbval's 5 s is too short for a training cell


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if is_cell(item) and report.failed:
        failed_notebooks.add(item.parent.nodeid)
    return report


def pytest_runtest_setup(item):
    if is_cell(item) and item.parent.nodeid in failed_notebooks:
        pytest.skip("an earlier cell of this notebook failed")
