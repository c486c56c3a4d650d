"""The training loop: from settings, a recipe and a dataset to a trained embedding.

Every notebook and tool that trains calls it. Notebook 3 takes its steps by hand.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import siamese_utils as su
from workbook.data.downloads import is_own_folder
from workbook.data.images import ImageDataset
from workbook.evaluation.retrieval import split_recall
from workbook.models.backbones import build_from_config
from workbook.models.devices import choose_strategy
from workbook.models.mixture import build_plain_model
from workbook.models.saved_models import load_model, save_model
from workbook.models.trunk_cache import trunk_features
from workbook.support.atomic_files import atomic_file
from workbook.support.config import Config
from workbook.support.tensorflow_start import keras
from workbook.training.batches import EpochSetter, IndexBatches, Logs, pk_batches
from workbook.training.callbacks import Guard, LiveLossPlot, TimeBudget
from workbook.training.checkpoint import Checkpoint
from workbook.training.mined_model import MinedSiameseModel
from workbook.training.provenance import check_origin, describe_origin, write_origin
from workbook.training.recipes import Recipe

LEAST_STEPS = 3  # batches per epoch, also for a small dataset
NO_END = 10**6  # epochs of a training that ends by time


@dataclass(frozen=True)
class KeptFeatures:
    """The frozen trunk's output for a dataset, computed once.

    images : (n, h, w, channels), of every image as it is.
    rows : (m,) indices of the images that are trained on.
    views : (number_of_views * v, h, w, channels), of the viewed images; first as they are, then
        augmented. With one view it is empty, and `images` is used.
    number_of_views : how many views there are of each viewed image.
    viewed : (v,) indices of the images that have views, sorted; the training images are among them.
    """

    images: np.ndarray
    rows: np.ndarray
    views: np.ndarray
    number_of_views: int
    viewed: np.ndarray

    def find_views(self, drawn: np.ndarray) -> np.ndarray:
        """Turn view v of training image i, drawn as v * m + i, into indices into `views`."""
        view, image = np.divmod(drawn, len(self.rows))
        return view * len(self.viewed) + np.searchsorted(self.viewed, self.rows)[image]


def keep_features(
    config: Config,
    data: ImageDataset,
    embedding: keras.Model | None = None,
    rows: Any | None = None,
) -> KeptFeatures:
    """Compute the frozen trunk's output of a dataset, or read it from the cache of the run.

    Parameters
    ----------
    embedding : the embedding model whose trunk is used; by default that of `config`.
    rows : indices of the images that are trained on; by default the training split.

    Of a folder of one's own, views of all images are kept, because a last training takes all.
    """
    trunk, _ = su.split_at_freeze_point(embedding or build_from_config(config))
    rows = data.where("train") if rows is None else np.asarray(rows)
    viewed = np.sort(rows)
    if is_own_folder(config.dataset):
        viewed = np.flatnonzero(data.splits != "reference")
    cache, views = config.runs / "cache", np.empty(0)
    images = trunk_features(trunk, data.images, cache)
    if config.views > 1:
        views = trunk_features(trunk, data.images, cache, views=config.views, rows=viewed)
    return KeptFeatures(images, rows, views, config.views, viewed)


def plain_features(config: Config, data: ImageDataset) -> np.ndarray:
    """Embed a dataset without any training: the backbone's features, averaged, with length 1.

    This is the baseline that a trained embedding has to beat.

    Returns
    -------
    (n, channels) float32, one row per image of the dataset.
    """
    trunk, tail = su.split_at_freeze_point(build_plain_model(config))
    return su.embed(tail, trunk_features(trunk, data.images, config.runs / "cache"))


@dataclass
class TrainingResult:
    """What a training gave.

    history : name -> one value per epoch: loss, d_ap, d_an, active, val_recall@1.
    epochs : how many epochs were trained now; fewer than asked for after a resume.
    seconds : how long these epochs took, validation included.
    images_seen : how many images went through the network in them.
    best_epoch : the epoch whose weights the embedding has, counted from 1.
    snapshots : epoch -> embeddings of the validation images; epoch 0 is before the training.
    """

    history: dict[str, list[float]]
    epochs: int
    seconds: float
    images_seen: int
    best_epoch: int
    snapshots: dict[int, np.ndarray] = field(default_factory=dict)


class Trainer:
    """Trains one embedding by one recipe on the kept features of a dataset.

    Parameters
    ----------
    config, recipe, data : the settings, the recipe and the images.
    features : what `keep_features` gave; computed if missing.
    epochs : how many; by default those of `config`.
    steps : batches per epoch; by default enough to draw as many images as are trained on.
    seconds : train for so much processor time instead of `epochs`, see `TimeBudget`.
    strategy : a `tf.distribute` strategy; by default what the setting DEVICES asks for.
    embedding : an embedding model to train; by default a new one, by the recipe and the seed.
    reuse : an earlier trainer with the same settings. If its embedding fits the recipe, it is set
        back to its start and trained instead of an equal new one, which saves the time to build
        it. What the earlier trainer has learned is then lost.

    Attributes
    ----------
    embedding, tail, model : images to embeddings; features to embeddings; what is fitted. They
        share their weights.
    batches : the `IndexBatches` that are trained on.
    classes_per_batch, images_per_class, steps : P, K and the number of batches per epoch.

    Raises
    ------
    ValueError : if no batch can be drawn, or if the devices cannot share a batch equally.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        data: ImageDataset,
        features: KeptFeatures | None = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        strategy: Any = None,
        embedding: keras.Model | None = None,
        reuse: "Trainer | None" = None,
    ):
        self.config, self.recipe, self.data = config, recipe, data
        self.strategy = strategy or choose_strategy(config)
        self.epochs = NO_END if seconds else epochs or config.epochs
        self.budget = TimeBudget(seconds) if seconds else None
        if reuse is not None and reuse.recipe.normalize == recipe.normalize:
            embedding = reuse.reset_embedding()
        with self.strategy.scope():
            self.embedding = embedding or recipe.build_embedding(config)
        self.features = features or keep_features(config, data, self.embedding)
        self.train_labels = data.labels[self.features.rows]
        self.classes_per_batch, self.images_per_class = recipe.batch_shape(self.train_labels)
        batch_size = self.classes_per_batch * self.images_per_class
        devices = self.strategy.num_replicas_in_sync
        if batch_size % devices:
            raise ValueError(
                f"{devices} devices cannot share a batch of {batch_size} images equally"
            )
        self.steps = steps or max(LEAST_STEPS, len(self.features.rows) // batch_size)
        _, self.tail = su.split_at_freeze_point(self.embedding)
        self.start = [variable.numpy() for variable in self.tail.variables]
        with self.strategy.scope():
            self.model = recipe.build_model(self.tail, self.train_labels)
            optimizer = recipe.make_optimizer(None if seconds else self.epochs * self.steps)
            self.model.compile(optimizer, jit_compile=config.jit_compile)
        self.batches = self._make_batches()
        self.snapshots: dict[int, np.ndarray] = {}
        self.history: dict[str, list[float]] = {}

    # ------------------------------------------------------------------------------- batches

    def _make_batches(self) -> IndexBatches:
        kept = self.features
        if kept.number_of_views == 1:  # train on the rows of all images
            return IndexBatches(kept.images, self.data.labels, lambda e: kept.rows[self._draw(e)])
        labels = np.tile(self.data.labels[kept.viewed], kept.number_of_views)
        return IndexBatches(kept.views, labels, lambda e: kept.find_views(self._draw(e)))

    def _draw(self, epoch: int) -> np.ndarray:
        """Draw an epoch of batches, view v of training image i as v * m + i, by seed and epoch."""
        seed, views = (self.config.seed, epoch), self.features.number_of_views
        P, K = self.classes_per_batch, self.images_per_class
        if self.recipe.triplets == "mined":
            return pk_batches(self.train_labels, P, K, seed, self.steps, views)
        triplets = self._choose_triplets(seed)
        view = np.random.default_rng(seed).integers(views, size=triplets.shape)
        return (triplets + view * len(self.train_labels)).reshape(self.steps, -1, 3)

    def _choose_triplets(self, seed: Any) -> np.ndarray:
        """Choose an epoch of explicit triplets; a batch of them holds as many images as P x K."""
        devices = self.strategy.num_replicas_in_sync
        per_device = max(1, self.classes_per_batch * self.images_per_class // 3 // devices)
        count = self.steps * per_device * devices
        if self.recipe.triplets == "random":
            return su.random_triplets(self.train_labels, count, seed)
        vectors = self.embed(self.features.rows)
        triplets = su.close_distance_triplets(vectors, self.train_labels)
        return np.random.default_rng(seed).choice(triplets, count)

    # ------------------------------------------------------------------------------ training

    def reset_embedding(self) -> keras.Model:
        """Set the embedding back to where this training started, and return it."""
        for variable, value in zip(self.tail.variables, self.start):
            variable.assign(value)
        return self.embedding

    def fit(
        self,
        plot: LiveLossPlot | None = None,
        folder: Path | None = None,
        resume: bool = True,
        keep_best: bool = False,
        keep_snapshots: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> TrainingResult:
        """Train for all epochs, and validate after each.

        Parameters
        ----------
        plot : a live plot of the curves.
        folder : where checkpoints are written while it trains and `embedding.keras` afterwards; an
            interrupted training continues there. None writes nothing.
        resume : False drops an interrupted training.
        keep_best : end with the weights of the epoch whose validation recall@1 is highest (the
            earliest of equal ones) instead of the last.
        keep_snapshots : keep the validation images' embeddings of each epoch, for figures.
        callbacks : more of Keras's callbacks; what they add to the logs is validated and plotted.

        Raises
        ------
        FloatingPointError : if a loss or weight is not finite, see `Guard`.
        ValueError : for a folder with a training by seconds, which cannot be continued.
        RuntimeError : if another process trains in `folder`.
        """
        if folder is not None and self.budget:
            raise ValueError("a training by seconds cannot be continued: give it no folder")
        if keep_snapshots:
            self.snapshots[0] = self.embed(self.data.where("validation"))
        best = _BestWeights(self.tail, folder) if keep_best else None
        stages = [self.budget, Guard(), *callbacks, _Validation(self, keep_snapshots), best]
        if not isinstance(self.model, MinedSiameseModel):  # that one does it itself
            stages.insert(0, EpochSetter(self.batches))
        if folder is None:
            return self._run([*stages, plot], 0, best)
        facts = self._facts() | {"keep_best": keep_best}
        with Checkpoint(folder, self.batches, facts, resume) as checkpoint:
            done = checkpoint.restore(self.model)
            if best:
                best.resume(done, checkpoint.history)
            result = self._run([*stages, checkpoint, plot], done, best)
            path = Path(folder) / "embedding.keras"
            save_model(self.embedding, path)
            write_origin(path, self.config, self.data)
        if best:
            best.remove_file()  # after the checkpoint: what is continued still needs it
        return result

    def _run(self, stages: list, done: int, best: Any) -> TrainingResult:
        start = time.perf_counter()
        fitted = self.model.fit(
            self.batches,
            epochs=self.epochs,
            initial_epoch=done,
            shuffle=False,
            verbose=0,
            callbacks=[stage for stage in stages if stage is not None],
        )
        seconds = time.perf_counter() - start
        self.history = fitted.history
        last = len(self.history.get("loss", []))  # a callback may have stopped the training
        best_epoch = best.restore() if best else last
        steps = self.budget.steps if self.budget else (last - done) * self.steps
        seen = steps * self.batches.batches[0].size
        return TrainingResult(self.history, last - done, seconds, seen, best_epoch, self.snapshots)

    def _facts(self) -> dict:
        """Return what a checkpoint depends on, apart from what it reads off model and batches."""
        shape = {"P": self.classes_per_batch, "K": self.images_per_class, "epochs": self.epochs}
        return describe_origin(self.config, self.data) | {"recipe": asdict(self.recipe)} | shape

    # ---------------------------------------------------------------------------- embeddings

    def embed(self, rows: Any | None = None) -> np.ndarray:
        """Embed the images of the dataset, or these rows of it: (n, dim) float32."""
        return su.embed(self.tail, self.features.images, rows=rows)

    def recall(self, split: str = "validation") -> float:
        """Return recall@1 of a split, see `split_recall`; nan for an empty split."""
        return split_recall(self.embed(), self.data, split)


def load_trained(config: Config, data: ImageDataset, folder: Path | None = None) -> keras.Model:
    """Load the embedding model that `Trainer.fit` saved in the run's folder.

    Raises
    ------
    FileNotFoundError : if nothing was trained there yet.
    ValueError : if it was trained on other images or with other settings.
    """
    path = Path(folder or config.run_dir) / "embedding.keras"
    check_origin(path, config, data)
    return load_model(path)


class _Validation(keras.callbacks.Callback):
    """Adds recall@1 of the validation split to the logs of each epoch."""

    def __init__(self, trainer: Trainer, keep_snapshots: bool):
        super().__init__()
        self.trainer, self.keep_snapshots = trainer, keep_snapshots
        data = trainer.data
        self.validation = watched = data.where("validation")
        if np.isin(data.labels[watched], data.labels[data.where("train")]).any():
            watched = data.where("train", "validation")  # they are looked up among these
        self.watched = watched

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        trainer = self.trainer
        embedded = np.zeros((len(trainer.data.labels), trainer.tail.output_shape[1]), np.float32)
        if len(self.watched):
            embedded[self.watched] = trainer.embed(self.watched)
        logs["val_recall@1"] = split_recall(embedded, trainer.data, "validation")
        if self.keep_snapshots:
            trainer.snapshots[epoch + 1] = embedded[self.validation]


class _BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the best epoch; in a folder, also over an interruption."""

    def __init__(self, tail: keras.Model, folder: Path | None):
        super().__init__()
        self.tail = tail
        self.path = Path(folder) / "best-epoch.npz" if folder else None
        self.epoch, self.recall, self.weights = 0, -1.0, tail.get_weights()

    def resume(self, done: int, history: dict[str, list[float]]) -> None:
        """Take over the best of the `done` epochs of an interrupted training."""
        self.weights = self.tail.get_weights()
        if self.path is None or not done or not self.path.is_file():
            return
        with np.load(self.path, allow_pickle=False) as file:
            epoch = int(file["epoch"])
            if 0 < epoch <= done:
                self.weights = [file[f"w{i}"] for i in range(len(file.files) - 1)]
                self.epoch, self.recall = epoch, history["val_recall@1"][epoch - 1]

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        recall = logs["val_recall@1"]
        if recall <= self.recall:  # never for nan: without validation images the last epoch is kept
            return
        self.epoch, self.recall, self.weights = epoch + 1, recall, self.tail.get_weights()
        if self.path:
            with atomic_file(self.path) as part:
                arrays = {f"w{i}": weight for i, weight in enumerate(self.weights)}
                np.savez(part, epoch=epoch + 1, **arrays)

    def restore(self) -> int:
        """Set the best weights; return their epoch."""
        self.tail.set_weights(self.weights)
        return self.epoch

    def remove_file(self) -> None:
        if self.path:
            self.path.unlink(missing_ok=True)
