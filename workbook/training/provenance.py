"""Provenance: from which data and settings a file was made, checked by whoever reads it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from workbook.data.images import ImageDataset
from workbook.support.atomic_files import atomic_file
from workbook.support.config import Config
from workbook.support.text import printable

# Settings that change where or how fast something runs, but not what is trained.
# The fingerprint of the data says what the columns of a table say.
WITHOUT_EFFECT = (
    "runs", "data_home", "dataset", "columns", "devices", "xla", "benchmark", "search", "live",
)  # fmt: skip
ALSO_SEEDS = (*WITHOUT_EFFECT, "seeds")


def describe_origin(config: Config, data: ImageDataset) -> dict[str, Any]:
    """Return what a training's result depends on: the settings, and a fingerprint of the data."""
    settings = {k: v for k, v in asdict(config).items() if k not in ALSO_SEEDS}
    return {"data": data.name, "fingerprint": data.fingerprint, **settings}


def write_origin(path: Path, config: Config, data: ImageDataset) -> None:
    """Write the origin of the file `path` beside it, to `<path>.origin.json`."""
    text = json.dumps(describe_origin(config, data), indent=1, default=str)
    with atomic_file(_origin_path(path)) as part:
        part.write_text(text, "utf-8")


def check_origin(path: Path, config: Config, data: ImageDataset) -> None:
    """Raise an error unless the file `path` was made from this data with these settings.

    Raises
    ------
    FileNotFoundError : if the file, or the note of its origin, does not exist.
    ValueError : if the origin differs; the message names what differs.
    """
    path, origin = Path(path), _origin_path(path)
    remedy = "run notebook 4 with the settings of this run first"
    if not path.is_file() or not origin.is_file():
        raise FileNotFoundError(f"{printable(path)} does not exist yet: {remedy}")
    try:
        there = dict(json.loads(origin.read_text("utf-8")))
        if not there:
            raise ValueError("empty")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{printable(origin)} is damaged: {remedy}") from error
    here = json.loads(json.dumps(describe_origin(config, data), default=str))
    if there.get("fingerprint") != here["fingerprint"]:
        raise ValueError(f"{printable(path)} was made from other images: {remedy}")
    different = [name for name in here if there.get(name) != here[name]]
    if different:
        changes = ", ".join(f"{n.upper()}={there.get(n)} there, {here[n]} here" for n in different)
        raise ValueError(f"{printable(path)} was made with other settings ({changes}): {remedy}")


def _origin_path(path: Path) -> Path:
    return Path(f"{path}.origin.json")


def save_embeddings(
    path: Path, config: Config, data: ImageDataset, embeddings: dict[str, np.ndarray]
) -> None:
    """Write embeddings of the dataset, name -> (n, dim) float32, with a note of their origin."""
    with atomic_file(Path(path)) as part:
        np.savez(part, **embeddings)  # type: ignore[arg-type]  # one could be called allow_pickle
    write_origin(Path(path), config, data)


def load_embeddings(path: Path, config: Config, data: ImageDataset) -> dict[str, np.ndarray]:
    """Read what `save_embeddings` wrote: name -> (n, dim) float32.

    Raises
    ------
    FileNotFoundError, ValueError : see `check_origin`.
    """
    check_origin(path, config, data)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
