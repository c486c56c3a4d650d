"""JupyterLab as `make lab` starts it: what it listens on, and the notebooks in a real browser."""

import json
import os
import posixpath
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import chromium
import nbformat
import numpy as np
import pytest
from PIL import Image

from workbook import ROOT
from workbook.commands import lab as launch
from workbook.commands import run
from workbook.commands.notebook_files import list_notebooks
from workbook.data import toys
from workbook.display import embedding_page
from workbook.settings import read_config

# where screenshots stay for a look; the tests need them nowhere
SHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    """A copy of the workbook (Lab saves what it opens) and a folder of 8 small classes."""
    folder = tmp_path_factory.mktemp("workbook")
    for source in (*ROOT.glob("*.py"), ROOT / "README.md"):
        shutil.copy(source, folder)
    for name in ("notebooks", "workbook", "docs", "figures", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    images, labels, _ = toys.render_toys([10] * 8, 64, 3)
    for i, (image, label) in enumerate(zip(images, labels)):
        (folder / f"small/class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"small/class {label}/{i:03}.png")
    return folder


def lab_command():
    """The words that `make lab` runs, with this environment's Python."""
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    recipe = lines[next(i for i, line in enumerate(lines) if line.startswith("lab:")) + 1]
    assert recipe == "\t@$(BIN)/python -m workbook lab $(if $(FRESH),--fresh) -- $(OPTIONS)"
    return [sys.executable, "-m", "workbook", "lab", "--"]


@pytest.fixture(scope="module")
def lab(workbook, tmp_path_factory):
    """The running server as its own runtime file tells: port, token, pid, url."""
    home = tmp_path_factory.mktemp("jupyter")
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")  # nothing of the user's own settings
    environment = dict(os.environ) | {f"JUPYTER_{name}": str(home / name) for name in folders}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "SIAMESE_DATASET": str(workbook / "small"), "SIAMESE_EPOCHS": "60", "SIAMESE_SIZE": "64",
        "SIAMESE_RUNS": str(workbook / "runs"), "SIAMESE_LIVE": "1", "SIAMESE_PRESET": "quick",
    }  # fmt: skip
    extra = ["--no-browser"] + ["--allow-root"] * (os.name == "posix" and os.geteuid() == 0)
    log = open(home / "log", "wb")  # noqa: SIM115
    server = subprocess.Popen(
        [*lab_command(), *extra], cwd=workbook, env=environment, stdout=log, stderr=log
    )
    try:
        files = (home / "RUNTIME_DIR").glob
        found = chromium.until(
            lambda: server.poll() is not None or list(files("jpserver-*.json")), 60, "JupyterLab"
        )
        assert found is not True, (home / "log").read_text()
        info = json.loads(found[0].read_text("utf-8"))
        chromium.until(lambda: answers(info["url"] + "api"), 60, "JupyterLab's answer")
        yield info
    finally:
        server.send_signal(signal.SIGTERM if os.name == "posix" else signal.CTRL_BREAK_EVENT)
        server.wait(30)
        log.close()


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def answers(url):
    try:
        return status(url)
    except OSError:
        return None


def test_lab_asks_for_its_token(lab):
    assert len(lab["token"]) >= 32
    contents = lab["url"] + "api/contents/lab/01_data_exploration.ipynb"
    assert status(contents) == 403
    assert status(contents + "?token=wrong") == 403
    assert status(contents + "?token=" + lab["token"]) == 200


def listening(port):
    """The addresses on which Linux's tables show that port open, as hexadecimal text."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for t in tables if t.exists() for line in t.read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]  # 0A: listening
    return [address for address, number in places if int(number, 16) == port]


def test_lab_listens_on_loopback_only(lab):
    with socket.create_connection(("127.0.0.1", lab["port"]), timeout=10):
        pass
    if Path("/proc/net/tcp").exists():
        loopback = {"0100007F", "00000000000000000000000001000000"}
        assert set(listening(lab["port"])) <= loopback and listening(lab["port"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:  # which address this machine has towards others; nothing is sent
            probe.connect(("192.0.2.1", 9))
            own = probe.getsockname()[0]
        except OSError:
            return  # none
    if not own.startswith("127."):
        with pytest.raises(OSError):
            socket.create_connection((own, lab["port"]), timeout=10).close()


@pytest.fixture(scope="module")
def browser():
    if chromium.find() is None:
        pytest.skip("no Chromium or Chrome is installed")
    with chromium.Browser(1280, 900) as browser:
        yield browser


KERNELS = "fetch('/api/kernels').then(r => r.json()).then(k => k.map(k => k.execution_state))"


def open_notebook(browser, lab, name):
    browser.open(f"{lab['url']}lab/tree/lab/{name}?reset&token={lab['token']}")
    browser.wait("document.querySelector('.jp-Notebook .jp-Cell') !== null", 60)
    # Run before the notebook has its kernel would ask for one
    sessions = "fetch('/api/sessions').then(r => r.json())"
    session = f"{sessions}.then(s => s.find(s => s.path == 'lab/{name}'))"
    browser.wait(f"{session}.then(s => s?.kernel?.execution_state == 'idle')", 60)


def shot(browser, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(SHOTS, f"{name}.png"))


def scroll_to(browser, text):
    """Scroll the notebook until the cell with that source shows, as a reader would."""
    script = f"""(() => {{
        const scroller = document.querySelector('.jp-WindowedPanel-outer');
        const cell = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].find(
            e => e.querySelector('.cm-content')?.textContent.includes({json.dumps(text)}));
        if (cell) {{ cell.scrollIntoView(); window.watched = cell; return true; }}
        const end = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 5;
        scroller.scrollTop = end ? 0 : scroller.scrollTop + 400;
    }})()"""
    browser.wait(script, 60)


# looks at each frame that the browser draws: how many images the watched cell shows, how high
WATCH = """
window.frames_ = []; window.drawings = [];
const before = watched.querySelector('.jp-OutputArea-output img')?.src;
(function look() {
    const images = [...watched.querySelectorAll('.jp-OutputArea-output img')];
    const source = images[0]?.src;
    if (source && source !== before && source !== drawings.at(-1)) drawings.push(source);
    if (drawings.length) frames_.push([images.length, images[0]?.clientHeight ?? 0]);
    requestAnimationFrame(look);
})()
"""
PROMPT = "watched.querySelector('.jp-InputPrompt').textContent"
RUNNING = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent == '[*]:')"


TRAINING_CELL = "recipe.description}"  # in the source of the cell that trains for all epochs


def test_live_plot_changes_in_place_while_the_training_cell_runs(browser, lab, workbook):
    open_notebook(browser, lab, "04_training.ipynb")
    browser.click(".lm-MenuBar-itemLabel", "Run")
    browser.click(".lm-Menu-item", "Run All Cells")
    scroll_to(browser, TRAINING_CELL)
    browser.wait(f"{PROMPT} == '[*]:'", 30)
    browser.run(WATCH)
    browser.wait(f"drawings.length >= 3 || {PROMPT} != '[*]:'", 300)  # after the shorter trainings
    assert browser.run(PROMPT) == "[*]:", "three images came while it ran"
    scroll_to(browser, TRAINING_CELL)  # Run had moved on to the last cell
    shot(browser, "training")
    browser.wait(f"{PROMPT} != '[*]:'", 120)
    final = browser.run("watched.querySelector('.jp-OutputArea-output img').src")
    frames = browser.run("frames_")
    assert {count for count, _ in frames} == {1}, "one output, never none: no flicker"
    assert len({height for _, height in frames if height}) == 1, "of one height"
    error = "document.querySelector('[data-mime-type=\"application/vnd.jupyter.error\"]')"
    assert browser.run(f"{error}?.textContent ?? ''") == "", "every cell until here ran"
    # nbval runs the rest; interrupted, it leaves what was drawn and a kernel that answers
    browser.click("[data-command='notebook:interrupt-kernel'], [data-jp-item-name='interrupt']")
    browser.wait(f"!{RUNNING}", 60)
    assert browser.run("watched.querySelector('.jp-OutputArea-output img').src") == final
    browser.wait(f"{KERNELS}.then(states => states.includes('idle'))", 60)
    print(f"{browser.run('drawings.length')} images, seen in {len(frames)} frames")

    copy, before = workbook / "lab/04_training.ipynb", (workbook / "lab/04_training.ipynb").stat()
    browser.click(".lm-MenuBar-itemLabel", "File")
    browser.click(".lm-Menu-item", "Save Notebook")
    chromium.until(lambda: copy.stat().st_mtime > before.st_mtime, 30, "the saved copy")
    source = (workbook / "notebooks/04_training.ipynb").stat()
    assert source.st_mtime < before.st_mtime, "the checkout stays clean"
    dark_theme_keeps_the_plot_on_its_own_light_ground(browser)


def dark_theme_keeps_the_plot_on_its_own_light_ground(browser):
    browser.click(".lm-MenuBar-itemLabel", "Settings")
    browser.click(".lm-Menu-item", "Theme")
    browser.click(".lm-Menu-item", "JupyterLab Dark")
    browser.wait("document.body.dataset.jpThemeLight == 'false'", 30)
    scroll_to(browser, TRAINING_CELL)
    shot(browser, "training_dark")
    corner = browser.run("""(async () => {
        const image = watched.querySelector('.jp-OutputArea-output img');
        const canvas = new OffscreenCanvas(9, 9).getContext('2d');
        canvas.drawImage(image, 0, 0);
        return [...canvas.getImageData(2, 2, 1, 1).data];
    })()""")
    assert corner == [255, 255, 255, 255], "black text needs an opaque white ground"


def test_interactive_page_works_inside_the_notebook(browser, lab, workbook):
    images, labels, _ = toys.render_toys([6, 6], 32, 5)
    vectors = np.random.default_rng(0).normal(size=(12, 4))
    page = embedding_page.write_page(
        workbook / "map.html", vectors, images, labels, ["one", "two"], points=vectors[:, :2]
    )
    (workbook / "shown.html").write_text(embedding_page.show_page(page).data, "utf-8")
    show = "from IPython.display import HTML\nHTML(open('../shown.html', encoding='utf-8').read())"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(show)], metadata=kernel)
    nbformat.write(notebook, workbook / "lab/map.ipynb")
    open_notebook(browser, lab, "map.ipynb")
    browser.click(".lm-MenuBar-itemLabel", "Run")
    browser.click(".lm-Menu-item", "Run All Cells")
    browser.wait("document.querySelector('.jp-OutputArea iframe') !== null", 60)
    inside = "typeof dots == 'object' && dots.length"
    frames = chromium.until(
        lambda: [c for c in browser.contexts() if browser.run(inside, c)], 30, "the frame's page"
    )
    assert browser.run(inside, frames[0]) == 12
    browser.run("dots[3].dispatchEvent(new Event('click'))", frames[0])
    assert browser.run("list.children.length", frames[0]) == 8
    shot(browser, "interactive")


RUNS_A_SCRIPT = '<img src=x onerror="window.ran=1">.jpg'
FORMULA = r"$\alpha$"


def write_notebook_of_hostile_names(path):
    """Write a notebook that shows files of such names in a table."""
    code = f"""
        import sys
        sys.path.insert(0, "..")
        from workbook.data import report
        from workbook.display import tables
        files = [report.report_entry(n, n, "-") for n in ({RUNS_A_SCRIPT!r}, {FORMULA!r})]
        tables.table(list(files[0]), [list(entry.values()) for entry in files])
    """
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(code).strip())]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def check_that_names_are_only_text(browser):
    cells = "[...document.querySelectorAll('.jp-OutputArea td')].map(e => e.textContent)"
    assert browser.wait(f"{cells}.length == 6 && {cells}", 60) == [
        RUNS_A_SCRIPT, RUNS_A_SCRIPT, "-", FORMULA, FORMULA, "-"
    ]  # fmt: skip
    time.sleep(1)  # for a script that must not run
    assert browser.run("window.ran ?? 0") == 0, "the file's name ran in the page"
    made = "document.querySelectorAll('.jp-OutputArea :is(img, mjx-container, .MathJax)').length"
    assert browser.run(made) == 0, "neither an image nor a formula"


def test_the_name_of_a_file_runs_nothing_in_lab(browser, lab, workbook):
    write_notebook_of_hostile_names(workbook / "lab/hostile.ipynb")
    open_notebook(browser, lab, "hostile.ipynb")
    browser.click(".lm-MenuBar-itemLabel", "Run")
    browser.click(".lm-Menu-item", "Run All Cells")
    check_that_names_are_only_text(browser)


def test_the_name_of_a_file_runs_nothing_in_the_html_copy(browser, workbook):
    write_notebook_of_hostile_names(workbook / "lab/for_html.ipynb")
    source, copy = workbook / "lab/for_html.ipynb", workbook / "copy.ipynb"
    assert run.execute(source, copy, read_config()) is None
    browser.open((workbook / "copy.html").as_uri())
    check_that_names_are_only_text(browser)


# each output and text of the notebook, scrolled to: how many there are, which are too wide, where
# the links lead, as JupyterLab has resolved them, and whether each collapsible text is open
MEASURE = """(async () => {
    let seen = 0;
    const wide = [], links = [], open = [];
    for (const cell of document.querySelectorAll('.jp-Notebook .jp-Cell')) {
        cell.scrollIntoView();
        await new Promise(requestAnimationFrame);
        for (const e of cell.querySelectorAll('.jp-OutputArea-output, .jp-MarkdownOutput')) {
            if (e.clientWidth) seen += 1;
            if (e.scrollWidth > e.clientWidth + 1) wide.push(e.textContent.slice(0, 200));
        }
        for (const e of cell.querySelectorAll('.jp-MarkdownOutput details')) open.push(e.open);
        for (const e of cell.querySelectorAll('.jp-MarkdownOutput :is(a[href], img)')) {
            const link = e.href ?? e.src;
            if (new URL(link).pathname.startsWith('/files/')) links.push(link);
        }
    }
    return [seen, wide, [...new Set(links)], open];
})()"""
FOLLOW = "Promise.all({}.map(async link => [link, (await fetch(link)).status]))"


@pytest.mark.parametrize("name", [p.name for p in list_notebooks()])
def test_a_notebook_fits_its_column_its_links_lead_somewhere_its_answers_are_collapsed(
    browser, lab, workbook, name
):
    source = nbformat.read(workbook / "notebooks" / name, as_version=4)
    images = sum("image/png" in str(cell.get("outputs")) for cell in source.cells)
    texts = [cell.source for cell in source.cells if cell.cell_type == "markdown"]
    files = re.findall(r"\]\(([^)\s:#]+)[^):]*\)", "\n".join(texts))
    collapsible = "".join(texts).count("<details>")
    expected = {posixpath.normpath(f"/files/lab/{file}") for file in files}
    browser.open(f"{lab['url']}lab/tree/lab/{name}?reset&token={lab['token']}")
    browser.wait("document.querySelector('.jp-Notebook .jp-Cell')?.clientWidth > 0", 60)

    def all_of_it():  # Lab lays a long notebook out bit by bit
        seen, wide, links, is_open = browser.run(MEASURE)
        paths = {urllib.parse.urlsplit(link).path for link in links}
        whole = seen >= images + len(texts) and expected <= paths and len(is_open) == collapsible
        return whole and (wide, links, is_open)

    wide, links, is_open = chromium.until(all_of_it, 120, "the whole notebook, its links resolved")
    assert wide == [] and not any(is_open)
    statuses = dict(browser.run(FOLLOW.format(json.dumps(links))))
    assert set(statuses.values()) == {200}, statuses
    browser.run("document.querySelector('.jp-Notebook .jp-Cell').scrollIntoView()")
    shot(browser, name.removesuffix(".ipynb"))
    if name.startswith("01"):  # a click opens the page, to be read
        browser.click(".jp-MarkdownOutput a", "glossary")
        heading = "document.querySelector('.jp-MarkdownViewer h1')?.textContent"
        assert browser.wait(heading, 30).startswith("Glossary")


# ----------------------------------------------------------------------------- the working copies


def test_copies_are_made_where_they_are_missing_and_never_overwritten(tmp_path, capsys):
    folder, names = tmp_path / "lab", [p.name for p in list_notebooks()]
    launch.make_working_copies(folder)
    assert sorted(p.name for p in folder.iterdir()) == names and not capsys.readouterr().out
    (folder / names[0]).write_text("typed")
    os.utime(folder / names[1], (1, 1))  # copied before the notebook was changed
    (folder / names[2]).unlink()
    launch.make_working_copies(folder)
    assert (folder / names[0]).read_text() == "typed" and (folder / names[2]).exists()
    assert "newer versions of 02 than lab/" in capsys.readouterr().out

    launch.make_working_copies(folder, fresh=True)
    assert (folder / names[0]).read_bytes() == (ROOT / "notebooks" / names[0]).read_bytes()
    assert (tmp_path / "lab-1" / names[0]).read_text() == "typed"
    assert "in lab-1/" in capsys.readouterr().out
    launch.make_working_copies(folder, fresh=True)
    assert len(list(tmp_path.iterdir())) == 3, "lab, lab-1, lab-2"


def test_root_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "name", "posix")
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    with pytest.raises(PermissionError, match=r"another user.*make lab OPTIONS=--allow-root"):
        launch.launch_lab()
