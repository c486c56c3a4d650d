"""Turn the workbook's docstrings, as text for people, into what Sphinx reads.

Sections of NumPy style become lists of terms with their explanations. Most docstrings differ from
full NumPy style, which Sphinx's own extension expects: the explanation follows `name :` in the same
line and may go on in the next ones, because types are in the signature.
"""

import re


def docstring_to_rest(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    rest: list[str] = []
    before, in_item, in_code = "", False, False
    for line, after in zip(lines, [*lines[1:], ""]):
        indented, blank = line.startswith("    "), not line.strip()
        in_code = (in_code or (not before.strip() and not in_item)) and (indented or blank)
        in_item = in_item and (not blank or after.startswith("    "))
        item = re.fullmatch(r"(\S.*?) : (.+)", line)
        if is_rule(after) and not blank:
            rest += ["", f".. rubric:: {line}", ""]
        elif is_rule(line):
            pass
        elif in_code and not blank:
            if not before.strip():
                rest += ["::", ""]
            rest.append(line)
        elif item:
            # full NumPy style: a short type alone in the line, the explanation below it
            is_type = after.startswith("    ") and len(line) < 60 and item[2][-1].isalnum()
            rest += [f"**{escape(item[1])}**", f"    {escape(item[2])}{'.' * is_type}"]
            in_item = True
        else:
            rest.append("    " * (in_item and not indented) + escape(line))
        before = line if not is_rule(line) else ""
    return rest


def is_rule(line: str) -> bool:
    """Whether a line underlines the name of a section."""
    return re.fullmatch(r"-{3,}", line.strip()) is not None


def escape(text: str) -> str:
    """Keep `|`, `*` and a final `_`, which mean something to Sphinx, outside of backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([|*]|_\b)", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
