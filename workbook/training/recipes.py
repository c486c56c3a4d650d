"""Recipes: how an embedding is trained, as specified or tuned. Notebook 4 compares them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from siamese_utils import SiameseModel
from workbook.models.backbones import build_from_config
from workbook.models.batch_norm import fuse_batch_norm
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras
from workbook.training.batches import largest_batch_shape
from workbook.training.losses import LOSSES, TripletLoss
from workbook.training.mined_model import (
    BatchLossModel,
    ExplicitSiameseModel,
    MinedSiameseModel,
)
from workbook.training.mining import Miner
from workbook.training.optimizers import FusedAdamW

RULES = ("random", "close-distance", "mined")


@dataclass(frozen=True)
class Recipe:
    """What a training depends on, apart from the data and the backbone.

    Parameters
    ----------
    name : how tables and figures call it.
    triplets : "random" or "close-distance", explicit triplets that are chosen anew before each
        epoch; or "mined", chosen within each batch.
    mining : the strategy of the `Miner`; None for explicit triplets.
    margin, temperature, active_only : of the loss, see `TripletLoss`; the last two are for mined
        triplets.
    normalize : whether embeddings have length 1.
    optimizer : "Adam" with a constant rate, or "AdamW" with `warm_cosine`.
    learning_rate, weight_decay : of the optimizer; each step of AdamW takes weight_decay times the
        rate off every weight.
    classes, images : at most this many classes, and this many images, in a batch.
    loss, options : the name of one of the `LOSSES` of whole batches, and its own options. It takes
        the place of the triplet loss and of the mining. None is the triplet loss.

    Raises
    ------
    ValueError : for a combination of options that has no meaning.
    """

    name: str
    triplets: str = "mined"
    mining: str | None = "semi-hard"
    margin: float = 0.5
    temperature: float | None = None
    active_only: bool = False
    normalize: bool = True
    optimizer: str = "AdamW"
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    classes: int = 16
    images: int = 64
    loss: str | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.triplets not in RULES:
            raise ValueError(f"triplets={self.triplets!r} is not one of: {', '.join(RULES)}")
        if (self.mining is None) != (self.triplets != "mined"):
            raise ValueError(
                f"mining={self.mining!r} with triplets={self.triplets!r}: mined triplets need a "
                "mining strategy, explicit ones must have none"
            )
        if (self.mining is None or self.loss) and (
            self.temperature is not None or self.active_only
        ):
            raise ValueError(
                "temperature and active_only change the loss of the mined triplets alone; those of "
                "a loss of whole batches belong into options"
            )
        if self.optimizer not in ("Adam", "AdamW"):
            raise ValueError(f"optimizer={self.optimizer!r} is not one of: Adam, AdamW")
        if self.loss is not None and (self.loss not in LOSSES or self.mining is None):
            raise ValueError(
                f"loss={self.loss!r} must be one of: {', '.join(LOSSES)}, and needs mined triplets"
            )
        known = LOSSES[self.loss].ranges if self.loss else ()
        if unknown := set(self.options) - set(known):
            raise ValueError(
                f"the loss {self.loss} has no option {min(unknown)!r}, only: {', '.join(known)}"
            )

    @property
    def description(self) -> str:
        """What is trained on, for titles: such as "semi-hard triplets, margin 0.5"."""
        if self.loss:
            return ", ".join([self.loss, *(f"{n} {v:.3g}" for n, v in self.options.items())])
        soft = f", soft (T = {self.temperature})" if self.temperature else ""
        return f"{self.mining or self.triplets} triplets, margin {self.margin}{soft}"

    def batch_shape(self, labels: Any) -> tuple[int, int]:
        """Return (P, K) of a batch: many classes first, then two to four images of each.

        Raises
        ------
        ValueError : if no batch can be drawn from labels (n,), see `largest_batch_shape`.
        """
        classes = max(1, min(self.classes, len(np.unique(labels))))
        return largest_batch_shape(labels, classes, int(np.clip(self.images // classes, 2, 4)))

    def build_embedding(self, config: Config) -> keras.Model:
        """Build the embedding model of `config`, untrained, with this recipe's kind of length."""
        return build_from_config(config, normalize=self.normalize)

    def build_model(self, tail: keras.Model, labels: Any = None) -> SiameseModel:
        """Build the model that trains this tail (or embedding) by this recipe, not compiled.

        labels : (n,) of the training images; a loss of whole batches needs them.
        """
        fuse_batch_norm(tail)
        if self.loss:
            return BatchLossModel(tail, self.loss, labels, self.options)
        if self.mining is None:
            return ExplicitSiameseModel(tail, self.margin)
        loss = TripletLoss(self.margin, self.temperature, self.active_only)
        return MinedSiameseModel(tail, loss, Miner(self.mining))

    def make_optimizer(self, steps: int | None) -> keras.optimizers.Optimizer:
        """Make the optimizer; AdamW's rate rises, then falls to 0 within `steps`.

        Without a number of steps the rate is constant, and a `TimeBudget` may change it.
        """
        if self.optimizer == "Adam":
            return keras.optimizers.Adam(self.learning_rate)
        rate = self.learning_rate if steps is None else warm_cosine(self.learning_rate, steps)
        return FusedAdamW(rate, weight_decay=self.weight_decay)


def warm_cosine(learning_rate: float, steps: int, warm_up: int = 30) -> Any:
    """Return a learning rate that rises for `warm_up` steps, then falls to 0 as a half cosine.

    It rises for a quarter of the steps at most (Loshchilov and Hutter 2017, section 3).
    """
    rising = min(warm_up, steps // 4)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=learning_rate, warmup_steps=rising
    )


def specified(triplets: str = "random") -> Recipe:
    """Return the recipe as specified: explicit triplets, margin 0.5, any length, Adam at 1e-4.

    Raises
    ------
    ValueError : if triplets is neither "random" nor "close-distance".
    """
    if triplets not in ("random", "close-distance"):
        raise ValueError(f"triplets={triplets!r} is not one of: random, close-distance")
    return Recipe(
        name=f"as specified, {triplets}",
        triplets=triplets,
        mining=None,
        normalize=False,
        optimizer="Adam",
        learning_rate=1e-4,
        weight_decay=0.0,
    )


def tuned(config: Config) -> Recipe:
    """Return what works best: mined triplets, embeddings of length 1, AdamW.

    From random weights it mines semi-hard triplets. From pretrained ones it takes hard triplets
    with the soft loss and twice the margin, in batches of many classes; this was chosen on
    `grocery` without its test split, see notebook 10.
    """
    recipe = Recipe(name="tuned")
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


def one_change_at_a_time(config: Config) -> list[Recipe]:
    """Return recipes from the specified one to the tuned one; neighbours differ in one change.

    The name of each says what changed.
    """
    final = tuned(config)
    recipes = [specified("random"), specified("close-distance")]

    def change(name: str, **fields: Any) -> None:
        recipes.append(replace(recipes[-1], name=name, **fields))

    change("+ length 1", normalize=True)
    change("+ mined in the batch", triplets="mined", mining=final.mining)
    change(
        "+ AdamW, larger batches",
        optimizer=final.optimizer,
        learning_rate=final.learning_rate,
        weight_decay=final.weight_decay,
        classes=final.classes,
        images=final.images,
    )
    if final.temperature is not None:
        change("+ soft loss", temperature=final.temperature, margin=final.margin)
    return recipes


def choose_recipe(config: Config) -> Recipe:
    """Return the recipe that the setting RECIPE asks for."""
    return specified() if config.recipe == "specified" else tuned(config)
