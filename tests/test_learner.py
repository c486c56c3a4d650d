"""Teaching: learner's copies, checking cells, and links that lead both ways."""

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from workbook import ROOT, exercises, learner

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MODULES = [ROOT / "siamese_utils.py", *sorted((ROOT / "workbook").glob("*.py"))]


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


def test_the_notebooks_themselves_are_not_touched(tmp_path):
    before = {path: path.read_bytes() for path in NOTEBOOKS}
    learner.write_copies(tmp_path)
    assert {path: path.read_bytes() for path in NOTEBOOKS} == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_each_exercise_has_a_blank_a_hidden_solution_and_a_check_that_passed(path):
    blanks, solutions, checks = (cells(path, tag) for tag in ("exercise", "solution", "check"))
    assert 2 <= len(blanks) == len(solutions) == len(checks) <= 3
    for blank, solution, check in zip(blanks, solutions, checks):
        name, _, value = blank.source.partition(" = ")
        assert value.startswith("..."), "the blank is not filled in"
        assert re.search(rf"^{name} = ", solution.source, re.MULTILINE)
        assert solution.metadata["jupyter"]["source_hidden"] and not solution.outputs
        assert re.search(rf"exercises\.check\(\s*{name},", check.source)
        assert check.outputs[0].text.endswith("Right.\n")
    assert cells(path, "prediction"), "a question before an answer"


# ------------------------------------------------------------------------- the checking function


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (3, 3, True),
        (3, 4, False),
        (0.1 + 0.2, 0.3, True),
        ([1, 2], (1, 2), True),
        ([1, 2], 1, False),
        ("hard", "hard", True),
        ("easy", "hard", False),
        (4, lambda answer: answer % 2 == 0, True),
        (5, lambda answer: answer % 2 == 0, False),
    ],
)
def test_check_tells_right_from_wrong(capsys, answer, expected, right):
    exercises.check(answer, expected, "Try this.")
    assert capsys.readouterr().out == ("Right.\n" if right else "Not yet. Try this.\n")


def test_an_unanswered_exercise_is_said_to_be_so_and_does_not_raise(capsys):
    exercises.check(..., lambda answer: answer.missing, "x")
    assert "Not answered yet" in capsys.readouterr().out


def test_reveal_shows_the_guess_or_that_none_was_made(capsys):
    exercises.reveal(..., 1234567)
    exercises.reveal(0.25, 0.5)
    lines = ["it is 1,234,567; your guess: none", "it is 0.500; your guess: 0.25"]
    assert capsys.readouterr().out.splitlines() == lines


# ------------------------------------------------------------------------------- links both ways


def plain(text):
    """A heading as a docstring writes it."""
    return re.sub(r"^[#\d.\s]+", "", text).replace("`", "").replace("×", "x").strip()


def sections(path):
    """{heading: all text of its section}; a paragraph that begins in bold counts as a heading."""
    found, name = {}, None
    for cell in cells(path):
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
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


def slug(heading):
    return heading.lstrip("# ").replace("`", "").replace(" ", "-")


PAGES = [*sorted((ROOT / "docs").glob("*.md")), *NOTEBOOKS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_notebooks_and_modules_lead_somewhere(page):
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(c.source for c in cells(page) if c.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve()
        assert target.is_file(), link
        if anchor:
            lines = [c.source.splitlines() for c in cells(target) if c.cell_type == "markdown"]
            assert anchor in {slug(s) for part in lines for s in part if s[:1] == "#"}, link


def test_images_in_pages_carry_a_text():
    for page in [ROOT / "README.md", *Path(ROOT, "docs").glob("*.md")]:
        for text, _ in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text("utf-8")):
            assert len(text) > 10, f"{page.name}: an image without alternative text"
