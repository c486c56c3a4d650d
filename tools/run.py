"""Execute the notebooks in order, headless; results go to runs/<dataset>-<preset>/.

usage: python tools/run.py [--publish] [PRESET=full] [DATASET=/path/to/images] ...
NAME=value sets SIAMESE_NAME. --publish copies the executed notebooks and their figures over the
committed ones; it is for the default run only.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


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
    names = list(dict.fromkeys(name for stage in stages for name in metrics[stage]))
    yield f"{'':28}" + "".join(f"{stage:>18}" for stage in stages)
    for name in names:
        values = (metrics[stage].get(name) for stage in stages)
        yield f"{name:28}" + "".join(f"{'-' if v is None else f'{v:.3f}':>18}" for v in values)


def main(arguments):
    publish = "--publish" in arguments
    for word in arguments:
        name, equals, value = word.partition("=")
        if equals:
            os.environ[f"SIAMESE_{name}"] = value
        elif word != "--publish":
            sys.exit(__doc__)
    os.environ["SIAMESE_LIVE"] = "0"

    import siamese_utils as su  # after the settings: it reads them

    try:
        config = su.read_config()
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name in ("dataset", "weights", "backbone", "runs", "data_home"):
        os.environ[f"SIAMESE_{name.upper()}"] = str(getattr(config, name))  # absolute from here on
    if publish and config.run_dir.name != "toys-quick":
        sys.exit("error: the committed notebooks come from the default run: toys, quick")
    print(f"{config}\nresults in  {config.run_dir}\n", flush=True)

    sources = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for source in sources:
        print(f"{source.stem:24}", end="", flush=True)
        start = time.monotonic()
        error = execute(source, config.run_dir / source.name)
        print(f"{time.monotonic() - start:6.0f} s  {'FAILED' if error else 'ok'}", flush=True)
        if error:
            sys.exit(f"\n{source.name} failed in this cell:\n{error}")
    metrics = json.loads((config.run_dir / "metrics.json").read_text("utf-8"))
    print("", *results_table(metrics), "", f"also in {config.run_dir}/metrics.json", sep="\n")
    if publish:
        for source in sources:
            shutil.copy(config.run_dir / source.name, source)
        shutil.copytree(config.run_dir / "figures", ROOT / "figures", dirs_exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
