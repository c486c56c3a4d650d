"""What a run depends on. `settings.read_config` makes a `Config`; notebook 01 shows it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbook import ROOT

LONGEST_NAME = 60  # bytes of a dataset's name in the name of its run folder
HASH_LENGTH = 8
NOT_SHOWN = ("benchmark", "search", "live")  # the results of a training do not depend on these


@dataclass(frozen=True)
class Config:
    """The settings of one run. `docs/settings.md` explains each of them.

    A dataset, backbone or weights file is given by its name or by an absolute path. `weights` is
    "imagenet", "none", "file" (the backbone is a file with its own weights) or a path.
    """

    preset: str
    dataset: str
    layout: str
    columns: str
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
    benchmark: str
    search: bool
    live: bool
    runs: Path
    data_home: Path

    @property
    def jit_compile(self) -> str | bool:
        """The argument of `keras.Model.compile`: "auto", True or False."""
        return "auto" if self.xla == "auto" else self.xla == "on"

    @property
    def backbone_summary(self) -> str:
        """One line that says which backbone this run uses, and why."""
        weights = {"imagenet": "ImageNet weights", "none": "random weights", "file": "its weights"}
        reasons = {
            ("quick", "EfficientNetLite0", "imagenet"): "its weights are installed with the "
            "workbook, so nothing is downloaded",
            ("full", "ResNet50", "imagenet"): "as specified; Keras downloads its weights once",
        }
        reason = reasons.get((self.preset, self.backbone, self.weights))
        name, weights_name = Path(self.backbone).name, weights.get(self.weights, self.weights)
        return f"{name} with {weights_name}: {reason or 'chosen by BACKBONE and WEIGHTS'}"

    @property
    def run_dir(self) -> Path:
        """The folder of this run's results, `<runs>/<dataset>-<preset>`; it is made if missing.

        The specified recipe has a folder of its own, `...-specified`. A further training on the
        same data (its seed differs from data_seed) writes to `seed-<seed>` in the run's folder.
        The first dataset of a name gets the plain name. Another one of that name, such as
        b/photos after a/photos, gets `photos-<hash of its path>-<preset>`.
        """
        digest = hashlib.sha256(self.dataset.encode("utf-8", "surrogateescape")).hexdigest()
        name, hashed = Path(self.dataset).name, f"-{digest[:HASH_LENGTH]}"
        encoded = name.encode("utf-8", "surrogateescape")
        if len(encoded) > LONGEST_NAME:
            short = encoded[:LONGEST_NAME].decode("utf-8", "ignore")
            names = [short + hashed]
        else:
            names = [name, name + hashed]
        ending = f"-{self.preset}" + "-specified" * (self.recipe == "specified")
        for name in names:
            path = self.runs / f"{name}{ending}"
            if _claim_folder(path, digest):
                break
        if self.seed != self.data_seed:
            path = path / f"seed-{self.seed}"
            path.mkdir(exist_ok=True)
        return path

    def __str__(self) -> str:
        """One setting per line. Of a path outside the workbook only the last part is shown."""

        def format_value(value: Any) -> str:
            path = Path(str(value))
            if path.is_absolute():
                value = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
            return repr(str(value))[1:-1]  # repr writes control characters as \x1b

        rows = {name: value for name, value in asdict(self).items() if name not in NOT_SHOWN}
        return "\n".join(f"{name:10} {format_value(value)}" for name, value in rows.items())


def _claim_folder(folder: Path, digest: str) -> bool:
    """Make `folder` the run folder of the dataset with this digest, unless another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "dataset.txt"
    try:
        with open(owner, "x", encoding="utf-8") as file:
            file.write(f"SHA-256 of the dataset's name or absolute path:\n{digest}\n")
    except FileExistsError:
        return digest in owner.read_text("utf-8")
    except OSError:  # the disk is full: an empty file would belong to nobody
        owner.unlink(missing_ok=True)
        raise
    return True
