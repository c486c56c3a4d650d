"""Which notebooks there are. This module is light: it loads no TensorFlow."""

from pathlib import Path

from workbook import ROOT


def list_notebooks() -> list[Path]:
    """Return every notebook of the workbook, in the order of their two-digit numbers."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
