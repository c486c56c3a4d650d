"""A small training on one or several devices: what test_devices starts in processes of its own.

    python together.py one|all|workers LOSSES_FILE

"all" is two logical CPU devices. Prints nothing; writes the curves as JSON.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np

import siamese_utils as su
from workbook.models.devices import choose_strategy, synchronize_batch_norm
from workbook.settings import read_config
from workbook.support.tensorflow_start import keras, tf
from workbook.training.batches import EpochSetter, IndexBatches, pk_batches
from workbook.training.mined_model import ExplicitSiameseModel, MinedSiameseModel
from workbook.training.optimizers import FusedAdamW

LABELS = np.repeat(np.arange(8), 4)
IMAGES = np.random.default_rng(0).normal(size=(32, 8, 8, 3)) + LABELS[:, None, None, None] / 8


def build(mining, jit_compile=False):
    """A small model, compiled; the same weights each time. Without mining for explicit triplets."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    backbone = keras.Model(image, keras.layers.Conv2D(8, 3, activation="relu")(image))
    head = lambda x: su.specified_head(x, units=(16, 8))  # noqa: E731
    embedding = su.build_embedding_model(
        (8, 8, 3), backbone=backbone, train_from=None, head=head, normalize=True
    )
    synchronize_batch_norm(embedding)
    if mining:
        model = MinedSiameseModel(embedding, miner=mining)
    else:
        model = ExplicitSiameseModel(embedding)
    model.compile(FusedAdamW(3e-3), jit_compile=jit_compile)
    return model


def fit(model, epochs=4):
    """Train on the images, two batches per epoch; returns the history."""
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}
    if isinstance(model, MinedSiameseModel):
        batches = IndexBatches(IMAGES, LABELS, lambda epoch: pk_batches(LABELS, 4, 4, epoch))
    else:
        draw = lambda epoch: su.random_triplets(LABELS, 32, epoch).reshape(2, 16, 3)  # noqa: E731
        batches = IndexBatches(IMAGES, LABELS, draw)
        options = EpochSetter.added_to(options, batches)
    return model.fit(batches, **options).history


if __name__ == "__main__":
    devices, out = sys.argv[1:]
    if devices == "all":
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, logical)
    strategy = choose_strategy(read_config(preset="quick", devices=devices))
    curves = {"replicas": strategy.num_replicas_in_sync}
    for mining in (None, "semi-hard"):
        with strategy.scope():
            model = build(mining)
        history = fit(model)  # 8 steps
        curves[str(mining)] = history | {"embeddings": su.embed(model.embedding, IMAGES).tolist()}
    Path(out).write_text(json.dumps(curves), "utf-8")
