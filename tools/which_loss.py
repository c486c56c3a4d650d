"""Which loss? The same number of random trials for each of `LOSSES`, then five seeds of the best.

usage: python -m tools.which_loss [omniglot | grocery] [--trials 12] [--seconds SECONDS]
           [--seeds 5] [--full] [--data-home DATA_HOME] [--results FOLDER]

All losses have the same network, batches, augmentation and seconds of processor time: 60 for each
training on omniglot, 40 on grocery. A trial draws the learning rate and the loss's own options at
random and is judged on classes that are held out of training. The best trial of each loss is then
trained anew with each seed and asked, once, for other classes, which played no part so far.
Everything is kept in results/which_loss/DATASET.jsonl, one line for each training, so the command
may be interrupted and continues where it was. With --full the loss that was best on the held-out
groceries and today's recipe are then trained on all classes of groceries, at full size and with all
epochs, and name the test photographs.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

import siamese_utils as su
from workbook import ROOT
from workbook.data.images import ImageDataset, load_from_config
from workbook.data.omniglot import add_classes, load_background
from workbook.evaluation.contest import MEASURES, Store, rank
from workbook.evaluation.results import paired_difference
from workbook.evaluation.retrieval import nearest_neighbors, raw_pixels, retrieval_metrics
from workbook.models.small_cnn import build_character_embedding
from workbook.settings import read_config
from workbook.support.config import Config
from workbook.support.folder_lock import lock_folder
from workbook.support.tensorflow_start import keras
from workbook.training.losses import LOSSES
from workbook.training.recipes import Recipe, tuned
from workbook.training.trainer import KeptFeatures, Trainer, keep_features, plain_features

ALPHABETS = {  # the other three alphabets are trained on
    "choice": ["Balinese", "Japanese_(katakana)", "Korean"],
    "test": ["Early_Aramaic", "Sanskrit"],
}
RATES = (2e-4, 1e-2)
WEIGHT_DECAY = 0.01
FIRST_SEED = 1000  # of the final trainings; trials have their number as seed
STEPS = 1000  # per epoch; more than fit into the seconds, so that no time is lost between epochs
TODAY = "soft triplet"  # the loss of today's recipe, with which the others are compared


@dataclass
class Contest:
    """What all losses share. Splits: "train"; "choice"; "test" and, if it is asked, "gallery".

    references : gives name -> (n, dim) vectors of length 1 without any training. embedding : gives
    an untrained network by the seed and whether embeddings have length 1; None if `config` does.
    """

    config: Config
    data: ImageDataset
    features: KeptFeatures
    classes: int
    images: int
    references: Callable[[], dict[str, np.ndarray]]
    embedding: Callable[[int, bool], Any] | None = None


def load_omniglot(config: Config) -> Contest:
    """Load three sets of alphabets; a small network is trained from random weights."""
    background = load_background("omniglot", config.data_home)
    data = add_classes(background)
    part = {name: split for split, names in ALPHABETS.items() for name in names}
    of_class = np.array([part.get(alphabet, "train") for alphabet in data.coarse])
    is_turned = np.arange(len(of_class)) >= len(background.class_names)
    of_class[is_turned & (of_class != "train")] = "other"
    data = replace(data, splits=of_class[data.labels])

    def embedding(seed: int, unit: bool) -> keras.Model:
        return build_character_embedding(data.images.shape[1], seed, unit)

    rows = data.where("train")
    features = KeptFeatures(data.images, rows, np.empty(0), 1, rows)

    def references() -> dict[str, np.ndarray]:
        pixels = np.float32(data.images.reshape(len(data.images), -1))
        return {
            "raw pixels": normalize(pixels),
            "untrained network": su.embed(embedding(0, True), data.images),
        }

    return Contest(config, data, features, 48, 144, references, embedding)


def load_grocery(config: Config) -> Contest:
    """Load the photographs. Half of the coarse classes is trained on, a quarter each is held out.

    The classes of the choice are asked among their training photographs. Of the test classes, the
    test photographs, of other visits to the shops, are asked for among the training ones.
    """
    data = load_from_config(config)
    shuffle = np.random.default_rng(6)  # gives parts of 43, 20 and 18 classes; 0 gives 43, 26, 12
    groups = shuffle.permutation(sorted(set(data.coarse)))
    half, quarter = len(groups) // 2, 3 * len(groups) // 4
    part = {g: "train" for g in groups[:half]} | {g: "choice" for g in groups[half:quarter]}
    of_class = np.array([part.get(group, "test") for group in data.coarse])[data.labels]
    splits = np.where(data.splits == "train", of_class, "other").astype("<U7")
    splits[splits == "test"] = "gallery"
    splits[(data.splits == "test") & (of_class == "test")] = "test"
    data = replace(data, splits=splits)

    def references() -> dict[str, np.ndarray]:
        pixels = normalize(raw_pixels(data.images))
        return {"raw pixels": pixels, "frozen features": plain_features(config, data)}

    return Contest(config, data, keep_features(config, data), 32, 128, references)


SECONDS = {"omniglot": 60.0, "grocery": 40.0}  # of processor time, per training
LOADERS = {"omniglot": load_omniglot, "grocery": load_grocery}
SETTINGS: dict[str, dict[str, Any]] = {
    "omniglot": {},
    "grocery": {
        "backbone": "EfficientNetLite0", "head": "slim", "size": 160, "views": 4,
        "train_from": "block15_expand", "xla": "off",
    },
}  # fmt: skip


def measure(vectors: np.ndarray, data: ImageDataset, split: str) -> dict[str, list[float]]:
    """Return the measures of each class of a split: vectors (n, dim), of any length but 0."""
    query, gallery = data.where(split), data.where("gallery") if split == "test" else []
    among = (vectors[gallery], data.labels[gallery]) if len(gallery) else (None, None)
    found = retrieval_metrics(vectors[query], data.labels[query], *among, per_query=True)
    labels = np.unique(data.labels[query], return_inverse=True)[1]
    return {
        name: (np.bincount(labels, found[name]) / np.bincount(labels)).tolist() for name in MEASURES
    }


def draw(loss: str, number: int) -> dict[str, Any]:
    """Draw the rate and the options of a trial, each evenly on a logarithmic scale."""
    rng = np.random.default_rng([number, *loss.encode()])
    ranges = {"learning_rate": RATES, **LOSSES[loss].ranges}
    drawn = {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in ranges.items()}
    return {"learning_rate": drawn.pop("learning_rate"), "options": drawn}


def train(contest: Contest, loss: str, drawn: dict, seed: int, seconds: float) -> Trainer:
    """Train a new embedding with a loss."""
    keras.utils.clear_session()
    recipe = Recipe(
        loss,
        loss=loss,
        normalize=loss != "softmax",
        weight_decay=WEIGHT_DECAY,
        classes=contest.classes,
        images=contest.images,
        **drawn,
    )
    config = replace(contest.config, seed=seed)
    embedding = contest.embedding and contest.embedding(seed, recipe.normalize)
    trainer = Trainer(
        config,
        recipe,
        contest.data,
        contest.features,
        steps=STEPS,
        seconds=seconds,
        embedding=embedding,
    )
    trainer.fit()
    return trainer


def run(contest: Contest, store: Store, key: dict, drawn: dict, seed: int, split: str) -> dict:
    """Train and measure what the key says, unless the store has it."""
    if known := store.find(**key):
        return known[0]
    begin, found, steps = time.perf_counter(), {name: [0.0] for name in MEASURES}, 0
    try:
        trainer = train(contest, key["loss"], drawn, seed, key["seconds"])
        assert trainer.budget is not None
        vectors = np.zeros((len(contest.data.labels), trainer.tail.output_shape[1]), np.float32)
        asked = contest.data.where(split, *["gallery"] * (split == "test"))
        vectors[asked] = normalize(trainer.embed(asked))
        found, steps = measure(vectors, contest.data, split), trainer.budget.steps
    except FloatingPointError as error:  # such a trial is lost
        print(error)
    found = {name: [round(value, 4) for value in values] for name, values in found.items()}
    if key["stage"] == "trial":
        found = {name: float(np.mean(values)) for name, values in found.items()}
    took = round(time.perf_counter() - begin)
    return store.add(key | drawn | {"seed": seed, "steps": steps, "took": took} | found)


def measure_references(contest: Contest, store: Store) -> None:
    """Measure vectors that no loss has trained, as they are and whitened; all at once."""
    if store.find(stage="reference"):
        return
    data, rows, measured = contest.data, contest.data.where("train"), {}
    for name, vectors in contest.references().items():
        measured[name] = vectors
        if name != "raw pixels":  # the number of components is chosen as the options are
            whitened = [whiten(vectors, rows, components) for components in (32, 64, 128, 256)]
            scores = [np.mean(measure(each, data, "choice")["map@r"]) for each in whitened]
            measured[f"{name}, whitened"] = whitened[int(np.argmax(scores))]
    for name, vectors in measured.items():
        store.add({"stage": "reference", "loss": name} | measure(vectors, data, "test"))


def whiten(vectors: np.ndarray, rows: np.ndarray, components: int) -> np.ndarray:
    """Return vectors of length 1 whose principal components have one variance in these rows."""
    fitted = PCA(components, whiten=True, random_state=0).fit(vectors[rows])
    return normalize(fitted.transform(vectors))


def table(store: Store) -> Iterator[str]:
    """Yield the lines of two tables, one for each measure, the best loss first."""
    for measured in MEASURES:
        yield f"{measured:28}tuned  choice  test ± sd of seeds [95 %]     minus {TODAY} [95 %]"
        for standing in rank(store, measured, TODAY):
            text = f"  {standing.name:26}"
            tuned_too = standing.options > 0
            text += f"{standing.options:>5}  {standing.choice:6.3f}  " if tuned_too else " " * 15
            text += f"{standing.mean:.3f} "
            text += f"± {standing.sd:.3f} " if tuned_too else " " * 8
            text += "[{:.3f}, {:.3f}]".format(*standing.interval)
            if standing.name != TODAY:
                text += "   {:+.3f} [{:+.3f}, {:+.3f}]".format(
                    standing.gain, *standing.gain_interval
                )
            yield text


def compare_on_all_classes(store: Store, seeds: int, data_home: Any) -> None:
    """Train today's recipe and the loss that was chosen on held-out groceries on all groceries."""
    chosen = store.chosen()
    options = {"preset": "full", "dataset": "grocery", "backbone": "EfficientNetLite0"}
    for number in range(seeds):
        config = read_config(
            {}, **options, seed=42 + number, data_seed=42, live=0, data_home=data_home
        )
        data, today = load_from_config(config), tuned(config)
        new = replace(
            today,
            name=chosen["loss"],
            loss=chosen["loss"],
            options=chosen["options"],
            temperature=None,
            normalize=chosen["loss"] != "softmax",
            learning_rate=chosen["learning_rate"],
            weight_decay=WEIGHT_DECAY,
        )
        for recipe in (today, new):
            key = {"stage": "full", "loss": recipe.name, "number": number}
            if store.find(**key):
                continue
            trainer = Trainer(config, recipe, data)
            trainer.fit(folder=config.run_dir / "which_loss" / recipe.name)
            vectors, test = normalize(trainer.embed()), data.where("test")
            answers = {"nearest": data.gallery, "one-shot": data.where("reference")}
            found = {}
            for name, rows in answers.items():
                _, nearest = nearest_neighbors(vectors[test], vectors[rows])
                right = data.labels[test] == data.labels[rows[nearest[:, 0]]]
                found[name] = round(float(right.mean()), 4)
            print(f"all groceries, seed {number + 1}, {recipe.name}: {found}", flush=True)
            store.add(key | found)
    for name in ("nearest", "one-shot") if seeds > 1 else ():
        values = [
            [line[name] for line in store.find(stage="full", loss=loss)[:seeds]]
            for loss in (chosen["loss"], "tuned")
        ]
        new_mean, old_mean = np.mean(values, axis=1)
        difference = paired_difference(*values)
        print(f"{name}: {chosen['loss']} {new_mean:.3f}, today {old_mean:.3f}: {difference}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", nargs="?", default="omniglot", choices=LOADERS)
    parser.add_argument("--trials", type=int, default=12, help="per loss")
    parser.add_argument("--seconds", type=float, help="of processor time, per training")
    parser.add_argument("--seeds", type=int, default=5, help="of the final trainings")
    parser.add_argument("--full", action="store_true", help="then train on all groceries")
    parser.add_argument("--data-home")
    parser.add_argument("--results", type=Path, default=ROOT / "results/which_loss")
    asked = parser.parse_args()
    if asked.full and asked.dataset != "grocery":
        parser.error("--full needs the contest on grocery")
    options = SETTINGS[asked.dataset] | {"dataset": asked.dataset, "data_home": asked.data_home}
    config = read_config({}, preset="quick", live=0, **options)
    folder = ROOT / "runs/which_loss" / asked.dataset
    folder.mkdir(parents=True, exist_ok=True)
    lock_folder(folder)  # two of these commands would lose each other's lines
    store = Store(asked.results / f"{asked.dataset}.jsonl")
    seconds = asked.seconds or SECONDS[asked.dataset]
    if other := {line["seconds"] for line in store.find(stage="trial")} - {seconds}:
        parser.error(
            f"{store.path} holds trials of {min(other):g} seconds, not {seconds:g}: give another "
            "folder with --results"
        )
    contest = LOADERS[asked.dataset](config)
    for number in range(asked.trials):
        for loss in LOSSES:
            key = {"stage": "trial", "loss": loss, "number": number, "seconds": seconds}
            found = run(contest, store, key, draw(loss, number), number, "choice")
            print(
                f"trial {number + 1} of {asked.trials}, {loss}: MAP@R {found['map@r']:.3f}, best "
                f"{store.best_trial(loss)['map@r']:.3f} ({found['steps']} steps, "
                f"{found['took']} s)",
                flush=True,
            )
    for number in range(asked.seeds):
        for loss in LOSSES:
            drawn = store.best_draw(loss)
            key = {"stage": "final", "loss": loss, "number": number, "seconds": seconds} | drawn
            found = run(contest, store, key, drawn, FIRST_SEED + number, "test")
            print(f"seed {number + 1} of {asked.seeds}, {loss}: {found['took']} s", flush=True)
    measure_references(contest, store)
    print(*table(store), sep="\n")
    if asked.full:
        compare_on_all_classes(store, asked.seeds, asked.data_home)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command continues where it was")
