"""Google Colab: what a runtime keeps, and the first cell of a notebook opened there alone."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from workbook import ROOT, colab, stamp

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
RUNTIME = {  # the oldest stack; for each package its own demands on the other two
    "tensorflow": ("2.19.0", ["keras>=3.5.0", "numpy<2.2.0,>=1.26.0"]),
    "keras": ("3.10.0", ["numpy"]),
    "numpy": ("2.0.2", []),
}
TO_RESOLVE = ("tensorflow", "keras", "numpy", "jupyterlab", "nbval", "pillow")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """An environment in which pip finds `RUNTIME` installed: it reads metadata only.

    Packages that have nothing to do with the three are there as in this environment, to save the
    time of looking them up; matplotlib, scikit-learn and the like come from the package index.
    """
    folder = tmp_path_factory.mktemp("runtime")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)

    def install(name, version, needs):
        info = Path(site.stdout.strip(), f"{name.replace('-', '_')}-{version}.dist-info")
        info.mkdir(exist_ok=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "INSTALLER").write_text("pip\n")

    for package in importlib.metadata.distributions():
        needs = [need for need in package.requires or [] if "extra ==" not in need]
        if package.name not in TO_RESOLVE and not re.search("numpy|keras|tensor", str(needs)):
            install(package.name, package.version, needs)
    for name, (version, needs) in RUNTIME.items():
        install(name, version, needs)
    return python


def resolve(python, *requirements):
    """{package: version} that pip would install there; skips where no package can be looked up."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    command = [*pip, "install", "--dry-run", "--quiet", "--retries=0", "--report=-", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and "No matching distribution found" in done.stderr:
        probe = [*pip, "install", "--dry-run", "--ignore-installed", "--no-deps", "nbval"]
        if subprocess.run(probe, capture_output=True).returncode:
            pytest.skip("no package index can be reached")
    assert not done.returncode, done.stderr[-2000:]
    chosen = (item["metadata"] for item in json.loads(done.stdout)["install"])
    return {item["name"].lower(): item["version"] for item in chosen}


def test_requirements_leave_the_runtimes_tensorflow_keras_and_numpy(runtime):
    chosen = resolve(runtime, "-r", str(ROOT / "requirements.txt"))
    assert {"matplotlib", "scikit-learn", "jupyterlab", "nbval"} <= set(chosen), "all was resolved"
    replaced = {name: chosen[name] for name in RUNTIME if name in chosen}
    assert not replaced, f"pip would replace {replaced}"


def test_a_requirement_that_replaces_numpy_would_be_noticed(runtime):
    assert "numpy" in resolve(runtime, "numpy>=2.1")


def test_missing_names_only_what_is_absent():
    lines = ["# a comment", "numpy>=2.0,<3", "pillow>=10", "not-there>=1", "nbval>=0.11", ""]
    assert colab.missing(lines) == ["not-there>=1"]


def test_an_unfit_tensorflow_is_named_and_not_replaced():
    with pytest.raises(RuntimeError, match=r"tensorflow \d.*needs tensorflow>=99.*Runtime"):
        colab.missing(["tensorflow>=99"])


def test_what_is_missing_is_installed_with_the_three_pinned(monkeypatch, tmp_path):
    calls, root = [], tmp_path / "workbook"
    root.mkdir()
    (root / "requirements.txt").write_text("numpy>=2\nnot-there>=1\n")
    monkeypatch.setattr(colab, "ROOT", root)

    def run(command, check):
        calls.append((command, Path(command[command.index("-c") + 1]).read_text()))

    monkeypatch.setattr(colab.subprocess, "run", run)
    colab.prepare(drive=tmp_path / "none")
    (command, pins), = calls  # fmt: skip
    assert command[-1] == "not-there>=1" and "numpy>=2" not in command
    assert pins.splitlines() == [f"{name}=={colab.version(name)}" for name in colab.KEPT]


def test_results_go_to_a_mounted_drive_unless_a_setting_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"SIAMESE_DATA_HOME": "mine"})
    colab.prepare(drive=tmp_path / "none")
    assert os.environ == {"SIAMESE_DATA_HOME": "mine"}
    colab.prepare(drive=tmp_path)
    assert os.environ["SIAMESE_RUNS"] == str(tmp_path / "siamese-networks" / "runs")
    assert os.environ["SIAMESE_DATA_HOME"] == "mine"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_begins_with_the_same_cell(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    lines, expected = code[0].source.splitlines(), stamp.CELL.splitlines()
    assert len(lines) == len(expected), "run python -m workbook stamp"
    other = [line for line, wanted in zip(lines, expected) if line != wanted]
    assert all(line.startswith("REPOSITORY = ") for line in other), "run python -m workbook stamp"
    assert code[0].metadata["jupyter"]["source_hidden"]


COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
REPORT = "\nimport importlib.util\nsys.path.insert(0, '..')\nprint(os.getcwd())\n"
REPORT += "print(importlib.util.find_spec('siamese_utils').origin)"


def run_cell(source, folder, **variables):
    """Run `source` in a new process that believes to be in Colab, with `folder` as /content."""
    command = [sys.executable, "-c", COLAB + source + REPORT]
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=keep | variables, capture_output=True, text=True
    )  # fmt: skip


@pytest.fixture
def github(tmp_path):
    """Variables for git that put a repository of the present files in GitHub's place."""
    source = tmp_path / "github/owner/name"
    for name in ("notebooks", "workbook"):
        shutil.copytree(ROOT / name, source / name)
    for file in (*ROOT.glob("*.py"), ROOT / "requirements.txt"):
        shutil.copy(file, source)
    git = ["git", "-C", source, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    place = f"url.{(tmp_path / 'github').as_uri()}/.insteadOf"
    return {
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": place,
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }  # fmt: skip


def test_stamped_cell_fetches_the_workbook_in_a_fresh_colab(github, tmp_path):
    stamped = stamp.CELL.replace('REPOSITORY = ""', 'REPOSITORY = "owner/name"')
    content = tmp_path / "content"
    content.mkdir()
    for _ in range(2):  # the second time as after a restart: the folder is there
        done = run_cell(stamped, content, **github)
        assert not done.returncode, done.stderr
        cwd, module = done.stdout.splitlines()[-2:]
        assert Path(cwd) == (content / "siamese-workbook/notebooks").resolve()
        assert Path(module).resolve() == (content / "siamese-workbook/siamese_utils.py").resolve()
        assert "results end with this session" in done.stdout
        assert "installing" not in done.stdout, "nothing is missing here"
    again = run_cell(stamped, content / "siamese-workbook/notebooks")  # the cell run once more
    assert not again.returncode and again.stdout.splitlines()[-2:] == [cwd, module]


def test_unstamped_cell_says_what_to_do(tmp_path):
    done = run_cell(stamp.CELL, tmp_path)
    assert done.returncode and "workbook stamp" in done.stderr and "upload" in done.stderr
    assert not list(tmp_path.iterdir())


def test_cell_does_nothing_elsewhere(tmp_path):
    script = stamp.CELL + "\nprint(os.getcwd(), 'colab' in sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path.resolve()), "False"]


def test_stamp_writes_address_and_badge_once_and_keeps_the_address(tmp_path):
    path = Path(shutil.copy(NOTEBOOKS[0], tmp_path))
    for arguments in (["a/b"], ["owner/name"], []):
        stamp.stamp(path, *arguments)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
    assert len(cells) == 1 and 'REPOSITORY = "owner/name"' in cells[0].source
    title = notebook.cells[0].source
    assert title.count("Open in Colab") == 1
    address = f"https://colab.research.google.com/github/owner/name/blob/main/notebooks/{path.name}"
    assert f"({address})" in title
    original = nbformat.read(NOTEBOOKS[0], as_version=4).cells[0].source
    assert stamp.without_badge(title) == stamp.without_badge(original)


@pytest.mark.parametrize("word", ["name", "https://github.com/a/b", "a/b/c"])
def test_stamp_refuses_what_is_not_owner_and_name(word):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        stamp.stamp_all(word)
