"""Files that earlier versions of the workbook wrote: read with the same numbers, or refused.

`saved_before/` holds an embedding, a `SiameseModel`, a `MinedSiameseModel` and a gallery around it
from before the package was sorted into folders, the embeddings that it gave, and the checkpoint of
a training of `small_run` that was interrupted after two of three epochs. `gallery_4` is of format
4, the last one without a calibration, `gallery_5` the last one with a single file of arrays.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_run

import siamese_utils as su
from workbook.gallery.gallery import Gallery
from workbook.models.saved_models import load_model
from workbook.training.checkpoint import Checkpoint
from workbook.training.losses import TripletLoss
from workbook.training.mined_model import MinedSiameseModel

BEFORE = Path(__file__).parents[1] / "saved_before"
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3))
EXPECTED = np.load(BEFORE / "embeddings.npy")


def embed(model):
    return su.embed(model, IMAGES)


def test_an_embedding_gives_the_same_numbers():
    np.testing.assert_allclose(embed(load_model(BEFORE / "embedding.keras")), EXPECTED, atol=1e-6)


@pytest.mark.parametrize("name, kind", [("siamese", su.SiameseModel), ("mined", MinedSiameseModel)])
def test_a_siamese_model_gives_the_same_numbers(name, kind):
    model = load_model(BEFORE / f"{name}.keras")
    assert type(model) is kind
    np.testing.assert_allclose(embed(model.embedding), EXPECTED, atol=1e-6)


def test_a_mined_model_has_the_loss_and_the_miner_that_it_was_saved_with():
    model = load_model(BEFORE / "mined.keras")
    assert model.triplet_loss_function == TripletLoss(margin=1.0, temperature=0.2)
    assert model.miner.strategy == "hard" and model.margin == 1.0
    labels = np.repeat(np.arange(4), 2)
    d = ((EXPECTED[:, None].astype(float) - EXPECTED) ** 2).sum(-1)
    losses = [
        0.2 * np.logaddexp.reduce([0, *((d[a, a ^ 1] - d[a, labels != labels[a]] + 1) / 0.2)])
        for a in range(8)
    ]
    loss = model.triplet_loss((np.float32(IMAGES), labels), training=False)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("name", ["gallery", "gallery_4"])
def test_a_gallery_gives_the_same_answers(tmp_path, name):
    gallery = Gallery.load(shutil.copytree(BEFORE / name, tmp_path / "gallery"))
    assert gallery.threshold == pytest.approx(0.0019020731560885906, rel=1e-5)
    np.testing.assert_allclose(gallery.embeddings, EXPECTED, atol=1e-6)
    for image, label in zip(IMAGES, gallery.labels):
        match = gallery.identify(image.astype(np.uint8))
        assert match.label == label and match.distance < 1e-6 and match.probability is None
    assert "at most 5% of strangers let in" in gallery.describe_threshold()
    gallery.save(tmp_path / "gallery")  # which writes it in the present format
    again = Gallery.load(tmp_path / "gallery")
    assert again.policy == gallery.policy and (again.labels == gallery.labels).all()
    assert gallery.describe_probability().startswith("no probability: this gallery holds no")
    with pytest.raises(ValueError, match="no threshold can be chosen: this gallery holds no"):
        gallery.choose_threshold(0.1)


def test_the_trials_of_a_gallery_in_one_file_are_kept(tmp_path):
    gallery = Gallery.load(shutil.copytree(BEFORE / "gallery_5", tmp_path / "gallery"))
    assert len(gallery.trials.known_distances) == 8 and gallery.trials.are_current
    policy = gallery.choose_threshold(0.5)
    assert 0 < policy["strangers_let_in"] <= 0.5
    gallery.save(tmp_path / "gallery")
    trials = Gallery.load(tmp_path / "gallery").trials
    np.testing.assert_array_equal(trials.known_distances, gallery.trials.known_distances)


def test_a_checkpoint_is_refused_in_one_sentence_and_not_removed(tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(BEFORE / "run", tmp_path / "run")
    monkeypatch.setattr(small_run, "EPOCHS", 3)
    model, batches = small_run.build()
    weights = model.get_weights()
    assert Checkpoint(folder, batches, {"seed": 1}).restore(model) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "checkpoint.npz was written by another version of the workbook: not used" in line
    assert all((a == b).all() for a, b in zip(weights, model.get_weights()))
    assert (folder / "checkpoint.npz").is_file()
