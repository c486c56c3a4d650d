"""One thin module under the notebooks: triplets, the Siamese model, its frozen trunk.

Images are RGB, uint8, 0..255, shape (height, width, 3) everywhere; the only place that rescales
them is inside the embedding model. Distances are squared Euclidean and float32 everywhere.
Read the notebooks in order; each docstring names the one that explains it.
"""

import hashlib
import io
import itertools
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

# settings comes before Keras; with what notebooks use of the other modules under this one's name
from settings import GPUS, VARIABLES, Config, prepare, read_config, start, tf  # noqa: F401

import keras  # isort: skip
from downloads import workshop
from image_data import DATASETS, ROOT, ImageDataset, decode_image, load_images, printable  # noqa: F401
from retrieval import (  # noqa: F401
    bootstrap_interval,
    nearest_neighbors,
    retrieval_metrics,
    split_recall,
    verification,
)

register = keras.saving.register_keras_serializable(package="siamese_utils")

# --------------------------------------------------------------------------------------- 1 triplets


def random_triplets(labels, count=None, seed=42):
    """`count` random triplets (default: one per image), as (count, 3) int64 indices (a, p, n).

    The anchor is uniform over images that have a companion, the positive over the companions, the
    negative over all images of other classes. Raises ValueError if no triplet exists.
    Explained in notebook 02, "Random triplets".
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    anchors = np.concatenate([m for m in members.values() if len(m) > 1] or [np.empty(0, int)])
    if len(members) < 2 or not len(anchors):
        raise ValueError(
            f"no triplet in {len(labels)} images of {len(members)} classes: it takes two classes, "
            "one of them with two images"
        )
    triplets = np.empty((len(labels) if count is None else count, 3), np.int64)
    for row, anchor in enumerate(rng.choice(anchors, len(triplets))):
        companions = members[labels[anchor]]
        positive = rng.choice(companions[companions != anchor])
        negative = rng.integers(len(labels) - len(companions))  # the index among all others ...
        negative += np.searchsorted(companions - np.arange(len(companions)), negative, "right")
        triplets[row] = anchor, positive, negative  # ... and, the class skipped, among all
    return triplets


def pair_distances(embeddings, labels, count=10_000, seed=42):
    """Random pairs, `count` of one class and `count` of two: (distances, same), each (2 * count,).

    embeddings (n, dim), labels (n,) -> squared Euclidean distances float32, same bool. The pairs
    are (a, p) and (a, n) of `random_triplets`, so one may come twice. Raises ValueError if there is
    no triplet. Explained in notebook 05, "How far apart?".
    """
    a, p, n = random_triplets(labels, count, seed).T
    embeddings = np.asarray(embeddings, np.float32)
    difference = embeddings[np.concatenate([a, a])] - embeddings[np.concatenate([p, n])]
    return (difference**2).sum(1), np.arange(2 * count) < count


def close_distance_triplets(embeddings, labels):
    """For every pair (i < j) of a class, the negative whose distance to i is closest to d(i, j).

    embeddings (n, dim), labels (n,) -> (pairs, 3) int64 (anchor i, positive j, negative), ordered
    by i, then j; ties go to the lowest index. Squared distances in float64, a block of rows at
    a time. Raises ValueError if no triplet exists. Explained in notebook 02,
    "The close-distance rule"; measured in notebook 06.
    """
    x, labels = np.asarray(embeddings, np.float64), np.asarray(labels)
    norms, number, triplets = (x**2).sum(1), np.arange(len(x)), []
    rows = max(1, 2**21 // max(1, len(x)))  # anchors at a time
    for first in range(0, len(x), rows):
        mine = slice(first, first + rows)
        same = labels[mine, None] == labels
        distances = norms[mine, None] - 2 * (x[mine] @ x.T) + norms
        to_others = np.where(same, np.inf, distances)
        anchor, positive = np.nonzero(same & (number > number[mine, None]))
        for part in np.array_split(np.arange(len(anchor)), 1 + len(anchor) * len(x) // 2**18):
            a, p = anchor[part], positive[part]  # so few that their gaps stay in the CPU's cache
            gaps = to_others[a]
            gaps -= distances[a, p, None]
            np.abs(gaps, out=gaps)
            triplets.append(np.stack([a + first, p, gaps.argmin(1)], 1))
    triplets = np.concatenate(triplets or [np.empty((0, 3), np.int64)])
    if not len(triplets) or (labels == labels[0]).all():
        raise ValueError("no triplet: it takes two classes, one of them with two images")
    return triplets


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


# ----------------------------------------------------------------------------------------- 2 models


@register
class ResNetPreprocessing(keras.layers.Layer):
    """ResNet50's own preprocessing (RGB 0..255 to BGR minus ImageNet's means), as a layer."""

    def call(self, images):
        return keras.applications.resnet.preprocess_input(tf.cast(images, tf.float32))


def _load_backbone(backbone, weights, input_shape):
    """A model from an RGB 0..255 input to a feature map, preprocessing included."""
    image = keras.Input(input_shape, name="image")
    if backbone != "ResNet50":
        model = keras.models.load_model(backbone) if isinstance(backbone, (str, Path)) else backbone
        if len(model.output_shape) != 4:
            raise ValueError(f"{backbone}: gives {model.output_shape}, not (batch, h, w, channels)")
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # its statistics come from far more images than yours
        return model
    weights = None if weights == "none" else weights
    try:
        return keras.applications.ResNet50(
            include_top=False,
            weights=weights,
            input_tensor=ResNetPreprocessing(name="preprocessing")(image),
        )
    except Exception as error:
        if weights != "imagenet":
            raise
        raise FileNotFoundError(
            "the ImageNet weights of ResNet50 could not be had (file resnet50_weights_tf_dim_"
            f"ordering_tf_kernels_notop.h5: {error}). Without a network: SIAMESE_WEIGHTS=<that "
            "file>, or SIAMESE_WEIGHTS=none for random weights, or SIAMESE_PRESET=quick"
        ) from error


def build_embedding_model(
    input_shape=(200, 200, 3),
    weights="imagenet",
    backbone="ResNet50",
    train_from="default",
    head="flatten",
    units=(512, 256, 256),
    feature_norm=False,
    normalize=False,
):
    """The embedding model f: RGB images 0..255 (batch, h, w, 3) -> (batch, 256) float32.

    Two parts: `frozen_trunk` (preprocessing and every layer before `train_from`) and
    `trainable_tail` (the rest of the backbone, then the head). Head: "flatten" or "average" of the
    feature map, a BatchNorm if `feature_norm`, Dense 512 (ReLU) - BatchNorm - Dense 256 (ReLU) -
    BatchNorm - Dense 256 (`units` has the widths), then unit length if `normalize`. `backbone`:
    "ResNet50", a .keras file or a Keras model that maps RGB 0..255 to a feature map. `weights`:
    "imagenet", None or a file (ResNet50 only). `train_from`: a layer of the backbone, None for none
    of them; default conv5_block1_out for ResNet50, else None.
    Raises ValueError for an unknown head or layer, FileNotFoundError if weights cannot be had.
    Explained in notebook 03 (architecture: the Keras example `siamese_network`).
    """
    poolings = {
        "flatten": keras.layers.Flatten, "average": keras.layers.GlobalAveragePooling2D
    }  # fmt: skip
    if head not in poolings:
        raise ValueError(f"head={head!r} is not one of: {', '.join(poolings)}")
    base = _load_backbone(backbone, weights, input_shape)
    if train_from == "default":
        train_from = "conv5_block1_out" if backbone == "ResNet50" else None
    cut = base.get_layer(train_from).input if train_from else base.output
    image = keras.Input(input_shape, name="image")
    frozen = keras.Model(base.input, cut, name="frozen_layers")
    trunk = keras.Model(image, frozen(image), name="frozen_trunk")
    trunk.trainable = False  # also keeps its BatchNorm in inference mode

    features = keras.Input(trunk.output_shape[1:], name="features")
    x = keras.Model(cut, base.output, name="backbone_tail")(features) if train_from else features
    x = poolings[head](name=head)(x)
    # momentum: the default, 0.99, still remembers its start after a hundred steps
    if feature_norm:
        x = keras.layers.BatchNormalization(momentum=0.9, name="feature_norm")(x)
    for i, width in enumerate(units[:-1], 1):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"batch_norm_{i}")(x)
    x = keras.layers.Dense(units[-1], dtype="float32", name="embedding")(x)
    if normalize:
        x = keras.layers.UnitNormalization(dtype="float32", name="unit_length")(x)
    tail = keras.Model(features, x, name="trainable_tail")
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:  # statistics of the whole batch
        for layer in (*base.layers, *tail.layers):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return keras.Model(image, tail(trunk(image)), name="embedding_model")


def build_from_config(config):
    """The embedding model that `config` asks for, not trained; the same weights for the same seed.

    Unit-length embeddings. A "slim" head is average pooling, BatchNorm and Dense 256.
    """
    keras.utils.set_random_seed(config.seed)
    slim = {"head": "average", "units": (256,), "feature_norm": True}
    return build_embedding_model(
        (config.size, config.size, 3),
        weights=config.weights,
        backbone=config.backbone,
        train_from=config.train_from,
        normalize=True,
        **(slim if config.head == "slim" else {}),
    )


def split_at_freeze_point(embedding):
    """(frozen trunk, trainable tail) of an embedding model: two models that share its weights.

    Train the tail on the trunk's kept output, and the whole embedding is trained with it.
    Explained in notebook 03, "What is frozen, and why".
    """
    names = {layer.name for layer in embedding.layers}
    if not {"frozen_trunk", "trainable_tail"} <= names:
        raise ValueError(f"{embedding.name} was not made by build_embedding_model: {sorted(names)}")
    return embedding.get_layer("frozen_trunk"), embedding.get_layer("trainable_tail")


@register
class DistanceLayer(keras.layers.Layer):
    """(anchor, positive, negative), each (batch, dim) -> d(a, p), d(a, n), each (batch,) float32.

    Squared Euclidean: no square root, whose gradient at 0 is infinite. The three may also come as
    one tuple. Explained in notebook 03, "`DistanceLayer`, checked by hand".
    """

    def call(self, anchor, positive=None, negative=None):
        if positive is None:
            anchor, positive, negative = anchor
        a, p, n = (tf.cast(x, tf.float32) for x in (anchor, positive, negative))
        return tf.reduce_sum((a - p) ** 2, -1), tf.reduce_sum((a - n) ** 2, -1)


def build_siamese_network(embedding):
    """Three images in, (d(a, p), d(a, n)) out, through one embedding model: the weights are shared.

    Explained in notebook 03, "Three inputs, one set of weights".
    """
    names = ("anchor", "positive", "negative")
    inputs = [keras.Input(embedding.input_shape[1:], name=name) for name in names]
    distances = DistanceLayer(name="distances")(*(embedding(x) for x in inputs))
    return keras.Model(inputs, distances, name="siamese_network")


@register
class SiameseModel(keras.Model):
    """Trains an embedding with the triplet loss max(d(a, p) - d(a, n) + margin, 0).

    model: an embedding model, its trainable tail, or the network of `build_siamese_network`.
    Without `mining` a batch is ((anchor, positive, negative),) and the three go through the
    embedding in one concatenated pass; with it (one of `MINING`) a batch is (images, labels) and
    the triplets are chosen in it. What is minimised is the mean loss of all triplets, or with
    `active_only` of those whose loss is above 0 (Hermans et al. 2017). Logs loss, d_ap and d_an
    (always means over all triplets) and active (the share of triplets with a loss above 0). Called
    on images it gives embeddings, on three of them the two distances. Made within the scope of a
    `tf.distribute` strategy it mines the batch of all devices; each must get an equal share. Raises
    ValueError for an unknown strategy or a margin that is not above 0. Explained in notebooks 03
    and 04 (FaceNet, Schroff et al. 2015, section 3.1).
    """

    def __init__(self, model, margin=0.5, mining=None, active_only=False, **kwargs):
        super().__init__(**kwargs)
        if mining is not None and mining not in MINING:
            raise ValueError(f"mining={mining!r} is not one of: None, {', '.join(MINING)}")
        if not margin > 0:
            raise ValueError(f"margin={margin!r} must be above 0, or all embeddings may collapse")
        self.embedding = (
            next(m for m in (*model.layers, model) if isinstance(m, keras.Model))
            if len(model.inputs) == 3
            else model
        )
        self.distance, self.margin, self.mining = DistanceLayer(), margin, mining
        self.active_only = active_only
        self.trackers = [keras.metrics.Mean(name) for name in ("loss", "d_ap", "d_an", "active")]
        self.built = True  # the embedding is; saving and BackupAndRestore ask for it

    def call(self, inputs, training=False):
        if not isinstance(inputs, (tuple, list)):
            return self.embedding(inputs, training=training)
        embedded = self.embedding(tf.concat(inputs, axis=0), training=training)
        return self.distance(*tf.split(embedded, 3))

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

    def compute_triplet_loss(self, data, training):
        """The loss to minimise, a mean over the batch's triplets; updates the four logged means."""
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        d_ap, d_an, valid = self.triplet_distances(x, labels, training)
        losses = tf.maximum(d_ap - d_an + self.margin, 0)
        active = tf.cast(losses > 0, tf.float32)
        for tracker, values in zip(self.trackers, (losses, d_ap, d_an, active)):
            tracker.update_state(values, sample_weight=valid)
        counted = valid * active if self.active_only else valid
        return tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_triplet_loss(data, training=True) + sum(self.losses)
            scaled = self.optimizer.scale_loss(loss)  # only mixed precision scales
            # every device has the loss of the whole batch, and their gradients are added up
            scaled /= self.distribute_strategy.num_replicas_in_sync
        gradients = tape.gradient(scaled, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self._logs()

    def test_step(self, data):
        self.compute_triplet_loss(data, training=False)
        return self._logs()

    def _logs(self):
        logs = {tracker.name: tracker.result() for tracker in self.trackers}
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}  # Keras reduces an axis
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras's own fails with several workers (keras issue 20585); only this needs building."""
        if self.optimizer:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        return self.trackers  # all of them, so that Keras resets all of them each epoch

    def get_config(self):
        names = ("margin", "mining", "active_only", "name")
        embedding = keras.saving.serialize_keras_object(self.embedding)
        return {"model": embedding} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config["model"])
        return cls(**(config | {"model": model}))


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


def warm_cosine(learning_rate, steps, warm_up=30):
    """A learning rate that rises linearly for `warm_up` steps, then falls to 0 as a half cosine.

    Rises for a quarter of the `steps` at most. Explained in notebook 04, "Batches and model".
    """
    rising = min(warm_up, steps // 4)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rising, warmup_target=learning_rate, warmup_steps=rising
    )


# ---------------------------------------------------------------------- 3 the frozen trunk's output


@register
class RandomCropResize(keras.layers.Layer):
    """Random parts of images (n, h, w, 3), stretched back to (h, w), every second one mirrored.

    A part has `area` (least share, 1) of the image and at most `aspect` times its width to height.
    """

    def __init__(self, area=0.3, aspect=1.25, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.area, self.aspect, self.seed = area, aspect, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        count, height, width = tf.unstack(tf.shape(images)[:3])
        share, stretch, x, y, side = tf.unstack(
            keras.random.uniform((5, count), seed=self.generator)
        )
        share = self.area + (1 - self.area) * share
        stretch = self.aspect ** (stretch - 0.5)
        w = tf.minimum(tf.sqrt(share) * stretch, 1)
        h = tf.minimum(tf.sqrt(share) / stretch, 1)
        x, y = x * (1 - w), y * (1 - h)
        left, right = tf.where(side < 0.5, (x, x + w), (x + w, x))  # swapped ends mirror
        boxes = tf.stack([y, left, y + h, right], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))

    def get_config(self):
        own = {"area": self.area, "aspect": self.aspect, "seed": self.seed}
        return super().get_config() | own


def augmentation(seed=42):
    """Random views of images (n, h, w, 3) 0..255: a part of it, mirrored, turned, recoloured.

    Explained in notebook 04, "Augmented views".
    """
    layers, seeds, colors = keras.layers, itertools.count(seed), {"value_range": (0, 255)}
    return keras.Sequential([
        RandomCropResize(seed=next(seeds)),
        layers.RandomRotation(0.055, seed=next(seeds)),  # of a full turn: 20 degrees
        layers.RandomSaturation((0.44, 0.56), seed=next(seeds), **colors),  # 0.5 changes nothing
        layers.RandomBrightness(0.15, seed=next(seeds), **colors),
        layers.RandomContrast(0.3, seed=next(seeds), **colors),
    ])  # fmt: skip


def trunk_features(
    trunk, images, cache_dir=None, dtype="float16", batch_size=64, views=1, rows=None
):
    """The frozen trunk's output for images (n, ...), computed once: (n, h, w, channels) memmap.

    Of `rows` (n,) of the images, if given. With `views` above 1: (views * n, h, w, channels), first
    the images as they are, then each time all of them through `augmentation`. Images are read a
    batch at a time: they may be a memmap that is larger than the memory.

    Kept under `cache_dir` (default `<root>/runs/cache`) under a key made of the images, the
    trunk, its weights, `dtype` and the augmentation; a file that is half-written or of other images
    is never used.
    float16 halves the disk; float32 makes cached and uncached training agree to rounding.
    Raises ValueError where float16 overflows. Explained in notebook 04, "Compute the trunk once".
    """
    cache_dir = Path(cache_dir or ROOT / "runs/cache")
    cache_dir.mkdir(parents=True, exist_ok=True)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    augment = augmentation()
    recipe = [layer.get_config() | {"name": ""} for layer in augment.layers] if views > 1 else []
    about = f"{len(rows)} {images.shape[1:]} {dtype} {views} {recipe} {trunk.to_json()}"
    digest = hashlib.sha256(about.encode())
    for array in trunk.get_weights():
        digest.update(np.ascontiguousarray(array))
    for first in range(0, len(rows), batch_size):
        digest.update(images[rows[first : first + batch_size]])
    cache = cache_dir / f"trunk-{digest.hexdigest()[:16]}.npy"
    try:
        return np.load(cache, mmap_mode="r")
    except (OSError, ValueError):  # absent or cut short
        pass
    shape = (views * len(rows), *trunk.output_shape[1:])
    progress = keras.utils.Progbar(shape[0], unit_name="image")
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with workshop(cache) as folder:  # gone again if anything fails, also when interrupted
        with open(folder / "new.npy", "wb") as file:  # not mapped: a full disk is then an error
            np.lib.format.write_array_header_2_0(file, about)
            for first in range(0, shape[0], batch_size):
                place = np.arange(first, min(first + batch_size, shape[0]))
                batch = np.float32(images[rows[place % len(rows)]])
                fresh = place >= len(rows)  # past the first view
                if fresh.any():
                    batch[fresh] = augment(batch[fresh], training=True)
                features = _predict(trunk, batch)
                if not np.abs(features).max() <= np.finfo(dtype).max:
                    raise ValueError(f"the trunk's output does not fit {dtype}: use float32")
                file.write(features.astype(dtype).tobytes())
                progress.update(place[-1] + 1)
        os.replace(folder / "new.npy", cache)
    return np.load(cache, mmap_mode="r")


def _predict(model, batch):
    """A model's output for one batch; with several devices each does all of it, and one counts."""
    return model.predict_on_batch(batch)[: len(batch)]


def embed(model, inputs, batch_size=64, rows=None):
    """Embeddings (n, dim) float32 of images (through an embedding) or features (through a tail).

    Of all inputs, or of `rows` (n,) of them; a batch at a time, so inputs may be a memmap. Past
    five seconds a progress bar appears.
    """
    inputs = np.asanyarray(inputs)
    rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
    found, bar, begin = [], None, time.monotonic()
    for first in range(0, len(rows), batch_size):
        batch = np.asarray(inputs[rows[first : first + batch_size]], np.float32)
        found.append(_predict(model, batch))
        if bar is None and time.monotonic() - begin > 5:
            bar = keras.utils.Progbar(len(rows), unit_name="image")
        if bar:
            bar.update(min(first + batch_size, len(rows)))
    return np.concatenate(found)


# ------------------------------------------------------------------------------------------ 4 plots


def show_images(images, titles=None, columns=12, colors=None, width=12, title=None):
    """A grid of images (n, h, w, 3), 0..255, with optional titles and frame colours; the figure."""
    rows = -(-len(images) // columns)
    height = width / columns * rows * (1.18 if titles is not None else 1) + 0.4 * bool(title)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.set_visible(i < len(images))
        if i < len(images):
            axis.imshow(np.asarray(images[i], np.uint8), interpolation="none")
            if titles is not None:
                axis.set_title(titles[i], fontsize=8)
            for spine in axis.spines.values():
                spine.set(visible=colors is not None, linewidth=3)
                spine.set_color(colors[i] if colors is not None else "none")
    if title:
        figure.suptitle(title)
    return figure


def save_figure(figure, config, name):
    """Write `figure` to `<run>/figures/`: <name>.png, and <name>.svg if it holds no pictures.

    The PNG has 200 dots an inch and 256 colours, which keeps it small. The README's come from here.
    """
    folder, file = config.run_dir / "figures", io.BytesIO()
    folder.mkdir(exist_ok=True)
    figure.savefig(file, format="png", dpi=200)
    Image.open(file).convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
    if not any(axis.images for axis in figure.axes):
        with plt.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
