"""Execute the notebooks in order, headless; results go to runs/<dataset>-<preset>/.

`publish` copies the executed notebooks and their figures over the committed ones: those of the
default run into notebooks/ and figures/, those of another into results/<dataset>/.
"""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.filters import strip_ansi

from workbook import ROOT
from workbook.commands.html_page import as_html
from workbook.evaluation import results as seeds
from workbook.settings import read_config
from workbook.support.text import printable, printable_lines

ONCE = "first-seed"  # the tag of cells that a further seed leaves out: nothing pooled needs them


def execute(source, target, leave_out=None):
    """Run `source` into `target` (.ipynb), an HTML copy and a log; what failed as text, or None.

    Without the cells tagged `leave_out`. The text is for people: the section, the error's own
    message, the log that has the traceback.
    """
    notebook = nbformat.read(source, as_version=4)
    notebook.cells = [c for c in notebook.cells if leave_out not in c.metadata.get("tags", [])]
    reached = []
    client = NotebookClient(
        notebook,
        timeout=None,
        coalesce_streams=True,  # keep the last state of a progress bar, not all of them
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=lambda cell, cell_index: reached.append(cell_index),
    )
    log, error = target.with_suffix(".log"), None
    with open(log, "wb") as file:  # what the kernel prints by itself
        try:
            client.execute(stdout=file, stderr=file)
        except CellExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
            file.write(f"\n{strip_ansi(str(failure))}\n".encode())
        except DeadKernelError:
            error = "the kernel was killed; most often the memory was full (try a smaller SIZE)"
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps, which would change at every run
    nbformat.write(notebook, target)
    target.with_suffix(".html").write_text(as_html(notebook, target), encoding="utf-8")
    if error:
        section = heading_above(notebook.cells[: reached[-1]]) if reached else "its start"
        return f"{source.name} failed in: {section}\n\n{strip_ansi(error)}\n\nthe traceback: {log}"
    return None


def heading_above(cells):
    """The last Markdown heading in `cells`, as plain text."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # comments in code
    return [*re.findall(r"^#+ +(.+)", text, re.MULTILINE)[-1:], "its first cells"][0]


def trainings(sources, config):
    """(notebook, seed) in their order: 4 and 5 once for each of SEEDS, in 5 the first seed last.

    It then has what the others measured: see `seeds.save_metrics`.
    """
    for source in sources:
        order = range(config.seed, config.seed + config.seeds)
        if source.name[:2] == "05":
            order = order[::-1]
        elif source.name[:2] != "04":
            order = order[:1]
        yield from ((source, seed) for seed in order)


def run(words, publish=False):
    """Execute notebooks: words are settings (NAME=value) and numbers of notebooks (default: all).

    Raises ValueError for a word that is neither, SystemExit where a notebook fails.
    """
    chosen = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            os.environ[f"SIAMESE_{name}"] = value
        elif word.isdecimal():
            chosen.append(f"{int(word):02}")
        else:
            raise ValueError(f"{word!r} is neither NAME=value nor the number of a notebook")
    os.environ["SIAMESE_LIVE"] = "0"
    config = read_config()
    if config.seeds > 1 and config.seed != config.data_seed:
        raise ValueError("SEEDS counts from SEED on: leave out DATA_SEED")
    for name in ("dataset", "weights", "backbone", "runs", "data_home", "data_seed"):
        os.environ[f"SIAMESE_{name.upper()}"] = str(getattr(config, name))  # absolute from here on
    print(f"{config}\nresults in  {printable(config.run_dir)}\n", flush=True)

    if not chosen and os.path.isabs(config.dataset):  # a folder of somebody's own
        chosen = [f"{number:02}" for number in range(1, 6)]
        print("notebooks 1 to 5; 6 measures speed and 7 settings: NOTEBOOKS=6 runs it too\n")
    sources = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    sources = [s for s in sources if not chosen or s.name[:2] in chosen]
    if not sources:
        raise ValueError(f"no notebook with the number {' or '.join(chosen)} in notebooks/")
    for source, seed in trainings(sources, config):
        os.environ["SIAMESE_SEED"] = str(seed)
        folder = read_config().run_dir
        print(f"{source.stem:24}", f"seed {seed:<6}" * (config.seeds > 1), end="", flush=True)
        start = time.monotonic()
        leave_out = None if seed == config.seed else ONCE
        error = execute(source, folder / source.name, leave_out)
        print(f"{time.monotonic() - start:6.0f} s  {'FAILED' if error else 'ok'}", flush=True)
        if error:
            sys.exit(f"\n{printable_lines(error)}")
    if (file := config.run_dir / "metrics.json").exists():
        metrics = json.loads(file.read_text("utf-8"))
        print("", *seeds.results_table(metrics), "", f"more in {printable(file)}", sep="\n")
    if publish:
        publish_run(config, sources)


def publish_run(config, sources):
    """Copy the executed notebooks and the figures to where they are committed."""
    results = ROOT / "results" / Path(config.dataset).name
    default = config.run_dir.name == "toys-quick"
    notebooks, figures = (ROOT / "notebooks", ROOT / "figures") if default else (results, results)
    notebooks.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copy(config.run_dir / source.name, notebooks)
    shutil.copytree(config.run_dir / "figures", figures, dirs_exist_ok=True)
    if not default:
        for table in (*config.run_dir.glob("metrics.json"), *config.run_dir.glob("search.csv")):
            shutil.copy(table, results)
