"""Every command that the README and docs/ tell a reader to type is understood as it stands.

test_own_images.py and test_run.py check that the most important ones also give the right answers.
"""

import functools
import re
import shlex
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from workbook import ROOT
from workbook.__main__ import build_parser
from workbook.settings import VARIABLES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(make|python -m workbook|\.venv\S+) ")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def list_commands(page):
    """Return the lines of blocks without a language, and the commands in single backticks."""
    text = page.read_text("utf-8")
    lines = [line for kind, block in BLOCK.findall(text) if not kind for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return lines + [piece for piece in inline if COMMAND.match(piece)]


@functools.cache  # several pages tell to type the same
def check_command(command):
    """Assert that `command` names a make target, a command line or a file that exists."""
    words = shlex.split(command.replace("\\", "/"), comments=True)
    if words[0] == "make":
        if shutil.which("make") is None:
            pytest.skip("no make here")
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            if "-m workbook" in line:
                check_command(line.lstrip("@"))
    elif words[1:3] == ["-m", "workbook"]:
        if words[3:] == ["--help"]:
            return
        options = build_parser().parse_args(words[3:])
        for word in getattr(options, "words", ()):
            name, equals, _ = word.partition("=")
            assert f"SIAMESE_{name}" in VARIABLES if equals else word.isdecimal(), word
    else:
        files = [word for word in words[1:] if word.endswith((".txt", ".ipynb", ".py"))]
        files += [f"{w.replace('.', '/')}.py" for w in words[2:3] if w.startswith("tools.")]
        assert words[1:3] in (["-m", "venv"], ["-m", "pytest"], ["-m", "pip"]) or files, command
        assert all((ROOT / file).is_file() for file in files), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_tells_to_type_is_understood(page):
    for command in dict.fromkeys(list_commands(page)):
        try:
            check_command(command)
        except SystemExit:  # of the parser, which has printed why
            raise AssertionError(f"not understood: {command}") from None


def test_commands_are_found_and_a_wrong_one_is_noticed():
    assert {"make run", "make test"} <= {
        c.partition(" #")[0].strip() for c in list_commands(PAGES[0])
    }
    for wrong in ("make rum", "python -m workbook run COLOUR=red", "python -m workbook walk"):
        with pytest.raises((AssertionError, SystemExit)):
            check_command(wrong)


def read_requirements(file):
    lines = (
        line.partition("#")[0].strip() for line in (ROOT / file).read_text("utf-8").splitlines()
    )
    return {r.name: r.specifier for r in map(Requirement, filter(None, lines))}


def test_constraints_name_one_version_of_each_requirement_that_fits_it():
    exact, required = (read_requirements(f) for f in ("constraints.txt", "requirements.txt"))
    assert not set(required) - set(exact)
    for name, specifier in exact.items():
        [pin] = specifier
        assert pin.operator == "==" and required.get(name, specifier).contains(pin.version), name


def test_the_list_of_quick_tests_names_what_there_is():
    paths = (ROOT / "tests/quick.txt").read_text("utf-8").split()
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
