"""Recipes: how an embedding is trained, as specified or tuned.

Explained in notebook 04, "Two recipes".
"""

from dataclasses import dataclass, replace

import numpy as np

from workbook.models.backbones import build_from_config
from workbook.support.tensorflow_start import keras
from workbook.training.batches import batch_shape


@dataclass(frozen=True)
class Recipe:
    """What a training depends on beside the data and the network.

    triplets: "mined" in each batch by the strategy `mining`; or explicit ones, "random" or of the
    "close-distance" rule, chosen anew before each epoch (`mining` is then None).
    """

    name: str
    triplets: str
    mining: str | None
    margin: float
    normalize: bool
    active_only: bool
    optimizer: str
    learning_rate: float
    temperature: float | None = None  # of soft triplets: see `MinedSiameseModel`
    weight_decay: float = 0  # AdamW: a step takes off this times the learning rate
    classes: int = 16  # at most, in a batch
    images: int = 64  # at most, in a batch

    @property
    def description(self):
        """What is trained on, for titles: such as "semi-hard triplets, margin 0.5"."""
        soft = f"soft (T = {self.temperature}) " if self.temperature else ""
        return f"{soft}{self.mining or self.triplets} triplets, margin {self.margin}"

    def batch_shape(self, labels):
        """(P, K) of a batch: many classes first, then two to four images of each.

        labels (n,). Raises ValueError if no batch can be drawn: see `mining.batch_shape`.
        """
        classes = max(1, min(self.classes, len(np.unique(labels))))
        return batch_shape(labels, classes, int(np.clip(self.images // classes, 2, 4)))

    def make_optimizer(self, steps):
        """Adam at a constant rate, or AdamW whose rate rises, then falls to 0 within `steps`."""
        if self.optimizer == "Adam":
            return keras.optimizers.Adam(self.learning_rate)
        schedule = warm_cosine(self.learning_rate, steps)
        return keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay)

    def build(self, config):
        """The embedding model of `config`, not trained; with this recipe's kind of embedding.

        Its head is the setting HEAD: the specified one by default where the backbone is ResNet50.
        """
        return build_from_config(config, normalize=self.normalize)


def specified(triplets="random"):
    """The system as specified: explicit triplets, no normalisation, margin 0.5, Adam at 1e-4.

    triplets: "random" or "close-distance"; ValueError for another choice.
    """
    if triplets not in ("random", "close-distance"):
        raise ValueError(f"triplets={triplets!r} is not one of: random, close-distance")
    return Recipe(
        name=f"as specified, {triplets.removesuffix('-distance')}",
        triplets=triplets,
        mining=None,
        margin=0.5,
        normalize=False,
        active_only=False,
        optimizer="Adam",
        learning_rate=1e-4,
    )


def tuned(config):
    """What was found to work better: triplets mined in the batch, embeddings of length 1, AdamW.

    A random start takes semi-hard triplets. A pretrained one takes hard ones, softened, at twice
    the margin, in batches of many classes, chosen on `grocery` without its test split: notebook 7.
    """
    recipe = Recipe(
        name="tuned",
        triplets="mined",
        mining="semi-hard",
        margin=0.5,
        normalize=True,
        active_only=False,
        optimizer="AdamW",
        learning_rate=3e-4,
        weight_decay=1e-4,
    )
    if config.weights == "none":
        return recipe
    return replace(
        recipe,
        mining="hard",
        margin=1.0,
        temperature=0.2,
        learning_rate=1e-3,
        weight_decay=0.1,
        classes=64,
        images=128,
    )


def recipe_of(config):
    """The recipe that the setting RECIPE asks for. Explained in notebook 04, "Two recipes"."""
    return specified() if config.recipe == "specified" else tuned(config)


def warm_cosine(learning_rate, steps, warm_up=30):
    """A learning rate that rises linearly for `warm_up` steps, then falls to 0 as a half cosine.

    Rises for a quarter of the `steps` at most. Explained in notebook 04, "Batches and model".
    """
    rising = min(warm_up, steps // 4)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=learning_rate, warmup_steps=rising
    )
