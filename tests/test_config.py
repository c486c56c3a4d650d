"""One configuration, read in one place; wrong values are named with the right ones."""

import pytest

from workbook import ROOT
from workbook.backbones import build_from_config
from workbook.settings import VARIABLES, read_config
from workbook.start import GPUS, keras


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_defaults_without_a_gpu():
    if GPUS:
        pytest.skip("a GPU is visible: the default is full")
    config = read_config()
    assert (config.preset, config.dataset, config.weights, config.size) == (
        "quick",
        "toys",
        "none",
        64,
    )
    assert config.runs == ROOT / "runs"


def test_full_is_photographs_with_imagenet_weights_at_200_pixels():
    config = read_config(preset="full")
    assert (config.dataset, config.weights, config.size) == ("grocery", "imagenet", 200)


def test_variables_and_keywords(monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMESE_DATASET", str(tmp_path))
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "r"))
    config = read_config(preset="quick", epochs=3)
    assert config.dataset == str(tmp_path) and config.size == 200 and config.epochs == 3
    assert config.run_dir == tmp_path / "r" / f"{tmp_path.name}-quick" and config.run_dir.is_dir()


@pytest.mark.parametrize(
    "name, value, valid",
    [
        ("PRESET", "fast", "quick | full"),
        ("DATASET", "toyz", "toys | grocery | caltech101 | lfw | an existing folder"),
        ("WEIGHTS", "imagenet21k", "imagenet | none | an existing .h5 file"),
        ("BACKBONE", "VGG16", "ResNet50 | an existing .keras file"),
        ("SIZE", "big", "positive whole number"),
        ("COLOUR", "1", "SIAMESE_SEED"),
    ],
)
def test_a_wrong_value_lists_the_valid_ones(monkeypatch, name, value, valid):
    monkeypatch.setenv(f"SIAMESE_{name}", value)
    with pytest.raises(ValueError) as error:
        read_config()
    assert valid in str(error.value) and value in str(error.value) + value * (name == "COLOUR")


def test_imagenet_weights_without_a_network_name_the_file_and_the_way_out(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(keras.applications, "ResNet50", refuse)
    with pytest.raises(FileNotFoundError, match=r"notop\.h5.*no route.*SIAMESE_WEIGHTS=none"):
        build_from_config(read_config(preset="full", dataset="toys"))
