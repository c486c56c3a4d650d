"""Problems and warnings of a dataset: one entry per file, and the CSV file that lists them."""

import csv
import os
from pathlib import Path

from workbook.support.atomic_files import temporary_build_folder
from workbook.support.text import printable


def report_entry(path: str | os.PathLike, reason: str, remedy: str) -> dict[str, str]:
    """Return a line of a report, a problem or a warning, as {"path", "reason", "remedy"}."""
    return {"path": printable(path), "reason": printable(reason), "remedy": printable(remedy)}


def explain_os_error(path: str | os.PathLike, error: OSError) -> tuple[str, str]:
    """Return (reason, remedy) for a file or folder that the system could not read."""
    if isinstance(error, PermissionError):
        return "no permission to read it", "give yourself the right to read it (chmod u+r)"
    if isinstance(error, FileNotFoundError):
        reason = "a link to nothing" if os.path.islink(path) else "no such file"
        return reason, "restore the file or delete the link"
    return error.strerror or str(error), "restore it, save it anew, or delete it"


def write_report(path: Path, problems: list[dict], warnings: list[dict]) -> None:
    """Write problems and warnings to a CSV file with the columns kind, path, reason, remedy."""
    with temporary_build_folder(path) as work:
        with open(work / "new", "w", encoding="utf-8", newline="") as file:
            columns = ("kind", "path", "reason", "remedy")
            table = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
            table.writeheader()
            table.writerows({"kind": "problem"} | row for row in problems)
            table.writerows({"kind": "warning"} | row for row in warnings)
        os.replace(work / "new", path)
