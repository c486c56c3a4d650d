"""Where a backbone comes from, and the embedding model that the settings ask for.

Explained in notebook 03, "The model of this run".
"""

import siamese_utils as su
from workbook.mining import synchronize_batch_norm
from workbook.start import keras


def load_backbone(name, weights, input_shape):
    """(backbone, its default `train_from`): a model from RGB 0..255 to a feature map.

    name: "ResNet50", or a .keras file. weights: "imagenet", "none" or a file (ResNet50 only).
    Raises FileNotFoundError where weights cannot be had, ValueError for a model without a map.
    """
    if name != "ResNet50":
        model = keras.models.load_model(name)
        if len(model.output_shape) != 4:
            raise ValueError(f"{name}: gives {model.output_shape}, not (batch, h, w, channels)")
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # its statistics come from far more images than yours
        return model, None
    try:
        weights = None if weights in (None, "none") else weights
        return su.resnet50(input_shape, weights), "conv5_block1_out"
    except Exception as error:
        if weights != "imagenet":
            raise
        raise FileNotFoundError(
            "the ImageNet weights of ResNet50 could not be had (file resnet50_weights_tf_dim_"
            f"ordering_tf_kernels_notop.h5: {error}). Without a network: SIAMESE_WEIGHTS=<that "
            "file>, or SIAMESE_WEIGHTS=none for random weights, or SIAMESE_PRESET=quick"
        ) from error


HEADS = {"specified": su.specified_head, "slim": su.slim_head}


def build_from_config(config, **options):
    """The embedding model that `config` asks for, not trained; the same weights for the same seed.

    Unit-length embeddings. options: what `build_embedding_model` is to do otherwise.
    """
    keras.utils.set_random_seed(config.seed)
    shape = (config.size, config.size, 3)
    backbone, train_from = load_backbone(config.backbone, config.weights, shape)
    chosen = {
        "backbone": backbone,
        "train_from": train_from if config.train_from == "default" else config.train_from,
        "head": HEADS[config.head],
        "normalize": True,
    }
    return synchronize_batch_norm(su.build_embedding_model(shape, **chosen | options))
