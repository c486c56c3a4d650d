"""JupyterLab as `make lab` starts it: what it listens on, and the notebooks in a real browser."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import chromium
import nbformat
import numpy as np
import pytest
from PIL import Image

from workbook import ROOT, embedding_page, toys

# where screenshots stay for a look; the tests need them nowhere
SHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    """A copy of the workbook (Lab saves what it opens) and a folder of 8 small classes."""
    folder = tmp_path_factory.mktemp("workbook")
    for source in ROOT.glob("*.py"):
        shutil.copy(source, folder)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    images, labels, _ = toys.render_toys([10] * 8, 64, 3)
    for i, (image, label) in enumerate(zip(images, labels)):
        (folder / f"small/class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"small/class {label}/{i:03}.png")
    return folder


def lab_command():
    """The words that `make lab` runs, JupyterLab's own program from this environment."""
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    recipe = lines[next(i for i, line in enumerate(lines) if line.startswith("lab:")) + 1]
    program, *words = shlex.split(recipe.strip().lstrip("@"))
    assert program == "$(BIN)/jupyter" and words[0] == "lab", recipe
    return [sys.executable, "-m", "jupyterlab", *words[1:]]


@pytest.fixture(scope="module")
def lab(workbook, tmp_path_factory):
    """The running server as its own runtime file tells: port, token, pid, url."""
    home = tmp_path_factory.mktemp("jupyter")
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")  # nothing of the user's own settings
    environment = dict(os.environ) | {f"JUPYTER_{name}": str(home / name) for name in folders}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "SIAMESE_DATASET": str(workbook / "small"), "SIAMESE_EPOCHS": "6", "SIAMESE_SIZE": "64",
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
    contents = lab["url"] + "api/contents/01_data_exploration.ipynb"
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
    browser.open(f"{lab['url']}lab/tree/{name}?reset&token={lab['token']}")
    browser.wait("document.querySelector('.jp-Notebook .jp-Cell') !== null", 60)
    # Run before the notebook has its kernel would ask for one
    session = (
        f"fetch('/api/sessions').then(r => r.json()).then(s => s.find(s => s.path == '{name}'))"
    )
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


# looks at each frame that the browser draws: how many pictures the watched cell shows, how high
WATCH = """
window.frames_ = []; window.pictures = [];
const before = watched.querySelector('.jp-OutputArea-output img')?.src;
(function look() {
    const images = [...watched.querySelectorAll('.jp-OutputArea-output img')];
    const source = images[0]?.src;
    if (source && source !== before && source !== pictures.at(-1)) pictures.push(source);
    if (pictures.length) frames_.push([images.length, images[0]?.clientHeight ?? 0]);
    requestAnimationFrame(look);
})()
"""
PROMPT = "watched.querySelector('.jp-InputPrompt').textContent"
RUNNING = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent == '[*]:')"


def test_live_plot_changes_in_place_while_the_training_cell_runs(browser, lab):
    open_notebook(browser, lab, "04_training.ipynb")
    browser.click(".lm-MenuBar-itemLabel", "Run")
    browser.click(".lm-Menu-item", "Run All Cells")
    scroll_to(browser, "LiveLossPlot(")
    browser.wait(f"{PROMPT} == '[*]:'", 30)
    browser.run(WATCH)
    browser.wait(f"pictures.length >= 3 || {PROMPT} != '[*]:'", 120)
    assert browser.run(PROMPT) == "[*]:", "three pictures came while it ran"
    scroll_to(browser, "LiveLossPlot(")  # Run had moved on to the last cell
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
    print(f"{browser.run('pictures.length')} pictures, looked at in {len(frames)} frames")


def test_dark_theme_keeps_the_plot_on_its_own_light_ground(browser, lab):
    """After the test above, in the same page."""
    browser.click(".lm-MenuBar-itemLabel", "Settings")
    browser.click(".lm-Menu-item", "Theme")
    browser.click(".lm-Menu-item", "JupyterLab Dark")
    browser.wait("document.body.dataset.jpThemeLight == 'false'", 30)
    scroll_to(browser, "LiveLossPlot(")
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
    nbformat.write(notebook, workbook / "notebooks/map.ipynb")
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


# each output and text of the notebook, scrolled to: how many there are, which are too wide
MEASURE = """(async () => {
    let seen = 0;
    const wide = [];
    for (const cell of document.querySelectorAll('.jp-Notebook .jp-Cell')) {
        cell.scrollIntoView();
        await new Promise(requestAnimationFrame);
        for (const e of cell.querySelectorAll('.jp-OutputArea-output, .jp-MarkdownOutput')) {
            if (e.clientWidth) seen += 1;
            if (e.scrollWidth > e.clientWidth + 1) wide.push(e.textContent.slice(0, 200));
        }
    }
    return [seen, wide];
})()"""


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "notebooks").glob("0*.ipynb")))
def test_nothing_is_wider_than_its_column_at_1280_pixels(browser, lab, name):
    source = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    pictures = sum("image/png" in str(cell.get("outputs")) for cell in source.cells)
    texts = sum(cell.cell_type == "markdown" for cell in source.cells)
    browser.open(f"{lab['url']}lab/tree/{name}?reset&token={lab['token']}")
    browser.wait("document.querySelector('.jp-Notebook .jp-Cell')?.clientWidth > 0", 60)
    # Lab lays a long notebook out bit by bit
    chromium.until(lambda: browser.run(MEASURE)[0] >= pictures + texts, 60, "the whole notebook")
    assert browser.run(MEASURE)[1] == []
    browser.run("document.querySelector('.jp-Notebook .jp-Cell').scrollIntoView()")
    shot(browser, name.removesuffix(".ipynb"))
