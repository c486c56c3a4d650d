"""The settings of a run: their names, their defaults and how they are read. See notebook 01."""

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbook import ROOT
from workbook.data.downloads import DATASETS
from workbook.data.folder_layout import LAYOUTS
from workbook.data.folder_names import is_table
from workbook.models.backbones import NAMES
from workbook.support.config import Config
from workbook.support.tensorflow_start import GPUS

PREFIX = "SIAMESE_"
LITE = "EfficientNetLite0"
LARGEST_SEED = 2**32 - 1  # NumPy's limit

VARIABLES = {  # the name of the environment variable, and what it chooses
    "SIAMESE_PRESET": "quick (no download, CPU) or full (ImageNet weights, photographs, GPU)",
    "SIAMESE_DATASET": "omniglot, omniglot-full (both for notebook 7 alone), "
    "toys (embedded), grocery, caltech101, lfw, a folder of images, or a "
    "table of their labels (.csv, .tsv)",
    "SIAMESE_LAYOUT": "auto, or what a folder's sub-folders are: classes, splits (with classes), "
    "or groups in which the leaves are the classes",
    "SIAMESE_COLUMNS": "auto, or the columns of a table: file,label or file,label,split",
    "SIAMESE_WEIGHTS": "imagenet, none, or a weights file (.h5) of the backbone without its top",
    "SIAMESE_BACKBONE": "EfficientNetLite0 (quick), ResNet50 (full), another name of "
    "keras.applications, or a .keras file that maps RGB 0..255 to a feature map",
    "SIAMESE_HEAD": "specified (flatten, Dense 512-256-256), slim (average, BatchNorm, Dense 256)",
    "SIAMESE_RUNS": "folder for results (default: runs/ beside siamese_utils.py)",
    "SIAMESE_DATA_HOME": "folder that holds or receives datasets (default: data/)",
    "SIAMESE_SIZE": "side of the input in pixels",
    "SIAMESE_EPOCHS": "training epochs",
    "SIAMESE_RECIPE": "tuned (mined triplets), or specified (explicit random triplets, margin 0.5)",
    "SIAMESE_TRAIN_FROM": "first trained layer of the backbone, or none (default: its last stage, "
    "EfficientNetLite0 from block12_expand on; none of a .keras file)",
    "SIAMESE_VIEWS": "augmented views of each training image in the trunk cache",
    "SIAMESE_SEED": "the seed of everything random (default: 42)",
    "SIAMESE_SEEDS": "how often notebooks 4, 5 and 7 train, with seeds from SEED on (default: 1)",
    "SIAMESE_DATA_SEED": "the seed of what they share: toys, split, frozen trunk (default: SEED)",
    "SIAMESE_DEVICES": "one, all (every GPU here), or workers (the processes of TF_CONFIG)",
    "SIAMESE_PRECISION": "float32 (default), mixed_float16 (GPUs), or mixed_bfloat16 (GPUs, and "
    "processors that have it)",
    "SIAMESE_XLA": "auto (Keras decides: not on a CPU), on or off",
    "SIAMESE_BENCHMARK": "full measures all of the notebook on speed (default: short)",
    "SIAMESE_SEARCH": "1 makes the search of notebook 10.1 a real one (default: 0, a few steps)",
    "SIAMESE_LIVE": "0 draws the loss plot once, at the end of training (default: 1, live)",
}

# ---------------------------------------------------------------------------- tables of defaults

DEFAULTS: dict[str, Any] = {
    "layout": "auto",
    "columns": "auto",
    "weights": "imagenet",
    "recipe": "tuned",
    "train_from": "default",
    "seed": 42,
    "seeds": 1,
    "devices": "one",
    "precision": "float32",
    "xla": "auto",
    "benchmark": "short",
    "search": 0,
    "live": 1,
    "runs": ROOT / "runs",
    "data_home": ROOT / "data",
}
FULL = {"backbone": "ResNet50", "head": "specified", "size": 200, "epochs": 10, "views": 8}
# Notebook 7 builds a network of its own: backbone and head are not used.
CHARACTERS = {"backbone": LITE, "head": "slim", "size": 35, "epochs": 10, "views": 1}
KINDS = {"toys": "toys", "omniglot": "characters", "omniglot-full": "characters"}
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # (preset, what the images are)
    ("quick", "toys"): {
        "backbone": LITE, "head": "specified", "size": 96, "epochs": 4, "views": 1,
    },
    ("quick", "photographs"): {
        "backbone": LITE, "head": "slim", "size": 224, "epochs": 6, "views": 8,
    },
    ("quick", "characters"): CHARACTERS,
    ("full", "toys"): FULL,
    ("full", "photographs"): FULL,
    ("full", "characters"): CHARACTERS,
}  # fmt: skip
# What changes where BACKBONE names another backbone than the preset: any, or one of these.
ANOTHER_BACKBONE = {"head": "slim"}
KNOWN_BACKBONES: dict[tuple[str, str], dict[str, Any]] = {
    ("quick", "ResNet50"): {"head": "specified", "weights": "none"},
    ("full", LITE): {"size": 256},
}

# ------------------------------------------------------------------------------ reading settings


def read_config(environment: Mapping[str, str] | None = None, /, **overrides: Any) -> Config:
    """Read the settings from `SIAMESE_*` variables and keyword arguments.

    Parameters
    ----------
    environment : mapping of str to str, optional
        The variables, of which `VARIABLES` lists those that count; `os.environ` by default.
    **overrides
        Settings by their name in small letters, such as `epochs=5`. They win over variables.
        None, like an empty variable, stands for the default.

    Raises
    ------
    ValueError
        For an unknown name or value. The message lists the valid ones.
    """
    given = _given_settings(os.environ if environment is None else environment, overrides)
    preset = given.get("preset", "full" if GPUS else "quick")
    preset = _choice("preset", preset, ("quick", "full"))
    dataset = given.get("dataset", "toys" if preset == "quick" else "grocery")
    dataset = _choice("dataset", dataset, tuple(DATASETS), "/")
    values = DEFAULTS | PRESETS[preset, KINDS.get(dataset, "photographs")]

    if given.get("weights", "").endswith(".h5"):  # without a BACKBONE it is one of ResNet50
        given.setdefault("backbone", "ResNet50")
    backbone = _choice("backbone", given.get("backbone", values["backbone"]), NAMES, ".keras")
    if backbone != values["backbone"]:
        values |= ANOTHER_BACKBONE | KNOWN_BACKBONES.get((preset, backbone), {})
    kinds: tuple[str, ...] = ("imagenet", "none")
    if backbone not in NAMES:
        values["weights"], kinds = "file", ("file",)
    weights_file = ".h5" if backbone in NAMES and backbone != LITE else None

    values |= given
    values.setdefault("data_seed", values["seed"])
    seed, seeds = _number(values, "seed", 0, LARGEST_SEED), _number(values, "seeds")
    if seed + seeds - 1 > LARGEST_SEED:
        raise ValueError(f"SEED={seed} with SEEDS={seeds} goes beyond {LARGEST_SEED}")
    return Config(
        preset=preset,
        dataset=dataset,
        layout=_choice("layout", values["layout"], tuple(LAYOUTS)),
        columns=values["columns"],
        weights=_choice("weights", values["weights"], kinds, weights_file),
        backbone=backbone,
        head=_choice("head", values["head"], ("specified", "slim")),
        size=_number(values, "size"),
        epochs=_number(values, "epochs"),
        recipe=_choice("recipe", values["recipe"], ("tuned", "specified")),
        train_from=values["train_from"],
        views=_number(values, "views"),
        seed=seed,
        seeds=seeds,
        data_seed=_number(values, "data_seed", 0, LARGEST_SEED),
        devices=_choice("devices", values["devices"], ("one", "all", "workers")),
        precision=_choice(
            "precision", values["precision"], ("float32", "mixed_float16", "mixed_bfloat16")
        ),
        xla=_choice("xla", values["xla"], ("auto", "on", "off")),
        benchmark=_choice("benchmark", values["benchmark"], ("short", "full")),
        search=_number(values, "search", 0, 1) == 1,
        live=_number(values, "live", 0, 1) == 1,
        runs=Path(values["runs"]).expanduser().resolve(),
        data_home=Path(values["data_home"]).expanduser().resolve(),
    )


def environment_of(config: Config) -> dict[str, str]:
    """The variables with which another process reads the same `config`."""
    values = asdict(config)
    return {
        f"{PREFIX}{name.upper()}": str(int(value) if isinstance(value, bool) else value)
        for name, value in values.items()
    }


def _given_settings(environment: Mapping[str, str], overrides: dict[str, Any]) -> dict[str, str]:
    """The settings that are not left to their default, by their names in small letters."""
    variables = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
    given: dict[str, Any] = {n.removeprefix(PREFIX).lower(): text for n, text in variables.items()}
    given |= {name: value for name, value in overrides.items() if value is not None}
    known = [name.removeprefix(PREFIX) for name in VARIABLES]
    for name in map(str.upper, given | overrides):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"unknown setting {name}: {hint}The settings are {', '.join(known)} "
                f"(as environment variables with {PREFIX} in front)"
            )
    as_text = {n: str(int(v) if isinstance(v, bool) else v) for n, v in given.items()}
    return {name: text for name, text in as_text.items() if text}


def _choice(name: str, value: str, names: Collection[str], suffix: str | None = None) -> str:
    """`value` if it is one of `names`, or the absolute path of a file with that suffix.

    The suffix "/" stands for a folder or a table. Raises ValueError with the valid values.
    """
    if value in names:
        return value
    for base in (Path.cwd(), ROOT):  # notebooks run in notebooks/, commands in the root
        path = base / Path(value).expanduser()
        fits = is_table(path) if suffix == "/" else path.suffix == suffix
        if (path.is_file() and fits) or (path.is_dir() and suffix == "/"):
            return str(path.resolve())
    kinds = {None: "", "/": " | an existing folder or table (.csv, .tsv)"}
    kind = kinds.get(suffix, f" | an existing {suffix} file")
    raise ValueError(f"{PREFIX}{name.upper()}={value!r} is not one of: {' | '.join(names)}{kind}")


def _number(values: dict[str, Any], name: str, least: int = 1, most: int | None = None) -> int:
    """The whole number `values[name]`. Raises ValueError if it is none, or out of range."""
    text = str(values[name])
    if text.isascii() and text.isdecimal() and least <= int(text) <= (most or int(text)):
        return int(text)
    valid = "a positive whole number" if most is None else f"a whole number from {least} to {most}"
    raise ValueError(f"{PREFIX}{name.upper()}={text!r} is not {valid}")
