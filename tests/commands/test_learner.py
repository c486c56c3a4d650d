"""The learner's copies, what a learner is shown, and the links between pages and notebooks."""

import ast
import logging
import re
from urllib.parse import unquote

import nbformat
import pytest

from workbook import ROOT
from workbook.commands import learner
from workbook.commands.notebook_files import list_notebooks
from workbook.support.tensorflow_start import tf

NOTEBOOKS = list_notebooks()
MODULES = [ROOT / "siamese_utils.py", *sorted((ROOT / "workbook").rglob("*.py"))]


def cells(path):
    return nbformat.read(path, as_version=4).cells


# ------------------------------------------------------------------------ the learner's copies


def test_learner_copies_hold_everything_but_solutions_and_outputs(tmp_path):
    learner.write_copies(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [p.name for p in NOTEBOOKS]
    for path in NOTEBOOKS:
        copy = nbformat.read(tmp_path / path.name, as_version=4)
        nbformat.validate(copy)
        kept = [c.id for c in cells(path) if "solution" not in c.metadata.get("tags", [])]
        assert [cell.id for cell in copy.cells] == kept
        code = [cell for cell in copy.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert not any("<summary>Solution" in cell.source for cell in copy.cells)


def test_a_copy_lacks_what_is_tagged_solution_and_the_badge_and_nothing_else():
    badge = "[![Open in Colab](x.svg)](https://x.y)\n\n"
    output = nbformat.v4.new_output("stream", text="42")
    cells = [
        nbformat.v4.new_markdown_cell(f"# 1 Title\n\n{badge}The solution of a puzzle."),
        nbformat.v4.new_code_cell("6 * 7", outputs=[output], execution_count=3),
        nbformat.v4.new_markdown_cell("It is 42.", metadata={"tags": ["solution"]}),
        nbformat.v4.new_code_cell("42", metadata={"tags": ["solution", "check"]}),
    ]
    copy = learner.make_learner_copy(nbformat.v4.new_notebook(cells=cells))
    nbformat.validate(copy)
    assert [c.source for c in copy.cells] == ["# 1 Title\n\nThe solution of a puzzle.", "6 * 7"]
    assert copy.cells[1].outputs == [] and copy.cells[1].execution_count is None


def test_the_copies_do_not_take_the_place_of_the_notebooks():
    with pytest.raises(ValueError, match="the notebooks themselves"):
        learner.write_copies(ROOT / "lab" / ".." / "notebooks")


def test_the_notebooks_themselves_are_not_touched(tmp_path):
    before = {path: path.read_bytes() for path in NOTEBOOKS}
    learner.write_copies(tmp_path)
    assert {path: path.read_bytes() for path in NOTEBOOKS} == before


# ------------------------------------------------------------------------ what a learner is shown


def test_tensorflow_warns_but_not_of_retracing():
    logger, received = tf.get_logger(), []
    handler = logging.Handler()
    handler.emit = lambda record: received.append(record.getMessage())
    logger.addHandler(handler)
    try:
        logger.warning("5 out of the last 11 calls to %s triggered tf.function retracing.", "f")
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert received == ["something else"]


# ------------------------------------------------------------------------------- links both ways


def plain(text):
    """A heading as a docstring writes it."""
    return re.sub(r"^[#\d.\s]+", "", text).replace("`", "").replace("×", "x").strip()


def prose(cell):
    """The lines of a Markdown cell without its code, whose comments look like headings."""
    return re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL).splitlines()


def list_headings(path):
    """The headings of a notebook; a paragraph that begins in bold has one, too."""
    lines = [line for c in cells(path) if c.cell_type == "markdown" for line in prose(c)]
    matches = [re.match(r"#+ (.+)|\*\*([\w ]+)\*\*", line) for line in lines]
    return {plain(match[1] or match[2]) for match in matches if match}


def list_references():
    """(module, notebook's number, section or None) of every module that names a notebook."""
    for module in MODULES:
        text = " ".join((ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").split())
        for numbers, section in re.findall(
            r"[Nn]otebooks? (\d\d?(?:(?:, | and )\d\d?)*)(?:, \"([^\"]+)\")?", text
        ):
            for number in re.findall(r"\d+", numbers):
                yield module.stem, int(number), section or None


REFERENCES = list(list_references())


def test_modules_name_notebooks():
    assert REFERENCES, "otherwise the pattern above finds nothing"


@pytest.mark.parametrize(("module", "number", "section"), REFERENCES)
def test_the_notebook_and_section_that_a_module_names_exist(module, number, section):
    notebooks = {int(path.name[:2]): path for path in NOTEBOOKS}
    assert number in notebooks, f"there is no notebook {number}"
    if section:
        assert plain(section) in list_headings(notebooks[number]), f"no section {section!r}"


def anchors(path):
    """What may stand behind `#` in a link to a page (as GitHub makes it) or notebook (Jupyter)."""
    if path.suffix == ".ipynb":
        lines = [line for c in cells(path) if c.cell_type == "markdown" for line in prose(c)]
        headings = [line for line in lines if line.startswith("#")]
        return {line.lstrip("# ").replace("`", "").replace(" ", "-") for line in headings}
    headings = re.findall("^#+ (.+)", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *NOTEBOOKS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_notebooks_and_modules_lead_somewhere(page):
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(c.source for c in cells(page) if c.cell_type == "markdown")
        assert "](../" in text or ".ipynb)" in text, "otherwise the pattern below finds nothing"
    wrong = [
        link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not leads_somewhere(page, link)
    ]
    assert wrong == []


def leads_somewhere(page, link):
    """Whether a link on a page is an address, or names a file and, behind `#`, a heading in it.

    The website has no page for a folder, so a link has to name a file.
    """
    file, _, anchor = unquote(link).partition("#")
    target = (page.parent / file).resolve() if file else page
    return "://" in link or (target.is_file() and (not anchor or anchor in anchors(target)))


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://example.org", True),
        ("page.md", True),
        ("#a-title-with-code", True),
        ("none.md", False),
        ("#no-such-heading", False),
        ("../folder", False),
    ],
)
def test_a_link_to_a_missing_file_or_heading_or_to_a_folder_is_noticed(tmp_path, link, expected):
    page = tmp_path / "folder" / "page.md"
    page.parent.mkdir()
    page.write_text("# A title, with `code`\n", "utf-8")
    assert leads_somewhere(page, link) == expected


@pytest.mark.parametrize("page", [p for p in PAGES if p.suffix == ".md"], ids=lambda p: p.name)
def test_images_in_pages_carry_a_text(page):
    short = [
        image
        for image in re.findall(r"!\[.*?\]\(.*?\)", page.read_text("utf-8"))
        if len(image[2:].partition("]")[0]) <= 10
    ]
    assert short == [], "images without an alternative text"
