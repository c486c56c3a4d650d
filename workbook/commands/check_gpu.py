"""Measure on a GPU what could not be measured without one: `python -m workbook check-gpu [--cpu]`.

Each check is a function that yields rows of one table. A check that raises an error is a row, too.
"""

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import siamese_utils as su
from workbook import ROOT
from workbook.data.images import load_from_config
from workbook.data.toys import render_toy
from workbook.evaluation.benchmark import median_by_turns, timed
from workbook.models.backbones import LITE, build_from_config
from workbook.settings import read_config
from workbook.support.config import Config
from workbook.support.tensorflow_start import GPUS, keras, tf
from workbook.support.text import printable_lines
from workbook.training.recipes import tuned
from workbook.training.step_profile import TrainingStep
from workbook.training.trainer import Trainer

HOLDS, FAILS, MEASURED, SKIPPED = "holds", "FAILS", "measured", "skipped"
NO_GPU = (
    "no GPU is visible to TensorFlow here: run this where there is one, or try the checks on small "
    "networks with --cpu, which lets the processor stand in"
)
PROCESS = """
import sys
from workbook.support.tensorflow_start import GPUS, tf
matrix = tf.random.normal((2000, 2000))
for line in sys.stdin:  # each line asks for one matrix product
    finite = bool(tf.reduce_all(tf.math.is_finite(matrix @ matrix)))
    grows = all(tf.config.experimental.get_memory_growth(gpu) for gpu in GPUS)
    print("computed" if finite and grows else "failed", flush=True)
"""


class Row(NamedTuple):
    """One line of the table; without a promise of the documentation it is only a measurement."""

    check: str
    measured: str
    promise: str = ""
    verdict: str = MEASURED


@dataclass(frozen=True)
class Scale:
    """How large the measured trainings are.

    network : settings of the network whose speed and whose gradient step are measured.
    classes, images : P and K of its batches.
    repeats : how often a step is timed.
    epoch : settings of the one epoch on photographs; None skips it.
    """

    network: dict[str, Any]
    classes: int
    images: int
    repeats: int
    epoch: dict[str, Any] | None


SPECIFIED = {"backbone": "ResNet50", "head": "specified", "size": 200}
FOR_GPU = Scale(
    SPECIFIED | {"weights": "none"}, 24, 4, 20,
    SPECIFIED | {"dataset": "grocery", "weights": "imagenet"},
)  # fmt: skip
SMALL = {"backbone": LITE, "head": "slim", "size": 32, "train_from": "none"}
FOR_CPU = Scale(SMALL, 4, 3, 2, None)


class Bench:
    """What the checks share: how large they are, a folder, settings and drawn toys.

    Parameters
    ----------
    scale : see `Scale`.
    folder : an empty folder, which the caller removes.
    """

    def __init__(self, scale: Scale, folder: Path):
        self.scale, self.folder = scale, folder

    def configure(self, **settings: Any) -> Config:
        """Return these settings; of the user's own ones, only the folder of datasets counts."""
        home = os.environ.get("SIAMESE_DATA_HOME", "")
        shared = {"preset": "quick", "runs": self.folder, "views": 1}
        return read_config({"SIAMESE_DATA_HOME": home}, **(shared | settings))

    def toys(self) -> str:
        """Return a folder with 16 classes of 8 drawn toys each."""
        images = self.folder / "toys"
        for toy in range(16 if not images.exists() else 0):
            (images / f"toy {toy}").mkdir(parents=True)
            for i in range(8):
                image = Image.fromarray(render_toy(toy, i)[0])
                image.save(images / f"toy {toy}" / f"{i}.png")
        return str(images)

    def trainer(self, **settings: Any) -> Trainer:
        """Return a trainer on the toys, by default of a small network and without XLA."""
        shared = SMALL | {"dataset": self.toys(), "epochs": 4, "xla": "off"}
        config = self.configure(**(shared | settings))
        return Trainer(config, tuned(config), load_from_config(config))

    def step(self, **settings: Any) -> TrainingStep:
        """Return a training step of the measured network."""
        config = self.configure(**(self.scale.network | {"xla": "off"} | settings))
        return TrainingStep(config, self.scale.classes, self.scale.images)


# ------------------------------------------------------------------------------------- the checks


def check_speed(bench: Bench) -> Iterator[Row]:
    """Time training steps in several precisions, on the processor and on the GPU."""
    ways: dict[str, dict[str, str]] = {
        "float32": {},
        "mixed_float16": {"precision": "mixed_float16"},
        "float32, XLA": {"xla": "on"},
        "mixed_float16, XLA": {"precision": "mixed_float16", "xla": "on"},
    }
    with tf.device("CPU:0"):
        processor = bench.step()
        first = processor.run()
        slow = median_by_turns({"": processor.run}, 3)[""]
    yield Row("training step, processor", f"{processor.size / slow:.0f} images/s")
    steps = {name: bench.step(**settings) for name, settings in ways.items()}
    off = {name: abs(step.run() - first) for name, step in steps.items()}
    seconds = median_by_turns({n: step.run for n, step in steps.items()}, bench.scale.repeats)
    for name, step in steps.items():
        gain, must_win = slow / seconds[name], name == "float32" and len(GPUS) > 0
        measured = f"{step.size / seconds[name]:.0f} images/s, {gain:.1f} × the processor's; "
        measured += f"first loss off by {off[name]:.4f}"
        promise = "loss within 0.02" + "; faster than the processor" * must_win
        holds = off[name] <= 0.02 and (gain > 1 or not must_win)
        yield judge(f"training step, {name}", measured, promise, holds)


def check_trunk(bench: Bench) -> Iterator[Row]:
    """Time the frozen layers on the processor and on the GPU."""
    config = bench.configure(**bench.scale.network)
    size = bench.scale.classes * bench.scale.images
    noise = np.random.default_rng(0).uniform(0, 255, (size, config.size, config.size, 3))
    pixels, seconds = np.float32(noise), []
    for device in ("CPU:0", None):
        with tf.device(device):
            trunk, _ = su.split_at_freeze_point(build_from_config(config))
            seconds.append(median_by_turns({"": partial(trunk.predict_on_batch, pixels)}, 3)[""])
    slow, fast = seconds
    measured = f"{size / fast:.0f} images/s, {slow / fast:.1f} × the processor's"
    yield Row("frozen layers", measured)


def check_memory(_: Bench) -> Iterator[Row]:
    """Let two processes compute at the same time, as two open notebooks do."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command, said = [sys.executable, "-c", PROCESS], []
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    try:
        for process in processes * 2:  # the second time, each holds what it has taken
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            said.append(process.stdout.readline().strip())
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    measured = f"{said.count('computed')} of 4 matrix products computed"
    yield judge("memory of two processes", measured, "both compute, memory grows as needed",
                said == ["computed"] * 4)  # fmt: skip


def check_gradient_step(bench: Bench) -> Iterator[Row]:
    """Compare a step by hand with `SiameseModel`, with the tolerance of notebook 3."""
    config = bench.configure(**bench.scale.network, dataset=bench.toys())
    data = load_from_config(config)
    columns = su.random_triplets(data.labels, 8).T
    triplets = tuple(np.float32(data.images[column]) for column in columns)
    hand, twin = (build_from_config(config, normalize=False) for _ in range(2))
    start = [weight.numpy() for weight in hand.trainable_weights]
    with tf.GradientTape() as tape:
        vectors = hand(np.concatenate(triplets), training=True)
        d_ap, d_an = su.DistanceLayer()(*tf.split(vectors, 3))
        loss = tf.reduce_mean(tf.maximum(d_ap - d_an + 0.5, 0))
    gradients = tape.gradient(loss, hand.trainable_weights)
    keras.optimizers.SGD(1e-5).apply(gradients, hand.trainable_weights)
    model = su.SiameseModel(twin, 0.5)
    model.compile(keras.optimizers.SGD(1e-5))
    losses = float(loss), float(model.train_on_batch(triplets, return_dict=True)["loss"])
    moved = [weight.numpy() for weight in hand.trainable_weights]
    changed = largest_difference(start, moved)
    differ = largest_difference([weight.numpy() for weight in twin.trainable_weights], moved)
    measured = f"weights change by {changed:.1e} and differ by {differ:.1e}; "
    measured += f"losses {losses[0]:.4f} and {losses[1]:.4f}"
    losses_agree = bool(np.isclose(*losses, rtol=1e-2, atol=1e-2))
    holds = differ <= 0.1 * changed + 1e-7 and losses_agree
    yield judge("a step by hand (notebook 3)", measured, "weights: a tenth; losses: 1 %", holds)


def check_all_devices(bench: Bench) -> Iterator[Row]:
    """Compare DEVICES=all with one device, and their speeds where there are several."""
    tf.config.experimental.enable_tensor_float_32_execution(False)  # it keeps 10 bits only
    try:
        one, every = bench.trainer(), bench.trainer(devices="all")
        histories = [trainer.fit().history for trainer in (one, every)]
        off = largest_difference([one.embed()], [every.embed()])
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    curves = [[history[name] for name in ("loss", "d_ap", "d_an")] for history in histories]
    off = max(off, largest_difference(*curves))
    count = every.strategy.num_replicas_in_sync
    measured = f"{count} device{'s' * (count > 1)}: curves and embeddings differ by {off:.1e}"
    yield judge("DEVICES=all", measured, "0.0001 at most", off <= 1e-4)
    if count < 2:
        yield Row("DEVICES=all, speed", "needs two devices", verdict=SKIPPED)
        return
    trainers = {name: bench.trainer(**bench.scale.network, devices=name) for name in ("one", "all")}
    epochs = {n: partial(t.model.fit, t.batches, verbose=0) for n, t in trainers.items()}
    seconds = median_by_turns(epochs, 3)
    gain = seconds["one"] / seconds["all"]
    yield Row("DEVICES=all, speed", f"{gain:.2f} × that of one device, at the same batch")


def check_photographs(bench: Bench) -> Iterator[Row]:
    """Train the specified network with ImageNet weights on `grocery` for an epoch."""
    name = "ResNet50, ImageNet weights, grocery"
    if bench.scale.epoch is None:
        yield Row(name, "left out with --cpu", verdict=SKIPPED)
        return
    config, begin = bench.configure(**bench.scale.epoch, epochs=1), time.perf_counter()
    try:
        data = load_from_config(config)
        trainer = Trainer(config, tuned(config), data)
    except OSError as error:  # of images or weights that cannot be downloaded
        yield Row(name, first_line(error), verdict=SKIPPED)
        return
    before, prepared = trainer.recall(), time.perf_counter() - begin
    result = trainer.fit()
    after = result.history["val_recall@1"][-1]
    measured = f"validation recall@1 {before:.3f} → {after:.3f}; images and frozen layers "
    measured += f"{prepared:.0f} s, one epoch {result.seconds:.0f} s"
    yield judge(name, measured, "better than untrained", after > before)


def check_resume(bench: Bench) -> Iterator[Row]:
    """Compare a resumed training with an uninterrupted one.

    It comes last, because TensorFlow's deterministic operations cannot be switched off again.
    """
    trainer = bench.trainer()

    def train(folder: str, *callbacks: keras.callbacks.Callback) -> np.ndarray:
        nonlocal trainer
        parts = trainer.config, trainer.recipe, trainer.data, trainer.features
        trainer = Trainer(*parts, reuse=trainer)
        trainer.fit(folder=bench.folder / folder, callbacks=callbacks)
        return trainer.embed()

    (_, first), (plain, again) = timed(train, "first"), timed(train, "again")
    off = largest_difference([first], [again])
    row = "the same seed twice", f"embeddings differ by {off:.1e}"
    yield Row(*row) if GPUS else judge(*row, "0 on one processor", off == 0)
    tf.config.experimental.enable_op_determinism()
    (determined, whole) = timed(train, "whole")
    yield Row("deterministic operations", f"a training takes {determined / plain:.2f} × as long")
    with contextlib.suppress(KeyboardInterrupt):
        train("parts", _StopBefore(2))
    off = largest_difference([whole], [train("parts")])
    measured = f"embeddings differ by {off:.1e} (deterministic operations)"
    yield judge("resumed after 2 of 4 epochs", measured, "0: the same result", off == 0)


class _StopBefore(keras.callbacks.Callback):
    """Interrupts a training before an epoch, counted from 0, as the stop button does."""

    def __init__(self, epoch: int):
        super().__init__()
        self.stop = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.stop:
            raise KeyboardInterrupt


Check = Callable[[Bench], Iterator[Row]]
CHECKS: dict[str, Check] = {
    "speed of a training step": check_speed,
    "speed of the frozen layers": check_trunk,
    "memory of two processes": check_memory,
    "a step by hand (notebook 3)": check_gradient_step,
    "DEVICES=all": check_all_devices,
    "an epoch on photographs": check_photographs,
    "a resumed training": check_resume,
}

# -------------------------------------------------------------------------------------- the table


def judge(check: str, measured: str, promise: str, holds: bool) -> Row:
    """Return the row of a promise that holds or fails."""
    return Row(check, measured, promise, HOLDS if holds else FAILS)


def largest_difference(some: Sequence[Any], others: Sequence[Any]) -> float:
    """Return the largest absolute difference between two lists of arrays; nan if there is one."""
    return float(max(np.abs(np.subtract(one, other)).max() for one, other in zip(some, others)))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, after its kind."""
    return printable_lines(f"{type(error).__name__}: {error}").partition("\n")[0]


def run_checks(bench: Bench, checks: Mapping[str, Check]) -> list[Row]:
    """Carry out all checks; one that raises an error gives a row that says so."""
    rows: list[Row] = []
    for number, (name, check) in enumerate(checks.items(), start=1):
        print(f"{number}/{len(checks)} {name}", flush=True)
        try:
            for row in check(bench):
                rows.append(row)
        except Exception as error:
            rows.append(Row(name, first_line(error), "runs without an error", FAILS))
        finally:
            keras.config.set_dtype_policy("float32")
            keras.backend.clear_session()
            gc.collect()
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    cells = [[text.replace("|", "/") for text in row] for row in [Row._fields, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells)


def describe_machine() -> str:
    """Return the versions and the devices in a line."""
    build = tf.sysconfig.get_build_info().get("cuda_version", "none")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in GPUS]
    devices = ", ".join(name or "a GPU" for name in names) or f"no GPU, {os.cpu_count()} CPU cores"
    return f"TensorFlow {tf.__version__}, Keras {keras.__version__}, CUDA {build}: {devices}"


def check_gpu(cpu: bool = False) -> int:
    """Carry out all checks and print their table.

    Parameters
    ----------
    cpu : whether the processor may stand in for a GPU, with small networks.

    Returns
    -------
    The exit code: 0 if every promise holds, 1 if one fails, 2 without a GPU.
    """
    if not GPUS and not cpu:
        print(NO_GPU)
        return 2
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = run_checks(Bench(FOR_GPU if GPUS else FOR_CPU, Path(folder)), CHECKS)
    failed = sum(row.verdict == FAILS for row in rows)
    held = sum(row.verdict == HOLDS for row in rows)
    print(f"\n{describe_machine()}\n\n{format_table(rows)}\n")
    print(f"{held} promises hold, {failed} fail; {time.perf_counter() - begin:.0f} seconds")
    return 1 if failed else 0
