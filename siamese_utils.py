"""Siamese networks with the triplet loss: the whole method in one file, to be read from the top.

1. choose triplets, 2. embed images, 3. train the embedding with the triplet loss, 4. check input.

Images are RGB, 0..255, of shape (height, width, 3); they are rescaled inside the embedding model
and nowhere else. A distance is always the squared Euclidean distance. The file needs only NumPy,
TensorFlow and Keras: copied alone into an empty folder it works. Notebook 2 explains the triplets,
notebook 3 the models, notebook 4 the training.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# ---------------------------------------------------------------------------- 1. choosing triplets


def random_triplets(labels: Any, count: int | None = None, seed: Any = 42) -> np.ndarray:
    """Draw random triplets (anchor, positive, negative).

    Parameters
    ----------
    labels : (n,) whole numbers or words, one class per image.
    count : how many triplets; by default one per image.
    seed : of the random numbers, as `numpy.random.default_rng` takes it.

    Returns
    -------
    (count, 3) int64 : rows of image indices. The anchor is drawn from all images that share their
    class with another one, the positive from the anchor's class, the negative from all others.

    Raises
    ------
    ValueError : if no triplet exists, or if the labels are not one number or word per image.
    """
    labels, rng = check_labels(labels), np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    anchors = np.flatnonzero(np.isin(labels, classes[counts > 1]))
    if not len(anchors) or len(classes) < 2:
        raise ValueError(NO_TRIPLET.format(len(labels), len(classes)))
    triplets = np.empty((len(labels) if count is None else count, 3), np.int64)
    for row, anchor in enumerate(rng.choice(anchors, len(triplets))):
        same = labels == labels[anchor]
        negatives = np.flatnonzero(~same)
        same[anchor] = False  # an image is not its own positive
        triplets[row] = anchor, rng.choice(np.flatnonzero(same)), rng.choice(negatives)
    return triplets


def close_distance_triplets(embeddings: Any, labels: Any) -> np.ndarray:
    """Choose, for every pair of a class, the negative whose distance is closest to the pair's own.

    For the pair (a, p) this is the image n of another class for which |d(a, n) - d(a, p)| is
    smallest; of equal ones the image with the lowest index is taken.

    Parameters
    ----------
    embeddings : (n, dim) finite numbers; distances are computed in float64.
    labels : (n,) whole numbers or words, one class per image.

    Returns
    -------
    (pairs, 3) int64 : rows (a, p, n) of image indices with a < p, ordered by a, then p.

    Raises
    ------
    ValueError : if no triplet exists, or if an embedding is not finite.
    """
    x, labels = np.asarray(embeddings, np.float64), check_labels(labels, len(embeddings))
    if not np.isfinite(x).all():
        raise ValueError("an embedding holds NaN or infinity")
    squared_lengths, index = (x**2).sum(axis=1), np.arange(len(x))
    triplets = []
    for block in np.array_split(index, 1 + len(x) ** 2 // 2**21):  # blocks bound the memory
        distances = squared_lengths[block, None] - 2 * x[block] @ x.T + squared_lengths
        for anchor, from_anchor in zip(block, distances):
            same = labels == labels[anchor]
            positives = np.flatnonzero(same & (index > anchor))
            if len(positives) and not same.all():
                to_negatives = np.where(same, np.inf, from_anchor)
                gaps = np.abs(to_negatives - from_anchor[positives, None])  # (positives, n)
                anchors = np.full(len(positives), anchor)
                triplets.append(np.stack([anchors, positives, gaps.argmin(axis=1)], axis=1))
    if not triplets:
        raise ValueError(NO_TRIPLET.format(len(labels), len(np.unique(labels))))
    return np.concatenate(triplets)


# ---------------------------------------------------------------------------- 2. embedding images


@keras.saving.register_keras_serializable(package="siamese_utils")
class ResNetPreprocessing(keras.layers.Layer):
    """ResNet50's own preprocessing as a layer: RGB 0..255 to BGR with ImageNet's mean removed."""

    def call(self, images: Any) -> Any:
        return keras.applications.resnet.preprocess_input(tf.cast(images, tf.float32))


def resnet50(
    input_shape: Sequence[int] = (200, 200, 3), weights: str | None = "imagenet"
) -> keras.Model:
    """Build ResNet50 without its classifier (He et al. 2016).

    Parameters
    ----------
    input_shape : (height, width, 3).
    weights : "imagenet", None for random weights, or the path of a weights file.

    Returns
    -------
    A model from RGB images 0..255 to a feature map, (7, 7, 2048) for 200 pixels.

    Raises
    ------
    ValueError : if the images do not have three channels.
    """
    if tuple(input_shape[2:]) != (3,):
        raise ValueError(
            f"ResNet50 takes RGB images, not {tuple(input_shape)}: repeat a grey channel with "
            "np.repeat(grey, 3, axis=-1)"
        )
    image = keras.Input(input_shape, name="image")
    preprocessed = ResNetPreprocessing(name="preprocessing")(image)
    return keras.applications.ResNet50(
        include_top=False, weights=weights, input_tensor=preprocessed
    )


def specified_head(feature_map: Any, units: Sequence[int] = (512, 256, 256)) -> Any:
    """Flatten, Dense 512 (ReLU), BatchNorm, Dense 256 (ReLU), BatchNorm, Dense 256.

    Takes a tensor (batch, h, w, channels) and returns one of shape (batch, units[-1]), float32.
    """
    x = keras.layers.Flatten(name="flatten")(feature_map)
    for i, width in enumerate(units[:-1], start=1):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{i}")(x)
        # Keras's default momentum, 0.99, would still remember the start after a hundred steps.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"batch_norm_{i}")(x)
    return keras.layers.Dense(units[-1], dtype="float32", name="embedding")(x)


def slim_head(feature_map: Any, units: int = 256) -> Any:
    """Average over the feature map, BatchNorm, Dense 256: few parameters, for small datasets.

    Takes a tensor (batch, h, w, channels) and returns one of shape (batch, units), float32.
    """
    x = keras.layers.GlobalAveragePooling2D(name="average")(feature_map)
    x = keras.layers.BatchNormalization(momentum=0.9, name="feature_norm")(x)
    return keras.layers.Dense(units, dtype="float32", name="embedding")(x)


def build_embedding_model(
    input_shape: Sequence[int] = (200, 200, 3),
    weights: str | None = "imagenet",
    backbone: keras.Model | None = None,
    train_from: str | None = "conv5_block1_out",
    head: Callable[[Any], Any] = specified_head,
    normalize: bool = False,
) -> keras.Model:
    """Build the embedding model f: an image goes in, a vector of 256 numbers comes out.

    The model has two parts. `frozen_trunk` holds every layer before `train_from`;
    `trainable_tail` holds the rest of the backbone and the head. With the defaults there are
    60,510,720 trainable and 14,657,920 other parameters.

    Parameters
    ----------
    input_shape : (height, width, 3).
    weights : of ResNet50, see `resnet50`.
    backbone : a model from RGB images 0..255 to a feature map, used in place of ResNet50.
    train_from : name of the first layer that is trained; None freezes the whole backbone.
    head : a function from the feature map to the embedding.
    normalize : whether embeddings are scaled to length 1.

    Returns
    -------
    A model from images (batch, height, width, 3) to embeddings (batch, dim), float32.

    Raises
    ------
    ValueError : if the backbone has no layer called `train_from`.

    References
    ----------
    The architecture follows the Keras example `siamese_network`.
    """
    base = resnet50(input_shape, weights) if backbone is None else backbone
    names = [layer.name for layer in base.layers]
    if train_from is not None and train_from not in names:
        raise ValueError(f"train_from={train_from!r} is no layer of {base.name}: {names}")
    border = base.get_layer(train_from).input if train_from else base.output

    image = keras.Input(input_shape, name="image")
    frozen_layers = keras.Model(base.input, border, name="frozen_layers")
    trunk = keras.Model(image, frozen_layers(image), name="frozen_trunk")
    trunk.trainable = False  # this also keeps its BatchNorm layers in inference mode

    x = features = keras.Input(trunk.output_shape[1:], name="features")
    if train_from is not None:
        x = keras.Model(border, base.output, name="backbone_tail")(features)
    x = head(x)
    if normalize:
        x = keras.layers.UnitNormalization(dtype="float32", name="unit_length")(x)
    tail = keras.Model(features, x, name="trainable_tail")
    return keras.Model(image, tail(trunk(image)), name="embedding_model")


def split_at_freeze_point(embedding: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the two parts of an embedding model: (frozen trunk, trainable tail).

    Both share their weights with the model. The trunk's output never changes, so it can be
    computed once and kept; training the tail on it trains the embedding model.

    Raises
    ------
    ValueError : if `build_embedding_model` did not make this model.
    """
    names = {layer.name for layer in embedding.layers}
    if not {"frozen_trunk", "trainable_tail"} <= names:
        raise ValueError(f"{embedding.name} was not made by build_embedding_model: {sorted(names)}")
    return embedding.get_layer("frozen_trunk"), embedding.get_layer("trainable_tail")


def embed(
    model: keras.Model, inputs: Any, batch_size: int = 64, rows: Any | None = None
) -> np.ndarray:
    """Embed many images, one batch at a time.

    Parameters
    ----------
    model : an embedding model, or its trainable tail.
    inputs : (n, ...) images 0..255 for an embedding model, or kept features for a tail. They may
        be a memory map that is larger than the memory.
    rows : indices of the inputs to embed; by default all of them.

    Returns
    -------
    (n, dim) float32. After five seconds a progress bar appears.

    Raises
    ------
    ValueError : if the inputs have another shape than the model takes. Images in 0..1 give a
        warning.
    """
    inputs = np.asanyarray(inputs)
    if not tf.TensorShape(inputs.shape[1:]).is_compatible_with(model.input_shape[1:]):
        raise ValueError(
            f"inputs of shape {inputs.shape}, but the model takes {model.input_shape}; "
            "repeat a grey channel with np.repeat(x, 3, axis=-1)"
        )
    rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
    n, start, progress = len(rows), time.monotonic(), None
    embeddings = np.empty((n, model.output_shape[-1]), np.float32)
    for first in range(0, n, batch_size):
        # The last batch overlaps the one before it: all batches have one shape, compiled once.
        part = slice(max(0, min(first, n - batch_size)), first + batch_size)
        batch = np.asarray(inputs[rows[part]], np.float32)
        if first == 0 and batch.shape[3:] == (3,) and 0 < batch.max() <= 1:
            warnings.warn("images in 0..1, but an embedding model takes 0..255", stacklevel=2)
        embeddings[part] = model.predict_on_batch(batch)[: len(batch)]
        if progress is None and time.monotonic() - start > 5:
            progress = keras.utils.Progbar(n, unit_name="image")
        if progress:
            progress.update(min(part.stop, n))
    return embeddings


# ------------------------------------------------------- 3. the Siamese network and its training


@keras.saving.register_keras_serializable(package="siamese_utils")
class DistanceLayer(keras.layers.Layer):
    """Squared Euclidean distances d(a, p) and d(a, n) of a batch of triplets.

    Takes anchor, positive and negative, each (batch, dim); returns two tensors (batch,), float32.
    There is no square root, because its gradient at 0 is infinite.
    """

    def call(self, anchor: Any, positive: Any, negative: Any) -> tuple[Any, Any]:
        anchor, positive, negative = (tf.cast(x, tf.float32) for x in (anchor, positive, negative))
        d_ap = tf.reduce_sum((anchor - positive) ** 2, axis=-1)
        d_an = tf.reduce_sum((anchor - negative) ** 2, axis=-1)
        return d_ap, d_an


def build_siamese_network(embedding: keras.Model) -> keras.Model:
    """Build the Siamese network: three images in, d(a, p) and d(a, n) out.

    One embedding model embeds all three images, so there is one set of weights.
    """
    names = ("anchor", "positive", "negative")
    images = [keras.Input(embedding.input_shape[1:], name=name) for name in names]
    distances = DistanceLayer(name="distances")(*(embedding(image) for image in images))
    return keras.Model(images, distances, name="siamese_network")


@keras.saving.register_keras_serializable(package="siamese_utils")
class SiameseModel(keras.Model):
    """Trains an embedding model with the triplet loss max(d(a, p) - d(a, n) + margin, 0).

    Parameters
    ----------
    model : a Siamese network, an embedding model, or a trainable tail.
    margin : by how much a negative has to be farther away than the positive; above 0.

    A batch is ((anchor, positive, negative),): three arrays of one shape, in a tuple of one.
    Logged are the means of the loss, of both distances, and of the share of active triplets,
    which are those with a loss above 0.

    References
    ----------
    FaceNet (Schroff et al. 2015), section 3.1.
    """

    def __init__(self, model: Any, margin: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        self.embedding, self.margin = get_embedding(model), check_margin(margin)
        self.distance = DistanceLayer()
        self.trackers = [keras.metrics.Mean(name) for name in ("loss", "d_ap", "d_an", "active")]
        self.built = True  # the embedding is built; Keras asks before it saves

    def call(self, triplet: Sequence[Any], training: bool = False) -> tuple[Any, Any]:
        together = self.embedding(tf.concat(triplet, axis=0), training=training)
        return self.distance(*tf.split(together, 3))

    def triplet_loss(self, data: Any, training: bool) -> Any:
        """The mean loss of a batch, a scalar; updates what is logged."""
        d_ap, d_an = self(check_triplet_batch(data), training=training)
        losses = tf.maximum(d_ap - d_an + self.margin, 0) + sum(self.losses)
        active = d_ap - d_an + self.margin > 0
        for tracker, values in zip(self.trackers, (losses, d_ap, d_an, active)):
            tracker.update_state(values)
        # Several devices add up their gradients, so each contributes its share of the mean.
        return tf.reduce_mean(losses) / self.distribute_strategy.num_replicas_in_sync

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = self.triplet_loss(data, training=True)
            loss = self.optimizer.scale_loss(loss)  # changes it in mixed precision only
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        self.triplet_loss(data, training=False)
        return self.get_metrics_result()

    def fit(self, *args: Any, **options: Any) -> Any:
        """Keras's `fit`; raises ValueError for weights, which Keras would drop unseen."""
        return super().fit(*args, **refuse_weights(options))

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Keras's `evaluate`; raises ValueError for weights."""
        return super().evaluate(*args, **refuse_weights(options))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.trackers  # Keras resets all of these at the start of an epoch

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.embedding)
        return {"model": model, "margin": self.margin, "name": self.name}

    def export(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("export the embedding instead: model.embedding.export(folder)")


def get_embedding(model: Any) -> keras.Model:
    """Return the embedding model inside a Siamese network; any other model is one itself."""
    if isinstance(model, dict):  # a saved model is being loaded, and this is its description
        model = keras.saving.deserialize_keras_object(model)
    if len(model.inputs) != 3:
        return model
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


# ------------------------------------------------------------------------------ 4. checking input

NO_TRIPLET = (
    "no triplet exists in {} images of {} classes: at least two classes are needed, one of them "
    "with two images"
)


def check_labels(labels: Any, count: int | None = None) -> np.ndarray:
    """Return labels (n,) or (n, 1) as an array (n,) of int64 or of words.

    Raises
    ------
    ValueError : if a label is neither a whole number nor a word, if one is missing (NaN), or if
        there are not `count` labels.
    """
    found = np.asarray(labels)
    found = found[:, 0] if found.shape[1:] == (1,) else found
    if found.dtype == object and all(isinstance(label, str) for label in found.flat):
        found = found.astype(str)
    kind = found.dtype.kind
    if kind in "SU" and any(label != label for label in np.asarray(labels, object).flat):
        raise ValueError("a label is missing (NaN): give every image a label, or leave it out")
    whole = kind in "biu" or (kind == "f" and (abs(found) < 2**53).all() and not (found % 1).any())
    if found.ndim != 1 or not (whole or kind in "SU") or count not in (None, len(found)):
        raise ValueError(
            f"labels of shape {np.shape(labels)} and type {found.dtype}, but one whole number or "
            f"word per image is needed, ({'n' if count is None else count},); for one-hot rows use "
            "labels.argmax(1)"
        )
    return found.astype(np.int64) if whole else found


def check_triplet_batch(data: Any) -> Any:
    """Return (anchor, positive, negative) of a batch ((anchor, positive, negative),).

    Raises
    ------
    ValueError : for another batch. Keras would take (a, p, n) for images, labels and weights.
    """
    triplet, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None and weights is None and isinstance(triplet, (tuple, list)):
        shapes = [tf.TensorShape(x.shape) for x in triplet]
        if len(shapes) == 3 and all(shape.is_compatible_with(shapes[0]) for shape in shapes):
            return triplet
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape), data)
    raise ValueError(
        "a batch must be ((anchor, positive, negative),): three arrays of one shape in a tuple of "
        f"one, without labels or weights; this one has the shapes {shapes}"
    )


NO_WEIGHTS = "sample_weight and class_weight have no meaning for triplets: leave them out"


def refuse_weights(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of `fit` or `evaluate`; raise ValueError if they weight images or classes."""
    if any(options.get(name) is not None for name in ("sample_weight", "class_weight")):
        raise ValueError(NO_WEIGHTS)
    return options


def check_margin(margin: float) -> float:
    """Return the margin; raise ValueError unless it is above 0.

    With a margin of 0 an embedding that maps all images to one point has no loss.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin!r} must be above 0, or all embeddings may collapse")
    return margin
