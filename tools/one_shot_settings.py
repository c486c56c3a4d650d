"""Compare settings of notebook 7 on background alphabets that are held out of the training.

    python -m tools.one_shot_settings DATA_HOME [STEPS]

Balinese, Japanese and Korean are held out; the other five alphabets of the minimal sets are trained
on. The trials are drawn like the official ones, which are not used. Prints one line per variant.
"""

import sys
from dataclasses import replace

from workbook.data.omniglot import (
    add_turned,
    alphabets,
    draw_trials,
    keep_alphabets,
    load_background,
)
from workbook.evaluation.one_shot import are_correct, embed_trials, run_interval, trial_distances
from workbook.settings import read_config
from workbook.training.one_shot_training import one_shot_recipes, train_on_characters

HELD_OUT = ["Balinese", "Japanese_(katakana)", "Korean"]
RUNS = 180  # 60 of each held-out alphabet
PER_EPOCH = 100


def main(data_home: str, steps: int = 600) -> None:
    data = load_background("omniglot", data_home)
    trained = keep_alphabets(data, [name for name in alphabets(data) if name not in HELD_OUT])
    trials = draw_trials(keep_alphabets(data, HELD_OUT), RUNS, seed=0)
    config = read_config({}, preset="quick", epochs=steps // PER_EPOCH, live=False)
    soft = one_shot_recipes()[-1]
    variants = {
        "as chosen": soft,
        "temperature 0.05": replace(soft, temperature=0.05),
        "margin 1, temperature 0.2": replace(soft, margin=1.0, temperature=0.2),
        "learning rate 0.001": replace(soft, learning_rate=1e-3),
        "weight decay 0.1": replace(soft, weight_decay=0.1),
        "72 characters, two images": replace(soft, classes=72),
    }
    print(f"held out: {', '.join(HELD_OUT)}; {steps} steps, {20 * RUNS:,} queries, one seed")
    for name, recipe in variants.items():
        result = train_on_characters(config, recipe, add_turned(trained), PER_EPOCH)
        correct = are_correct(
            trial_distances(embed_trials(result.embedding, trials)), trials.answers
        )
        low, high = run_interval(correct)
        print(
            f"{name:28}{correct.mean():.3f} [{low:.3f}, {high:.3f}] {result.seconds:4.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
