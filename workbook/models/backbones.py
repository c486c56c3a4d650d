"""Where a backbone comes from, and the embedding model that the settings ask for.

Explained in notebook 03, "The model of this run".
"""

import re
import traceback
import warnings
from collections import Counter

import siamese_utils as su
from workbook.models.devices import synchronize_batch_norm
from workbook.models.efficientnet_lite import efficientnet_lite0
from workbook.models.saved_models import load_model
from workbook.support.network import limit_keras_downloads
from workbook.support.tensorflow_start import keras, tf

# How the names of a family begin: its module in keras.applications, and the first layer of its last
# stage ({}: the model's own name). NASNet is left out: two tensors lead from each cell to the next.
FAMILIES = {
    "ConvNeXt": ("convnext", "{}_stage_3_block_0_depthwise_conv"),
    "DenseNet": ("densenet", "conv5_block1_0_bn"),
    "EfficientNetB": ("efficientnet", "block6b_expand_conv"),
    "EfficientNetV2": ("efficientnet_v2", "block6b_expand_conv"),
    "InceptionResNetV2": ("inception_resnet_v2", "block8_1_ac"),
    "InceptionV3": ("inception_v3", "conv2d_76"),
    "MobileNetV3Large": ("mobilenet_v3", "expanded_conv_13_expand"),
    "MobileNetV3Small": ("mobilenet_v3", "expanded_conv_9_expand"),
    "MobileNetV2": ("mobilenet_v2", "block_14_expand"),
    "MobileNet": ("mobilenet", "conv_dw_13"),
    "ResNet50V2": ("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet101V2": ("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet152V2": ("resnet_v2", "conv5_block1_preact_bn"),
    "ResNet": ("resnet", "conv5_block1_out"),
    "VGG16": ("vgg16", "block5_conv1"),
    "VGG19": ("vgg19", "block5_conv1"),
    "Xception": ("xception", "block14_sepconv1"),
}
NAMES = ["ResNet50", "EfficientNetLite0"]
NAMES += [n for n in dir(keras.applications) if n.startswith(tuple(FAMILIES)) and n not in NAMES]


@keras.saving.register_keras_serializable(package="siamese_utils")
class Preprocessing(keras.layers.Layer):
    """RGB 0..255 to what the models of a module of `keras.applications` want, as a layer."""

    def __init__(self, module, **kwargs):
        super().__init__(**kwargs)
        self.module = module

    def call(self, images):
        preprocess = getattr(keras.applications, self.module).preprocess_input
        return preprocess(tf.cast(images, tf.float32))

    def get_config(self):
        return super().get_config() | {"module": self.module}


def load_backbone(name, weights, input_shape, cache_dir=None):
    """(backbone, its default `train_from`): a model from RGB 0..255 to a feature map.

    name: one of `NAMES`, or a .keras file (then the default is None: all of it stays frozen).
    weights: "imagenet", None or "none" for random ones, or a weights file of a model of
    `keras.applications`. Pretrained BatchNorm keeps its statistics, except in ResNet50, as it is
    specified. cache_dir: where EfficientNetLite0 is kept. Raises FileNotFoundError where weights
    cannot be had, ValueError for an unknown name or a model without a feature map.
    """
    weights = None if weights in (None, "none") else weights
    if name not in NAMES:
        model, train_from, weights = _from_file(name), None, name
    elif name != "EfficientNetLite0":
        model, train_from = _from_keras(name, weights, input_shape)
    elif weights in (None, "imagenet"):
        model, train_from = efficientnet_lite0(weights, cache_dir), "block12_expand"
    else:
        raise ValueError(f"WEIGHTS={weights}: EfficientNetLite0 has imagenet and none")
    if weights and name != "ResNet50":
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # its statistics come from far more images than yours
    return model, train_from


def _from_file(path):
    if not str(path).endswith(".keras"):
        raise ValueError(f"BACKBONE={path} is no .keras file and none of: {' | '.join(NAMES)}")
    model = load_model(path)
    if len(model.output_shape) != 4:
        raise ValueError(f"{path}: gives {model.output_shape}, not (batch, h, w, channels)")
    return model


def _from_keras(name, weights, input_shape):
    """A model of `keras.applications` with its preprocessing inside, and where to train it from."""
    module, train_from = next(about for start, about in FAMILIES.items() if name.startswith(start))
    try:
        with limit_keras_downloads(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`input_shape` is undefined")  # as it shall be
            if name == "ResNet50":
                return su.resnet50(input_shape, weights), train_from
            image = keras.Input(input_shape, name="image")
            preprocessed = Preprocessing(module, name="preprocessing")(image)
            model = getattr(keras.applications, name)(
                include_top=False, weights=weights, input_tensor=preprocessed
            )
    except Exception as error:
        if weights != "imagenet":
            raise
        raise FileNotFoundError(
            f"the ImageNet weights of {name} could not be had: {_file_asked_for(error)}: {error}. "
            "Keras keeps such files in ~/.keras/models; a damaged one there is to be deleted. "
            "Without a network: SIAMESE_BACKBONE=EfficientNetLite0, whose weights are installed "
            "with the workbook; or SIAMESE_WEIGHTS=none for random weights; or SIAMESE_PRESET=quick"
        ) from error
    _renumber(model)
    return model, train_from.format(model.name)


def _file_asked_for(error):
    """The address or path of the file that Keras was after: not all of its errors say so."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name in ("origin", "weights_path"):  # of `keras.utils.get_file`, of a model's function
            if name in frame.f_locals:
                return frame.f_locals[name]
    return "its file"


def _renumber(model):
    """Names that Keras made up ("conv2d_188") count anew: the same for each model of a kind.

    Else TRAIN_FROM and the key of the trunk's kept output would depend on what was built before.
    """
    counts = Counter()
    within = model._flatten_layers(include_self=False)  # also those of a stem
    for layer in dict.fromkeys([*model.operations, *within]):
        made_up = re.sub(r"_\d+$", "", layer.name)  # the kind of layer, as in "conv2d", "re_lu"
        if made_up.replace("_", "") == type(layer).__name__.lower():
            layer.name = f"{made_up}_{counts[made_up]}"
            counts[made_up] += 1


def cut_points(model):
    """Names of the layers that `model` can be trained from, from its input to its output.

    One tensor goes into such a layer, and all that reaches the output passes through this tensor;
    what lies before it is the trunk. Explained in notebook 03, "What is frozen, and why".
    """
    depths = sorted(model._nodes_by_depth, reverse=True)  # from the input on
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth]]
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    waiting, necks = set(), set()  # tensors that are still to be used; those that once were alone
    for node in nodes:
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
        waiting = {t for t in waiting | {id(t) for t in node.output_tensors} if uses[t]}
        if len(waiting) == 1 and not node.is_input:
            necks |= waiting
    return [
        node.operation.name
        for node in nodes
        if isinstance(node.operation, keras.layers.Layer)
        and [id(tensor) in necks for tensor in node.input_tensors] == [True]
    ]


HEADS = {"specified": su.specified_head, "slim": su.slim_head}


def build_from_config(config, **options):
    """The embedding model that `config` asks for, not trained; the same weights for the same seed.

    Unit-length embeddings. options: what `build_embedding_model` is to do otherwise. Where SEED is
    not DATA_SEED, the frozen trunk is still that of DATA_SEED, so that its kept output serves all.
    """
    first = _build(config, config.data_seed, options)
    if config.seed == config.data_seed:
        return first
    model = _build(config, config.seed, options)
    (trunk, _), (kept, _) = (su.split_at_freeze_point(m) for m in (model, first))
    trunk.set_weights(kept.get_weights())
    return model


def _build(config, seed, options):
    keras.utils.set_random_seed(seed)
    shape = (config.size, config.size, 3)
    cache = config.runs / "cache"
    backbone, train_from = load_backbone(config.backbone, config.weights, shape, cache)
    if config.train_from != "default":
        train_from = None if config.train_from == "none" else config.train_from
    chosen = {
        "backbone": backbone,
        "train_from": train_from,
        "head": HEADS[config.head],
        "normalize": True,
    } | options
    points = cut_points(backbone)
    if chosen["train_from"] not in (None, *points):
        raise ValueError(
            f"SIAMESE_TRAIN_FROM={chosen['train_from']!r}: {config.backbone} cannot be trained "
            f"from there. Possible, from its input to its output: {', '.join(points)}; or none"
        )
    return synchronize_batch_norm(su.build_embedding_model(shape, **chosen))
