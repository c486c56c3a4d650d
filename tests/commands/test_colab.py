"""Google Colab: what a runtime keeps, and the first cell of a notebook opened there alone."""

import errno
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
import small_run

from workbook import ROOT
from workbook.commands import colab, notebook_files, stamp
from workbook.support import folder_lock
from workbook.support.tensorflow_start import keras

NOTEBOOKS = notebook_files.list_notebooks()
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
    assert colab.list_missing(lines) == ["not-there>=1"]


def test_an_unfit_tensorflow_is_named_and_not_replaced():
    with pytest.raises(RuntimeError, match=r"tensorflow \d.*needs tensorflow>=99.*Runtime"):
        colab.list_missing(["tensorflow>=99"])


def test_what_is_missing_is_installed_with_the_three_pinned(monkeypatch, tmp_path):
    calls, root = [], tmp_path / "workbook"
    root.mkdir()
    (root / "requirements.txt").write_text("numpy>=2\nnot-there>=1\n")
    monkeypatch.setattr(colab, "ROOT", root)

    def run(command, check):
        calls.append((command, Path(command[command.index("-c") + 1]).read_text()))

    monkeypatch.setattr(colab.subprocess, "run", run)
    colab.prepare_session(drive=tmp_path / "none")
    (command, pins), = calls  # fmt: skip
    assert command[-1] == "not-there>=1" and "numpy>=2" not in command
    assert pins.splitlines() == [
        f"{name}=={colab.installed_version(name)}" for name in colab.NEVER_REPLACED
    ]


# ------------------------------------------------------------------------------- a mounted Drive


def test_results_are_kept_on_a_mounted_drive_unless_a_setting_says_otherwise(
    monkeypatch, tmp_path, capsys
):
    calls, environment = [], {"SIAMESE_DATA_HOME": "mine"}
    monkeypatch.setattr(colab, "keep_on_drive", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(os, "environ", dict(environment))
    colab.prepare_session(drive=tmp_path / "none")
    assert not calls and "Mount Drive" in capsys.readouterr().out
    colab.prepare_session(drive=tmp_path)
    assert calls == [(ROOT / "runs", tmp_path / "siamese-networks/runs", 300)]
    said = capsys.readouterr().out
    assert all(words in said for words in ("own disk", "5 minutes", "0.7 GB", str(tmp_path)))
    assert os.environ == environment, "runs, caches and datasets stay on the runtime's own disk"
    os.environ["SIAMESE_RUNS"] = "elsewhere"
    colab.prepare_session(drive=tmp_path)
    assert len(calls) == 1 and "elsewhere" in capsys.readouterr().out


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """A stand-in Drive: its folder, and the list of what was written to it, (name, bytes)."""
    written, copy = [], colab.copy_atomically

    def counted(source, target):
        copy(source, target)
        if target.is_relative_to(tmp_path / "drive"):
            written.append((target.name, target.stat().st_size))

    monkeypatch.setattr(colab, "copy_atomically", counted)
    return tmp_path / "drive", written


def contents(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


class Ended(Exception):
    """The runtime's end, in mid-training."""


def test_a_training_writes_its_checkpoint_to_drive_at_times_and_a_new_runtime_goes_on(
    tmp_path, drive
):
    home, written = drive
    drive_copy = colab.DriveCopy(tmp_path / "one", home)
    folder = tmp_path / "one/toys-quick"
    (tmp_path / "one/cache").mkdir(parents=True)
    (tmp_path / "one/cache/trunk.npy").write_bytes(bytes(10**7))

    def each_epoch(epoch, logs):  # the pause ends once, in the fourth epoch
        if epoch == 3:
            drive_copy.update({"checkpoint.npz"})
        if epoch == 4:
            raise Ended

    with pytest.raises(Ended):
        small_run.fit(folder, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=each_epoch)])
    folder_lock.unlock_folder(folder)  # as the end of the process does
    size = (folder / "checkpoint.npz").stat().st_size
    assert {"checkpoint.npz", "checkpoint-before.npz", "training.lock"} <= contents(folder)
    assert [name for name, _ in written] == ["checkpoint.npz"]
    assert abs(written[0][1] - size) < 1000, "one file of the four, and no cache"

    new, (epochs, there) = tmp_path / "two", ([], colab.DriveCopy(tmp_path / "two", home))
    assert there.restore() == written[0][1]
    counted = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    _, history = small_run.fit(new / "toys-quick", callbacks=[counted])
    assert epochs == [3, 4, 5], "three epochs were on Drive"
    assert history == small_run.fit(tmp_path / "straight")[1], "as if nothing had happened"
    there.update()
    assert not contents(home), "a finished training has no checkpoint, on Drive either"
    assert len(written) == 1, "nor was it copied again"


def test_results_go_to_drive_once_and_what_they_replace_is_removed(tmp_path, drive, capsys):
    home, written = drive
    runs = tmp_path / "runs"
    files = ["toys-quick/embedding.keras", "toys-quick/gallery/entries-1.npz",
             "toys-quick/gallery/gallery.json", "toys-quick/figures/05_tsne.png",
             "toys-quick/figures/05_parts.png", "toys-quick/metrics.json",
            "film.part-time-quick/metrics.json"]  # fmt: skip
    stay = ["cache/trunk-1.npy", "toys-quick/training.lock", "toys-quick/checkpoint-before.npz",
            "toys-quick/training.owner", "toys-quick/.folder.lock",
            "toys-quick/embedding.12.part.keras",
            "toys-quick/gallery/gallery.part-a1b2c3_d/work/model.keras"]  # fmt: skip
    for number, file in enumerate([*files, *stay]):
        (runs / file).parent.mkdir(parents=True, exist_ok=True)
        (runs / file).write_bytes(bytes(100 + number))
    drive_copy = colab.DriveCopy(runs, home)
    drive_copy.update()
    drive_copy.update()  # nothing has changed
    assert contents(home) == set(files)
    assert sum(size for _, size in written) == sum(range(100, 100 + len(files)))

    (runs / files[1]).rename(runs / "toys-quick/gallery/entries-2.npz")
    drive_copy.update()
    assert [name for name, _ in written[len(files) :]] == ["entries-2.npz"]
    assert contents(home) == {*files} - {files[1]} | {"toys-quick/gallery/entries-2.npz"}

    again = colab.DriveCopy(runs, home)  # the kernel was started again, the disk is the same
    assert again.restore() == 0
    again.update()
    assert len(written) == len(files) + 1
    shutil.rmtree(runs / "toys-quick")  # somebody makes room here: Drive keeps its own
    again.update()
    assert len(contents(home)) == len(files)
    assert not capsys.readouterr().out


def test_a_full_drive_is_said_and_the_next_cell_tries_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/toys-quick").mkdir(parents=True)
    (tmp_path / "runs/toys-quick/metrics.json").write_text("{}")
    drive_copy, copy = colab.DriveCopy(tmp_path / "runs", tmp_path / "drive"), shutil.copyfile

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    drive_copy.update()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "metrics.json" in said and "No space left" in said
    monkeypatch.setattr(shutil, "copyfile", copy)
    drive_copy.update()
    assert contents(tmp_path / "drive") == {"toys-quick/metrics.json"}


SESSION = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from IPython.core.interactiveshell import InteractiveShell
from workbook.commands import colab

runs, home = map(pathlib.Path, sys.argv[2:4])
shell = InteractiveShell.instance()
for _ in range(2):  # the first cell may be run again
    colab.keep_on_drive(runs, home, 0.1)
shell.user_ns |= globals()
shell.run_cell('''
(runs / "checkpoint.npz").write_bytes(bytes(1000))
(runs / "embedding.keras").write_bytes(bytes(3000))
while not (home / "checkpoint.npz").exists():
    time.sleep(0.05)
print("while it ran", sorted(path.name for path in home.iterdir()))
(runs / "checkpoint.npz").unlink()
''')
print("after it", sorted(path.name for path in home.iterdir()))
"""


def test_the_checkpoint_is_kept_while_a_cell_runs_and_the_rest_after_it(tmp_path):
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-c", SESSION, ROOT, tmp_path / "runs", tmp_path / "drive"]
    environment = os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    lines = ["while it ran ['checkpoint.npz']", "after it ['embedding.keras']"]
    assert done.stdout.splitlines() == lines, done.stderr


# ------------------------------------------------------------------------ the cell and the stamp


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
    assert stamp.remove_badge(title) == stamp.remove_badge(original)


@pytest.mark.parametrize("word", ["name", "https://github.com/a/b", "a/b/c"])
def test_stamp_refuses_what_is_not_owner_and_name(word):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        stamp.stamp_all(word)
