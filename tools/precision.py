"""Does a training in bfloat16 give the same accuracy as one in float32? results/precision.csv.

usage: python -m tools.precision [PRECISION] [NUMBER_OF_SEEDS]

Trains the default run (the toys, EfficientNet-Lite0 with the specified head, the tuned recipe) once
per seed in float32 and in PRECISION (default: mixed_bfloat16), from the frozen trunk to the loss.
Each precision computes the trunk itself. Compared is recall@1 of the validation images; the test
images are not looked at. A difference is paired: both trainings of a seed start from the same
weights and see the same batches.
"""

import sys

from workbook import ROOT
from workbook.data.images import load_from_config
from workbook.evaluation.results import paired_difference
from workbook.settings import read_config
from workbook.support.atomic_files import write_rows
from workbook.support.tensorflow_start import keras
from workbook.training.recipes import tuned
from workbook.training.trainer import Trainer

FILE = ROOT / "results/precision.csv"


def train(precision: str, seed: int) -> float:
    """Return the validation recall@1 after the last epoch of one training."""
    config = read_config(preset="quick", precision=precision, seed=seed, data_seed=42)
    trainer = Trainer(config, tuned(config), load_from_config(config))
    result = trainer.fit()
    keras.backend.clear_session()
    print(precision, seed, result.history["val_recall@1"], f"{result.seconds:.0f} s", flush=True)
    return result.history["val_recall@1"][-1]


def compare(rows: list[dict[str, float]], other: str) -> str:
    """Say in a line by how much the precisions differ, with the paired 95 % interval."""
    values = ([row[precision] for row in rows] for precision in (other, "float32"))
    gain = paired_difference(*values)
    return (
        f"{other} - float32: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], "
        f"{gain.seeds} seeds"
    )


if __name__ == "__main__":
    other = sys.argv[1] if len(sys.argv) > 1 else "mixed_bfloat16"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    rows = []
    for seed in range(42, 42 + count):
        rows.append({"seed": seed} | {p: round(train(p, seed), 4) for p in ("float32", other)})
    write_rows(FILE, rows)
    compared = f"{compare(rows, other)} in " if count > 1 else ""
    print(f"{compared}{FILE.relative_to(ROOT)}")
