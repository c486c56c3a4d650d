"""What is saved is what was trained: read by a fresh process, which knows only siamese_utils."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import small_run
import tensorflow as tf

import siamese_utils as su
from workbook import ROOT, run_folder
from workbook.mining import MinedSiameseModel

READER = """
import sys
sys.path.insert(0, sys.argv[1])
import siamese_utils as su, keras, numpy as np, tensorflow as tf, workbook.mining

images = np.load("images.npy")
embedding = keras.models.load_model("embedding.keras", safe_mode=True)
siamese = keras.models.load_model("siamese.keras", safe_mode=True)
loaded = tf.saved_model.load("served")  # it needs a name: without one its weights are let go
served = loaded.serve(images).numpy()
np.savez(
    "read.npz", embedding=su.embed(embedding, images), siamese=su.embed(siamese.embedding, images),
    served=served, steps=int(siamese.optimizer.iterations),
    momentum=siamese.optimizer.variables[2].numpy(),
)
print(siamese.margin, siamese.mining, type(siamese.optimizer.learning_rate).__name__)
"""


def small_head(feature_map):
    return su.specified_head(feature_map, units=(32, 16, 8))


def full_path_embedding():
    """As the notebooks build it, ResNet's preprocessing and the two parts included, but small."""
    image = keras.Input((16, 16, 3))
    x = su.ResNetPreprocessing()(image)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_b")(x)
    backbone = keras.Model(image, x)
    options = {"backbone": backbone, "train_from": "conv_b", "head": small_head}
    return su.build_embedding_model((16, 16, 3), normalize=True, **options)


def test_a_fresh_process_reads_the_same_numbers(tmp_path):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3)).astype("float32")
    model = MinedSiameseModel(full_path_embedding(), margin=0.7, mining="batch-hard")
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, 100)))
    model.fit(images, small_run.LABELS, batch_size=24, epochs=3, verbose=0)
    expected = su.embed(model.embedding, images)

    run_folder.save_model(model.embedding, tmp_path / "embedding.keras")
    run_folder.save_model(model, tmp_path / "siamese.keras")
    model.embedding.export(tmp_path / "served", format="tf_saved_model", verbose=False)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(ROOT)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.7", "batch-hard", "EagerTensor"], "compiled, as it was"

    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["embedding"], expected)
        np.testing.assert_array_equal(read["siamese"], expected)
        print("served", abs(read["served"] - expected).max())
        np.testing.assert_allclose(read["served"], expected, atol=1e-6)  # another graph, one batch
        assert read["steps"] == 6
        np.testing.assert_array_equal(read["momentum"], model.optimizer.variables[2].numpy())


def test_a_model_with_code_inside_is_refused(tmp_path):
    image = keras.Input((16, 16, 3))
    coded = keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image))
    coded.save(tmp_path / "coded.keras")
    with pytest.raises(ValueError, match=r"Lambda"):
        keras.models.load_model(tmp_path / "coded.keras", safe_mode=True)


def test_serving_takes_any_number_of_images(tmp_path):
    embedding = full_path_embedding()
    embedding.export(tmp_path / "served", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    for count in (1, 5):
        images = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3))
        found = served.serve(images.astype("float32"))
        np.testing.assert_allclose(found, su.embed(embedding, images), atol=1e-6)
