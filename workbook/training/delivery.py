"""Which embedding of a run is taken home, and its last training on all images of the folder.

A training can cost the classes that it does not see what the pretrained features knew of them. So
three embeddings stand for election: the plain features, the trained embedding, and mixtures of both
(`workbook.models.mixture`). Notebook 6, "What to take away", explains and uses it.

References
----------
Wortsman et al. (2022), https://arxiv.org/abs/2109.01903, interpolate the weights of a pretrained
and a fine-tuned model, which keeps accuracy on images unlike the trained ones. Here distances are
interpolated instead, because a pretrained backbone has no embedding head to interpolate with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from workbook.data.images import ImageDataset
from workbook.data.splits import MIN_DIVIDED
from workbook.evaluation.retrieval import nearest_neighbors, split_neighbors
from workbook.models.mixture import mix_vectors
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras
from workbook.training.recipes import choose_recipe
from workbook.training.trainer import Trainer, load_trained

# of the trained embedding: 0 is plain, 1 is trained alone
WEIGHTS: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0)
USUAL = 0.5  # names most new images, and refuses fewest, on the folders that it was chosen on
ENOUGH = 50  # held-out images from which on they may overrule the usual weight
PARTS = {"validation": "validation images", "unseen": "held-out classes"}  # which judge
REPORT = "delivered.txt"  # in the run's folder; `python -m workbook run` prints it last


@dataclass(frozen=True)
class Choice:
    """A weight of the trained embedding, and what it was chosen on.

    weight : 0..1, one of `WEIGHTS`.
    answers : weight -> part -> (n,) bool, whether the closest image of each held-out image is of
        its class; parts without images are missing.
    reason : why this weight, as a sentence.
    """

    weight: float
    answers: Mapping[float, Mapping[str, np.ndarray]]
    reason: str

    def describe(self, trained_anew: bool) -> str:
        """Say in a few lines what is taken home, why, and how it was evaluated.

        trained_anew : whether `train_on_everything` gave the trained part.
        """
        lines = [f"taken home: {name_weight(self.weight)} ({self.reason})"]
        for part, what in PARTS.items():
            if part in self.answers[0.0]:
                plain, chosen = (self.answers[w][part].mean() for w in (0.0, self.weight))
                lines.append(f"  {what}: closest image right {plain:.3f} plain, {chosen:.3f} here")
        if not self.weight:
            lines.append("  so the gallery holds the plain features, without a training")
        elif trained_anew and self.answers[self.weight]:
            lines.append("  so evaluated before its last training, which was on all images")
        elif trained_anew:
            lines.append("  trained on all images; none could be held out to evaluate it")
        return "\n".join(lines)


def name_weight(weight: float) -> str:
    """Return what tables call the embedding with this weight of the trained part."""
    ends = {0.0: "plain features", 1.0: "trained"}
    return ends.get(weight, f"{1 - weight:.1f} plain + {weight:.1f} trained")


def choose_weight(plain: np.ndarray, trained: np.ndarray, data: ImageDataset) -> Choice:
    """Choose the weight of the trained embedding on images that it was not trained on.

    Validation images and those of unseen classes judge together, never test images. The usual
    mixture is kept unless another weight is better by more than two standard errors of the paired
    difference, and there are enough images to tell. Photographs of a folder were often taken
    together, so a validation image has a near twin in training and hardly tells embeddings apart.

    Below `MIN_DIVIDED` classes no class can be held out, and plain features mostly leave nothing to
    gain. They are kept there unless they leave room: each training and validation image is looked
    up among the others, and the share of wrong names has to exceed two standard errors. In nine
    folders of five classes with at most two wrong names, equal parts changed the share of new
    images that were named rightly by -0.05 to +0.03, and only that loss has a 95 % interval without
    0. Among five kinds of apples with nine wrong names of 40, they gained 0.11 [0.03, 0.20].

    Parameters
    ----------
    plain, trained : (n, c) and (n, d), of the dataset's images, by the plain features and by the
        embedding that was trained on its training split.
    """
    answers = {}
    for weight in WEIGHTS:
        vectors = mix_vectors(plain, trained, weight)
        found = {part: split_neighbors(vectors, data, part) for part in PARTS}
        answers[weight] = {
            part: data.labels[asked] == data.labels[nearest]
            for part, (asked, nearest) in found.items()
            if len(asked)
        }
    right = {w: np.concatenate([np.empty(0), *parts.values()]) for w, parts in answers.items()}
    if len(np.unique(data.labels)) < MIN_DIVIDED:
        return _choose_for_few_classes(plain, data, answers)
    count = len(right[USUAL])
    if count < ENOUGH:
        reason = f"the usual mixture, as {count} held-out images are too few to choose by"
        return Choice(USUAL, answers, reason)
    gains = {weight: right[weight] - right[USUAL] for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: (gains[weight].mean(), -weight))  # ties: less trained
    gain, error = gains[best].mean(), _standard_error(gains[best])
    if gain <= 2 * error:
        reason = f"none is better by more than two standard errors on {count} held-out images"
        return Choice(USUAL, answers, reason)
    reason = f"better than the usual mixture by {gain:.3f} ± {error:.3f} on {count} held-out images"
    return Choice(best, answers, reason)


def _choose_for_few_classes(plain: np.ndarray, data: ImageDataset, answers: Any) -> Choice:
    rows = data.where("train", "validation")
    _, nearest = nearest_neighbors(plain[rows])
    wrong = data.labels[rows] != data.labels[rows[nearest[:, 0]]]
    leaves_room = wrong.mean() > 2 * _standard_error(wrong)
    reason = (
        f"below {MIN_DIVIDED} classes: by plain features {wrong.sum()} of {len(rows)} images are "
        f"closest to one of another class, which leaves {'room' if leaves_room else 'too little'} "
        "to gain"
    )
    return Choice(USUAL if leaves_room else 0.0, answers, reason)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def train_on_everything(config: Config, data: ImageDataset) -> keras.Model:
    """Train an embedding on every image but catalogue images; nothing is held out.

    It is saved in `everything` in the run's folder, from where it is read the next time. An
    interrupted training continues there.
    """
    everything = label_all_as_training(data)
    folder = config.run_dir / "everything"
    folder.mkdir(exist_ok=True)
    try:
        return load_trained(config, everything, folder)
    except (FileNotFoundError, ValueError):  # not trained yet, or on other images
        pass
    trainer = Trainer(config, choose_recipe(config), everything)
    trainer.fit(folder=folder)
    return trainer.embedding


def label_all_as_training(data: ImageDataset) -> ImageDataset:
    """Return the dataset with all images, apart from catalogue images, in its training split."""
    is_reference = data.splits == "reference"
    return replace(data, splits=np.where(is_reference, "reference", "train"))
