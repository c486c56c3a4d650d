"""The interactive page: what it holds, its size, and its use with mouse and keys in Chromium."""

import json
import re

import chromium
import numpy as np
import pytest

from workbook.data import toys
from workbook.display import embedding_page
from workbook.display.projections import tsne_map

NAMES = ["red </script> fish", "tea & cup", "key <img src=x onerror='window.ran=1'> {{data}}"]
TITLE = "A <map> of {{data}}<img src=x onerror='window.ran=1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """30 images of 3 classes around 3 corners, and the page of them."""
    images, labels, _ = toys.render_toys([10, 10, 10], 32, 1)
    embeddings = np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.05, (30, 3))
    points = embeddings[:, :2]
    path = tmp_path_factory.mktemp("page") / "map of it.html"
    embedding_page.write_page(path, embeddings, images, labels, NAMES, TITLE, points, k=5)
    return path, embeddings.astype(np.float32), labels


def data_of(path):
    text = path.read_text("utf-8")
    return json.loads(re.search(r'application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_page_holds_the_neighbors_that_numpy_finds(page):
    path, embeddings, labels = page
    data = data_of(path)
    distances = ((embeddings[:, None] - embeddings) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, 1)[:, :5]
    assert (np.array(data["neighbors"]) == expected).all()
    np.testing.assert_allclose(
        data["distances"], np.take_along_axis(distances, expected, 1), atol=6e-4
    )
    assert data["labels"] == labels.tolist() and data["names"] == NAMES
    assert np.array(data["points"]).min() == 0 and np.array(data["points"]).max() == 1


def test_a_thousand_images_stay_under_ten_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    images = np.concatenate([toys.render_toys([50] * 2, 64, seed)[0] for seed in range(2)])
    noise = rng.integers(-20, 20, (1000, 64, 64, 3))  # noise does not compress: a hard case
    images = np.clip(images[rng.integers(len(images), size=1000)] + noise, 0, 255)
    labels = np.arange(1000) % 40
    path = embedding_page.write_page(
        tmp_path / "page.html", rng.normal(size=(1000, 256)), images, labels,
        [f"class {i}" for i in range(40)], points=rng.normal(size=(1000, 2)),
    )  # fmt: skip
    megabytes = path.stat().st_size / 1e6
    print(f"page of 1,000 images: {megabytes:.1f} MB")
    assert megabytes < 10


def test_points_are_tsne_by_default_and_the_same_for_the_same_seed(page, tmp_path):
    _, embeddings, labels = page
    images = np.zeros((30, 8, 8, 3), np.uint8)
    paths = [tmp_path / f"{i}.html" for i in range(2)]
    for path in paths:
        embedding_page.write_page(path, embeddings, images, labels, NAMES)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    points = tsne_map(embeddings).points
    points = (points - points.min(0)) / np.ptp(points, axis=0)
    np.testing.assert_allclose(data_of(paths[0])["points"], points, atol=1e-4)


def test_a_collapsed_embedding_has_a_page_that_says_so(tmp_path):
    images, labels = np.zeros((200, 8, 8, 3), np.uint8), np.arange(200) % 3
    path = embedding_page.write_page(tmp_path / "x.html", np.ones((200, 4)), images, labels, NAMES)
    title = "Embedding (collapsed: all 200 embeddings are equal to within rounding.)"
    assert f"<title>{title}</title>" in path.read_text("utf-8")
    assert np.unique(data_of(path)["points"], axis=0).tolist() == [[0, 0]]
    assert not np.any(data_of(path)["distances"])


@pytest.mark.parametrize(("images", "labels"), [(2, 30), (30, 29)])
def test_lengths_that_differ_are_an_error_with_the_lengths(page, tmp_path, images, labels):
    embeddings = page[1]
    shown = np.zeros((images, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=f"{images}.*{labels}"):
        embedding_page.write_page(
            tmp_path / "x.html", embeddings, shown, np.zeros(labels, int), NAMES
        )
    assert not (tmp_path / "x.html").exists()


def test_notebook_shows_the_page_in_a_frame_of_its_own(page):
    shown = embedding_page.show_page(page[0]).data
    assert "srcdoc" in shown and "<script" not in shown, "the page is escaped inside the frame"


@pytest.fixture(scope="module")
def chrome():
    if chromium.find() is None:
        pytest.skip("no Chromium or Chrome is installed")
    with chromium.Browser(1280, 800) as browser:
        yield browser


@pytest.fixture
def browser(chrome, page):
    """The browser with the page just opened, as nobody has touched it."""
    chrome.open(page[0].as_uri())
    chrome.mouse("mouseMoved", 1270, 790)
    return chrome


def test_page_needs_no_address_but_its_own(browser):
    asked = [e["params"]["request"]["url"] for e in browser.events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert not [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    assert browser.run("document.title") == TITLE
    assert browser.run("document.querySelectorAll('.dot').length") == 30
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "no overflow"


def test_markup_in_a_title_or_a_class_is_shown_and_not_run(browser, page):
    i = int((page[2] == 2).argmax())
    browser.click(f".dot[aria-label^='image {i},']")
    for place in ("head", "list"):
        assert NAMES[2] in browser.run(f"{place}.textContent")
    assert browser.run("document.querySelector('h1').textContent") == TITLE
    assert browser.run("document.querySelectorAll('img').length + (window.ran ?? 0)") == 0


def test_pointing_at_a_dot_shows_its_image(browser):
    assert browser.run("preview.style.display") != "block"
    browser.hover(".dot[aria-label='image 17, tea & cup']")
    browser.wait("preview.style.display == 'block'", 10)
    assert browser.run("preview.textContent") == "tea & cup"
    assert browser.run("preview.querySelector('[role=img]').ariaLabel") == "image 17, tea & cup"
    position = browser.run("getComputedStyle(preview.firstChild).backgroundPosition")
    columns = int(np.ceil(np.sqrt(30)))
    assert position == f"-{17 % columns * 64}px -{17 // columns * 64}px"
    browser.mouse("mouseMoved", 1270, 790)
    browser.wait("preview.style.display == 'none'", 10)


def test_clicking_a_dot_lists_its_neighbors_with_distances(browser, page):
    data = data_of(page[0])
    browser.click(".dot[aria-label^='image 3,']")
    browser.wait("list.children.length == 5", 10)
    lines = browser.run("[...list.children].map(e => e.textContent)")
    for line, j, distance in zip(lines, data["neighbors"][3], data["distances"][3]):
        same = "same class" if data["labels"][j] == data["labels"][3] else "other class"
        assert line == f"{distance:.3f} · {NAMES[data['labels'][j]]} · {same}"
    assert browser.run("map.querySelectorAll('line').length") == 5
    browser.click("#neighbors button")  # a neighbour can be chosen in turn
    assert browser.run("head.textContent").startswith(f"image {data['neighbors'][3][0]},")


def test_filter_leaves_the_dots_of_one_class(browser):
    for value, shown in (("1", 10), ("-1", 30)):
        browser.run(f"filter.value = '{value}'; filter.dispatchEvent(new Event('change'))")
        visible = "[...document.querySelectorAll('.dot')].filter(e => e.checkVisibility()).length"
        assert browser.run(visible) == shown
        assert browser.run("count.textContent") == f"{shown} of 30 images"


def test_keys_alone_reach_a_dot_and_its_neighbors(browser):
    browser.run("filter.focus()")
    browser.press("Escape")
    assert browser.run("list.children.length") == 0
    browser.run("dots[0].focus()")
    x = browser.run("Number(data.points[0][0])")
    browser.press("ArrowRight")
    focused = browser.run("dots.indexOf(document.activeElement)")
    assert focused > 0 and browser.run(f"data.points[{focused}][0]") > x
    assert browser.run("preview.style.display") == "block"
    browser.press("Enter")
    assert browser.run("list.children.length") == 5
    assert browser.run("document.querySelectorAll('.dot[tabindex=\"0\"]').length") == 1
