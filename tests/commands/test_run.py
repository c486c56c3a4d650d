"""`make`: which Python it takes. `make run`: what a notebook leaves, what a failing one says."""

import os
import re
import shutil
import stat
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workbook import ROOT
from workbook import __main__ as command_line
from workbook.__main__ import main
from workbook.commands import html_page, run

# ------------------------------------------------------------------------- executing a notebook


@pytest.fixture
def workbook(tmp_path, monkeypatch):
    """`write(*cells)` puts them into the only notebook of a workbook; results go to runs/."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run, "ROOT", tmp_path)
    settings = {"SIAMESE_RUNS": str(tmp_path / "runs"), "SIAMESE_PRESET": "quick"}
    monkeypatch.setattr(os, "environ", os.environ | settings)

    def write(*cells):
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks/01_first.ipynb")
        return tmp_path / "runs/toys-quick"

    return write


def test_a_good_notebook_leaves_its_outputs_and_a_page_to_read(workbook, tmp_path):
    text = "[glossary](../docs/glossary.md), [next](02_next.ipynb#2.1-Random), [site](https://x.y)"
    hidden = {"jupyter": {"source_hidden": True}}
    place = workbook(
        new_code_cell("hidden_code = 1", metadata=hidden),
        new_markdown_cell(text),
        new_code_cell("print(6 * 7)"),
    )
    run.run(["1"])
    executed = nbformat.read(place / "01_first.ipynb", as_version=4)
    assert executed.cells[2].outputs[0].text == "42\n" and executed.cells[1].source == text
    source = nbformat.read(tmp_path / "notebooks/01_first.ipynb", as_version=4)
    assert not source.cells[2].outputs, "the source is not touched"
    page = (place / "01_first.html").read_text("utf-8")
    details = page[page.index("<details>") : page.index("</details>")]
    assert "hidden_code" in details and page.count("<details>") == 1, "collapsed, and it alone"
    links = ['"../../docs/glossary.md"', '"02_next.html#2.1-Random"', '"https://x.y"']
    assert all(f"href={link}" in page for link in links)


def test_a_cell_for_the_first_seed_alone_is_run_with_it_alone(workbook, tmp_path):
    once = new_code_cell("print('a picture')", metadata={"tags": [run.ONCE]})
    place = workbook(once, new_code_cell("print('a number')"))
    (tmp_path / "notebooks/01_first.ipynb").rename(tmp_path / "notebooks/04_first.ipynb")
    run.run(["SEEDS=2", "4"])
    for folder, printed in ((place, ["a picture", "a number"]), (place / "seed-43", ["a number"])):
        cells = nbformat.read(folder / "04_first.ipynb", as_version=4).cells
        assert [cell.outputs[0].text.strip() for cell in cells] == printed


NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.name)
def shown(request):
    """A notebook of the workbook without outputs, and the page made of it."""
    notebook = nbformat.read(request.param, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # for the time it takes
    return notebook, html_page.as_html(notebook, request.param)


def texts(notebook):
    return "".join(f"{c.source}\n" for c in notebook.cells if c.cell_type == "markdown")


def test_in_the_page_solutions_and_hidden_cells_are_collapsed(shown):
    notebook, page = shown
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    hidden = [cell for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    collapsed = page.count("<details>")
    assert collapsed == page.count("</details>") == texts(notebook).count("<details>") + len(hidden)
    open_to_all = re.sub("<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "REPOSITORY" in page and "REPOSITORY" not in open_to_all
    assert "Solution" in page and "Solution" not in open_to_all


def test_the_page_needs_no_network_for_its_formulas_or_anything(shown):
    notebook, page = shown
    formulas = re.findall("<math.*?</math>", page, flags=re.DOTALL)
    assert len(formulas) == texts(notebook).count("$$") / 2, "each formula stands in the page"
    assert not any("\\" in formula for formula in formulas), "a command that was not understood"
    fetched = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=.https?:|@import|url\(.?https?:"
    assert not re.findall(fetched, page)


def test_a_failing_cell_says_where_and_what_and_leaves_the_traceback_to_the_log(workbook, capfd):
    code = "```python\n# no heading\n```"
    fail = "def divide(x):\n    raise ValueError(f'no \x1b[31m{x}\x1b[0m, choose 1 | 2')"
    place = workbook(
        new_markdown_cell("## 1.2 Look at `x`\n" + code),
        new_code_cell(fail),
        new_code_cell("divide(0)"),
        new_markdown_cell("## 1.3 Later"),
        new_code_cell("print('never')"),
    )
    with pytest.raises(SystemExit) as stopped:
        run.run([])
    log = place / "01_first.log"
    assert str(stopped.value).splitlines() == [
        "", "01_first.ipynb failed in: 1.2 Look at `x`", "", "ValueError: no 0, choose 1 | 2", "",
        f"the traceback: {log}",
    ]  # fmt: skip
    assert "FAILED" in capfd.readouterr().out
    assert "divide(0)" in log.read_text("utf-8") and "\x1b" not in log.read_text("utf-8")
    executed = nbformat.read(place / "01_first.ipynb", as_version=4)
    assert executed.cells[2].outputs[0].ename == "ValueError" and not executed.cells[4].outputs


def test_a_killed_kernel_is_said_to_be_so(workbook):
    workbook(new_markdown_cell("# 1 First"), new_code_cell("import os\nos._exit(1)"))
    with pytest.raises(SystemExit, match=r"failed in: 1 First\n\nthe kernel was killed.*memory"):
        run.run([])


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


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("PRESET=fast", "quick | full"),
        ("COLOUR=red", "SIAMESE_PRESET"),
        ("nonsense", "neither NAME=value"),
        ("99", "with the number 99"),
    ],
)
def test_a_wrong_word_stops_before_any_notebook(workbook, capsys, word, said):
    workbook(new_code_cell("1"))
    with pytest.raises(ValueError) as stopped:
        run.run([word])
    assert said in str(stopped.value) and "01_first" not in capsys.readouterr().out


@pytest.mark.hostile
def test_an_error_reaches_the_terminal_without_control_characters(monkeypatch):
    def fail(_):
        raise ValueError("a\x1b[2J\nb\x07")

    monkeypatch.setattr(command_line, "carry_out", fail)
    with pytest.raises(SystemExit) as stopped:
        main(["learner"])
    assert stopped.value.code == "error: a\\x1b[2J\nb\\x07"


def test_on_the_terminal_a_wrong_word_is_one_line(workbook, capsys):
    workbook(new_code_cell("1"))
    with pytest.raises(SystemExit, match=r"^error: .*PRESET='fast'.*quick [|] full$"):
        main(["run", "PRESET=fast"])
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------- make and its Python


@pytest.mark.hostile(2)
@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="no make here")
def test_make_hands_a_path_on_as_it_was_typed(tmp_path):
    checkout = tmp_path / "it's a checkout"
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(stat.S_IRWXU)
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, checkout)
    (checkout / ".venv/ready").touch()
    words = ["DATASET=/o'brien's \"big\" pictures, `x`; *", "SEED=7"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # of `make test`
    done = subprocess.run(
        ["make", "run", *words], cwd=checkout, env=clean, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["-m", "workbook", "run", *words], done.stderr


# a Python of another version: it runs what stands behind -c, and says what else it is asked for
STUB = """#!/bin/sh
if [ "$1" = -c ]; then
    exec {python} -c "import sys; sys.version_info = ({version}); exec(sys.argv[1])" "$2"
fi
echo "{version}: $@"
"""


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="no make here")
@pytest.mark.parametrize(
    ("pythons", "taken", "said"),
    [
        ({"python3": "3, 11, 2"}, "3, 11, 2", ""),
        ({"python3": "3, 9, 1", "python3.12": "3, 12, 0"}, "3, 12, 0", ""),
        ({"python3.11": "3, 11, 9", "python3.13": "3, 13, 5"}, "3, 13, 5", ""),
        ({"python3.12": "3, 12, 0", "python3.13": None}, "3, 12, 0", ""),  # a shim of nothing
        ({"python3": "3, 14, 0"}, "3, 14, 0", "TensorFlow had no release for it"),
        ({"python3": "3, 10, 4"}, None, "3.11, 3.12 or 3.13 is needed, and python3 is none"),
        ({}, None, "3.11, 3.12 or 3.13 is needed"),
    ],
)
def test_make_takes_a_python_that_fits_or_says_what_to_install(tmp_path, pythons, taken, said):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    for name, version in pythons.items():
        stub = STUB.format(python=sys.executable, version=version) if version else "exit 127"
        (tools / name).write_text(stub)
        (tools / name).chmod(stat.S_IRWXU)
    command = [tools / "make", ".venv/ready"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr
    asked = [line for line in done.stdout.splitlines() if "-m venv" in line]
    assert asked == ([f"{taken}: -m venv --clear .venv"] if taken else [])
    assert ("TensorFlow" in done.stdout) == ("no release" in said)
