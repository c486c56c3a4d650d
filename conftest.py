"""How pytest runs the notebooks (nbval): results go to a temporary folder."""

import os
import tempfile

import pytest

RUNS = tempfile.TemporaryDirectory(prefix="siamese_runs_")
# kernels inherit these; three epochs learn enough to be checked
os.environ.update(SIAMESE_RUNS=RUNS.name, SIAMESE_LIVE="0", SIAMESE_EPOCHS="3")
os.environ["SIAMESE_PRESET"] = "quick"  # also where a GPU makes "full" the default: no download
failed_notebooks = set()


def is_cell(item):
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


TRIED = {
    "odd_image": "odd images",
    "odd_dataset": "odd datasets",
    "fault": "faults",
    "hostile": "strangers' tricks",
}
counts = dict.fromkeys(TRIED, 0)  # fault(3): a test that tries three


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    yield  # an exception passes by what follows: only what passed is counted
    for name in TRIED:
        counts[name] += sum(m.args[0] if m.args else 1 for m in item.iter_markers(name))


def pytest_terminal_summary(terminalreporter):
    if any(counts.values()):
        line = ", ".join(f"{counts[name]} {what}" for name, what in TRIED.items())
        terminalreporter.write_line(f"tried and passed: {line}")


def pytest_runtest_setup(item):
    if is_cell(item) and item.parent.nodeid in failed_notebooks:
        pytest.skip("an earlier cell of this notebook failed")
