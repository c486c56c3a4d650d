"""The setup of a notebook: importable before TensorFlow, quiet, seeded."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from workbook import ROOT
from workbook.display import session

SETUP = """
import sys
from workbook.display import session
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
session.setup_notebook(7)
import numpy, tensorflow
print(numpy.random.rand() == numpy.random.RandomState(7).rand())
"""


def test_the_setup_loads_tensorflow_itself_and_quietly():
    done = subprocess.run(
        [sys.executable, "-c", SETUP], cwd=ROOT, capture_output=True, text=True, check=True
    )
    versions, gpus, seeded = done.stdout.splitlines()[-3:]
    assert versions.split()[::2] == ["Python", "TensorFlow", "Keras"]
    assert "GPU" in gpus and seeded == "True"
    assert not done.stderr


def test_figures_are_white_in_colours_that_everybody_can_tell_apart(monkeypatch):
    with plt.rc_context(session.STYLE):
        assert plt.rcParams["figure.facecolor"] == plt.rcParams["savefig.facecolor"] == "white"
        assert len(plt.rcParams["axes.prop_cycle"]) == 7


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("\x1b[31mdef f():\x1b[0m\n    pass\nFile: /a/b.py", "def f():\n    pass\n\n"),
        ("key=<function f.<locals>.g at 0x7f01ab>", "key=f.<locals>.g\n"),
    ],
)
def test_help_is_shown_without_colours_paths_and_addresses(capsys, found, shown):
    session.show_in_place(None, {"text/plain": found})
    assert capsys.readouterr().out == shown


def test_the_seed_is_that_of_the_call():
    with plt.rc_context():
        session.setup_notebook(3)
    assert np.random.rand() == np.random.RandomState(3).rand()
