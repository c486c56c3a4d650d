"""The website: how its sources are laid, and the built pages, as files and in a real browser.

The built pages are tested where `make site` has made .venv-site; this environment has no Sphinx.
"""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chromium
import nbformat
import pytest

from workbook import ROOT
from workbook.commands import site
from workbook.commands.notebook_files import list_notebooks

PYTHON = ROOT / ".venv-site" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOTEBOOKS = list_notebooks()


def markdown(path):
    """The text of a notebook's Markdown cells."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def load_docstrings():
    """The module docs/site/docstrings.py, which is no part of the package."""
    path = ROOT / "docs/site/docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------- the sources


@pytest.mark.parametrize(
    ("link", "folder", "expected"),
    [
        ("https://arxiv.org/abs/1503.03832", "notebooks", "https://arxiv.org/abs/1503.03832"),
        ("#results", "", "#results"),
        ("02_triplet_sampling.ipynb", "notebooks", "/notebooks/02_triplet_sampling.ipynb"),
        ("../siamese_utils.py", "notebooks", "/api/siamese_utils/index.rst"),
        ("../workbook/data/images.py", "notebooks", "/api/workbook/data/images/index.rst"),
        ("workbook/data/__init__.py", "", "/api/workbook/data/index.rst"),
        ("../README.md#i-want-to-teach-it", "docs", "/index.md#i-want-to-teach-it"),
        ("../results/a.csv", "notebooks", "/results/a.csv"),
        (
            "../notebooks/01_a.ipynb#1.5-A-trap:-images-in-%5B0,-1%5D",
            "docs",
            "/notebooks/01_a.ipynb#15-a-trap-images-in-0-1",
        ),
    ],
)
def test_links_lead_to_pages_of_the_website(link, folder, expected):
    assert site.adapt_link(link, folder) == expected


def test_the_badge_of_colab_becomes_a_link_without_an_image():
    badge = "[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/a/b.ipynb)"
    text = f"# 1 Title\n\n{badge}\n\nText"
    expected = "# 1 Title\n\n[Open in Colab](https://colab.example/a/b.ipynb)\n\nText"
    assert site.adapt_text(text, "notebooks") == expected


def test_the_sources_hold_every_notebook_with_its_outputs_and_without_the_colab_cell(tmp_path):
    source = tmp_path / "source"
    (source / "old").mkdir(parents=True)
    site.lay_sources(source)
    assert not (source / "old").exists()
    contents = (source / "index.md").read_text("utf-8")
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}\n" in contents
        before = nbformat.read(path, as_version=4).cells
        after = nbformat.read(source / "notebooks" / path.name, as_version=4).cells
        kept = [cell for cell in before if "colab" not in cell.metadata.get("tags", [])]
        assert [cell.id for cell in after] == [cell.id for cell in kept] and len(kept) < len(before)
        assert [cell.get("outputs") for cell in after] == [cell.get("outputs") for cell in kept]


def test_without_sphinx_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="make site"):
        site.build_site(tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_docstring_keeps_its_words_and_gets_its_structure():
    docstring = """Measure |d(a, n)| and *args of `a|b`.

    make run

Parameters
----------
labels : (n,) whole numbers, and this text goes on for so long that it needs a second line, which
    is indented.
size : int
    The side in pixels.

Returns
-------
(n, 2) int64 : rows of
indices.

Raises
------
ValueError
    If there is none."""
    expected = r"""Measure \|d(a, n)\| and \*args of `a|b`.

::

    make run


.. rubric:: Parameters

**labels**
    (n,) whole numbers, and this text goes on for so long that it needs a second line, which
    is indented.
**size**
    int.
    The side in pixels.


.. rubric:: Returns

**(n, 2) int64**
    rows of
    indices.


.. rubric:: Raises

ValueError
    If there is none."""
    assert load_docstrings().docstring_to_rest(docstring.splitlines()) == expected.splitlines()


# ------------------------------------------------------------------------- the pages, as files


class Page(HTMLParser):
    """What a page links to, what it loads, and which places in it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors, self.tags = [], [], {""}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(values["href"])
        elif values.get("src"):
            self.loaded.append(values["src"])
        for part in (values.get("srcset") or "").split(","):
            self.loaded += part.split()[:1]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built website."""
    if not PYTHON.exists():
        pytest.skip("the website is tested once `make site` has installed Sphinx into .venv-site")
    folder = tmp_path_factory.mktemp("site")
    command = [PYTHON, "-m", "workbook", "site", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


@pytest.fixture(scope="module")
def pages(html):
    """Each page by its path. The theme's templates, in _static/, are no pages."""
    paths = [path for path in sorted(html.rglob("*.html")) if path.parent.name != "_static"]
    assert html / "index.html" in paths
    return {path: Page(path.read_text("utf-8")) for path in paths}


def leads_somewhere(page, link, pages):
    """Whether a link in a page leads to a file of the website and, behind `#`, a place in it."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto"):
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    anchors = pages[target].anchors if target in pages else {""}
    return target.is_file() and unquote(parts.fragment) in anchors


def test_every_link_leads_somewhere(html, pages):
    wrong = {
        (page.name, link)
        for page, content in pages.items()
        for link in content.links + content.loaded
        if not link.startswith("data:") and not leads_somewhere(page, link, pages)
    }
    assert wrong == set()
    index = html / "index.html"
    assert not leads_somewhere(index, "#no-such-heading", pages)
    assert not leads_somewhere(index, "no-such-page.html", pages)


def test_nothing_is_loaded_from_another_host(html, pages):
    elsewhere = {
        (page.name, link)
        for page, content in pages.items()
        for link in content.loaded
        if urlsplit(link).netloc
    }
    for style in html.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import )[\"']?([^\"')\s]+)", style.read_text("utf-8"))
        elsewhere |= {(style.name, url) for url in urls if urlsplit(url).netloc}
    assert elsewhere == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_its_formulas_figures_and_collapsed_answers(html, notebook):
    text = (html / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")
    tags = Page(re.search("<article.*</article>", text, re.DOTALL)[0]).tags
    count = [tag for tag, _ in tags].count
    assert count("math") == len(re.findall(r"\$\$.+?\$\$", markdown(notebook), re.DOTALL))
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    images = [values["src"] for tag, values in tags if tag == "img"]
    assert len(images) == len(figures) + markdown(notebook).count("![")
    collapsed = markdown(notebook).count("<details>")
    assert collapsed and count("details") == collapsed


def test_the_learners_copies_can_be_downloaded(html, pages):
    links = [link for link in pages[html / "learner.html"].links if link.endswith(".ipynb")]
    assert [Path(link).name for link in links] == [path.name for path in NOTEBOOKS]
    for link in links:
        copy = nbformat.read(html / link, as_version=4)
        tags = [tag for cell in copy.cells for tag in cell.metadata.get("tags", [])]
        assert "exercise" in tags and "solution" not in tags


def test_the_method_is_described_from_its_docstrings(html):
    text = (html / "api" / "siamese_utils" / "index.html").read_text("utf-8")
    for name in ("close_distance_triplets", "DistanceLayer", "SiameseModel.train_step"):
        assert f'id="siamese_utils.{name}"' in text
    assert "|d(a, n) - d(a, p)|" in text  # as the docstring has it


# ----------------------------------------------------------------------- the pages, in a browser


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(html):
    """The address of a server on this machine for the website."""
    handler = functools.partial(QuietHandler, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module", params=[1280, 400], ids=["wide", "narrow"])
def browser(request, address):
    if chromium.find() is None:
        pytest.skip("no Chromium or Chrome is installed")
    with chromium.Browser(request.param, 900) as browser:
        yield browser


# what is wrong with a page, as words; empty if nothing is
FAULTS = """(async () => {
    const faults = [], article = document.querySelector('article') ?? document.body;
    for (const summary of article.querySelectorAll('summary')) {
        const details = summary.parentElement, before = details.offsetHeight;
        if (details.open) faults.push('open before: ' + summary.textContent);
        summary.click();
        if (!details.open || details.offsetHeight < before + 10)
            faults.push('stays closed: ' + summary.textContent);
    }
    for (const image of document.images) {
        image.loading = 'eager';
        await image.decode().catch(() => faults.push('not loaded: ' + image.src));
        const drawn = image.naturalWidth && image.offsetHeight;
        if (article.contains(image) && !drawn) faults.push('not drawn: ' + image.src);
    }
    for (const formula of article.querySelectorAll('math')) {
        const box = formula.getBoundingClientRect();
        if (formula.querySelector('merror') || box.height < 10 || box.width < 10)
            faults.push('formula: ' + formula.textContent);
        if (/[\\\\$]/.test(formula.textContent)) faults.push('left over: ' + formula.textContent);
    }
    const text = article.cloneNode(true);
    text.querySelectorAll('pre, code, iframe').forEach(element => element.remove());
    if (/\\$\\$|\\\\[a-z]{3}/.test(text.textContent)) faults.push('a formula is left as text');
    if (document.documentElement.scrollWidth > innerWidth) faults.push('wider than the screen');
    return faults;
})()"""


def test_every_page_is_complete_fits_the_screen_and_asks_no_other_host(
    browser, address, html, pages
):
    faults = {}
    for page in pages:
        name = page.relative_to(html).as_posix()
        if name.startswith("_modules/"):
            continue
        browser.events.clear()
        browser.open(f"{address}/{name}")
        found = browser.run(FAULTS)
        for event in browser.events:
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                if not url.startswith((f"{address}/", "data:", "blob:", "about:")):
                    found.append(f"asks for {url}")
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"].get("exception")))
            elif event["method"] == "Network.responseReceived":
                answer = event["params"]["response"]
                if answer["status"] >= 400 and not answer["url"].endswith("/favicon.ico"):
                    found.append(f"{answer['status']}: {answer['url']}")
        if found:
            faults[name] = found
    assert faults == {}


def test_a_term_is_found_by_the_search(browser, address):
    browser.open(f"{address}/search.html?q=semi-hard")
    browser.wait("document.querySelectorAll('#search-results li a').length > 0", 30)
    links = browser.run("[...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    assert any("02_triplet_sampling" in link for link in links)


def test_a_notebook_leads_to_the_one_before_and_the_one_after(browser, address):
    browser.open(f"{address}/notebooks/02_triplet_sampling.html")
    links = [
        browser.run(f"document.querySelector('.prev-next-area a.{side}').href")
        for side in ("left-prev", "right-next")
    ]
    assert [Path(link).stem for link in links] == ["01_data_exploration", "03_model_construction"]


def test_the_reader_chooses_light_or_dark(browser, address):
    browser.open(f"{address}/notebooks/02_triplet_sampling.html")
    background, shades = "getComputedStyle(document.body).backgroundColor", {}
    for shade in ("light", "dark"):
        browser.click(".theme-switch-button")
        browser.click(".theme-change-button", shade.capitalize())
        shades[shade] = browser.run(background)
        assert browser.run("document.documentElement.dataset.theme") == shade
    assert shades["light"] != shades["dark"]
