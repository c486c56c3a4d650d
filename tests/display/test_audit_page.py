"""The page of an audit: what it shows, and that names of any characters are only names."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from workbook.data.images import ImageDataset
from workbook.data.report import report_entry
from workbook.display.audit_page import MOST_IN_ROW, SIDE, write_audit_page
from workbook.evaluation.audit import Audit, DoubtfulLabel, DuplicateGroup

BAD = "<img src=x onerror='alert(1)'> & {{body}} \0" + "3\0 $x$ \n.jpg"


@pytest.fixture
def data():
    """Thirty images, each of one colour of its own; a class and a file have odd names."""
    images = np.zeros((30, 16, 16, 3), np.uint8)
    images[..., 0] = np.arange(30)[:, None, None] * 8
    labels = np.repeat([0, 1, 2], 10).astype(np.int32)
    paths = [f"c/{i:02}.jpg" for i in range(29)] + [BAD]
    problem = report_entry("c/broken <i>.jpg", "no image", "delete it")
    return ImageDataset(
        f"name {BAD}", images, labels, ["cat", "dog", f"owl {BAD}"], paths,
        np.array(["train"] * 29 + ["test"]), problems=[problem],
    )  # fmt: skip


def shown(path):
    """Each figure of the page as (its path, the image that its thumbnail shows)."""
    text = path.read_text("utf-8")
    sheet = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])))
    pattern = r'aria-label="([^"]*)" style="background-position: (-?\d+)px (-?\d+)px"'
    places = [(name, -int(x) + 8, -int(y) + 8) for name, x, y in re.findall(pattern, text)]
    return [(name, round(sheet.getpixel((x, y))[0] / 8)) for name, x, y in places]


def test_each_thumbnail_is_of_the_image_that_its_caption_names(tmp_path, data):
    audit = Audit(
        [DuplicateGroup(np.array([4, 11]), "across classes"),
         DuplicateGroup(np.array([5, 6, 7]), "within a class")],
        [DoubtfulLabel(21, 0, 0.8, np.array([1, 2, 4, 3, 8, 9]))],
        {1: 10},
    )  # fmt: skip
    path = write_audit_page(tmp_path / "page.html", audit, data)
    figures = shown(path)
    assert [name for name, _ in figures[:6]] == [f"c/{i:02}.jpg" for i in (4, 11, 5, 6, 7, 21)]
    assert [name for name, _ in figures[6:11]] == [f"c/{i:02}.jpg" for i in (1, 2, 4, 3, 8)]
    assert len(figures) == 11 + MOST_IN_ROW
    assert all(name == f"c/{color:02}.jpg" for name, color in figures)
    text = path.read_text("utf-8")
    assert "80% of its neighbours: cat" in text and "and 2 more" in text
    for title in ("across classes: 1", "across splits: none", "within a class: 1", "left out: 1"):
        assert title in text


def test_names_of_any_characters_are_only_names(tmp_path, data):
    audit = Audit([DuplicateGroup(np.array([28, 29]), "across splits")], [], {2: 1})
    path = write_audit_page(tmp_path / "page.html", audit, data)
    text = path.read_text("utf-8")
    assert "<img" not in text and "<i>" not in text and "\0" not in text
    assert text.count("&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt; &amp; {{body}}") >= 3
    assert shown(path)[1][1] == 29
    assert not re.search(r"(src|href)=[^x]|https?:", text), "nothing is fetched"
    assert len(re.findall(r"<script|<link", text)) == 0


def test_a_page_without_findings_and_one_with_too_many(tmp_path, data):
    path = write_audit_page(tmp_path / "page.html", Audit([], [], {}), data)
    assert path.read_text("utf-8").count(": none</h2>") == 5
    many = [DuplicateGroup(np.array([1, 2]), "within a class")] * 250
    text = write_audit_page(path, Audit(many, [], {}), data).read_text("utf-8")
    assert "within a class: 250" in text and "The first 200 are shown." in text
    assert text.count("<figure") == 400 and f"{SIDE}px" in text
