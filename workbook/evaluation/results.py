"""Several trainings of one run: mean, spread and interval instead of one number.

`make run SEEDS=5` runs notebooks 4 and 5 five times, each training with a seed of its own. Data,
split and frozen trunk stay those of the first, so the kept features serve all of them.
Explained in notebook 05, "The results of this run".
"""

import json

import numpy as np

from workbook.evaluation.retrieval import bootstrap_interval


def save_metrics(config, metrics, answers):
    """Write a training's metrics.json and answers.npz; returns what the first of them now holds.

    metrics: stage -> name -> number. answers: "stage/name" -> (n,) one value a query, whose mean
    that number is. Of several SEEDS the first is to be evaluated last: its file holds all of them,
    as `pool` makes it. Raises FileNotFoundError if another was not evaluated, ValueError if it was
    with other settings.
    """
    metrics = metrics | {"settings": str(config), "seeds": [config.seed]}
    np.savez_compressed(config.run_dir / "answers.npz", **answers)
    if config.seeds > 1 and config.seed == config.data_seed:
        others = range(config.seed + 1, config.seed + config.seeds)
        folders = [config.run_dir / f"seed-{seed}" for seed in others]
        metrics = pool([(metrics, answers), *map(read_training, folders)])
    (config.run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1), "utf-8")
    return metrics


def read_training(folder):
    """(metrics, answers) of one training, as `save_metrics` left them in `folder`."""
    if not (folder / "answers.npz").exists():
        raise FileNotFoundError(f"{folder}: not evaluated yet; `make run SEEDS=...` does it")
    with np.load(folder / "answers.npz", allow_pickle=False) as file:
        answers = dict(file)
    return json.loads((folder / "metrics.json").read_text("utf-8")), answers


def pool(trainings):
    """One set of metrics of several trainings, each (metrics, answers) as in `save_metrics`.

    Each number becomes the mean over the seeds; beside it "<name> sd", their standard deviation
    (n - 1), and "<name> by seed", the numbers themselves. "<name> 95%" is the bootstrap interval of
    each query's mean over the seeds: it covers the choice of the queries, and the seeds only as far
    as they are averaged. What not every training measured is left out, and printed.
    Raises ValueError for trainings that differ in more than the seed.
    """
    every = [metrics for metrics, _ in trainings]
    first = every[0]
    for metrics in every[1:]:
        if difference := _different_settings(first["settings"], metrics["settings"]):
            raise ValueError(f"seeds of different runs: {difference}; run all of them again")
    pooled = {"seeds": [seed for metrics in every for seed in metrics["seeds"]]}
    for stage in stages(first):
        pooled[stage] = {}
        for name in first[stage]:
            if name.endswith(" 95%"):
                continue
            values = [metrics.get(stage, {}).get(name) for metrics in every]
            if None in values:
                print(f"{stage}, {name}: not measured with every seed, left out")
                continue
            spread = float(np.std(values, ddof=1))
            row = {name: float(np.mean(values)), f"{name} sd": spread, f"{name} by seed": values}
            if (key := f"{stage}/{name}") in trainings[0][1]:
                a_query = np.mean([answers[key] for _, answers in trainings], axis=0)
                row[f"{name} 95%"] = bootstrap_interval(a_query)
            pooled[stage] |= row
    return pooled | {"settings": first["settings"]}


def _different_settings(one, other):
    """The lines in which two printed `Config`s differ, but for that of the seed; "" if none."""
    pairs = zip(one.splitlines(), other.splitlines(), strict=True)
    return "; ".join(f"{a} / {b}" for a, b in pairs if a != b and not a.startswith("seed "))


def stages(metrics):
    """The names of what was measured, such as "untrained" and "trained"; the rest is settings."""
    return [name for name, values in metrics.items() if isinstance(values, dict)]


def results_table(metrics):
    """The measures that have an interval as lines of text: each, and below it every stage."""
    columns = stages(metrics)
    names = dict.fromkeys(name for stage in columns for name in metrics[stage])
    for name in (n.removesuffix(" 95%") for n in names if n.endswith(" 95%")):
        yield name
        for stage in columns:
            if name in metrics[stage]:
                yield f"  {stage:26}{format_value(metrics[stage], name)}"
    yield describe_runs(metrics)


def format_value(values, name):
    """A number with what is known beside it: 0.912 ± 0.004 [0.897, 0.927]."""
    text = f"{values[name]:.3f}"
    if f"{name} sd" in values:
        text += f" ± {values[f'{name} sd']:.3f}"
    if interval := values.get(f"{name} 95%"):
        text += " [{:.3f}, {:.3f}]".format(*interval)
    return text


def describe_runs(metrics):
    """One line that says how many trainings stand behind `metrics`, and what the signs mean."""
    seeds = metrics.get("seeds", ["unknown"])  # of a file from before SEEDS
    if len(seeds) == 1:
        return (
            f"one training (seed {seeds[0]}); [95 % interval over the queries]. "
            "Another seed gives other numbers: SEEDS=5 trains five times"
        )
    return (
        f"mean ± standard deviation of {len(seeds)} trainings (seeds {seeds[0]} to {seeds[-1]}); "
        "[95 % interval over the queries, of each one's mean over the seeds]"
    )
