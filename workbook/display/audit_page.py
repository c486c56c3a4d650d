"""One HTML page that shows what an audit of a dataset found, with thumbnails.

The page is one file without a server, a script or an external address.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from workbook.data.images import ImageDataset
from workbook.display.embedding_page import make_sprite_sheet
from workbook.display.tables import escaped
from workbook.evaluation.audit import FEW_IMAGES, KINDS, Audit
from workbook.support.atomic_files import atomic_file

TEMPLATE = Path(__file__).with_suffix(".html")
SIDE = 112  # of a thumbnail, in pixels
MOST_SHOWN = 200  # groups or images per section
MOST_IN_ROW = 8
NEIGHBORS_SHOWN = 5
EXPLANATIONS = {
    "across classes": "The same image must not have two labels. Keep it in the class where it "
    "belongs and remove it from the other.",
    "across splits": "One of these images is trained on and another one is held out, so that the "
    "evaluation is too easy. Keep one of them, or put all of them into one split. If the folder "
    "has no train and test folders, the splits shown are those that the notebooks draw.",
    "within a class": "They count as one image only. Keep the best one.",
}


def write_audit_page(path: str | Path, audit: Audit, data: ImageDataset) -> Path:
    """Write what an audit of `data` found as a page to `path`, and return the path.

    A section shows at most 200 groups or images, and says how many there are.
    """
    page = _Page(data)
    parts = [
        f"<p>{len(data.images):,} images of {len(data.class_names):,} classes, compared by "
        "pretrained features. Nothing was deleted or changed: look at each, then decide.</p>",
        _table(audit.summarize()),
        *(page.show_duplicates(audit, kind) for kind in KINDS),
        page.show_doubtful(audit),
        page.show_small_classes(audit),
        _list_problems(data),
    ]
    sheet = ""
    if page.rows:
        sheet, columns = make_sprite_sheet([data.images[row] for row in page.rows], SIDE)
        page.columns = columns
    texts = {"title": escaped(f"Audit of {data.name}"), "sheet": sheet, "side": str(SIDE)}
    texts["body"] = re.sub(r"\0(\d+)\0", page.position, "\n".join(parts))
    # in one pass: a file that is called {{body}} stays what it is
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], TEMPLATE.read_text("utf-8"))
    with atomic_file(path) as part:
        part.write_text(text, "utf-8")
    return Path(path)


class _Page:
    """Writes sections, and notes which images they show: `rows` of the dataset -> thumbnail."""

    def __init__(self, data: ImageDataset) -> None:
        self.data = data
        self.rows: dict[int, int] = {}
        self.columns = 1

    def position(self, match: re.Match[str]) -> str:
        """Return where a thumbnail is on the sheet, as CSS; no text contains a NUL."""
        across, down = int(match[1]) % self.columns, int(match[1]) // self.columns
        return f"background-position: {-across * SIDE}px {-down * SIDE}px"

    def show_duplicates(self, audit: Audit, kind: str) -> str:
        groups = [group.rows for group in audit.duplicates if group.kind == kind]
        return self._section(f"Near-duplicates {kind}", EXPLANATIONS[kind], len(groups), (
            self._figures(rows) for rows in groups[:MOST_SHOWN]
        ))  # fmt: skip

    def show_doubtful(self, audit: Audit) -> str:
        text = "None of the closest images has the label of the first one, and at least half have "
        text += "one other label. The label may be wrong, or the image may be an unusual one."
        names = self.data.class_names
        rows = []
        for image in audit.doubtful[:MOST_SHOWN]:
            remark = f"{image.share:.0%} of its neighbours: {names[image.suggestion]}"
            first = self._figure(image.row, "first", remark)
            rows.append(first + self._figures(image.neighbors[:NEIGHBORS_SHOWN]))
        title = "Images whose neighbours have another label"
        return self._section(title, text, len(audit.doubtful), rows)

    def show_small_classes(self, audit: Audit) -> str:
        text = f"Of a class with fewer than {FEW_IMAGES} images none is held out for the test, and "
        text += "of a class with one image no pair can be made. Add images."
        members = [np.flatnonzero(self.data.labels == label) for label in audit.small_classes]
        title = f"Classes with fewer than {FEW_IMAGES} images"
        shown = (self._figures(rows) for rows in members[:MOST_SHOWN])
        return self._section(title, text, len(members), shown)

    def _section(self, title: str, text: str, count: int, shown: Iterable[str]) -> str:
        if not count:
            return f"<h2>{title}: none</h2>"
        more = f" The first {MOST_SHOWN} are shown." if count > MOST_SHOWN else ""
        divisions = "\n".join(f"<div>{figures}</div>" for figures in shown)
        return f"<h2>{title}: {count:,}</h2>\n<p>{text}{more}</p>\n<section>{divisions}</section>"

    def _figures(self, rows: Sequence[int] | np.ndarray) -> str:
        more = f"<p>and {len(rows) - MOST_IN_ROW} more</p>" if len(rows) > MOST_IN_ROW else ""
        return "".join(self._figure(int(row)) for row in rows[:MOST_IN_ROW]) + more

    def _figure(self, row: int, kind: str = "", remark: str = "") -> str:
        number = self.rows.setdefault(row, len(self.rows))
        path = escaped(self.data.short_paths[row])
        label = escaped(self.data.class_names[self.data.labels[row]])
        thumbnail = (
            f'<span class="thumb" role="img" aria-label="{path}" style="\0{number}\0"></span>'
        )
        remark = f"<em>{escaped(remark)}</em><br>" if remark else ""
        caption = f"<b>{label}</b>{remark}{self.data.splits[row]}<br>{path}"
        return f'<figure class="{kind}">{thumbnail}{caption}</figure>'


def _table(rows: Iterable[tuple[str, int]]) -> str:
    lines = (f"<tr><td>{escaped(what)}</td><td>{count:,}</td></tr>" for what, count in rows)
    return f"<table>{''.join(lines)}</table>"


def _list_problems(data: ImageDataset) -> str:
    """List what was left out, which no other section can show."""
    title = "Files and folders left out"
    if not data.problems:
        return f"<h2>{title}: none</h2>"
    lines = (
        f"<li>{escaped(p['path'])}: {escaped(p['reason'])}: {escaped(p['remedy'])}</li>"
        for p in data.problems[:MOST_SHOWN]
    )
    more = f"<p>The first {MOST_SHOWN} are shown.</p>" if len(data.problems) > MOST_SHOWN else ""
    return f"<h2>{title}: {len(data.problems):,}</h2>\n{more}<ul>{''.join(lines)}</ul>"
