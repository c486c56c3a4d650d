"""What pretraining is worth, before any training here: results/grocery/pretraining.json.

usage: python -m tools.pretraining BACKBONE.keras DATA_HOME

The same network twice, with the weights of the file and with random ones; of each its feature map,
averaged and brought to length 1 ("plain features" of notebook 05), and the closest training image
of every test image. Notebook 03 reads the result.
"""

import json
import sys

import siamese_utils as su
from workbook import ROOT, images, retrieval
from workbook.start import keras

SIZE, SEED = 200, 42


def accuracy(backbone, data):
    """Share of the test images whose closest training image, by plain features, is of the class."""
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    plain = keras.Model(backbone.input, keras.layers.UnitNormalization()(pooled))
    return retrieval.split_recall(su.embed(plain, data.images), data, "test")


if __name__ == "__main__":
    file, data_home = sys.argv[1:]
    keras.utils.set_random_seed(SEED)
    data = images.load_images("grocery", SIZE, data_home)
    pretrained = keras.models.load_model(file)
    networks = {"random": keras.models.clone_model(pretrained), "pretrained": pretrained}
    found = {name: round(accuracy(network, data), 3) for name, network in networks.items()}
    found |= {"backbone": file.replace("\\", "/").rpartition("/")[2], "size": SIZE, "seed": SEED}
    (ROOT / "results/grocery/pretraining.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)
