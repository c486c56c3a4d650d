"""What is saved is what was trained: read by a fresh process, which knows only siamese_utils."""

import json
import zipfile

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import LABELS, make_images, small_embedding

import siamese_utils as su
from workbook import ROOT
from workbook.models import saved_models
from workbook.training.losses import TripletLoss
from workbook.training.mined_model import MinedSiameseModel

READER = """
import sys
sys.path.insert(0, sys.argv[1])
import siamese_utils as su, keras, numpy as np, tensorflow as tf, workbook.training.mined_model

images = np.load("images.npy")
embedding = keras.models.load_model("embedding.keras", safe_mode=True)
siamese = keras.models.load_model("siamese.keras", safe_mode=True)
loaded = tf.saved_model.load("served")  # it needs a name: without one its weights are freed
served = loaded.serve(images).numpy()
np.savez(
    "read.npz", embedding=su.embed(embedding, images), siamese=su.embed(siamese.embedding, images),
    served=served, steps=int(siamese.optimizer.iterations),
    momentum=siamese.optimizer.variables[2].numpy(),
)
print(siamese.margin, siamese.miner.strategy, type(siamese.optimizer.learning_rate).__name__)
"""


def full_path_embedding():
    """As the notebooks build it, ResNet's preprocessing and the two parts included, but small."""
    return small_embedding(su.ResNetPreprocessing())


def test_a_fresh_process_reads_the_same_numbers(tmp_path):
    keras.utils.set_random_seed(0)
    images = make_images()
    model = MinedSiameseModel(full_path_embedding(), TripletLoss(0.7), "batch-hard")
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, 100)))
    model.fit(images, LABELS, batch_size=12, epochs=3, verbose=0)
    expected = su.embed(model.embedding, images)

    saved_models.save_model(model.embedding, tmp_path / "embedding.keras")
    saved_models.save_model(model, tmp_path / "siamese.keras")
    model.embedding.export(tmp_path / "served", format="tf_saved_model", verbose=False)
    np.save(tmp_path / "images.npy", images)
    done = forked.start(["-c", READER, ROOT], tmp_path).finish()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.7", "batch-hard", "EagerTensor"], "compiled, as it was"

    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["embedding"], expected)
        np.testing.assert_array_equal(read["siamese"], expected)
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


@pytest.mark.parametrize("kind", [su.SiameseModel, MinedSiameseModel])
def test_a_siamese_model_says_that_the_embedding_is_what_is_exported(kind, tmp_path):
    with pytest.raises(ValueError, match=r"model\.embedding\.export\(folder\)"):
        kind(full_path_embedding()).export(tmp_path / "served")


def test_a_file_from_when_siamese_model_mined_is_refused_and_can_be_read_as_mined(tmp_path):
    """Both classes were one, `siamese_utils>SiameseModel`, with mining among its settings."""
    model = MinedSiameseModel(full_path_embedding(), TripletLoss(0.7, active_only=True), "hard")
    images = make_images(4)
    model.save(tmp_path / "new.keras")
    old = tmp_path / "old.keras"
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(old, "w") as file:
        config = json.loads(new.read("config.json"))
        config |= {"module": "siamese_utils", "class_name": "SiameseModel"}
        config["registered_name"] = "siamese_utils>SiameseModel"
        for name in new.namelist():
            file.writestr(name, json.dumps(config) if name == "config.json" else new.read(name))
    with pytest.raises(ValueError, match=r"(?s)Unrecognized keyword.*SiameseModel.*mining"):
        keras.models.load_model(old)
    with keras.saving.custom_object_scope({"siamese_utils>SiameseModel": MinedSiameseModel}):
        again = keras.models.load_model(old)
    assert again.triplet_loss_function == model.triplet_loss_function
    assert again.miner.strategy == "hard"
    np.testing.assert_array_equal(
        su.embed(again.embedding, images), su.embed(model.embedding, images)
    )
