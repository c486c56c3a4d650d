"""What `make run DATASET=<folder>` reaches on small folders: results/own_folders.json.

usage: python -m tools.own_folders [DATA_HOME]

Five folders of photographs as somebody may have them, drawn from `grocery`: 12 classes with 9
images of the training split and 4 of the test split each. Each is run as the README says.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from workbook import ROOT
from workbook.data import images

CLASSES, TRAIN, TEST = 12, 9, 4
STAGES = ("trained", "plain features", "raw pixels")


def make_folder(data, folder, seed):
    """Copy random images of `data` into `folder`/train/<class> and `folder`/test/<class>."""
    rng = np.random.default_rng(seed)
    wanted = {"train": TRAIN, "test": TEST}
    rows = {split: data.where(split) for split in wanted}
    many = [
        np.bincount(data.labels[rows[split]], minlength=len(data.class_names)) >= count
        for split, count in wanted.items()
    ]
    for label in rng.choice(np.flatnonzero(np.all(many, axis=0)), CLASSES, replace=False):
        for split, count in wanted.items():
            place = folder / split / data.class_names[label]
            place.mkdir(parents=True)
            of_class = rows[split][data.labels[rows[split]] == label]
            for row in rng.choice(of_class, count, replace=False):
                shutil.copy(data.paths[row], place)


def run(folder, seed):
    """Run the README's command; return stage -> accuracy of the closest training image."""
    command = [sys.executable, "-m", "workbook", "run", f"DATASET={folder}", "PRESET=quick"]
    command += [f"SEED={seed}", f"RUNS={folder.parent / 'runs'}", "4", "5"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIAMESE_")}
    subprocess.run(command, cwd=ROOT, env=clean, check=True)
    file = folder.parent / "runs" / f"{folder.name}-quick" / "metrics.json"
    metrics = json.loads(file.read_text("utf-8"))
    return {stage: metrics[stage]["nearest_neighbor_accuracy"] for stage in STAGES}


if __name__ == "__main__":
    data = images.load_images("grocery", 64, *sys.argv[1:2])
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        for seed in range(1, 6):
            make_folder(data, folder := Path(parent) / f"folder-{seed}", seed)
            rows.append(run(folder, seed))
            print(rows[-1], flush=True)
    found = {stage: [round(row[stage], 3) for row in rows] for stage in STAGES}
    file = ROOT / "results/own_folders.json"
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for stage, shares in found.items():
        print(f"{stage:16}{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}")
