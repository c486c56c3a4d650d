"""Mining: batches of P x K images, the triplets chosen among them, the model that trains on them.

Explained in notebook 02; several devices in notebook 06.
"""

import re

import numpy as np

from siamese_utils import (
    NO_WEIGHTS,
    SiameseModel,
    checked_embeddings,
    checked_labels,
    checked_triplet,
)
from workbook.start import keras, tf

register = keras.saving.register_keras_serializable(package="siamese_utils")


def squared_distances(embeddings):
    """All squared Euclidean distances in a batch: (b, dim) -> (b, b) float32, never negative.

    Measured from the embedding closest to the mean: distances do not change, and what all
    embeddings have in common costs no digits. (From a row, so that whole numbers stay whole.)
    """
    x = tf.cast(embeddings, tf.float32)
    from_mean = tf.reduce_sum((x - tf.reduce_mean(x, axis=0)) ** 2, axis=1)
    x = x - tf.stop_gradient(tf.gather(x, tf.argmin(from_mean)))
    norms = tf.reduce_sum(x * x, axis=1)
    return tf.maximum(norms[:, None] - 2 * tf.matmul(x, x, transpose_b=True) + norms, 0)


MINING = ("all", "semi-hard", "hard", "batch-hard", "close-distance")


def _select(distances, labels, strategy):
    """(anchor, positive, negative, valid) of one static shape, so that XLA can compile it."""
    size = tf.shape(labels)[0]
    same = labels[:, None] == labels
    positive = same & ~tf.eye(size, dtype=tf.bool)  # (anchor, positive)
    negative = ~same  # (anchor, negative)
    if strategy == "batch-hard":
        anchor = tf.range(size)
        farthest = tf.argmax(tf.where(positive, distances, -1), 1, tf.int32)
        nearest = tf.argmin(tf.where(negative, distances, np.inf), 1, tf.int32)
        return anchor, farthest, nearest, tf.reduce_any(positive, 1) & tf.reduce_any(negative, 1)
    d_ap, d_an = distances[:, :, None], distances[:, None, :]
    candidate = positive[:, :, None] & negative[:, None, :]  # (anchor, positive, negative)
    if strategy == "all":
        grid = tf.meshgrid(tf.range(size), tf.range(size), tf.range(size), indexing="ij")
        return *grid, candidate
    if strategy == "semi-hard":  # farther by more than the rounding of the distances
        rounding = 4 * np.finfo(np.float32).eps * tf.reduce_max(distances, axis=1)
        candidate &= d_an - d_ap > rounding[:, None, None]
    cost = tf.abs(d_an - d_ap) if strategy == "close-distance" else d_an
    nearest = tf.argmin(tf.where(candidate, cost, np.inf), 2, tf.int32)
    anchor, other = tf.meshgrid(tf.range(size), tf.range(size), indexing="ij")
    return anchor, other, nearest, tf.reduce_any(candidate, 2)


def _has_triplet(labels):
    """Whether a batch of these labels (b,) holds a triplet at all: a bool."""
    same = labels[:, None] == labels
    paired = tf.reduce_sum(tf.cast(same, tf.int32), 1) > 1
    return tf.reduce_any(paired & ~tf.reduce_all(same, 1))


NUMBERS = "training takes whole numbers, such as np.unique(labels, return_inverse=True)[1]"


def checked_numbers(labels, count=None):
    """`checked_labels` that are numbers, as training takes them; ValueError for words."""
    found = checked_labels(labels, count)
    if found.dtype.kind != "i":
        raise ValueError(f"labels such as {found[:1]}: {NUMBERS}")
    return found


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


def mine_triplets(embeddings, labels, strategy="semi-hard"):
    """The triplets that `strategy` picks in one batch, as (n, 3) int32 indices (a, p, n).

    "all": every valid triplet. "semi-hard": for every ordered pair (a, p) the closest negative
    that is farther than the positive, within the margin or beyond it (a later variant: FaceNet,
    Schroff et al. 2015, section 3.2, takes negatives within the margin); where none is farther,
    the pair gives no triplet. "hard": for every ordered pair the anchor's closest negative.
    "batch-hard": for every anchor its farthest positive and its closest negative (Hermans et al.
    2017, section 2). "close-distance": for every ordered pair the negative whose distance is
    closest to d(a, p). Ties go to the lowest index. embeddings (n, dim), labels (n,). Raises
    ValueError for an unknown strategy, for labels that are not (n,) (see `checked_labels`) and for
    an embedding that is not finite. Explained in notebook 02, "Easy, semi-hard, hard".
    """
    if strategy not in MINING:
        raise ValueError(f"mining={strategy!r} is not one of: {', '.join(MINING)}")
    if not np.isfinite(embeddings).all():
        raise ValueError("NaN or infinity in an embedding")
    labels = tf.constant(checked_labels(labels, len(embeddings)))
    *triplet, valid = _select(squared_distances(embeddings), labels, strategy)
    return tf.boolean_mask(tf.stack(triplet, axis=-1), valid)


def soft_minimum(distances, labels, temperature):
    """Each anchor's distance to the negatives of a batch: all count, the closest ones most.

    distances (b, b), labels (b,) -> (b,) float32, -T log(sum over negatives n of exp(-d(a, n) / T))
    of the temperature T. It is at most the closest one's distance, which it comes to for T -> 0.
    Explained in notebook 02, "All negatives, the close ones most".
    """
    same = labels[:, None] == labels
    closeness = tf.where(same, -1e9, -distances / temperature)  # of infinity there is no gradient
    return -temperature * tf.reduce_logsumexp(closeness, axis=1)


def pk_batches(labels, classes=16, images=4, seed=42, steps=None, views=1):
    """One epoch of batches of `classes` x `images` (P x K): (steps, P*K) int64 indices.

    Each batch draws P different classes among those with at least K images, and K different images
    of each; by default as many batches as it takes to draw len(labels) images. With `views`, each
    image comes in a random one of its views: view v of image i is v * len(labels) + i, as in
    `trunk_features`. Raises ValueError, with the numbers that would work, if fewer than P classes
    have K images.
    Explained in notebook 02, "Batches of P classes x K images" (Hermans et al. 2017, section 2).
    """
    labels, rng = checked_labels(labels), np.random.default_rng(seed)
    values, counts = np.unique(labels, return_counts=True)
    usable = values[counts >= images]
    if len(usable) < classes:
        largest = int(np.sort(counts)[::-1][classes - 1]) if len(counts) >= classes else 0
        working = [f"P = {len(usable)}"] * (len(usable) > 1)
        working += [f"a K of at most {largest}"] * (largest > 1)
        raise ValueError(
            f"P x K = {classes} x {images}: {len(usable)} of {len(values)} have them; the largest "
            f"class has {counts.max(initial=0)} images. "
            + (f"Try {' or '.join(working)}" if working else "Add images, or classes")
        )
    members = {label: np.flatnonzero(labels == label) for label in usable}
    batches = []
    for _ in range(steps or -(-len(labels) // (classes * images))):
        chosen = rng.choice(usable, classes, replace=False)
        batches.append([rng.choice(members[c], images, replace=False) for c in chosen])
    batches = np.reshape(batches, (len(batches), classes * images))
    return batches + len(labels) * rng.integers(views, size=batches.shape)


def batch_shape(labels, classes=16, images=4):
    """The largest (P, K) up to (classes, images), K >= 2, that `pk_batches` can draw from `labels`.

    K shrinks only where fewer than two classes have K images. Raises ValueError if no K is left.
    """
    counts = np.unique_counts(checked_labels(labels)).counts
    for k in range(images, 1, -1):
        if (usable := int((counts >= k).sum())) >= 2:
            return min(classes, usable), k
    raise ValueError("no batch: it takes two classes with two training images each")


class IndexBatches(keras.utils.PyDataset):
    """Batches for `fit` from indices: what is held is numbers, the images are gathered when needed.

    images (n, ...) array or memmap, labels (n,), sample(epoch) -> (steps, batch) indices, which
    yield (images, labels), or (steps, batch, 3) triplets, which yield ((anchor, positive,
    negative),), images as float32. A batch depends on `sample` and the epoch alone: the `fit` of a
    `SiameseModel` sets the epoch that it is in (another model's needs a callback for it), and
    nothing else does, so that `evaluate` and validation see the same batches each time, at first
    those of epoch 0. Raises ValueError for labels or indices that do not fit the images.
    Explained in notebook 04, "Batches and model".
    """

    def __init__(self, images, labels, sample):
        super().__init__()
        self.images, self.sample = images, sample
        self.labels = checked_numbers(labels, len(images))
        self.set_epoch(0)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, step):
        index = self.batches[step]
        if index.ndim == 1:
            return np.float32(self.images[index]), self.labels[index]
        return (tuple(np.float32(self.images[column]) for column in index.T),)

    def set_epoch(self, epoch):
        """Draw the batches of `epoch`, counted from 0."""
        batches = np.asarray(self.sample(epoch))
        right = batches.dtype.kind in "iu" and (batches.ndim == 2 or batches.shape[2:] == (3,))
        if not right or not np.isin(batches, np.arange(len(self.images))).all():
            raise ValueError(
                f"sample({epoch}) is of shape {batches.shape}, type {batches.dtype}: it takes "
                f"indices of {len(self.images)} images, (steps, batch) or, of triplets, (steps, "
                "batch, 3)"
            )
        self.epoch, self.batches = epoch, batches


def gather(values):
    """The rows (b, ...) of every device, in one tensor (devices * b, ...); with one device as is.

    Differentiable; every device must have the same number of rows, each its own part of a batch.
    Explained in notebook 06, "More than one device".
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before
    rows = tf.shape(values)[0]
    padding = [[before * rows, after * rows], *[[0, 0]] * (len(values.shape) - 1)]
    return context.all_reduce("SUM", tf.pad(values, padding))


class Place(keras.callbacks.Callback):
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


@register
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
        place = Place()
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


def synchronize_batch_norm(model):
    """With several devices: let each BatchNorm of `model` use the statistics of the whole batch."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model
