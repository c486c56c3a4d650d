"""What pretraining is worth, before any training here: results/grocery/pretraining.json.

usage: python -m tools.pretraining [DATA_HOME]

EfficientNet-Lite0 with ImageNet weights and with random ones: each feature map is averaged and
scaled to length 1 (the "plain features" of notebook 1), and every test image of `grocery` is named
by its closest training image. Notebook 3.3 quotes the result.
"""

import json
import sys

import siamese_utils as su
from workbook import ROOT
from workbook.data import images
from workbook.evaluation import retrieval
from workbook.models.efficientnet_lite import efficientnet_lite0
from workbook.support.tensorflow_start import keras

ABOUT = {"backbone": "EfficientNetLite0", "size": 200, "seed": 42}


def accuracy(backbone, data):
    """Share of the test images whose closest training image, by plain features, is of the class."""
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    plain = keras.Model(backbone.input, keras.layers.UnitNormalization()(pooled))
    return retrieval.split_recall(su.embed(plain, data.images), data, "test")


if __name__ == "__main__":
    data_home = sys.argv[1] if len(sys.argv) > 1 else None
    data = images.load_images("grocery", ABOUT["size"], data_home, seed=ABOUT["seed"])
    keras.utils.set_random_seed(ABOUT["seed"])
    networks = {"random": efficientnet_lite0(None), "pretrained": efficientnet_lite0()}
    found = {name: round(accuracy(network, data), 3) for name, network in networks.items()}
    file = ROOT / "results/grocery/pretraining.json"
    file.write_text(json.dumps(found | ABOUT, indent=1) + "\n", "utf-8")
    print(found, "in", file)
