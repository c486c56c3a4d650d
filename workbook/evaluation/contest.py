"""What a contest of losses has kept, and how the losses rank.

`tools/which_loss.py` writes it, notebook 8 reads it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from workbook.evaluation.retrieval import RESAMPLES
from workbook.support.atomic_files import atomic_file

MEASURES = ("recall@1", "map@r")


class Store:
    """The trainings of a contest, one dict per line of a JSON Lines file.

    Each has a "stage": "trial", judged on the classes of the choice; "final", whose measures are
    lists with one value per test class; "reference", which needs no training; or "full".
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        lines = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> list[dict[str, Any]]:
        """Return the lines that have all of these values."""
        return [line for line in self.lines if key.items() <= line.items()]

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Add a line, write the file, and return the line."""
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as part:
            part.write_text("".join(json.dumps(each) + "\n" for each in self.lines), "utf-8")
        return line

    @property
    def losses(self) -> list[str]:
        """The losses that were tried, in the order of their first trials."""
        return list(dict.fromkeys(line["loss"] for line in self.find(stage="trial")))

    def scores(self, loss: str) -> list[float]:
        """Return the MAP@R of a loss's trials on the classes of the choice, in their order."""
        return [trial["map@r"] for trial in self.find(stage="trial", loss=loss)]

    def best_trial(self, loss: str) -> dict[str, Any]:
        """Return the trial of a loss with the highest MAP@R on the classes of the choice."""
        return max(self.find(stage="trial", loss=loss), key=lambda trial: trial["map@r"])

    def best_draw(self, loss: str) -> dict[str, Any]:
        """Return the learning rate and the options of the best trial of a loss."""
        best = self.best_trial(loss)
        return {name: best[name] for name in ("learning_rate", "options")}

    def finals(self, loss: str) -> list[dict[str, Any]]:
        """Return the final trainings of a loss with the options of its best trial."""
        return self.find(stage="final", loss=loss, **self.best_draw(loss))

    def chosen(self) -> dict[str, Any]:
        """Return the best trial of all losses."""
        return max(map(self.best_trial, self.losses), key=lambda trial: trial["map@r"])


class Standing(NamedTuple):
    """How good one loss, or one reference without training, is on the test classes.

    name : the loss or the reference.
    options : how many options were tuned, the learning rate among them; 0 for a reference.
    choice : the measure of its best trial on the classes of the choice; nan for a reference.
    mean, sd : over the seeds, of the mean over classes; sd is nan for a single training.
    interval : 95 % interval of the mean, see `crossed_interval`.
    gain, gain_interval : the same of the paired difference to the loss compared with.
    """

    name: str
    options: int
    choice: float
    mean: float
    sd: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def rank(store: Store, measure: str, against: str) -> list[Standing]:
    """Rank all losses and references by a measure on the test classes, the best first.

    Parameters
    ----------
    measure : one of `MEASURES`.
    against : the loss that the others are compared with, class by class and seed by seed.

    Raises
    ------
    ValueError : if a final training of `against` is missing.
    """
    finals = [line for loss in store.losses for line in store.finals(loss)]
    values: dict[str, list] = {}
    for line in [*finals, *store.find(stage="reference")]:
        values.setdefault(line["loss"], []).append(line[measure])
    if against not in values:
        raise ValueError(f"{store.path} has no final training of the loss {against!r}")
    standings, compared = [], np.array(values[against])
    for name, rows in values.items():
        scores = np.array(rows)  # (seeds, classes)
        seeds = min(len(scores), len(compared)) if len(scores) > 1 else len(compared)
        gains = scores[:seeds] - compared[:seeds]  # a reference is compared with all of them
        trial = store.best_trial(name) if name in store.losses else None
        by_seed = scores.mean(axis=1)
        standings.append(
            Standing(
                name,
                1 + len(trial["options"]) if trial else 0,
                trial[measure] if trial else float("nan"),
                float(by_seed.mean()),
                float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan"),
                crossed_interval(scores),
                float(gains.mean()),
                crossed_interval(gains),
            )
        )
    return sorted(standings, key=lambda standing: -standing.mean)


def crossed_interval(values: ArrayLike, seed: int = 42) -> tuple[float, float]:
    """Compute a 95 % interval of a mean over seeds and classes, drawing both anew.

    Parameters
    ----------
    values : (seeds, classes), one measure per training and class. With one row, only classes are
        drawn, and the interval covers no other training.
    seed : of the resamples.

    Returns
    -------
    (low, high), two floats.

    References
    ----------
    Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1: it is slightly too wide
    rather than too narrow.
    """
    scores = np.asarray(values, float)
    rng, (seeds, classes) = np.random.default_rng(seed), scores.shape
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    columns = rng.multinomial(classes, np.full(classes, 1 / classes), RESAMPLES) / classes
    low, high = np.quantile(((rows @ scores) * columns).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
