"""Execute the notebooks in order, without a browser: `python -m workbook run`.

The executed notebooks, their HTML copies and logs go to `runs/<dataset>-<preset>/`. With
`--publish` the executed notebooks and figures are then copied to where they are committed: those of
the default run to notebooks/ and figures/, those of another dataset to results/<dataset>/.
"""

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.filters import strip_ansi

from workbook import ROOT
from workbook.commands.html_page import as_html
from workbook.commands.notebook_files import list_notebooks
from workbook.evaluation.results import results_table
from workbook.settings import KINDS, PREFIX, environment_of, read_config
from workbook.support.config import Config
from workbook.support.text import printable, printable_lines
from workbook.training.delivery import REPORT

ONE_SHOT = 7  # the notebook on one-shot learning, the only one that trains on characters
LAST_BY_DEFAULT = 6  # notebooks 1 to 6 run unless others are named
FIRST_SEED_ONLY = "first-seed"  # the tag of cells that trainings with further seeds do not need


def run(words: Iterable[str], publish: bool = False) -> None:
    """Execute notebooks and print the results.

    Parameters
    ----------
    words : iterable of str
        Settings (NAME=value) and numbers of notebooks, in any order.
    publish : bool
        Copy the executed notebooks and figures to where they are committed.

    Raises
    ------
    ValueError
        For a word that is neither, an unknown setting or value, or a number without a notebook.
    SystemExit
        If a notebook fails, with its section, its message and its log.
    """
    settings, numbers = parse_words(words)
    config = read_config(**settings | {"live": False})
    if config.seeds > 1 and config.seed != config.data_seed:
        raise ValueError("SEEDS counts from SEED on: leave out DATA_SEED")
    notebooks = choose_notebooks(numbers, config.dataset)
    print(f"{config}\nresults in  {printable(config.run_dir)}\n", flush=True)

    for source, seed in plan_executions(notebooks, config):
        tags_to_skip = set() if seed == config.seed else {FIRST_SEED_ONLY}
        seed_config = replace(config, seed=seed)
        title = f"{source.stem:24}" + f" seed {seed:<6}" * (config.seeds > 1)
        with ProgressLine(title) as progress:
            target = seed_config.run_dir / source.name
            error = execute(source, target, seed_config, tags_to_skip, progress)
            progress.result = "FAILED" if error else "ok"
        if error:
            sys.exit(f"\n{printable_lines(error)}")

    metrics_file = config.run_dir / "metrics.json"
    if metrics_file.exists():
        lines = results_table(json.loads(metrics_file.read_text("utf-8")))
        print("", *lines, "", f"more in {printable(metrics_file)}", sep="\n")
    report = config.run_dir / REPORT
    if report.exists() and any(notebook.name.startswith("06") for notebook in notebooks):
        print(f"\n{report.read_text('utf-8')}")
    if publish:
        publish_run(config, notebooks)


def parse_words(words: Iterable[str]) -> tuple[dict[str, str], list[int]]:
    """Sort what was typed into settings, by their names in small letters, and notebook numbers."""
    settings: dict[str, str] = {}
    numbers = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            settings[name.removeprefix(PREFIX).lower()] = value
        elif word.isascii() and word.isdecimal():
            numbers.append(int(word))
        else:
            raise ValueError(f"{word!r} is neither NAME=value nor the number of a notebook")
    return settings, numbers


def choose_notebooks(numbers: list[int], dataset: str = "toys") -> list[Path]:
    """The notebooks with these numbers, in their order; by default those for the dataset.

    Characters are for notebook 7 alone. For everything else, the first six are the default.
    """
    if KINDS.get(dataset) == "characters":
        if others := set(numbers) - {ONE_SHOT}:
            raise ValueError(
                f"DATASET={dataset} is for notebook {ONE_SHOT} alone: leave out {min(others)}"
            )
        numbers = [ONE_SHOT]
    notebooks = {int(path.name[:2]): path for path in list_notebooks()}
    if missing := sorted(set(numbers) - set(notebooks)):
        raise ValueError(
            f"there is no notebook with the number {missing[0]}; "
            f"the numbers are {', '.join(map(str, notebooks))}"
        )
    chosen = set(numbers) or set(range(1, LAST_BY_DEFAULT + 1))
    return [path for number, path in notebooks.items() if number in chosen]


def plan_executions(notebooks: list[Path], config: Config) -> Iterator[tuple[Path, int]]:
    """Each notebook with the seed that it runs with; 4, 5 and 7 come once for each of the seeds.

    Notebooks 5 and 7 run with the first seed last: they then pool what all seeds measured.
    """
    for notebook in notebooks:
        seeds = list(range(config.seed, config.seed + config.seeds))
        if notebook.name.startswith("04"):
            pass
        elif notebook.name.startswith(("05", "07")):
            seeds.reverse()
        else:
            seeds = seeds[:1]
        for seed in seeds:
            yield notebook, seed


class ProgressLine:
    """The line of the terminal that says which section of a notebook runs, and for how long.

    A terminal sees it change every second. A file or pipe only receives the final line. Set
    `section` while the notebook runs and `result` at its end.
    """

    def __init__(self, title: str) -> None:
        self.title, self.section, self.result = title, "starting", "interrupted"
        self.start = time.monotonic()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._rewrite_every_second, daemon=True)

    def __enter__(self) -> "ProgressLine":
        if sys.stdout.isatty():
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        erase = ""
        if self.thread.is_alive():
            self.is_over.set()
            self.thread.join()
            erase = "\r" + " " * self._width() + "\r"
        print(f"{erase}{self._text(self.result)}", flush=True)

    def _rewrite_every_second(self) -> None:
        while not self.is_over.is_set():
            width = self._width()
            text = self._text(printable(self.section))[:width]
            print(f"\r{text:{width}}", end="", flush=True)
            self.is_over.wait(1)

    def _text(self, what: str) -> str:
        return f"{self.title}{time.monotonic() - self.start:6.0f} s  {what}"

    @staticmethod
    def _width() -> int:
        return max(shutil.get_terminal_size().columns - 1, 20)  # a full line would wrap


def execute(
    source: Path,
    target: Path,
    config: Config,
    tags_to_skip: Iterable[str] = (),
    progress: ProgressLine | None = None,
) -> str | None:
    """Execute the notebook `source` with `config`; return what failed, or None.

    The executed notebook is written to `target` (.ipynb), beside it an HTML copy and a log. Cells
    with one of `tags_to_skip` are left out. The returned text is for the reader: the section, the
    message of the error, and where the traceback is.
    """
    notebook = nbformat.read(source, as_version=4)
    skipped = set(tags_to_skip)
    notebook.cells = [c for c in notebook.cells if not skipped & set(c.metadata.get("tags", []))]
    section = "its start"

    def note_section(cell: Any, cell_index: int) -> None:
        nonlocal section
        section = heading_above(notebook.cells[:cell_index])
        if progress:
            progress.section = section

    client = NotebookClient(
        notebook,
        timeout=None,
        coalesce_streams=True,  # keep the last state of a progress bar, not all of them
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=note_section,
    )
    others = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    log, error = target.with_suffix(".log"), None
    with open(log, "wb") as file:  # also receives what the kernel itself prints
        try:
            client.execute(stdout=file, stderr=file, env=others | environment_of(config))
        except CellExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
            file.write(f"\n{strip_ansi(str(failure))}\n".encode())
        except DeadKernelError:
            error = "the kernel was killed; most often the memory was full (try a smaller SIZE)"
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps, which would change with every run
    nbformat.write(notebook, target)
    target.with_suffix(".html").write_text(as_html(notebook, target), encoding="utf-8")
    if error:
        return f"{source.name} failed in: {section}\n\n{strip_ansi(error)}\n\nthe traceback: {log}"
    return None


def heading_above(cells: list[Any]) -> str:
    """The last Markdown heading in `cells`, as plain text."""
    for cell in reversed(cells):
        if cell.cell_type == "markdown":
            # a comment in a block of code looks like a heading
            prose = re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            if headings := re.findall(r"^#+ +(.+)", prose, re.MULTILINE):
                return headings[-1]
    return "its first cells"


def publish_run(config: Config, notebooks: Iterable[Path]) -> None:
    """Copy the executed notebooks and the figures to where they are committed."""
    if (config.dataset, config.preset, config.recipe) == ("toys", "quick", "tuned"):
        notebook_folder, figure_folder = ROOT / "notebooks", ROOT / "figures"
        tables: tuple[str, ...] = ()
    else:
        notebook_folder = figure_folder = ROOT / "results" / Path(config.dataset).name
        tables = ("metrics.json", "search.csv", "one_seed.csv")
    notebook_folder.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks:
        shutil.copy(config.run_dir / notebook.name, notebook_folder)
    shutil.copytree(config.run_dir / "figures", figure_folder, dirs_exist_ok=True)
    for table in tables:
        if (config.run_dir / table).exists():
            shutil.copy(config.run_dir / table, notebook_folder)
