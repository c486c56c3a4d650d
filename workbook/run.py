"""Execute the notebooks in order, headless; results go to runs/<dataset>-<preset>/.

`publish` copies the executed notebooks and their figures over the committed ones: those of the
default run into notebooks/ and figures/, those of another into results/<dataset>/.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from workbook import ROOT
from workbook.settings import read_config


def execute(source, target):
    """Run `source` into `target` (.ipynb) and an HTML copy; a failing cell's error, or None."""
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        coalesce_streams=True,  # keep the last state of a progress bar, not all of them
        resources={"metadata": {"path": str(source.parent)}},
    )
    error = None
    try:
        with open(target.with_suffix(".log"), "wb") as log:  # what the kernel prints by itself
            client.execute(stdout=log, stderr=log)
    except CellExecutionError as failure:
        error = failure
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps, which would change at every run
    nbformat.write(notebook, target)
    html, _ = HTMLExporter().from_notebook_node(notebook)
    target.with_suffix(".html").write_text(html, encoding="utf-8")
    return error


def results_table(metrics):
    """`metrics` (stage -> name -> number) as lines of text, a column a stage."""
    stages = [stage for stage, values in metrics.items() if isinstance(values, dict)]
    names = list(dict.fromkeys(n for stage in stages for n in metrics[stage] if "95%" not in n))
    yield f"{'':28}" + "".join(f"{stage:>24}" for stage in stages)
    for name in names:
        cells = []
        for values in (metrics[stage] for stage in stages):
            cell = f"{values[name]:.3f}" if name in values else "-"
            if interval := values.get(f"{name} 95%"):
                cell += " [{:.3f}, {:.3f}]".format(*interval)
            cells.append(cell)
        yield f"{name:28}" + "".join(f"{cell:>24}" for cell in cells)


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
    for name in ("dataset", "weights", "backbone", "runs", "data_home"):
        os.environ[f"SIAMESE_{name.upper()}"] = str(getattr(config, name))  # absolute from here on
    print(f"{config}\nresults in  {config.run_dir}\n", flush=True)

    sources = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    sources = [s for s in sources if not chosen or s.name[:2] in chosen]
    if not sources:
        raise ValueError(f"no notebook with the number {' or '.join(chosen)} in notebooks/")
    for source in sources:
        print(f"{source.stem:24}", end="", flush=True)
        start = time.monotonic()
        error = execute(source, config.run_dir / source.name)
        print(f"{time.monotonic() - start:6.0f} s  {'FAILED' if error else 'ok'}", flush=True)
        if error:
            sys.exit(f"\n{source.name} failed in this cell:\n{error}")
    if (config.run_dir / "metrics.json").exists():
        metrics = json.loads((config.run_dir / "metrics.json").read_text("utf-8"))
        print("", *results_table(metrics), "", f"in {config.run_dir}/metrics.json", sep="\n")
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
