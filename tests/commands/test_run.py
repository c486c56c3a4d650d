"""`make`: which Python it takes. `make run`: what a notebook leaves, what a failing one says."""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workbook import ROOT
from workbook import __main__ as command_line
from workbook.__main__ import main
from workbook.commands import html_page, notebook_files, run, workers
from workbook.settings import read_config

# ------------------------------------------------------------------------- executing a notebook


@pytest.fixture
def workbook(tmp_path, monkeypatch):
    """`write(*cells)` makes the only notebook of a workbook; results go to the folder returned."""
    (tmp_path / "notebooks").mkdir()
    for module in (notebook_files, html_page):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SIAMESE_PRESET", "quick")

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


def list_settings():
    return {name: text for name, text in os.environ.items() if name.startswith("SIAMESE_")}


def test_a_kernel_has_the_settings_that_were_typed_and_no_others(workbook, monkeypatch):
    monkeypatch.setenv("SIAMESE_EPOCHS", "3")
    code = "import os\nprint(*(os.environ[f'SIAMESE_{n}'] for n in ('SEED', 'EPOCHS', 'LIVE')))"
    place, variables = workbook(new_code_cell(code)), list_settings()
    run.run(["SEED=0", "SIAMESE_EPOCHS=7", "LIVE=1", "1"])
    assert list_settings() == variables, "this process keeps its own variables"
    cell = nbformat.read(place / "01_first.ipynb", as_version=4).cells[0]
    assert cell.outputs[0].text == "0 7 0\n", "a run without a browser draws the plot once"


def test_a_cell_for_the_first_seed_alone_is_run_with_it_alone(workbook, tmp_path):
    once = new_code_cell("print('a picture')", metadata={"tags": [run.FIRST_SEED_ONLY]})
    place = workbook(once, new_code_cell("print('a number')"))
    (tmp_path / "notebooks/01_first.ipynb").rename(tmp_path / "notebooks/04_first.ipynb")
    run.run(["SEEDS=2", "4"])
    for folder, printed in ((place, ["a picture", "a number"]), (place / "seed-43", ["a number"])):
        cells = nbformat.read(folder / "04_first.ipynb", as_version=4).cells
        assert [cell.outputs[0].text.strip() for cell in cells] == printed


def test_notebooks_4_and_5_run_once_per_seed_the_first_last_where_the_seeds_are_pooled():
    config = read_config(seed=7, seeds=3)
    notebooks = [Path(f"{number}_x.ipynb") for number in ("03", "04", "05", "10")]
    planned = [(p.name[:2], seed) for p, seed in run.plan_executions(notebooks, config)]
    assert planned == [
        ("03", 7), ("04", 7), ("04", 8), ("04", 9), ("05", 9), ("05", 8), ("05", 7), ("10", 7)
    ]  # fmt: skip


@pytest.fixture
def ten_notebooks(tmp_path, monkeypatch):
    (tmp_path / "notebooks/.ipynb_checkpoints").mkdir(parents=True)
    for name in [f"{n:02}_x.ipynb" for n in (1, 2, 3, 4, 5, 6, 9, 10)] + ["notes.ipynb"]:
        nbformat.write(new_notebook(), tmp_path / "notebooks" / name)
    monkeypatch.setattr(notebook_files, "ROOT", tmp_path)


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [([], [1, 2, 3, 4, 5, 6]), ([10], [10]), ([9, 1, 9], [1, 9]), ([4, 5], [4, 5])],
)
def test_the_first_six_notebooks_run_unless_others_are_named(ten_notebooks, typed, chosen):
    assert [int(p.name[:2]) for p in run.choose_notebooks(typed)] == chosen


@pytest.mark.parametrize("typed", [[7], [4, 99], [0]])
def test_a_number_without_a_notebook_is_refused_with_those_there_are(ten_notebooks, typed):
    with pytest.raises(ValueError, match=f"number {typed[-1]}; the numbers are 1, 2, .*, 9, 10"):
        run.choose_notebooks(typed)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_section_that_runs_on_one_line(workbook, monkeypatch):
    workbook(
        new_markdown_cell("# 1 First\n## 1.4 Wait"), new_code_cell("import time; time.sleep(2)")
    )
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        run.run(["1"])
    lines = terminal.getvalue().split("\n\n")[-1]
    assert re.search(r"\r01_first +\d+ s  1\.4 Wait *\r", lines) and lines.count("\n") == 1
    assert re.fullmatch(r"01_first +\d+ s  ok", lines.strip().split("\r")[-1])


def test_without_a_terminal_each_notebook_has_one_final_line(workbook, capsys):
    workbook(new_markdown_cell("# 1 First"), new_code_cell("1"))
    run.run(["1"])
    lines = capsys.readouterr().out.splitlines()
    assert "\r" not in "".join(lines) and re.fullmatch(r"01_first +\d+ s  ok", lines[-1])


def test_workers_honour_runs_from_words_and_environment_and_hand_on_all_settings(
    monkeypatch, tmp_path
):
    started = []

    class Process:
        def __init__(self, command, env, **_):
            started.append((command, env))

        def wait(self):
            return len(started) - 1

    monkeypatch.setattr(workers.subprocess, "Popen", Process)
    monkeypatch.setattr(workers, "GPUS", [])
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "variable"))
    for words, folder in (([], "variable"), ([f"RUNS={tmp_path / 'word'}"], "word")):
        started.clear()
        assert workers.start_workers(2, ["4", "SEED=0", "DEVICES=one", *words]) == 1
        assert [env["SIAMESE_RUNS"] for _, env in started] == [
            str(tmp_path / folder), str(tmp_path / folder / "worker-1")
        ]  # fmt: skip
        command, environment = started[1]
        settings, numbers = run.parse_words(command[4:])
        config = read_config(environment, **settings)
        assert (numbers, config.seed, config.devices) == ([4], 0, "workers")
        assert config.runs == tmp_path / folder / "worker-1"
    with pytest.raises(ValueError, match="unknown setting SEEED"):
        workers.start_workers(2, ["SEEED=5"])


NOTEBOOKS = notebook_files.list_notebooks()


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
    assert "Solution" not in open_to_all
    if any("solution" in cell.metadata.get("tags", []) for cell in notebook.cells):
        assert "Solution" in page


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
    if dataset == "fruit":
        dataset = tmp_path / dataset
        dataset.mkdir()
    config = read_config({}, dataset=dataset, preset=preset, runs=tmp_path / "runs")
    (config.run_dir / "figures").mkdir()
    for name in ("04_training.ipynb", "05_evaluation.ipynb", "metrics.json", "figures/a.png"):
        (config.run_dir / name).write_text(f"new {name}")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    run.publish_run(config, [tmp_path / "notebooks" / "04_training.ipynb"])
    notebooks, figures = (tmp_path / place for place in places)
    assert (notebooks / "04_training.ipynb").read_text() == "new 04_training.ipynb"
    assert (figures / "a.png").exists() and not (notebooks / "05_evaluation.ipynb").exists()
    assert (notebooks / "metrics.json").exists() == (preset == "full")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("PRESET=fast", "quick | full"),
        ("WHATEVER=1", "unknown setting WHATEVER: The settings are PRESET, DATASET, "),
        ("SEEED=5", "unknown setting SEEED: did you mean SEED?"),
        ("ENVIRONMENT=x", "unknown setting ENVIRONMENT"),
        ("nonsense", "neither NAME=value"),
        ("99", "with the number 99"),
    ],
)
def test_a_wrong_word_stops_before_any_notebook(workbook, capsys, word, said):
    workbook(new_code_cell("1"))
    with pytest.raises(ValueError) as stopped:
        run.run([word])
    assert said in str(stopped.value) and "01_first" not in capsys.readouterr().out


def test_an_error_reaches_the_terminal_without_control_characters(monkeypatch):
    def fail(_):
        raise ValueError("a\x1b[2J\nb\x07")

    monkeypatch.setattr(command_line, "write_learner_copies", fail)
    with pytest.raises(SystemExit) as stopped:
        main(["learner"])
    assert stopped.value.code == "error: a\\x1b[2J\nb\\x07"


def test_on_the_terminal_a_wrong_word_is_one_line(workbook, capsys):
    workbook(new_code_cell("1"))
    with pytest.raises(SystemExit, match=r"^error: .*PRESET='fast'.*quick [|] full$"):
        main(["run", "PRESET=fast"])
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------- make and its Python


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
    words = ["DATASET=/o'brien's \"big\" pictures, `x`; *", "SEED=7", "SEEED=5"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # of `make test`
    done = subprocess.run(
        ["make", "run", *words, "NOTEBOOKS=4 10"], cwd=checkout, env=clean, capture_output=True,
        text=True,
    )  # fmt: skip
    handed_on = done.stdout.splitlines()
    assert handed_on[:3] == ["-m", "workbook", "run"] and handed_on[-2:] == ["4", "10"], done.stderr
    assert sorted(handed_on[3:-2]) == sorted(words), "the program refuses what is no setting"
    for target in ("lab", "test", "learner", "check"):
        done = subprocess.run(
            ["make", target, *words], cwd=checkout, env=clean, capture_output=True, text=True
        )
        assert done.returncode and f"make {target} takes no settings" in done.stderr
        assert not done.stdout, "nothing was started"


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
