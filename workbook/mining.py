"""Mining: batches of P x K images, the triplets chosen among them, the model that trains on them.

Explained in notebook 02; several devices in notebook 06.
"""

import numpy as np

from siamese_utils import SiameseModel
from workbook.start import keras, tf

register = keras.saving.register_keras_serializable(package="siamese_utils")


def squared_distances(embeddings):
    """All squared Euclidean distances in a batch: (b, dim) -> (b, b) float32, never negative."""
    x = tf.cast(embeddings, tf.float32)
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
    if strategy == "semi-hard":
        candidate &= d_an > d_ap
    cost = tf.abs(d_an - d_ap) if strategy == "close-distance" else d_an
    nearest = tf.argmin(tf.where(candidate, cost, np.inf), 2, tf.int32)
    anchor, other = tf.meshgrid(tf.range(size), tf.range(size), indexing="ij")
    return anchor, other, nearest, tf.reduce_any(candidate, 2)


def mine_triplets(embeddings, labels, strategy="semi-hard"):
    """The triplets that `strategy` picks in one batch, as (n, 3) int32 indices (a, p, n).

    "all": every valid triplet. "semi-hard": for every ordered pair (a, p) the closest negative
    that is farther than the positive (FaceNet, Schroff et al. 2015, section 3.2); where none is,
    the pair gives no triplet. "hard": for every ordered pair the anchor's closest negative.
    "batch-hard": for every anchor its farthest positive and its closest negative (Hermans et al.
    2017, section 2). "close-distance": for every ordered pair the negative whose distance is
    closest to d(a, p). Ties go to the lowest index. Raises ValueError for an
    unknown strategy. Explained in notebook 02, "Easy, semi-hard, hard".
    """
    if strategy not in MINING:
        raise ValueError(f"mining={strategy!r} is not one of: {', '.join(MINING)}")
    *triplet, valid = _select(squared_distances(embeddings), tf.convert_to_tensor(labels), strategy)
    return tf.boolean_mask(tf.stack(triplet, axis=-1), valid)


def pk_batches(labels, classes=16, images=4, seed=42, steps=None, views=1):
    """One epoch of batches of `classes` x `images` (P x K): (steps, P*K) int64 indices.

    Each batch draws P different classes among those with at least K images, and K different images
    of each; by default as many batches as it takes to draw len(labels) images. With `views`, each
    image comes in a random one of its views: view v of image i is v * len(labels) + i, as in
    `trunk_features`. Raises ValueError, with the numbers that would work, if fewer than P classes
    have K images.
    Explained in notebook 02, "Batches of P classes x K images" (Hermans et al. 2017, section 2).
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
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
    counts = np.unique_counts(np.asarray(labels)).counts
    for k in range(images, 1, -1):
        if (usable := int((counts >= k).sum())) >= 2:
            return min(classes, usable), k
    raise ValueError("no batch: it takes two classes with two training images each")


class IndexBatches(keras.utils.PyDataset):
    """Batches for `fit` from indices: what is held is numbers, the images are gathered when needed.

    images (n, ...) array or memmap, labels (n,), sample(epoch) -> (steps, batch) indices, which
    yield (images, labels), or (steps, batch, 3) triplets, which yield ((anchor, positive,
    negative),), images as float32. A batch depends on `sample` and the epoch alone.
    Explained in notebook 04, "Batches and model".
    """

    def __init__(self, images, labels, sample):
        super().__init__()
        self.images, self.labels, self.sample = images, labels, sample
        self.set_epoch(0)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, step):
        index = self.batches[step]
        if index.ndim == 1:
            return np.float32(self.images[index]), self.labels[index]
        return (tuple(np.float32(self.images[column]) for column in index.T),)

    def set_epoch(self, epoch):
        self.epoch, self.batches = epoch, self.sample(epoch)

    def on_epoch_end(self):
        self.set_epoch(self.epoch + 1)


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


@register
class MinedSiameseModel(SiameseModel):
    """A `SiameseModel` that chooses the triplets in each batch, on one device or on several.

    mining: one of `MINING`, a batch is then (images, labels) and every image goes through the
    embedding once; or None, for ((anchor, positive, negative),) as before. What is minimised is
    the mean loss of all triplets, or with `active_only` of those whose loss is above 0 (Hermans et
    al. 2017); what is logged are means over all triplets. Called on images it gives embeddings.
    Made within the scope of a `tf.distribute` strategy it mines the batch of all devices; each
    must get an equal share. Raises ValueError for an unknown strategy. Explained in notebook 04.
    """

    def __init__(self, model, margin=0.5, mining="semi-hard", active_only=False, **kwargs):
        super().__init__(model, margin, **kwargs)
        if mining is not None and mining not in MINING:
            raise ValueError(f"mining={mining!r} is not one of: None, {', '.join(MINING)}")
        self.mining, self.active_only = mining, active_only

    def call(self, inputs, training=False):
        if isinstance(inputs, (tuple, list)):
            return super().call(inputs, training=training)
        return self.embedding(inputs, training=training)

    def triplet_distances(self, x, labels, training=False):
        """(d_ap, d_an, valid) of a batch's triplets: three arrays of one shape, float32."""
        if self.mining is None:
            d_ap, d_an = (gather(d) for d in self(x, training=training))
            return d_ap, d_an, tf.ones_like(d_ap)
        distances = squared_distances(gather(self.embedding(x, training=training)))
        labels = gather(labels)
        anchor, positive, negative, valid = _select(distances, labels, self.mining)
        d_ap = tf.gather_nd(distances, tf.stack([anchor, positive], -1))
        d_an = tf.gather_nd(distances, tf.stack([anchor, negative], -1))
        return d_ap, d_an, tf.cast(valid, tf.float32)

    def triplet_loss(self, data, training):
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        d_ap, d_an, valid = self.triplet_distances(x, labels, training)
        losses = tf.maximum(d_ap - d_an + self.margin, 0)
        active = tf.cast(losses > 0, tf.float32)
        for tracker, values in zip(self.trackers, (losses, d_ap, d_an, active)):
            tracker.update_state(values, sample_weight=valid)
        counted = valid * active if self.active_only else valid
        loss = tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)
        # every device has the loss of the whole batch, and their gradients are added up
        return (loss + sum(self.losses)) / self.distribute_strategy.num_replicas_in_sync

    def train_step(self, data):
        return self._with_an_axis(super().train_step(data))

    def test_step(self, data):
        return self._with_an_axis(super().test_step(data))

    def _with_an_axis(self, logs):
        """With several workers Keras reduces an axis of what a step logs."""
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def build_optimizer(self):
        """Make the optimiser's variables, within the strategy's scope; nothing the second time."""
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras's own fails with several workers (keras issue 20585); only this needs building."""
        if self.optimizer:
            self.build_optimizer()

    def get_config(self):
        return super().get_config() | {"mining": self.mining, "active_only": self.active_only}


def synchronize_batch_norm(model):
    """With several devices: let each BatchNorm of `model` use the statistics of the whole batch."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return model
