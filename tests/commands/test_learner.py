"""Teaching: learner's copies, what a learner is shown, and links that lead both ways."""

import ast
import logging
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from workbook import ROOT
from workbook.commands import learner
from workbook.display import session
from workbook.support.tensorflow_start import tf

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MODULES = [ROOT / "siamese_utils.py", *sorted((ROOT / "workbook").rglob("*.py"))]


def cells(path, tag=None):
    found = nbformat.read(path, as_version=4).cells
    return [c for c in found if tag is None or tag in c.metadata.get("tags", [])]


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
        (about,) = [c.source for c in copy.cells if c.source.startswith("## Exercises")]
        assert "checking cell" in about and "solution" not in about


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Type. Under each is the solution; `make` has none. ([x](y.py))", "Type. ([x](y.py))"),
        ("Type, then check. The solutions are below. Good luck.", "Type, then check. Good luck."),
        ("Type, then check.", "Type, then check."),
    ],
)
def test_a_copy_says_nothing_of_solutions(text, kept):
    cells = [nbformat.v4.new_markdown_cell(f"## {name}\n{text}") for name in ("Exercises", "Other")]
    copy = learner.learner_copy(nbformat.v4.new_notebook(cells=cells))
    assert [cell.source for cell in copy.cells] == [f"## Exercises\n{kept}", f"## Other\n{text}"]


def test_the_copies_do_not_take_the_place_of_the_notebooks():
    with pytest.raises(ValueError, match="the notebooks themselves"):
        learner.write_copies(ROOT / "lab" / ".." / "notebooks")


def test_the_notebooks_themselves_are_not_touched(tmp_path):
    before = {path: path.read_bytes() for path in NOTEBOOKS}
    learner.write_copies(tmp_path)
    assert {path: path.read_bytes() for path in NOTEBOOKS} == before


# ------------------------------------------------------------------------ what a learner is shown


def test_question_marks_print_plain_text_that_is_the_same_elsewhere(capsys):
    signature = "\x1b[31mSignature:\x1b[39m f(x, g=<function a.g at 0x7f02>)"
    colored = f"{signature}\n\x1b[1;34mDocstring:\x1b[0m y\nFile: /home/me/f.py"
    session.show_in_place(None, {"text/plain": colored})
    assert capsys.readouterr().out.splitlines() == ["Signature: f(x, g=a.g)", "Docstring: y", ""]


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


def sections(path):
    """{heading: all text of its section}; a paragraph that begins in bold counts as a heading."""
    found, name = {}, None
    for cell in cells(path):
        if cell.cell_type == "markdown":
            for line in prose(cell):
                bold = re.match(r"\*\*([\w ]+)\*\*", line)
                if line.startswith("#") or bold:
                    name = plain(bold[1] if bold else line)
                found[name] = found.get(name, "") + line + "\n"
        else:
            found[name] += cell.source + "\n"
    return found


def promises():
    """(module, function, notebook's number, section or None) of every docstring that names one."""
    for module in MODULES:
        tree = ast.parse(module.read_text("utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            text = " ".join((ast.get_docstring(node) or "").split())
            for _, numbers, rest in re.findall(
                r"(Explained in notebooks?) (\d\d(?: and \d\d)?)((?:,? (?:and )?\"[^\"]+\")*)", text
            ):
                names = re.findall('"([^"]+)"', rest) or [None]
                for number in re.findall(r"\d\d", numbers):
                    yield from ((module.stem, node.name, number, name) for name in names)


PROMISES = list(promises())


def test_docstrings_name_notebook_sections():
    assert len(PROMISES) > 15, "otherwise the pattern above finds nothing"


@pytest.mark.parametrize(("module", "function", "number", "section"), PROMISES)
def test_the_named_section_exists_and_leads_back(module, function, number, section):
    path = next(path for path in NOTEBOOKS if path.name.startswith(number))
    found = sections(path)
    if section is None:
        text = "\n".join(found.values())
    else:
        assert plain(section) in found, f"{path.name} has no section {section!r}"
        text = found[plain(section)]
    assert re.search(rf"\b{function}\b", text), f"{section} does not mention {function}"


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
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = unquote(link).partition("#")
        if "://" not in link:
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_images_in_pages_carry_a_text():
    for page in [ROOT / "README.md", *Path(ROOT, "docs").glob("*.md")]:
        for text, _ in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text("utf-8")):
            assert len(text) > 10, f"{page.name}: an image without alternative text"
