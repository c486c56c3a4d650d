"""How pytest runs the notebooks (nbval): results go to a temporary folder.

A notebook stops at its first failing cell, because the later ones need what that cell makes. With
several processes (`pytest -n 2 --dist loadfile`, pytest-xdist), a file or notebook stays in one of
them, and so do notebooks 4, 5 and 6, because 4 trains for the others. All processes share the
cache, so that toys are drawn and features are computed once.
"""

import contextlib
import functools
import os
import re
import tempfile
from pathlib import Path

import forked
import pytest
from filelock import FileLock

RUNS = tempfile.TemporaryDirectory(prefix="siamese_runs_")
if "TEST_CACHE" not in os.environ:  # else the process that started this one has made it
    CACHE = tempfile.TemporaryDirectory(prefix="siamese_cache_")
    os.environ["TEST_CACHE"] = CACHE.name
os.environ.update(  # the kernels that nbval starts inherit these variables
    SIAMESE_RUNS=RUNS.name,  # each process has its own
    SIAMESE_LIVE="0",
    SIAMESE_EPOCHS="1",  # every cell runs; what the published run claims is tested on its outputs
    SIAMESE_SIZE="64",  # small images take half of the time
    SIAMESE_PRESET="quick",  # where there is a GPU the default is "full", which downloads
)
SHARED = Path(__file__).parent.parent / "shared/datasets"  # notebook 7 needs no network then
if SHARED.is_dir():
    os.environ.setdefault("SIAMESE_DATA_HOME", str(SHARED))
failed_notebooks = set()


def is_cell(item):
    """Whether pytest's `item` is a cell of a notebook."""
    return hasattr(item, "output_timeout")


def pytest_configure(config):
    if forked.offer() and hasattr(config.option, "nbval_current_env"):
        config.option.nbval_current_env = False  # a notebook's own kernel, python3, is a fork


def pytest_collection_modifyitems(items):
    for item in filter(is_cell, items):
        item.output_timeout = 900  # nbval's 5 s is too short for a training cell


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):  # what has the same scope is run by one process
            file = super()._split_scope(nodeid)
            return re.sub(r"notebooks/0[456]_.*", "notebooks 4 to 6", file)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@functools.cache
def keep_toys():
    """Have the toys drawn in the common cache: the first process draws them, the others wait."""
    from workbook.data.images import load_from_config
    from workbook.settings import read_config

    with contextlib.suppress(OSError):  # Windows may refuse links: then each process draws
        Path(RUNS.name, "cache").symlink_to(os.environ["TEST_CACHE"], target_is_directory=True)
    with FileLock(Path(os.environ["TEST_CACHE"], "toys.lock")):
        load_from_config(read_config())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if is_cell(item) and report.failed:
        failed_notebooks.add(item.parent.nodeid)
    return report


def pytest_runtest_setup(item):
    if is_cell(item):
        keep_toys()
        if item.parent.nodeid in failed_notebooks:
            pytest.skip("an earlier cell of this notebook failed")
