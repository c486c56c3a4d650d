"""`make run`: a failing notebook is shown and stops; settings are checked before anything runs."""

import os
import subprocess
import sys

import nbformat
import pytest

from workbook import ROOT, run


def notebook_of(folder, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, folder / "source.ipynb")
    return folder / "source.ipynb"


def test_a_good_notebook_leaves_its_outputs_and_an_html_copy(tmp_path):
    source = notebook_of(tmp_path, "print(6 * 7)")
    assert run.execute(source, tmp_path / "done.ipynb") is None
    executed = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "42\n"
    assert "42" in (tmp_path / "done.html").read_text("utf-8")
    assert not nbformat.read(source, as_version=4).cells[0].outputs, "the source is not touched"


def test_a_failing_cell_is_returned_with_its_traceback(tmp_path):
    source = notebook_of(tmp_path, "x = 1", "x / 0", "print('never')")
    error = str(run.execute(source, tmp_path / "done.ipynb"))
    assert "x / 0" in error and "ZeroDivisionError" in error
    assert not nbformat.read(tmp_path / "done.ipynb", as_version=4).cells[2].outputs


@pytest.mark.parametrize(
    ("dataset", "preset", "places"),
    [("toys", "quick", ("notebooks", "figures")), ("fruit", "full", ("results/fruit",) * 2)],
)
def test_a_run_is_published_where_its_kind_belongs(tmp_path, monkeypatch, dataset, preset, places):
    class Run:
        run_dir = tmp_path / f"{dataset}-{preset}"

    Run.dataset = dataset
    (Run.run_dir / "figures").mkdir(parents=True)
    for name in ("04_training.ipynb", "05_evaluation.ipynb", "metrics.json", "figures/a.png"):
        (Run.run_dir / name).write_text(f"new {name}")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    run.publish_run(Run, [tmp_path / "notebooks" / "04_training.ipynb"])
    notebooks, figures = (tmp_path / place for place in places)
    assert (notebooks / "04_training.ipynb").read_text() == "new 04_training.ipynb"
    assert (figures / "a.png").exists() and not (notebooks / "05_evaluation.ipynb").exists()
    assert (notebooks / "metrics.json").exists() == (preset == "full")


@pytest.mark.parametrize("word", ["PRESET=fast", "COLOUR=red", "nonsense", "99"])
def test_a_wrong_word_stops_before_any_notebook(word):
    command = [sys.executable, "-m", "workbook", "run", word]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=ROOT)
    assert done.returncode != 0 and "01_data" not in done.stdout
    expected = ("quick | full", "SIAMESE_PRESET", "neither NAME=value", "with the number 99")
    assert any(text in done.stderr for text in expected)
