"""One configuration, read in one place; wrong values are named with the right ones."""

import pytest

from workbook import ROOT
from workbook.models.backbones import build_from_config
from workbook.settings import VARIABLES, read_config
from workbook.support.tensorflow_start import GPUS, keras


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
    assert read_config(preset="full", backbone="EfficientNetLite0").size == 256


def test_variables_and_keywords(monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMESE_DATASET", str(tmp_path))
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "r"))
    config = read_config(preset="quick", epochs=3)
    assert config.dataset == str(tmp_path) and config.size == 160 and config.epochs == 3
    assert config.run_dir == tmp_path / "r" / f"{tmp_path.name}-quick" and config.run_dir.is_dir()


@pytest.mark.parametrize(
    "name, value, valid",
    [
        ("PRESET", "fast", "quick | full"),
        ("DATASET", "toyz", "toys | grocery | caltech101 | lfw | an existing folder"),
        ("WEIGHTS", "imagenet21k", "imagenet | none | an existing .h5 file"),
        ("BACKBONE", "VGG17", "ResNet50 | EfficientNetLite0 | ConvNeXtBase | "),
        ("BACKBONE", "NASNetMobile", "VGG19 | Xception | an existing .keras file"),
        ("SIZE", "big", "positive whole number"),
        ("COLOUR", "1", "SIAMESE_SEED"),
    ],
)
def test_a_wrong_value_lists_the_valid_ones(monkeypatch, name, value, valid):
    monkeypatch.setenv(f"SIAMESE_{name}", value)
    with pytest.raises(ValueError) as error:
        read_config()
    assert valid in str(error.value) and value in str(error.value) + value * (name == "COLOUR")


def test_imagenet_weights_without_a_network_name_the_file_and_the_way_out(monkeypatch, tmp_path):
    def fetch(*args, **kwargs):  # as in Keras, but from a port that nobody listens on
        address = "http://127.0.0.1:1/resnet50_weights.h5"
        keras.utils.get_file("resnet50_weights.h5", address, cache_dir=tmp_path)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(keras.applications, "ResNet50", fetch)
    way_out = r"resnet50_weights\.h5.*refused.*BACKBONE=EfficientNetLite0.*SIAMESE_WEIGHTS=none"
    with pytest.raises(FileNotFoundError, match=way_out):
        build_from_config(read_config(preset="full", dataset="toys", runs=tmp_path))


def file_of(folder, name):
    (folder / name).touch()
    return str(folder / name)


def test_photographs_in_quick_have_the_installed_weights(tmp_path):
    """And toys random ones, and full ResNet50: the line says which and why."""
    own = read_config(preset="quick", dataset=tmp_path)
    assert (own.backbone, own.weights, own.head) == ("EfficientNetLite0", "imagenet", "slim")
    assert own.why.startswith("EfficientNetLite0 with ImageNet weights: photographs need")
    toys, full = read_config(preset="quick"), read_config(preset="full")
    assert toys.why.startswith("ResNet50 with random weights: drawn toys do without")
    assert full.why == "ResNet50 with ImageNet weights: as specified; Keras downloads them once"
    grocery = read_config(preset="quick", dataset="grocery")
    assert (grocery.backbone, grocery.size, grocery.views) == ("EfficientNetLite0", 160, 8)
    assert (grocery.epochs, toys.epochs, toys.views) == (6, 12, 1)
    assert "\n" not in own.why + toys.why + full.why


def test_a_chosen_backbone_is_pretrained_unless_it_shall_not_be(tmp_path):
    chosen = read_config(preset="quick", backbone="EfficientNetV2B0")
    assert (chosen.weights, chosen.head) == ("imagenet", "slim")
    assert chosen.why == "EfficientNetV2B0 with ImageNet weights: as BACKBONE and WEIGHTS say"
    random = read_config(preset="quick", dataset=tmp_path, weights="none")
    assert random.why == "EfficientNetLite0 with random weights: as BACKBONE and WEIGHTS say"
    resnet = read_config(preset="quick", dataset=tmp_path, weights=file_of(tmp_path, "x.h5"))
    assert resnet.backbone == "ResNet50", "of which a weights file is, unless a name is given"


def test_a_file_brings_its_own_weights(tmp_path):
    path = file_of(tmp_path, "my.keras")
    config = read_config(preset="quick", backbone=path)
    assert (config.backbone, config.weights, config.head) == (path, "file", "slim")
    assert config.why == "my.keras with its weights: as BACKBONE and WEIGHTS say"
    with pytest.raises(ValueError, match="WEIGHTS='imagenet' is not one of: file"):
        read_config(backbone=path, weights="imagenet")


def test_what_a_run_hands_on_is_read_as_the_same(monkeypatch, tmp_path):
    """`run` sets these as variables for the notebooks, which read them again."""
    for backbone in ("ResNet50", "EfficientNetLite0", file_of(tmp_path, "my.keras")):
        config = read_config(preset="quick", dataset=tmp_path, backbone=backbone)
        with monkeypatch.context() as notebook:
            for name in ("preset", "dataset", "weights", "backbone"):
                notebook.setenv(f"SIAMESE_{name.upper()}", str(getattr(config, name)))
            assert read_config() == config and read_config().why == config.why


def test_settings_are_shown_without_the_way_to_them(tmp_path):
    shown = str(read_config(preset="quick", runs=tmp_path / "results", data_home=ROOT / "data"))
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["runs"], lines["data_home"]) == ("results", "data")
    assert str(tmp_path) not in shown and ".." not in shown


@pytest.mark.hostile
def test_a_folder_is_shown_without_its_control_characters(tmp_path):
    folder = tmp_path / "x\x1b[2Jy"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no such name on this file system: {error}")
    assert "dataset    x\\x1b[2Jy\n" in str(read_config(dataset=str(folder)))
