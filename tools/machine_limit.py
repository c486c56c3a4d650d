"""How near a training step comes to what the machine can do: results/machine_limit.csv.

usage: python -m tools.machine_limit [PYTHON_WITH_TORCH]

Measured by turns, in float32 and bfloat16: the product of two 2048 x 2048 matrices, and one
training step of the specified network's trained part on kept features (24 classes x 4 images, hard
mining, AdamW). Where the Python of an environment with torch and pytorch-metric-learning is named,
the same step in PyTorch takes its turn, too (`tools/peer.py`). At the end each part of the step is
measured, then the frozen layers in batches of several sizes, and a step of the default run's
network (64 classes x 2 images). Notebook 9 shows the table and the parts. Nothing else should run
on the machine.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from workbook import ROOT
from workbook.evaluation.benchmark import count_operations, matrix_product, median_by_turns, timed
from workbook.settings import read_config
from workbook.support.atomic_files import write_rows
from workbook.support.tensorflow_start import tf
from workbook.training.step_profile import TrainingStep

FILE = ROOT / "results/machine_limit.csv"
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
SPECIFIED = {"backbone": "ResNet50", "weights": "none", "head": "specified", "size": 200}
DEFAULT = {"backbone": "EfficientNetLite0", "head": "specified", "size": 96}
SIDE, ROUNDS = 2048, 7
TRUNK_BATCHES = (8, 32, 96)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Peer:
    """The process of `tools/peer.py`; it computes only when it is asked to."""

    def __init__(self, python: str):
        command, pipe = [python, ROOT / "tools/peer.py"], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, program: str, precision: str) -> float:
        """Return how long one call of a program takes there."""
        answer = ""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self.process.stdin.write(f"{program} {precision}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise ValueError(
                "the Python of the peer ended, for the reason above: name one of an environment "
                "with torch and pytorch-metric-learning, or none"
            )
        return float(answer)


def measure(python: str | None) -> Iterator[dict[str, object]]:
    """Yield the rows of the table; `python` is that of the peer's environment."""
    peer = Peer(python) if python else None
    steps: dict[str, TrainingStep] = {}
    clocks: dict[tuple[str, str], Callable[[], float]] = {}
    for name, precision in PRECISIONS.items():
        config = read_config({}, preset="quick", precision=precision, **SPECIFIED)
        steps[name] = TrainingStep(config)
        product, step = matrix_product(SIDE, name), steps[name].run
        clocks["matrix product", name] = lambda product=product: timed(product)[0]
        clocks["workbook", name] = lambda step=step: timed(step)[0]
        if peer:
            clocks["matrix product, peer", name] = partial(peer.seconds, "product", name)
            clocks["peer", name] = partial(peer.seconds, "step", name)
    rounds = [[clock() for clock in clocks.values()] for _ in range(ROUNDS + 1)]  # one to compile
    for (program, precision), seconds in zip(clocks, np.median(rounds[1:], axis=0)):
        is_step = program in ("workbook", "peer")
        work = steps["float32"].gigaflops if is_step else 2 * SIDE**3 / 1e9
        images = steps["float32"].size if is_step else 0
        yield make_row(program, precision, "whole", seconds, images, work)
    if peer:
        peer.process.kill()
    for precision, measured in steps.items():
        for part, seconds in measured.profile(ROUNDS).items():
            yield make_row("workbook", precision, part, seconds)
    yield from measure_trunk(steps)
    yield from measure_default()


def measure_trunk(steps: Mapping[str, TrainingStep]) -> Iterator[dict[str, object]]:
    """Yield the rows of the specified network's frozen layers, for each size of a batch."""
    passes = {}
    for name, step in steps.items():
        forward = tf.function(partial(step.trunk, training=False))
        for size in TRUNK_BATCHES:
            pixels = np.zeros((size, *step.trunk.input_shape[1:]), np.float32)
            passes[name, size] = partial(forward, tf.constant(pixels))
    seconds = median_by_turns(passes, ROUNDS)
    work = count_operations(steps["float32"].trunk) / 1e9
    for (name, size), each in seconds.items():
        yield make_row(f"frozen layers, {size} images", name, "whole", each, size, size * work)


def measure_default() -> Iterator[dict[str, object]]:
    """Yield the rows of the default run's network, by turns in both precisions."""
    steps = {}
    for name, precision in PRECISIONS.items():
        config = read_config({}, preset="quick", precision=precision, **DEFAULT)
        steps[name] = TrainingStep(config, classes=64, images=2)
    seconds = median_by_turns({name: step.run for name, step in steps.items()}, ROUNDS)
    for name, step in steps.items():
        program, work = "workbook, default network", step.gigaflops
        yield make_row(program, name, "whole", seconds[name], step.size, work)


def make_row(
    program: str, precision: str, part: str, seconds: float, images: int = 0, gigaflops: float = 0
) -> dict[str, object]:
    """Return a row of the table, with the cores that were used and the load of the last minute."""
    return {
        "program": program,
        "precision": precision,
        "part": part,
        "seconds": round(float(seconds), 4),
        "images_per_second": round(images / seconds, 1) if images else "",
        "gflop_per_second": round(gigaflops / seconds) if gigaflops else "",
        "cores": CORES,
        "load": round(os.getloadavg()[0], 1),
    }


def main(python: str | None = None) -> None:
    """Measure everything, print each row as it comes, and write the table."""
    rows = []
    for row in measure(python):
        print(*row.values(), flush=True)
        rows.append(row)
    write_rows(FILE, rows)


if __name__ == "__main__":
    main(*sys.argv[1:2])
