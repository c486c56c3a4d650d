"""The trainings of notebook 7: a small network on the characters of some alphabets."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbook.data.images import ImageDataset
from workbook.models.saved_models import load_model
from workbook.models.small_cnn import build_character_embedding
from workbook.support.atomic_files import atomic_file
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras
from workbook.training.callbacks import LiveLossPlot
from workbook.training.recipes import Recipe
from workbook.training.trainer import KeptFeatures, Trainer


def one_shot_recipes() -> list[Recipe]:
    """Return three recipes: random triplets, mined triplets, mined ones with the soft loss.

    All of them see batches of 144 images. The settings of the last one were chosen on background
    alphabets that were left out of the training, see notebook 7.
    """
    soft = Recipe(
        name="soft loss",
        mining="hard",
        margin=0.5,
        temperature=0.1,
        learning_rate=3e-3,
        weight_decay=0.01,
        classes=48,
        images=144,
    )
    mined = replace(soft, name="mined triplets", mining="semi-hard", temperature=None)
    random = replace(mined, name="random triplets", triplets="random", mining=None)
    return [random, mined, soft]


class OneShotTraining(NamedTuple):
    """A trained embedding, the seconds that its training took, and its steps and images."""

    embedding: keras.Model
    seconds: float
    steps: int
    images: int


def train_on_characters(
    config: Config,
    recipe: Recipe,
    data: ImageDataset,
    steps: int,
    folder: Path | None = None,
    plot: LiveLossPlot | None = None,
    **network: Any,
) -> OneShotTraining:
    """Train a new embedding, or load it where the same training has ended before.

    Parameters
    ----------
    config : the seed, the number of epochs and the precision are used.
    recipe, data : how to train, and on which characters.
    steps : batches per epoch.
    folder : where the embedding is kept; an interrupted training continues there. None keeps
        nothing.
    plot : a live plot of the curves.
    network : options of `build_character_embedding` that differ from its defaults.
    """
    side = data.images.shape[1]
    embedding = build_character_embedding(side, config.seed, recipe.normalize, **network)
    rows = data.where("train")  # the frozen trunk is empty, so its output is the images themselves
    features = KeptFeatures(data.images, rows, np.empty(0), 1, rows)
    trainer = Trainer(config, recipe, data, features, embedding=embedding, steps=steps)
    images = trainer.epochs * trainer.batches.batches.size
    facts = {
        "data": data.fingerprint,
        "seed": config.seed,
        "epochs": trainer.epochs,
        "steps": steps,
        "precision": config.precision,
        "parameters": embedding.count_params(),
        "layers": [layer.name for layer in trainer.tail.get_layer("backbone_tail").layers],
        "network": network,
        "recipe": asdict(recipe),
    }
    note = folder and folder / "training.json"
    if folder and note and note.is_file():
        known = json.loads(note.read_text("utf-8"))
        if known["facts"] == facts:
            embedding = load_model(folder / "embedding.keras")
            return OneShotTraining(embedding, known["seconds"], trainer.epochs * steps, images)
    result = trainer.fit(plot, folder)
    if note:
        with atomic_file(note) as part:
            part.write_text(json.dumps({"seconds": result.seconds, "facts": facts}), "utf-8")
    return OneShotTraining(embedding, result.seconds, trainer.epochs * steps, images)
