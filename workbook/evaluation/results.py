"""Results of one or several trainings: mean, spread and interval. Notebook 05 explains them.

`make run SEEDS=5` trains and evaluates five times, each time with a seed of its own. Data, split
and frozen trunk stay those of the first seed, so that the kept features serve all of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from workbook.evaluation.retrieval import bootstrap_interval
from workbook.support.config import Config

BY_CLASS = "intervals by class"  # the entry of metrics.json that names the measures with groups
GROUPS = "groups of "  # how the name of an array of groups begins in answers.npz


class Training(NamedTuple):
    """What one training was measured to be; see `save_metrics`."""

    metrics: dict[str, Any]
    answers: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray] = {}


def save_metrics(
    config: Config,
    metrics: Mapping[str, Any],
    answers: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write metrics.json and answers.npz into the run's folder.

    Parameters
    ----------
    config : `run_dir`, `seed`, `seeds` and `data_seed` are used. If there are several seeds, the
        first has to be evaluated last: its file then holds all of them, as `pool` combines them.
    metrics : stage -> name -> number. The interval "<name> 95%" is added where it is missing and
        the answers are given.
    answers : "<stage>/<name>" -> (n,) one value per query, whose mean is that number.
    groups : "<stage>/<name>" -> (n,) class numbers, for answers whose interval is to resample whole
        classes (a claim about classes that the training has not seen).

    Returns
    -------
    dict : what metrics.json now holds.

    Raises
    ------
    FileNotFoundError : if another seed was not evaluated yet.
    ValueError : if another seed was evaluated with other settings.
    """
    groups = groups or {}
    complete: dict[str, Any] = {"settings": str(config), "seeds": [config.seed]}
    if groups:
        complete[BY_CLASS] = sorted(groups)
    for stage, values in metrics.items():
        complete[stage] = dict(values) if isinstance(values, Mapping) else values
    for key, values in answers.items():
        stage, _, name = key.partition("/")
        if f"{name} 95%" not in complete[stage]:
            complete[stage][f"{name} 95%"] = list(bootstrap_interval(values, groups.get(key)))
    arrays = dict(answers) | {GROUPS + key: labels for key, labels in groups.items()}
    np.savez_compressed(config.run_dir / "answers.npz", **arrays)  # type: ignore[arg-type]
    if config.seeds > 1 and config.seed == config.data_seed:
        others = range(config.seed + 1, config.seed + config.seeds)
        folders = [config.run_dir / f"seed-{seed}" for seed in others]
        complete = pool([Training(complete, answers, groups), *map(read_training, folders)])
    (config.run_dir / "metrics.json").write_text(json.dumps(complete, indent=1), "utf-8")
    return complete


def read_training(folder: Path) -> Training:
    """Read what `save_metrics` left in `folder`; FileNotFoundError if it left nothing."""
    if not (folder / "answers.npz").exists():
        raise FileNotFoundError(f"{folder}: not evaluated yet; `make run SEEDS=...` does it")
    with np.load(folder / "answers.npz", allow_pickle=False) as file:
        arrays = dict(file)
    groups = {k.removeprefix(GROUPS): arrays.pop(k) for k in list(arrays) if k.startswith(GROUPS)}
    return Training(json.loads((folder / "metrics.json").read_text("utf-8")), arrays, groups)


def pool(trainings: Sequence[Training]) -> dict[str, Any]:
    """Combine the metrics of several trainings that differ only in their seed.

    Each number becomes the mean over the seeds. Beside it stand "<name> sd", their standard
    deviation (n - 1), and "<name> by seed", the numbers themselves. "<name> 95%" is the bootstrap
    interval of each query's mean over the seeds: it covers the choice of the queries (or of the
    classes, where groups were given), but the seeds only in so far as they are averaged. A measure
    that one of the trainings does not have is not pooled; a line is printed for it.

    Raises
    ------
    ValueError : for trainings whose settings differ in more than the seed.
    """
    all_metrics = [training.metrics for training in trainings]
    first, *others = all_metrics
    for metrics in others:
        if difference := _describe_difference(first["settings"], metrics["settings"]):
            raise ValueError(f"seeds of different runs: {difference}; run all of them again")
    pooled: dict[str, Any] = {"seeds": [s for metrics in all_metrics for s in metrics["seeds"]]}
    for stage in stages(first):
        pooled[stage] = {}
        for name in first[stage]:
            if name.endswith(" 95%"):
                continue
            values = [metrics.get(stage, {}).get(name) for metrics in all_metrics]
            if None in values:
                print(f"{stage}, {name}: not measured with every seed, not pooled")
                continue
            spread = float(np.std(values, ddof=1))
            row = {name: float(np.mean(values)), f"{name} sd": spread, f"{name} by seed": values}
            if (key := f"{stage}/{name}") in trainings[0].answers:
                per_query = np.mean([training.answers[key] for training in trainings], axis=0)
                row[f"{name} 95%"] = bootstrap_interval(per_query, trainings[0].groups.get(key))
            pooled[stage] |= row
    kept = {name: first[name] for name in ("settings", BY_CLASS) if name in first}
    return pooled | kept


def _describe_difference(one: str, other: str) -> str:
    """Name the lines in which two printed `Config`s differ, apart from the seed; "" if none."""
    pairs = zip(one.splitlines(), other.splitlines(), strict=True)
    return "; ".join(f"{a} / {b}" for a, b in pairs if a != b and not a.startswith("seed "))


class PairedDifference(NamedTuple):
    """The difference of two measures over the same seeds; printed as one line."""

    mean: float
    sd: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3f} ± {self.sd:.3f} [{self.low:+.3f}, {self.high:+.3f}] "
            f"over {self.seeds} seeds"
        )


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare two measures seed by seed: how much larger is `a` than `b`?

    Parameters
    ----------
    a, b : (n,) the values of the same seeds in the same order, such as `values_by_seed` gives.

    Returns
    -------
    PairedDifference (mean, sd, low, high, seeds) of a - b: its mean, its standard deviation
    (n - 1), and the 95 % interval of the mean by Student's t with n - 1 degrees of freedom.

    Raises
    ------
    ValueError : unless there are at least two finite values on both sides, equally many.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"values of {first.size} and {second.size} seeds: both need the same seeds, two at "
            "least; SEEDS=5 trains five times"
        )
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("a value is NaN or infinite, so there is no difference")
    count, mean, sd = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / count**0.5
    return PairedDifference(mean, sd, mean - half, mean + half, count)


def values_by_seed(metrics: Mapping[str, Any], stage: str, name: str) -> list[float]:
    """Return one measure of one stage per seed; a list of one value for a single training."""
    return list(metrics[stage].get(f"{name} by seed", [metrics[stage][name]]))


def stages(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of what was measured, such as "untrained" and "trained"."""
    return [name for name, values in metrics.items() if isinstance(values, dict)]


def results_table(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the measures that have an interval as lines of text: each, and below it every stage."""
    columns = stages(metrics)
    names = dict.fromkeys(name for stage in columns for name in metrics[stage])
    for name in (n.removesuffix(" 95%") for n in names if n.endswith(" 95%")):
        yield name
        for stage in columns:
            if name in metrics[stage]:
                yield f"  {stage:30}{format_value(metrics[stage], name)}"
    yield describe_runs(metrics)


def format_value(values: Mapping[str, Any], name: str) -> str:
    """Write a number with what is known beside it: 0.912 ± 0.004 [0.897, 0.927]."""
    text = f"{values[name]:.3f}"
    if f"{name} sd" in values:
        text += f" ± {values[f'{name} sd']:.3f}"
    if interval := values.get(f"{name} 95%"):
        text += " [{:.3f}, {:.3f}]".format(*interval)
    return text


def describe_runs(metrics: Mapping[str, Any]) -> str:
    """Say in one line how many trainings stand behind `metrics`, and what the signs mean."""
    seeds = metrics.get("seeds", ["unknown"])  # older files do not say
    by_class = dict.fromkeys(key.partition("/")[2] for key in metrics.get(BY_CLASS, []))
    classes = f", of {' and '.join(by_class)} over the classes" if by_class else ""
    if len(seeds) == 1:
        return (
            f"one training (seed {seeds[0]}); [95 % interval over the queries{classes}]. "
            "Another seed gives other numbers: SEEDS=5 trains five times"
        )
    return (
        f"mean ± standard deviation of {len(seeds)} trainings (seeds {seeds[0]} to {seeds[-1]}); "
        f"[95 % interval over the queries{classes}, of each one's mean over the seeds]"
    )
