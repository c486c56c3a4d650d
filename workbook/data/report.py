"""Problems and warnings of a dataset: one entry per file, and the CSV file that lists them."""

import csv
import os

from workbook.support.atomic_files import temporary_build_folder
from workbook.support.text import printable


def report_entry(path, reason, remedy):
    """A line of a report: a problem or a warning."""
    return {"path": printable(path), "reason": printable(reason), "remedy": printable(remedy)}


def explain_os_error(path, error):
    """(reason, remedy) for an OSError."""
    if isinstance(error, PermissionError):
        return "no permission to read it", "give yourself the right to read it (chmod u+r)"
    if isinstance(error, FileNotFoundError):
        reason = "a link to nothing" if os.path.islink(path) else "no such file"
        return reason, "restore the file or delete the link"
    return error.strerror or str(error), "restore it, save it anew, or delete it"


def _write_report(path, problems, notes):
    with temporary_build_folder(path) as work:
        with open(work / "new", "w", encoding="utf-8", newline="") as file:
            columns = ("kind", "path", "reason", "remedy")
            table = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
            table.writeheader()
            table.writerows({"kind": "problem"} | row for row in problems)
            table.writerows({"kind": "warning"} | row for row in notes)
        os.replace(work / "new", path)
