"""Where a backbone comes from, and the embedding model that the settings ask for.

Notebook 03, "The model of this run", explains it.
"""

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import siamese_utils as su
from workbook.models.devices import synchronize_batch_norm
from workbook.models.efficientnet_lite import efficientnet_lite0
from workbook.models.saved_models import load_model
from workbook.support.config import Config
from workbook.support.network import limit_keras_downloads
from workbook.support.tensorflow_start import keras, tf
from workbook.support.text import printable

LITE = "EfficientNetLite0"


class Family(NamedTuple):
    """What the models whose names begin alike have in common."""

    module: str  # of keras.applications
    train_from: str  # the first layer of the last stage; {} stands for the model's own name
    smallest: int = 32  # side of the smallest images that the models can take, in pixels


# NASNet is not offered: two tensors lead from each of its cells to the next, so it cannot be cut.
FAMILIES = {
    "ConvNeXt": Family("convnext", "{}_stage_3_block_0_depthwise_conv"),
    "DenseNet": Family("densenet", "conv5_block1_0_bn"),
    "EfficientNetB": Family("efficientnet", "block6b_expand_conv"),
    "EfficientNetV2": Family("efficientnet_v2", "block6b_expand_conv"),
    "InceptionResNetV2": Family("inception_resnet_v2", "block8_1_ac", 75),
    "InceptionV3": Family("inception_v3", "conv2d_76", 75),
    "MobileNetV3Large": Family("mobilenet_v3", "expanded_conv_13_expand"),
    "MobileNetV3Small": Family("mobilenet_v3", "expanded_conv_9_expand"),
    "MobileNetV2": Family("mobilenet_v2", "block_14_expand"),
    "MobileNet": Family("mobilenet", "conv_dw_13"),
    "ResNet50V2": Family("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet101V2": Family("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet152V2": Family("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet": Family("resnet", "conv5_block1_out", 1),
    "VGG16": Family("vgg16", "block5_conv1"),
    "VGG19": Family("vgg19", "block5_conv1"),
    "Xception": Family("xception", "block14_sepconv1", 71),
}
NAMES = ["ResNet50", LITE]
NAMES += [n for n in dir(keras.applications) if n.startswith(tuple(FAMILIES)) and n not in NAMES]
SIZES = (32, 64, 96, 128, 160, 200, 224, 256, 299, 331, 384, 448, 512)  # tried on a model's behalf


@keras.saving.register_keras_serializable(package="siamese_utils")
class Preprocessing(keras.layers.Layer):
    """The preprocessing of one module of `keras.applications` as a layer, for RGB 0..255."""

    def __init__(self, module: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.module = module

    def call(self, images: Any) -> Any:
        """Preprocess images (batch, h, w, 3), 0..255, as the module's models expect it."""
        preprocess = getattr(keras.applications, self.module).preprocess_input
        return preprocess(tf.cast(images, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Return what a saved model needs to make this layer again."""
        return super().get_config() | {"module": self.module}


def load_backbone(
    name: str,
    weights: str | None,
    input_shape: tuple[int, int, int],
    cache_dir: str | Path | None = None,
) -> tuple[keras.Model, str | None]:
    """Load or build a backbone: a model from RGB images 0..255 to a feature map.

    Parameters
    ----------
    name : one of `NAMES`, or the path of a .keras file.
    weights : "imagenet"; None or "none" for random ones; or a weights file of a model of
        `keras.applications`. A .keras file has its own. Pretrained BatchNorm keeps its statistics,
        except in ResNet50, which is built as specified.
    input_shape : (SIZE, SIZE, 3).
    cache_dir : where EfficientNetLite0 is kept.

    Returns
    -------
    backbone : keras.Model.
    train_from : the default name of the first trained layer; None (all of the backbone stays
        frozen) for a .keras file.

    Raises
    ------
    FileNotFoundError : if weights are not there and cannot be downloaded.
    ValueError : for an unknown name, a model without a feature map, or a SIZE that the model does
        not take; the message names a SIZE that it does.
    """
    weights = None if weights in (None, "none") else weights
    train_from: str | None = None
    if name not in NAMES:
        model, weights = _load_from_file(name, input_shape), name
    elif name != LITE:
        model, train_from = _build_from_keras(name, weights, input_shape)
    elif weights in (None, "imagenet"):
        model, train_from = efficientnet_lite0(weights, cache_dir), "block12_expand"
    else:
        raise ValueError(f"WEIGHTS={weights}: EfficientNetLite0 has imagenet and none")
    if weights and name != "ResNet50":
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # its statistics come from far more images than yours
    return model, train_from


def _load_from_file(path: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """Load a backbone from a .keras file; ValueError if it does not take the images of this run."""
    if not path.endswith(".keras"):
        raise ValueError(f"BACKBONE={path} is no .keras file and none of: {' | '.join(NAMES)}")
    model, shown = load_model(path), printable(path)
    if len(getattr(model, "inputs", ())) != 1 or len(model.outputs) != 1:
        raise ValueError(f"BACKBONE={shown}: one input and one output are needed")
    if len(model.output_shape) != 4:
        raise ValueError(
            f"BACKBONE={shown} gives {model.output_shape}, not (batch, h, w, channels)"
        )
    if not _accepts(model, input_shape):
        takes = "×".join("any" if side is None else str(side) for side in model.input_shape[1:])
        possible = [*{side: 0 for side in model.input_shape[1:3] if side}, *SIZES]
        size = next((side for side in possible if _accepts(model, (side, side, 3))), None)
        remedy = f"set SIZE={size}" if size else "a backbone takes square RGB images of some SIZE"
        raise ValueError(
            f"BACKBONE={shown} takes images of {takes} and not of SIZE={input_shape[0]}: {remedy}"
        )
    if isinstance(model, keras.Sequential):  # the same layers as a graph, which can be cut
        model = keras.Model(model.inputs, model.outputs)
    return model


def _accepts(model: keras.Model, input_shape: tuple[int, int, int]) -> bool:
    """Tell whether a model can be applied to images of that shape; nothing is computed."""
    if not tf.TensorShape(model.input_shape[1:]).is_compatible_with(input_shape):
        return False
    try:
        output = model(keras.Input(input_shape))
    except Exception:  # each layer has its own kinds of errors for a shape
        return False
    return all(side is None or side > 0 for side in output.shape[1:])


def _build_from_keras(
    name: str, weights: str | None, input_shape: tuple[int, int, int]
) -> tuple[keras.Model, str]:
    """Build a model of `keras.applications` with its preprocessing inside; also its train_from."""
    family = next(family for start, family in FAMILIES.items() if name.startswith(start))
    if min(input_shape[:2]) < family.smallest:
        raise ValueError(
            f"BACKBONE={name} cannot take images of SIZE={min(input_shape[:2])}: set "
            f"SIZE={family.smallest} or more"
        )
    addresses: list[str] = []
    try:
        with limit_keras_downloads() as addresses, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`input_shape` is undefined")  # on purpose
            if name == "ResNet50":
                return su.resnet50(input_shape, weights), family.train_from
            image = keras.Input(input_shape, name="image")
            preprocessed = Preprocessing(family.module, name="preprocessing")(image)
            model = getattr(keras.applications, name)(
                include_top=False, weights=weights, input_tensor=preprocessed
            )
    except Exception as error:  # Keras raises plain Exceptions for downloads
        if weights != "imagenet":
            raise
        source = f"from {addresses[-1]}" if addresses else "from Keras's own folder"
        raise FileNotFoundError(
            f"the ImageNet weights of {name} could not be loaded {source}: {error}. "
            "Keras keeps such files in ~/.keras/models; delete a damaged one there. "
            "Without a network: SIAMESE_BACKBONE=EfficientNetLite0, whose weights are installed "
            "with the workbook; or SIAMESE_WEIGHTS=none for random weights; or SIAMESE_PRESET=quick"
        ) from error
    _number_names_anew(model)
    return model, family.train_from.format(model.name)


def _number_names_anew(model: keras.Model) -> None:
    """Count the names that Keras made up ("conv2d_188") from 0 on, the same for each model.

    Otherwise TRAIN_FROM and the key of the trunk's kept output would depend on what was built
    before in the same process.
    """
    counts: Counter[str] = Counter()
    nested = model._flatten_layers(include_self=False)  # for example those of ConvNeXt's stem
    for layer in dict.fromkeys([*model.operations, *nested]):
        made_up = re.sub(r"_\d+$", "", layer.name)  # the kind of layer, as in "conv2d", "re_lu"
        if made_up.replace("_", "") == type(layer).__name__.lower():
            layer.name = f"{made_up}_{counts[made_up]}"
            counts[made_up] += 1


def cut_points(model: keras.Model) -> list[str]:
    """List the layers that a model can be trained from, from its input to its output.

    A layer qualifies if one tensor leads into it and everything that reaches the output passes
    through this tensor; what lies before it is the trunk. Inside a block with a shortcut there is
    no such layer.
    """
    depths = sorted(model._nodes_by_depth, reverse=True)  # from the input on
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth]]
    uses_left = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    waiting: set[int] = set()  # tensors that were computed and are still to be used
    necks: set[int] = set()  # tensors that were, at some moment, the only one waiting
    for node in nodes:
        for tensor in node.input_tensors:
            uses_left[id(tensor)] -= 1
        computed = waiting | {id(tensor) for tensor in node.output_tensors}
        waiting = {tensor for tensor in computed if uses_left[tensor]}
        if len(waiting) == 1 and not node.is_input:
            necks |= waiting
    return [
        node.operation.name
        for node in nodes
        if isinstance(node.operation, keras.layers.Layer)
        and len(node.input_tensors) == 1
        and id(node.input_tensors[0]) in necks
    ]


HEADS = {"specified": su.specified_head, "slim": su.slim_head}


def build_from_config(config: Config, **options: Any) -> keras.Model:
    """Build the embedding model that the settings ask for, untrained, with unit-length embeddings.

    The same seed gives the same weights. If SEED differs from DATA_SEED, the frozen trunk is still
    that of DATA_SEED, so that its kept output serves the trainings of all seeds.

    Parameters
    ----------
    config : backbone, weights, head, size, train_from, seed, data_seed and runs are used.
    options : arguments of `siamese_utils.build_embedding_model` that replace those of the config.

    Raises
    ------
    ValueError : for a TRAIN_FROM at which the backbone cannot be cut (the message lists those at
        which it can); see also `load_backbone`.
    """
    if config.seed == config.data_seed or config.weights != "none":  # all seeds share the trunk
        return _build(config, config.seed, options)
    shared = _build(config, config.data_seed, options)
    model = _build(config, config.seed, options)  # last, so that SEED governs what is drawn later
    trunk, shared_trunk = (su.split_at_freeze_point(each)[0] for each in (model, shared))
    trunk.set_weights(shared_trunk.get_weights())
    return model


def _build(config: Config, seed: int, options: dict[str, Any]) -> keras.Model:
    keras.config.set_dtype_policy(config.precision)  # of every layer that is made from here on
    keras.utils.set_random_seed(seed)
    shape, cache_dir = (config.size, config.size, 3), config.runs / "cache"
    backbone, train_from = load_backbone(config.backbone, config.weights, shape, cache_dir)
    if config.train_from != "default":
        train_from = None if config.train_from == "none" else config.train_from
    chosen: dict[str, Any] = {
        "backbone": backbone,
        "train_from": train_from,
        "head": HEADS[config.head],
        "normalize": True,
    }
    chosen |= options
    points = cut_points(backbone)
    if chosen["train_from"] not in (None, *points):
        raise ValueError(
            f"SIAMESE_TRAIN_FROM={chosen['train_from']!r}: {config.backbone} cannot be trained "
            f"from there. Possible, from its input to its output: {', '.join(points)}; or none"
        )
    return synchronize_batch_norm(su.build_embedding_model(shape, **chosen))
