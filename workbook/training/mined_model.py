"""The Siamese model that picks its triplets within each batch. Notebooks 3 and 4 explain it."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from siamese_utils import NO_WEIGHTS, SiameseModel
from workbook.models.devices import gather
from workbook.support.tensorflow_start import keras, tf
from workbook.training.batches import NUMBERS, EpochSetter, Logs, check_numbers
from workbook.training.losses import LOSSES, LossAndLogs, TripletLoss
from workbook.training.mining import Miner, has_triplet, squared_distances


class WorkerSteps(SiameseModel):
    """A `SiameseModel` that several workers can train, which Keras's own steps do not allow."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return self._with_an_axis(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._with_an_axis(super().test_step(data))

    def _with_an_axis(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Give each logged value an axis, which Keras reduces where there are several workers."""
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build the optimiser only: Keras's own method fails with several workers (issue 20585)."""
        if self.optimizer:
            build_optimizer(self)


class ExplicitSiameseModel(WorkerSteps):
    """A `SiameseModel`, trained on explicit triplets, that several workers can train."""


@keras.saving.register_keras_serializable(package="siamese_utils")
class MinedSiameseModel(WorkerSteps):
    """A `SiameseModel` that embeds each image of a batch once and mines triplets among them.

    Parameters
    ----------
    model : an embedding model or a trainable tail.
    loss : a `TripletLoss`, or another dataclass with a margin and the same way of being called.
    miner : a `Miner`, or the name of its strategy.

    A batch is (images, labels): (b, ...) and (b,) integers. Called on images the model returns
    their embeddings. Made within the scope of a `tf.distribute` strategy, it mines the batches of
    all devices together; each device needs an equal share.
    """

    def __init__(
        self,
        model: Any,
        loss: TripletLoss | None = None,
        miner: Miner | str = "semi-hard",
        **kwargs: Any,
    ):
        loss = loss or TripletLoss()
        super().__init__(model, loss.margin, **kwargs)
        self.triplet_loss_function = loss
        self.miner = Miner(miner) if isinstance(miner, str) else miner
        self.batches_with_triplet = keras.metrics.Mean()  # not logged: `Guard` reads it

    def call(self, images: Any, training: bool = False) -> Any:
        return self.embedding(images, training=training)

    def triplet_loss(self, data: Any, training: bool) -> Any:
        images, labels = check_labelled_batch(data)
        embeddings = gather(check_finite(self(check_finite_images(images), training=training)))
        labels = gather(labels)
        found = self.loss_and_logs(embeddings, labels)
        penalty = sum(self.losses)  # of regularisers, if the embedding has any
        logged = (found.losses + penalty, found.d_ap, found.d_an, found.active)
        for tracker, values in zip(self.trackers, logged):
            tracker.update_state(values, sample_weight=found.weight)
        self.batches_with_triplet.update_state(has_triplet(labels))
        # Each device computes the loss of the whole batch, and their gradients are added up.
        return (found.loss + penalty) / self.distribute_strategy.num_replicas_in_sync

    def loss_and_logs(self, embeddings: Any, labels: Any) -> LossAndLogs:
        """Mine the triplets of a batch, embeddings (b, dim), labels (b,), and take their loss."""
        distances = squared_distances(embeddings)
        triplets = self.miner(distances, labels)
        return self.triplet_loss_function(distances, labels, triplets)

    def evaluate(self, x: Any = None, y: Any = None, *rest: Any, **options: Any) -> Any:
        return super().evaluate(x, y if y is None else check_numbers(y), *rest, **options)

    def fit(self, x: Any = None, y: Any = None, *rest: Any, **options: Any) -> Any:
        """Keras's `fit`. `IndexBatches` are told each epoch; numbers that go wrong are located."""
        if hasattr(x, "set_epoch"):
            if options.get("steps_per_epoch"):
                raise ValueError(
                    "steps_per_epoch would mix epochs: let `sample` draw fewer batches"
                )
            options = EpochSetter.added_to(options, x)
        tracker = StepTracker()
        options["callbacks"] = [tracker, options.get("callbacks") or []]
        try:
            return super().fit(x, y if y is None else check_numbers(y), *rest, **options)
        except tf.errors.InvalidArgumentError as error:
            if not (found := re.search("(NaN or infinity in .*?) : Tensor", str(error))):
                raise
            raise tracker.locate_error(found[1]) from None

    def get_config(self) -> dict[str, Any]:
        options = asdict(self.triplet_loss_function) | {"mining": self.miner.strategy}
        return super().get_config() | options

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        names = TripletLoss.__dataclass_fields__
        loss = TripletLoss(**{name: config[name] for name in names if name in config})
        strategy = config.get("mining", "semi-hard")
        if strategy is None:
            raise ValueError("this model was trained on explicit triplets: load it as SiameseModel")
        return cls(config["model"], loss, Miner(strategy), name=config.get("name"))


class BatchLossModel(MinedSiameseModel):
    """A `SiameseModel` that is trained with one of the `LOSSES` of whole batches. Save `embedding`.

    Logged are that loss, and of each anchor the distances of its farthest positive and its closest
    negative.

    Parameters
    ----------
    model : an embedding model or a trainable tail.
    name : of the loss.
    labels : (n,) of all training images. A loss with proxies has one for each of their classes.
    options : of the loss. `proxy_length` is the length, 1 by default, at which proxies start.
    """

    def __init__(
        self, model: Any, name: str, labels: Any, options: Mapping[str, float] | None = None
    ):
        super().__init__(model, miner="batch-hard")
        self.batch_loss, self.options = LOSSES[name], dict(options or {})
        self.classes, self.proxies = np.unique(check_numbers(labels)), None
        length = self.options.pop("proxy_length", 1.0)
        if self.batch_loss.has_proxies:
            shape = (len(self.classes), self.embedding.output_shape[1])
            start = keras.initializers.RandomNormal(stddev=length / shape[1] ** 0.5)
            self.proxies = self.add_weight(shape, start, "float32", name="proxies")

    def loss_and_logs(self, embeddings: Any, labels: Any) -> LossAndLogs:
        """Take the loss of a batch, embeddings (b, dim) and labels (b,)."""
        embeddings = tf.cast(embeddings, tf.float32)
        logs = super().loss_and_logs(embeddings, labels)
        numbers = tf.searchsorted(tf.constant(self.classes, labels.dtype), labels)
        proxies = {} if self.proxies is None else {"proxies": tf.convert_to_tensor(self.proxies)}
        loss = self.batch_loss.function(embeddings, numbers, **proxies, **self.options)
        return logs._replace(loss=loss, losses=tf.fill(tf.shape(logs.losses), loss))


def check_labelled_batch(data: Any) -> tuple[Any, Any]:
    """Return (images, labels) of a batch, of which only types and shapes are known in a step.

    Raises
    ------
    ValueError : if the batch is not (images, labels) with one integer label per image.
    """
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(images, (tuple, list)) or labels is None or weights is not None:
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), data)
        raise ValueError(
            f"a batch for mining is (images, labels), not {shapes}; a SiameseModel trains on "
            f"explicit triplets ((anchor, positive, negative),). {NO_WEIGHTS}"
        )
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if labels.shape.rank is None or labels.shape[1:] == (1,):  # unknown: columns and rows in turn
        labels = tf.reshape(labels, [-1])
    if labels.shape.rank != 1 or not labels.dtype.is_integer:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype.name}: {NUMBERS}, one "
            "per image, (n,); for one-hot rows use labels.argmax(1)"
        )
    if not labels.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(f"{labels.shape[0]} labels for {images.shape[0]} images")
    tf.debugging.assert_equal(tf.shape(labels)[0], tf.shape(images)[0], "labels for other images")
    return images, labels


def check_finite_images(images: Any) -> Any:
    """Return the images; the step fails if a value is not finite. XLA leaves such checks out."""
    if not images.dtype.is_floating:
        return images
    message = "NaN or infinity in an image: look for it in the data"
    return tf.debugging.check_numerics(images, message)


def check_finite(embeddings: Any) -> Any:
    """Return the embeddings; the step fails if a value is not finite."""
    remedy = "lower the learning rate (try a tenth), or clip the gradients (clipnorm=1)"
    return tf.debugging.check_numerics(embeddings, f"NaN or infinity in an embedding: {remedy}")


class StepTracker(keras.callbacks.Callback):
    """Knows the current epoch and step, and names them in an error."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch, self.step = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.step = batch

    def locate_error(self, message: str) -> FloatingPointError:
        """Return an error that says where in the training the numbers went wrong."""
        rate = float(self.model.optimizer.learning_rate)
        return FloatingPointError(
            f"numbers went wrong at step {self.step + 1} of epoch {self.epoch + 1}, at learning "
            f"rate {rate:.3g}: {message}"
        )


def build_optimizer(model: keras.Model) -> None:
    """Create the variables of a compiled model's optimiser within its strategy, if missing."""
    if not model.optimizer.built:  # building mixed_float16's twice would make a second loss scale
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
