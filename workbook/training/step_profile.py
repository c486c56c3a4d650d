"""One training step of a network on kept features, and where its time goes. Notebook 9 shows it.

`python -m tools.machine_limit` and `python -m workbook check-gpu` measure with it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import siamese_utils as su
from workbook.evaluation.benchmark import count_operations, median_by_turns
from workbook.models.backbones import build_from_config
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras, tf
from workbook.training.batches import IndexBatches, pk_batches
from workbook.training.recipes import tuned

PARTS = ("gather", "backbone tail", "head", "mining and loss", "backward", "optimiser")


class TrainingStep:
    """A step as the `Trainer` makes it: hard mining in P x K images, AdamW, kept features.

    The features are random, which is as fast as real ones.

    Parameters
    ----------
    config : of the network, its precision and XLA.
    classes, images : P and K.
    kept : how many images' features are kept, as float16.

    Attributes
    ----------
    trunk : the frozen layers, whose output is computed once per image.
    model : the compiled `MinedSiameseModel`.
    gigaflops : multiplications and additions of a step in convolutions and dense layers, in
        billions: once forward, and twice backward.
    """

    def __init__(self, config: Config, classes: int = 24, images: int = 4, kept: int = 480):
        embedding = build_from_config(config)
        self.trunk, tail = su.split_at_freeze_point(embedding)
        recipe = replace(tuned(config), mining="hard", optimizer="AdamW", learning_rate=1e-5)
        self.model = recipe.build_model(tail)
        self.model.compile(recipe.make_optimizer(10**6), jit_compile=config.jit_compile)
        rng, self.size = np.random.default_rng(0), classes * images
        labels = np.arange(kept) % max(classes, kept // 2 // images)
        features = np.maximum(rng.normal(size=(kept, *tail.input_shape[1:])), 0)
        self.batches = IndexBatches(
            features.astype(np.float16), labels, lambda _: pk_batches(labels, classes, images)
        )
        self.gigaflops = 3 * self.size * count_operations(tail) / 1e9

    def gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch: float32 features and their labels."""
        return self.batches[0]

    def run(self) -> float:
        """Gather a batch and train on it once; return the loss."""
        return float(self.model.train_on_batch(*self.gather(), return_dict=True)["loss"])

    def profile(self, repeats: int = 5) -> dict[str, float]:
        """Measure how many seconds each of `PARTS` takes.

        The programs that are timed by turns contain one part more each, up to the whole step. A
        part is the difference of two medians, so it may be slightly negative where it is short.
        """
        programs = self._growing_programs()
        medians = median_by_turns({"gather": self.gather} | programs, repeats)
        gathered, *totals = (medians[name] for name in PARTS)
        return dict(zip(PARTS, [gathered, totals[0], *np.diff(totals)]))

    def _growing_programs(self) -> dict[str, Callable[[], Any]]:
        """Return programs on one batch, each with the part in its name and all parts before it."""
        model, tail = self.model, self.model.embedding
        backbone = next((part for part in tail.layers if part.name == "backbone_tail"), None)
        images, labels = map(tf.constant, self.gather())

        def forward(network: keras.Model) -> Any:
            return tf.reduce_sum(network(images, training=True))

        def loss() -> Any:
            return model.triplet_loss((images, labels), training=True)

        def backward() -> Any:
            with tf.GradientTape() as tape:
                value = model.optimizer.scale_loss(loss())
            return tape.gradient(value, model.trainable_weights)

        def whole() -> Any:
            return model.train_step((images, labels))

        parts = [lambda: forward(backbone or tail), lambda: forward(tail), loss, backward, whole]
        options = {"jit_compile": model.jit_compile is True, "autograph": False}
        compiled = [tf.function(part, **options) for part in parts]
        return {name: partial(_wait_for, part) for name, part in zip(PARTS[1:], compiled)}


def _wait_for(program: Callable[[], Any]) -> None:
    """Run a compiled program to its end, also on a GPU, which works on while Python goes on."""
    keras.tree.flatten(program())[-1].numpy()
