"""How the workbook starts: the settings, the devices, the style of the plots."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from workbook import ROOT
from workbook.data.downloads import DATASETS
from workbook.data.folder_layout import LAYOUTS
from workbook.models.backbones import NAMES
from workbook.support.tensorflow_start import GPUS
from workbook.support.text import printable

VARIABLES = {  # name: what it chooses
    "SIAMESE_PRESET": "quick (no download, CPU) or full (ImageNet weights, photographs, GPU)",
    "SIAMESE_DATASET": "toys (embedded), grocery, caltech101, lfw, or a folder of images",
    "SIAMESE_LAYOUT": "auto, or what a folder's sub-folders are: classes, or splits (with classes)",
    "SIAMESE_WEIGHTS": "imagenet, none, or a weights file (.h5) of the backbone without its top",
    "SIAMESE_BACKBONE": "ResNet50, EfficientNetLite0 (photographs in quick), another name of "
    "keras.applications, or a .keras file that maps RGB 0..255 to a feature map",
    "SIAMESE_HEAD": "specified (flatten, Dense 512-256-256), slim (average, BatchNorm, Dense 256)",
    "SIAMESE_RUNS": "folder for results (default: runs/ beside siamese_utils.py)",
    "SIAMESE_DATA_HOME": "folder that holds or receives datasets (default: data/)",
    "SIAMESE_SIZE": "side of the input in pixels (default: full 200, EfficientNetLite0 there "
    "256; quick 160, toys there 64)",
    "SIAMESE_EPOCHS": "training epochs (default: what the preset says)",
    "SIAMESE_RECIPE": "tuned (mined triplets), or specified (explicit random triplets, margin 0.5)",
    "SIAMESE_TRAIN_FROM": "first trained layer of the backbone, or none (default: its last stage, "
    "EfficientNetLite0 from block12_expand on; none of a .keras file)",
    "SIAMESE_VIEWS": "augmented views of a training image in the trunk cache (default: 8; toys in "
    "quick: 1)",
    "SIAMESE_SEED": "the seed of everything random (default: 42)",
    "SIAMESE_SEEDS": "how many times notebooks 4 and 5 train, with seeds from SEED on (default: 1)",
    "SIAMESE_DATA_SEED": "the seed of what they share: toys, split, frozen trunk (default: SEED)",
    "SIAMESE_DEVICES": "one, all (every GPU here), or workers (the processes of TF_CONFIG)",
    "SIAMESE_PRECISION": "float32, mixed_float16 or mixed_bfloat16 (GPUs; default: float32)",
    "SIAMESE_XLA": "auto (Keras decides: not on a CPU), on or off",
    "SIAMESE_BENCHMARK": "full measures all of notebook 6 (default: short)",
    "SIAMESE_SEARCH": "1 makes the search of notebook 7 again (default: 0, a few steps of it)",
    "SIAMESE_LIVE": "0 draws the loss plot once, at the end of training (default: 1, live)",
}
LITE = "EfficientNetLite0"


@dataclass(frozen=True)
class Config:
    """What a run depends on; made by `read_config`, shown in every notebook's parameters cell."""

    preset: str
    dataset: str
    layout: str
    weights: str
    backbone: str
    head: str
    size: int
    epochs: int
    recipe: str
    train_from: str
    views: int
    seed: int
    seeds: int
    data_seed: int
    devices: str
    precision: str
    xla: str
    runs: Path
    data_home: Path

    @property
    def jit_compile(self):
        """What `compile` takes: "auto", True or False."""
        return {"auto": "auto", "on": True, "off": False}[self.xla]

    @property
    def why(self):
        """Which backbone this run has, and why, in one line."""
        weights = {"imagenet": "ImageNet weights", "none": "random weights", "file": "its weights"}
        what = f"{Path(self.backbone).name} with {weights.get(self.weights, self.weights)}"
        reason = {
            ("quick", True, "ResNet50", "none"): "drawn toys do without pretrained",
            ("quick", False, "EfficientNetLite0", "imagenet"): "photographs need pretrained "
            "weights, and these are installed with the workbook",
            ("full", False, "ResNet50", "imagenet"): "as specified; Keras downloads them once",
        }.get((self.preset, self.dataset == "toys", self.backbone, self.weights))
        return f"{what}: {reason or 'as BACKBONE and WEIGHTS say'}"

    @property
    def run_dir(self):
        """Where this run writes: `<runs>/<dataset>-<preset>`, made on first use.

        The recipe as specified has a folder of its own, `...-specified`; a further training on
        the same data, with a SEED other than DATA_SEED, the folder `seed-<SEED>` in it.
        """
        own = "-specified" if self.recipe == "specified" else ""
        path = self.runs / f"{Path(self.dataset).name}-{self.preset}{own}"
        if self.seed != self.data_seed:
            path = path / f"seed-{self.seed}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __str__(self):
        """One setting a line; of a path outside the workbook only the last part is shown."""

        def shown(value):
            path = Path(str(value))
            inside = path.is_absolute() and path.is_relative_to(ROOT)
            value = path.name if path.is_absolute() else value
            return printable(path.relative_to(ROOT) if inside else value)

        return "\n".join(f"{name:10} {shown(value)}" for name, value in asdict(self).items())


def _one_of(variable, value, names, file_suffix=None):
    """`value` if it is in `names` or is a file with that suffix ("/": a folder), else an error."""
    if value in names:
        return value
    for base in (Path.cwd(), ROOT):  # notebooks run in notebooks/, commands in the root
        path = base / Path(value).expanduser()
        if path.is_dir() if file_suffix == "/" else path.is_file() and path.suffix == file_suffix:
            return str(path.resolve())
    place = {None: "", "/": " | an existing folder"}.get(
        file_suffix, f" | an existing {file_suffix} file"
    )
    raise ValueError(f"{variable}={value!r} is not one of: {' | '.join(names)}{place}")


def read_config(**overrides):
    """The `SIAMESE_*` environment variables (see `VARIABLES`); keyword arguments win over them.

    Returns a `Config`. Raises ValueError for an unknown variable or value, naming the valid ones.
    Explained in notebook 01, "Parameters".
    """
    unknown = [name for name in os.environ if name.startswith("SIAMESE_") and name not in VARIABLES]
    unknown += [name for name in overrides if f"SIAMESE_{name.upper()}" not in VARIABLES]
    if unknown:
        raise ValueError(
            f"unknown setting {unknown[0]!r}; the settings are: {', '.join(VARIABLES)}"
        )

    def get(name, default):
        return str(overrides.get(name) or os.environ.get(f"SIAMESE_{name.upper()}") or default)

    def positive(name, default):
        value = get(name, default)
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"SIAMESE_{name.upper()}={value!r} is not a positive whole number")
        return int(value)

    preset = get("preset", "full" if GPUS else "quick")
    quick = _one_of("SIAMESE_PRESET", preset, ("quick", "full")) == "quick"
    dataset = get("dataset", "toys" if quick else "grocery")
    dataset = _one_of("SIAMESE_DATASET", dataset, tuple(DATASETS), "/")
    drawn = quick and dataset == "toys"
    weights_file = get("weights", "").endswith(".h5")  # without a name it is one of ResNet50
    backbone = get("backbone", "ResNet50" if drawn or not quick or weights_file else LITE)
    backbone = _one_of("SIAMESE_BACKBONE", backbone, NAMES, ".keras")
    if backbone in NAMES:
        weights = get("weights", "none" if quick and backbone == "ResNet50" else "imagenet")
        kinds, file_suffix = ("imagenet", "none"), None if backbone == LITE else ".h5"
    else:
        weights, kinds, file_suffix = get("weights", "file"), ("file",), None
    return Config(
        preset=preset,
        dataset=dataset,
        layout=_one_of("SIAMESE_LAYOUT", get("layout", "auto"), tuple(LAYOUTS)),
        weights=_one_of("SIAMESE_WEIGHTS", weights, kinds, file_suffix),
        backbone=backbone,
        head=_one_of(
            "SIAMESE_HEAD",
            get("head", "specified" if backbone == "ResNet50" else "slim"),
            ("specified", "slim"),
        ),
        size=positive("size", 64 if drawn else 160 if quick else 256 if backbone == LITE else 200),
        epochs=positive("epochs", 12 if drawn else 6 if quick else 10),
        recipe=_one_of("SIAMESE_RECIPE", get("recipe", "tuned"), ("tuned", "specified")),
        train_from=get("train_from", "default"),
        views=positive("views", 1 if drawn else 8),
        seed=positive("seed", 42),
        seeds=positive("seeds", 1),
        data_seed=positive("data_seed", positive("seed", 42)),
        devices=_one_of("SIAMESE_DEVICES", get("devices", "one"), ("one", "all", "workers")),
        precision=_one_of(
            "SIAMESE_PRECISION",
            get("precision", "float32"),
            ("float32", "mixed_float16", "mixed_bfloat16"),
        ),
        xla=_one_of("SIAMESE_XLA", get("xla", "auto"), ("auto", "on", "off")),
        runs=Path(get("runs", ROOT / "runs")).expanduser().resolve(),
        data_home=Path(get("data_home", ROOT / "data")).expanduser().resolve(),
    )
