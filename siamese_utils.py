"""The method: triplets, the embedding model, the Siamese network, its training. Read it top down.

Images are RGB 0..255, (height, width, 3), and rescaled inside the embedding model alone. Distances
are squared Euclidean. Notebooks 2 and 3 explain each piece; what is around it is in `workbook/`.
"""

import copy
import time
import warnings

import numpy as np

from workbook.support.tensorflow_start import keras, tf

# --------------------------------------------------------------------------------------- 1 triplets

NO_TRIPLET = "no triplet in {} images of {} classes: take two classes, one of them with two images"


def random_triplets(labels, count=None, seed=42):
    """`count` random triplets (default: one per image), as (count, 3) int64 indices (a, p, n).

    labels (n,), whole numbers or words. The anchor is uniform over images that have a companion,
    the positive over the companions, the negative over all images of other classes. Raises
    ValueError if no triplet exists. Explained in notebook 02, "Random triplets".
    """
    labels, rng = checked_labels(labels), np.random.default_rng(seed)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    anchors = np.concatenate([m for m in members.values() if len(m) > 1] or [np.empty(0, int)])
    if len(members) < 2 or not len(anchors):
        raise ValueError(NO_TRIPLET.format(len(labels), len(members)))
    triplets = np.empty((len(labels) if count is None else count, 3), np.int64)
    for row, anchor in enumerate(rng.choice(anchors, len(triplets))):
        companions = members[labels[anchor]]
        positive = rng.choice(companions[companions != anchor])
        negative = rng.integers(len(labels) - len(companions))  # its index among all others ...
        negative += np.searchsorted(companions - np.arange(len(companions)), negative, "right")
        triplets[row] = anchor, positive, negative  # ... and, the class skipped, among all
    return triplets


def close_distance_triplets(embeddings, labels):
    """For every pair (i < j) of a class, the negative whose distance to i is closest to d(i, j).

    embeddings (n, dim), labels (n,) -> (pairs, 3) int64 (anchor i, positive j, negative), ordered
    by i, then j; ties go to the lowest index. Distances in float64. Raises ValueError if no
    triplet exists, or for NaN. Explained in notebook 02, "The close-distance rule"; see also 06.
    """
    x, labels = np.asarray(embeddings, np.float64), checked_labels(labels, len(embeddings))
    if not np.isfinite(x).all():
        raise ValueError("NaN or infinity in an embedding")
    norms, number, triplets = (x**2).sum(1), np.arange(len(x)), []
    for block in np.array_split(number, 1 + len(x) ** 2 // 2**21):  # bounds the memory
        distances = norms[block, None] - 2 * x[block] @ x.T + norms
        for i, d in zip(block, distances):
            same = labels == labels[i]
            positives = np.flatnonzero(same & (number > i))
            to_negatives = np.where(same, np.inf, d)
            if len(positives) and not same.all():
                gaps = np.abs(to_negatives - d[positives, None])  # (positives, n)
                anchors = np.full(len(positives), i)
                triplets.append(np.stack([anchors, positives, gaps.argmin(1)], axis=1))
    if not triplets:
        raise ValueError(NO_TRIPLET.format(len(labels), len(np.unique(labels))))
    return np.concatenate(triplets)


# -------------------------------------------------------------------------------------- 2 embedding


@keras.saving.register_keras_serializable(package="siamese_utils")
class ResNetPreprocessing(keras.layers.Layer):
    """ResNet50's own preprocessing (RGB 0..255 to BGR minus ImageNet's means), as a layer."""

    def call(self, images):
        return keras.applications.resnet.preprocess_input(tf.cast(images, tf.float32))


def resnet50(input_shape=(200, 200, 3), weights="imagenet"):
    """ResNet50 without its classifier: RGB images 0..255 -> a feature map (7, 7, 2048) for 200 px.

    weights: "imagenet", None for random ones, or the path of a weights file (He et al. 2016).
    Raises ValueError unless the images have three channels.
    """
    if tuple(input_shape[2:]) != (3,):
        raise ValueError(f"ResNet50 takes RGB, not {input_shape}: np.repeat(grey, 3, axis=-1)")
    image = keras.Input(input_shape, name="image")
    x = ResNetPreprocessing(name="preprocessing")(image)
    return keras.applications.ResNet50(include_top=False, weights=weights, input_tensor=x)


def specified_head(feature_map, units=(512, 256, 256)):
    """Flatten, Dense 512 (ReLU) - BatchNorm - Dense 256 (ReLU) - BatchNorm - Dense 256.

    A function of a tensor (batch, h, w, channels) -> (batch, units[-1]) float32.
    """
    x = keras.layers.Flatten(name="flatten")(feature_map)
    for i, width in enumerate(units[:-1], 1):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{i}")(x)
        # momentum: the default, 0.99, still remembers its start after a hundred steps
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"batch_norm_{i}")(x)
    return keras.layers.Dense(units[-1], dtype="float32", name="embedding")(x)


def slim_head(feature_map, units=256):
    """The mean over the feature map, BatchNorm, Dense 256: few parameters, for few images."""
    x = keras.layers.GlobalAveragePooling2D(name="average")(feature_map)
    x = keras.layers.BatchNormalization(momentum=0.9, name="feature_norm")(x)
    return keras.layers.Dense(units, dtype="float32", name="embedding")(x)


def build_embedding_model(
    input_shape=(200, 200, 3),
    weights="imagenet",
    backbone=None,
    train_from="conv5_block1_out",
    head=specified_head,
    normalize=False,
):
    """The embedding model f: RGB images 0..255 (batch, h, w, 3) -> (batch, 256) float32.

    Two parts: `frozen_trunk`, every layer before `train_from`, and `trainable_tail`, the rest of
    the backbone and the head. As it stands: 60,510,720 trainable and 14,657,920 other parameters.

    weights: of ResNet50, as in `resnet50`. backbone: another model from RGB 0..255 to a feature
    map, in place of ResNet50. train_from: the name of the backbone's first trained layer, None if
    it has none. head: a function of the feature map. normalize: embeddings of length 1. Raises
    ValueError for a layer that is not there. Explained in notebook 03, "The embedding model"
    (architecture: the Keras example `siamese_network`).
    """
    base = resnet50(input_shape, weights) if backbone is None else backbone
    names = [layer.name for layer in base.layers]
    if train_from is not None and train_from not in names:
        raise ValueError(f"train_from={train_from!r} is no layer of {base.name}: {names}")
    cut = base.get_layer(train_from).input if train_from else base.output
    image = keras.Input(input_shape, name="image")
    trunk = keras.Model(base.input, cut, name="frozen_layers")
    trunk = keras.Model(image, trunk(image), name="frozen_trunk")
    trunk.trainable = False  # this also keeps its BatchNorm in inference mode

    x = features = keras.Input(trunk.output_shape[1:], name="features")
    if train_from is not None:
        x = keras.Model(cut, base.output, name="backbone_tail")(features)
    x = head(x)
    if normalize:
        x = keras.layers.UnitNormalization(dtype="float32", name="unit_length")(x)
    tail = keras.Model(features, x, name="trainable_tail")
    return keras.Model(image, tail(trunk(image)), name="embedding_model")


def split_at_freeze_point(embedding):
    """(frozen trunk, trainable tail) of an embedding model: two models that share its weights.

    Train the tail on the trunk's kept output, and the whole embedding is trained with it.
    Raises ValueError for a model that `build_embedding_model` did not make.
    Explained in notebook 03, "What is frozen, and why".
    """
    names = {layer.name for layer in embedding.layers}
    if not {"frozen_trunk", "trainable_tail"} <= names:
        raise ValueError(f"{embedding.name} was not made by build_embedding_model: {sorted(names)}")
    return embedding.get_layer("frozen_trunk"), embedding.get_layer("trainable_tail")


def embed(model, inputs, batch_size=64, rows=None):
    """Embeddings (n, dim) float32 of images (through an embedding) or features (through a tail).

    Of all inputs, or of `rows` (n,) of them; a batch at a time, so inputs may be a memmap. Past
    five seconds a progress bar appears. Warns of images in 0..1; ValueError for another shape.
    """
    inputs = np.asanyarray(inputs)
    if not tf.TensorShape(inputs.shape[1:]).is_compatible_with(model.input_shape[1:]):
        wanted = f"the model takes {model.input_shape}; of grey images, np.repeat(x, 3, axis=-1)"
        raise ValueError(f"inputs of shape {inputs.shape}: {wanted}")
    rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
    n = len(rows)
    found, bar, begin = np.empty((n, model.output_shape[-1]), np.float32), None, time.monotonic()
    for first in range(0, n, batch_size):
        part = slice(max(0, min(first, n - batch_size)), first + batch_size)  # the last overlaps,
        batch = np.asarray(inputs[rows[part]], np.float32)  # so that one shape is compiled
        if first == 0 and batch.shape[3:] == (3,) and 0 < batch.max() <= 1:
            warnings.warn("images in 0..1: an embedding model takes 0..255", stacklevel=2)
        found[part] = model.predict_on_batch(batch)[: len(batch)]  # once, of several devices
        if bar is None and time.monotonic() - begin > 5:
            bar = keras.utils.Progbar(n, unit_name="image")
        if bar:
            bar.update(min(part.stop, n))
    return found


# -------------------------------------------------------------------------------- 3 Siamese network


@keras.saving.register_keras_serializable(package="siamese_utils")
class DistanceLayer(keras.layers.Layer):
    """(anchor, positive, negative), each (batch, dim) -> d(a, p), d(a, n), each (batch,) float32.

    Squared Euclidean: no square root, whose gradient at 0 is infinite.
    Explained in notebook 03, "`DistanceLayer`, checked by hand".
    """

    def call(self, anchor, positive, negative):
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


class TripletModel(keras.Model):
    """The frame of `SiameseModel`, to skip at first: its logs, batches told their epoch, errors."""

    def __init__(self, **kwargs):
        if "mining" in kwargs:
            raise ValueError(
                "workbook.mining.MinedSiameseModel mines; older files load within keras.saving."
                'custom_object_scope({"siamese_utils>SiameseModel": MinedSiameseModel})'
            )
        super().__init__(**kwargs)
        self.trackers = [keras.metrics.Mean(name) for name in ("loss", "d_ap", "d_an", "active")]

    @property
    def metrics(self):
        return self.trackers  # all of them, so that Keras resets all of them each epoch

    def fit(self, x=None, *rest, callbacks=None, **options):
        """Keras's; batches with a `set_epoch` (`IndexBatches`) are told when an epoch begins."""
        if any(options.get(name) is not None for name in ("sample_weight", "class_weight")):
            raise ValueError(NO_WEIGHTS)
        if hasattr(x, "set_epoch"):
            if options.get("validation_data") is x:
                options["validation_data"] = copy.copy(x)  # stays at one epoch
            tell = lambda epoch, logs: x.set_epoch(epoch)  # noqa: E731
            callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=tell), callbacks or []]
        return super().fit(x, *rest, callbacks=callbacks, **options)

    def export(self, *_, **__):
        raise ValueError("what is served is the embedding: model.embedding.export(folder)")


@keras.saving.register_keras_serializable(package="siamese_utils")
class SiameseModel(TripletModel):
    """Trains an embedding with the triplet loss max(d(a, p) - d(a, n) + margin, 0).

    model: a Siamese network, an embedding model or its tail. A batch: ((anchor, positive,
    negative),). Notebooks 03 and 04 explain it (FaceNet, Schroff et al. 2015, section 3.1).
    """

    def __init__(self, model, margin=0.5, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.margin = shared_embedding(model), checked_margin(margin)
        self.distance = DistanceLayer()
        self.built = True  # the embedding is: saving asks for it

    def call(self, triplet, training=False):
        together = checked_embeddings(self.embedding, tf.concat(triplet, axis=0), training)
        return self.distance(*tf.split(together, 3))

    def triplet_loss(self, data, training):
        d_ap, d_an = self(checked_triplet(data), training=training)
        hinge = tf.maximum(d_ap - d_an + self.margin, 0)
        losses = hinge + sum(self.losses)  # regularisers, if the embedding has any
        for tracker, values in zip(self.trackers, (losses, d_ap, d_an, hinge > 0)):
            tracker.update_state(values)
        return tf.reduce_mean(losses)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.triplet_loss(data, training=True)  # True, or BatchNorm learns nothing
            loss = self.optimizer.scale_loss(loss)  # only mixed precision scales
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self.get_metrics_result()

    def test_step(self, data):
        self.triplet_loss(data, training=False)
        return self.get_metrics_result()

    def get_config(self):
        model = keras.saving.serialize_keras_object(self.embedding)
        return {"model": model, "margin": self.margin, "name": self.name}


def shared_embedding(model):
    """The embedding model inside a Siamese network; another model is one itself."""
    if isinstance(model, dict):  # what `get_config` gave, when a saved model is loaded
        model = keras.saving.deserialize_keras_object(model)
    if len(model.inputs) != 3:
        return model
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


# ------------------------------------------------------- 4 checks: a clear error, no wrong number

NO_WEIGHTS = "sample_weight and class_weight have no meaning for triplets: leave them out"


def checked_labels(labels, count=None):
    """`labels` (n,) or (n, 1) as (n,), int64 or words; ValueError for others, or not `count`."""
    found = np.asarray(labels)
    found = found[:, 0] if found.shape[1:] == (1,) else found
    if found.dtype == object and all(isinstance(label, str) for label in found.flat):
        found = found.astype(str)
    kind = found.dtype.kind
    whole = kind in "biu" or (kind == "f" and (abs(found) < 2**53).all() and not (found % 1).any())
    if found.ndim != 1 or not (whole or kind in "SU") or count not in (None, len(found)):
        raise ValueError(
            f"labels of shape {np.shape(labels)}, type {found.dtype}: it takes a whole number or a "
            f"word an image, ({'n' if count is None else count},); of one-hot rows labels.argmax(1)"
        )
    return found.astype(np.int64) if whole else found


def checked_triplet(data):
    """(anchor, positive, negative) of a batch ((anchor, positive, negative),), else ValueError."""
    triplet, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None and weights is None and isinstance(triplet, (tuple, list)):
        shapes = [tf.TensorShape(x.shape) for x in triplet]
        if len(shapes) == 3 and all(shape.is_compatible_with(shapes[0]) for shape in shapes):
            return triplet
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape), data)
    raise ValueError(
        "a batch is ((anchor, positive, negative),), three arrays of one shape in a tuple of one, "
        f"not {shapes}; (images, labels) are for workbook.mining.MinedSiameseModel. {NO_WEIGHTS}"
    )


def checked_embeddings(embedding, images, training=False):
    """The embeddings of a batch; the step fails if one or an image is not finite (see `Guard`)."""
    check = tf.debugging.check_numerics  # XLA leaves it out
    if images.dtype.is_floating:
        images = check(images, "NaN or infinity in an image: look for it in the data")
    remedy = "lower the learning rate (try a tenth), or clip the gradients (clipnorm=1)"
    return check(embedding(images, training=training), f"NaN or infinity in an embedding: {remedy}")


def checked_margin(margin):
    """`margin`; ValueError unless it is above 0: else one point for all images costs nothing."""
    if not margin > 0:
        raise ValueError(f"margin={margin!r} must be above 0, or all embeddings may collapse")
    return margin
