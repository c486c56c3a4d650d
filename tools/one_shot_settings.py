"""Compare settings of notebook 7 on background alphabets that are held out of the training.

    python -m tools.one_shot_settings DATA_HOME [STEPS [FILE]]

Balinese, Japanese and Korean are held out; the other five alphabets of the minimal sets are trained
on. The trials are drawn like the official ones, which are not used. Prints one line per variant,
and writes a table to FILE, such as `results/omniglot/settings.csv`.
"""

import csv
import sys
import time
from dataclasses import replace
from typing import Any

from workbook.data.omniglot import (
    add_classes,
    alphabets,
    draw_trials,
    keep_alphabets,
    load_background,
)
from workbook.evaluation.one_shot import are_correct, embed_trials, run_interval, trial_distances
from workbook.settings import read_config
from workbook.support.atomic_files import atomic_file
from workbook.training.one_shot_training import one_shot_recipes, train_on_characters

HELD_OUT = ["Balinese", "Japanese_(katakana)", "Korean"]
RUNS = 180  # 60 of each held-out alphabet
PER_EPOCH = 100
STRONGER = {"turn": 15.0, "shear": 0.4, "stretch": 0.3}
# name -> whether there are mirrored classes, what differs in the recipe, and in the network
VARIANTS: dict[str, tuple[bool, dict[str, Any], dict[str, Any]]] = {
    "ink as drawn, turned classes": (False, {}, {"spread": None}),
    "ink centred, turned classes": (False, {}, {}),
    "ink centred, turned and mirrored classes (chosen)": (True, {}, {}),
    "stronger distortion": (True, {}, {"distortion": STRONGER}),
    "temperature 0.05": (True, {"temperature": 0.05}, {}),
    "margin 1, temperature 0.2": (True, {"margin": 1.0, "temperature": 0.2}, {}),
    "learning rate 0.001": (True, {"learning_rate": 1e-3}, {}),
    "weight decay 0.1": (True, {"weight_decay": 0.1}, {}),
    "72 characters, two images": (True, {"classes": 72}, {}),
}


def main(data_home: str, steps: int = 500, file: str | None = None) -> None:
    data = load_background("omniglot", data_home)
    trained = keep_alphabets(data, [name for name in alphabets(data) if name not in HELD_OUT])
    trials = draw_trials(keep_alphabets(data, HELD_OUT), RUNS, seed=0)
    config = read_config({}, preset="quick", epochs=steps // PER_EPOCH, seed=0, live=False)
    print(f"held out: {', '.join(HELD_OUT)}; {steps} steps, {20 * RUNS:,} queries, one seed")
    rows = [["settings", "steps", "accuracy", "low", "high", "processor seconds"]]
    for name, (mirrored, recipe, network) in VARIANTS.items():
        more = add_classes(trained, mirrored)
        soft = replace(one_shot_recipes()[-1], **recipe)
        start = time.process_time()  # others may work on the machine
        result = train_on_characters(config, soft, more, PER_EPOCH, **network)
        seconds = time.process_time() - start
        correct = are_correct(
            trial_distances(embed_trials(result.embedding, trials)), trials.answers
        )
        numbers = [f"{number:.3f}" for number in (correct.mean(), *run_interval(correct))]
        rows.append([name, str(steps), *numbers, f"{seconds:.0f}"])
        print(f"{name:50}{numbers[0]} [{numbers[1]}, {numbers[2]}] {rows[-1][-1]:>4} s", flush=True)
    if file:
        with (
            atomic_file(file) as part,
            open(part, "w", newline="", encoding="utf-8") as table,
        ):
            csv.writer(table, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]), *sys.argv[3:4])
