"""The Siamese model that chooses its triplets within each batch."""

import re

from siamese_utils import (
    NO_WEIGHTS,
    SiameseModel,
    checked_embeddings,
    checked_triplet,
)
from workbook.models.devices import gather
from workbook.support.tensorflow_start import keras, tf
from workbook.training.batches import NUMBERS, checked_numbers
from workbook.training.mining import MINING, _has_triplet, _select, soft_minimum, squared_distances


def _checked_batch(data, mining):
    """(images, labels) of a batch within a step, where only types and shapes are known."""
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(images, (tuple, list)) or labels is None or weights is not None:
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), data)
        raise ValueError(
            f"with mining={mining!r} a batch is (images, labels), not {shapes}; triplets "
            f"((anchor, positive, negative),) are for mining=None. {NO_WEIGHTS}"
        )
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if labels.shape.rank != 1 or not labels.dtype.is_integer:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)}, type {labels.dtype.name}: {NUMBERS}, one an "
            "image, (n,); of one-hot rows labels.argmax(1)"
        )
    if not labels.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(f"{labels.shape[0]} labels for {images.shape[0]} images")
    tf.debugging.assert_equal(tf.shape(labels)[0], tf.shape(images)[0], "labels for other images")
    return images, labels


class StepTracker(keras.callbacks.Callback):
    """Knows where a `fit` is, and says so in the error for numbers that go wrong there."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.step = epoch, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.step = batch

    def numbers_went_wrong(self, what):
        rate = float(self.model.optimizer.learning_rate)
        return FloatingPointError(
            f"numbers went wrong at step {self.step + 1} of epoch {self.epoch + 1}, at learning "
            f"rate {rate:.3g}: {what}"
        )


OPTIONS = ("mining", "active_only", "temperature")  # of a `MinedSiameseModel`, beside the margin


@keras.saving.register_keras_serializable(package="siamese_utils")
class MinedSiameseModel(SiameseModel):
    """A `SiameseModel` that chooses the triplets in each batch, on one device or on several.

    mining: one of `MINING`, a batch is then (images, labels) and every image goes through the
    embedding once; or None, for ((anchor, positive, negative),) as before. What is minimised is
    the mean loss of all triplets, or with `active_only` of those whose loss is above 0 (Hermans et
    al. 2017); what is logged are means over all triplets. With a `temperature` T, for the closest
    negatives of "hard" and "batch-hard", both steps are soft: d(a, n) is the `soft_minimum` over
    all negatives, and the loss T log(1 + exp((d(a, p) - d(a, n) + margin) / T)), never quite 0: the
    tuplet loss of Sohn 2016, section 3.1, on squared distances. T -> 0 gives the triplet loss back.
    Called on images it gives embeddings. Made within the scope of a `tf.distribute` strategy it
    mines the batch of all devices; each must get an equal share. Raises ValueError for an unknown
    strategy, and for a temperature that is not above 0. Explained in notebooks 02 and 04.
    """

    def __init__(
        self, model, margin=0.5, mining="semi-hard", active_only=False, temperature=None, **kwargs
    ):
        super().__init__(model, margin, **kwargs)
        if mining is not None and mining not in MINING:
            raise ValueError(f"mining={mining!r} is not one of: None, {', '.join(MINING)}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature={temperature!r} must be above 0, or None: the hinge")
        if temperature and mining not in (None, "hard", "batch-hard"):
            raise ValueError(f"mining={mining!r} with a temperature: take hard or batch-hard")
        self.mining, self.active_only, self.temperature = mining, active_only, temperature
        self.possible = keras.metrics.Mean("possible")  # not logged: `Guard` asks for it

    def call(self, inputs, training=False):
        if isinstance(inputs, (tuple, list)):
            return super().call(inputs, training=training)
        return self.embedding(inputs, training=training)

    def triplet_distances(self, data, training=False):
        """(d_ap, d_an, valid) of a batch's triplets: three arrays of one shape, float32."""
        if self.mining is None:
            d_ap, d_an = (gather(d) for d in self(checked_triplet(data), training=training))
            self.possible.update_state(1)
            return d_ap, d_an, tf.ones_like(d_ap)
        images, labels = _checked_batch(data, self.mining)
        distances = squared_distances(gather(checked_embeddings(self.embedding, images, training)))
        labels = gather(labels)
        anchor, positive, negative, valid = _select(distances, labels, self.mining)
        d_ap = tf.gather_nd(distances, tf.stack([anchor, positive], -1))
        d_an = tf.gather_nd(distances, tf.stack([anchor, negative], -1))
        if self.temperature:
            d_an = tf.gather(soft_minimum(distances, labels, self.temperature), anchor)
        self.possible.update_state(_has_triplet(labels))
        return d_ap, d_an, tf.cast(valid, tf.float32)

    def triplet_loss(self, data, training):
        d_ap, d_an, valid = self.triplet_distances(data, training)
        excess = d_ap - d_an + self.margin
        active = tf.cast(excess > 0, tf.float32)
        T = self.temperature
        hinge = T * tf.nn.softplus(excess / T) if T else tf.maximum(excess, 0)
        penalty = sum(self.losses)  # of regularisers, if the embedding has any
        for tracker, values in zip(self.trackers, (hinge + penalty, d_ap, d_an, active)):
            tracker.update_state(values, sample_weight=valid)
        counted = valid * active if self.active_only else valid
        loss = tf.reduce_sum(hinge * counted) / tf.maximum(tf.reduce_sum(counted), 1)
        # every device has the loss of the whole batch, and their gradients are added up
        return (loss + penalty) / self.distribute_strategy.num_replicas_in_sync

    def evaluate(self, x=None, y=None, *rest, **options):
        return super().evaluate(x, y if y is None else checked_numbers(y), *rest, **options)

    def fit(self, x=None, y=None, *rest, **options):
        """Keras's; a step that meets NaN or infinity raises FloatingPointError, and says where."""
        if hasattr(x, "set_epoch") and options.get("steps_per_epoch"):
            raise ValueError("steps_per_epoch would mix epochs: let `sample` draw fewer batches")
        y = y if y is None else checked_numbers(y)
        place = StepTracker()
        options["callbacks"] = [place, options.get("callbacks") or []]
        try:
            return super().fit(x, y, *rest, **options)
        except tf.errors.InvalidArgumentError as error:
            if not (found := re.search("(NaN or infinity in .*?) : Tensor", str(error))):
                raise
            raise place.numbers_went_wrong(found[1]) from None

    def train_step(self, data):
        return self._with_an_axis(super().train_step(data))

    def test_step(self, data):
        return self._with_an_axis(super().test_step(data))

    def _with_an_axis(self, logs):
        """With several workers Keras reduces an axis of what a step logs."""
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras's own fails with several workers (keras issue 20585); only this needs building."""
        if self.optimizer:
            build_optimizer(self)

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in OPTIONS}


def build_optimizer(model):
    """Make the variables of a compiled model's optimiser, within its strategy, if it has none."""
    if not model.optimizer.built:  # the one of mixed_float16 would make a second loss scale
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
