"""Tables made from data: what a stranger called a file is shown, and never run."""

import html.parser

from workbook.display.tables import NO_MATH, escaped, table

NAMES = {  # what it would be: the name
    "an image that runs a script": "<img src=x onerror=alert(1)>.jpg",
    "the end of the cell": "</td></tr></table><script>alert(1)</script>",
    "an entity": "&lt;b&gt; &amp;",
    "quotes": "\"'><b>",
    "a column": "a | b",
    "code": "`a` ``b``",
    "a formula": r"$\foo$ \(x\) $$y$$",
    "a link": "[a](javascript:alert(1)) https://example.org",
    "stars": "**a** _b_ # c",
}


class Reader(html.parser.HTMLParser):
    """Which tags a page has, and the text of each cell."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.cells[-1] += data


def test_each_cell_says_what_it_was_given_and_has_no_markup_of_its_own():
    page = table(["file", "reason"], [[name, what] for what, name in NAMES.items()]).data
    read = Reader(page)
    assert read.cells == ["file", "reason", *(x for pair in NAMES.items() for x in pair[::-1])]
    assert set(read.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.startswith(f'<table class="{NO_MATH}">'), "MathJax skips it"


def test_control_characters_and_broken_bytes_are_written_out():
    assert escaped("a\nb\x1b[2J\udcff<") == r"a\nb\x1b[2J\udcff&lt;"


def test_a_table_of_numbers_without_rows():
    read = Reader(table(["", 1, 0.5], []).data)
    assert read.cells == ["", "1", "0.5"] and read.tags.count("tr") == 1
