"""One configuration, read in one place; wrong values are named with the right ones."""

import errno
import os
import re

import pytest

from workbook import ROOT
from workbook.models.backbones import build_from_config
from workbook.settings import VARIABLES, environment_of, read_config
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
        "imagenet",
        96,
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
    assert config.dataset == str(tmp_path) and config.size == 224 and config.epochs == 3
    assert config.run_dir == tmp_path / "r" / f"{tmp_path.name}-quick" and config.run_dir.is_dir()


@pytest.mark.parametrize(
    "name, value, valid",
    [
        ("PRESET", "fast", "quick | full"),
        ("DATASET", "toyz", "lfw | omniglot | omniglot-full | an existing folder"),
        ("WEIGHTS", "imagenet21k", "imagenet | none"),
        ("WEIGHTS", "missing.h5", "imagenet | none | an existing .h5 file"),
        ("BACKBONE", "VGG17", "ResNet50 | EfficientNetLite0 | ConvNeXtBase | "),
        ("BACKBONE", "NASNetMobile", "VGG19 | Xception | an existing .keras file"),
        ("SIZE", "big", "a positive whole number"),
        ("SIZE", "0", "a positive whole number"),
        ("EPOCHS", "1.5", "a positive whole number"),
        ("SEED", "-1", "a whole number from 0 to 4294967295"),
        ("SEED", str(2**32), "a whole number from 0 to 4294967295"),
        ("DATA_SEED", str(2**32), "a whole number from 0 to 4294967295"),
        ("BENCHMARK", "long", "short | full"),
        ("SEARCH", "yes", "a whole number from 0 to 1"),
    ],
)
def test_a_wrong_value_lists_the_valid_ones(name, value, valid):
    with pytest.raises(ValueError) as error:
        read_config({f"SIAMESE_{name}": value})
    assert valid in str(error.value) and value in str(error.value)


@pytest.mark.parametrize("name", ["SEEED", "seeed", "SEDE"])
def test_an_unknown_setting_is_refused_with_the_nearest_name_and_the_list(name):
    message = r"did you mean SEED\? The settings are PRESET, DATASET, .*, LIVE"
    with pytest.raises(ValueError, match=f"unknown setting {name.upper()}: {message}"):
        read_config({f"SIAMESE_{name.upper()}": "5"})
    with pytest.raises(ValueError, match=message):
        read_config({}, **{name.lower(): 5})


def test_a_value_of_zero_is_a_value():
    config = read_config({"SIAMESE_SEED": "7"}, seed=0, live=0)
    assert (config.seed, config.data_seed, config.live) == (0, 0, False)
    assert read_config({"SIAMESE_SEED": "0"}).seed == 0
    assert read_config({}, seed=2**32 - 1).seed == 2**32 - 1


def test_an_empty_variable_and_none_stand_for_the_default():
    assert read_config({"SIAMESE_SEED": ""}, epochs=None) == read_config({})


def test_the_last_seed_must_be_a_seed_too():
    with pytest.raises(ValueError, match="SEED=4294967295 with SEEDS=2 goes beyond 4294967295"):
        read_config({}, seed=2**32 - 1, seeds=2)


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


def test_quick_has_the_installed_weights_and_full_those_of_resnet50(tmp_path):
    own = read_config(preset="quick", dataset=tmp_path)
    assert (own.backbone, own.weights, own.head) == ("EfficientNetLite0", "imagenet", "slim")
    assert (own.size, own.epochs, own.views) == (224, 6, 8)
    toys, full = read_config(preset="quick"), read_config(preset="full")
    assert (toys.backbone, toys.weights, toys.head) == (own.backbone, own.weights, "specified")
    for quick in (own, toys):
        assert quick.backbone_summary == (
            "EfficientNetLite0 with ImageNet weights: its weights are installed with the workbook, "
            "so nothing is downloaded"
        )
    assert full.backbone_summary == (
        "ResNet50 with ImageNet weights: as specified; Keras downloads its weights once"
    )
    grocery = read_config(preset="quick", dataset="grocery")
    assert (grocery.backbone, grocery.size, grocery.views) == ("EfficientNetLite0", 224, 8)
    assert (grocery.epochs, toys.views) == (6, 1)


def test_a_chosen_backbone_is_pretrained_unless_weights_says_otherwise(tmp_path):
    chosen = read_config(preset="quick", backbone="EfficientNetV2B0")
    assert (chosen.weights, chosen.head) == ("imagenet", "slim")
    assert (
        chosen.backbone_summary
        == "EfficientNetV2B0 with ImageNet weights: chosen by BACKBONE and WEIGHTS"
    )
    random = read_config(preset="quick", dataset=tmp_path, weights="none")
    assert (
        random.backbone_summary
        == "EfficientNetLite0 with random weights: chosen by BACKBONE and WEIGHTS"
    )
    assert read_config(preset="full", dataset="toys", backbone="EfficientNetLite0").head == "slim"
    resnet = read_config(preset="quick", dataset=tmp_path, weights=file_of(tmp_path, "x.h5"))
    assert resnet.backbone == "ResNet50", "of which a weights file is, unless a name is given"


def test_a_file_brings_its_own_weights(tmp_path):
    path = file_of(tmp_path, "my.keras")
    config = read_config(preset="quick", backbone=path)
    assert (config.backbone, config.weights, config.head) == (path, "file", "slim")
    assert config.backbone_summary == "my.keras with its weights: chosen by BACKBONE and WEIGHTS"
    with pytest.raises(ValueError, match="WEIGHTS='imagenet' is not one of: file"):
        read_config(backbone=path, weights="imagenet")


@pytest.mark.parametrize("preset", ["quick", "full"])
@pytest.mark.parametrize("dataset", ["toys", "grocery"])
def test_resnet50_works_in_every_preset(preset, dataset):
    config = read_config({}, preset=preset, dataset=dataset, backbone="ResNet50")
    assert (config.backbone, config.head) == ("ResNet50", "specified")
    assert config.weights == {"quick": "none", "full": "imagenet"}[preset]


@pytest.mark.parametrize("backbone", ["ResNet50", "EfficientNetLite0", "my.keras"])
def test_variables_made_of_a_config_are_read_as_the_same_config(tmp_path, backbone):
    """`run` hands its settings to the notebooks in this way."""
    if backbone.endswith(".keras"):
        backbone = file_of(tmp_path, backbone)
    config = read_config(
        {}, preset="quick", dataset=tmp_path, backbone=backbone, seed=0, data_seed=3, live=False,
        search=True, benchmark="full",
    )  # fmt: skip
    variables = environment_of(config)
    assert set(variables) == set(VARIABLES) and read_config(variables) == config
    assert variables["SIAMESE_LIVE"] == "0" and variables["SIAMESE_SEARCH"] == "1"


def test_reading_leaves_the_environment_alone(tmp_path):
    before = dict(os.environ)
    assert read_config(dataset=tmp_path, epochs=2).run_dir.is_dir() and dict(os.environ) == before


# ------------------------------------------------------------------------------- the run folder


def config_of(folder, runs, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    return read_config({}, preset="quick", dataset=folder, runs=runs, **settings)


def test_two_folders_of_one_name_do_not_share_their_results(tmp_path):
    runs = tmp_path / "runs"
    first, second = (config_of(tmp_path / side / "photos", runs) for side in "ab")
    assert first.run_dir == runs / "photos-quick"
    assert re.fullmatch(r"photos-[0-9a-f]{8}-quick", second.run_dir.name)
    assert first.run_dir == runs / "photos-quick", "the first keeps the plain name"
    assert str(tmp_path) not in (first.run_dir / "dataset.txt").read_text("utf-8")


def test_a_folder_named_like_the_toys_does_not_get_their_results(tmp_path):
    toys = read_config({}, preset="quick", dataset="toys", runs=tmp_path / "runs")
    assert toys.run_dir.name == "toys-quick"
    assert config_of(tmp_path / "toys", tmp_path / "runs").run_dir != toys.run_dir


def test_results_of_another_recipe_seed_or_preset_have_folders_of_their_own(tmp_path):
    def run_dir(**settings):
        return config_of(tmp_path / "photos", tmp_path / "runs", **settings).run_dir

    plain = tmp_path / "runs/photos-quick"
    assert run_dir(recipe="specified") == plain.with_name("photos-quick-specified")
    assert run_dir(seed=5, data_seed=4) == plain / "seed-5" and run_dir(seed=5) == plain


def test_a_full_disk_leaves_no_empty_mark_in_the_run_folder(tmp_path, monkeypatch):
    def open_on_full_disk(path, *arguments, **options):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    runs = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr("workbook.support.config.open", open_on_full_disk, raising=False)
        with pytest.raises(OSError, match="No space left"):
            _ = config_of(tmp_path / "photos", runs).run_dir
    assert config_of(tmp_path / "photos", runs).run_dir == runs / "photos-quick"


@pytest.mark.parametrize("letter", ["n", "\u00e9", "\u6728"])
def test_a_very_long_name_is_shortened(tmp_path, letter):
    name = letter * (250 // len(letter.encode()))
    try:
        config = config_of(tmp_path / name, tmp_path / "runs", recipe="specified")
    except OSError as error:
        pytest.skip(f"this file system allows no such name: {error}")
    assert config.run_dir.is_dir() and len(config.run_dir.name.encode()) < 100
    assert config.run_dir.name.startswith(letter * (60 // len(letter.encode())) + "-")
    other = config_of(tmp_path / name[:-1], tmp_path / "runs", recipe="specified")
    assert other.run_dir != config.run_dir


# ------------------------------------------------------------------------------ printed settings


def test_settings_are_shown_without_the_way_to_them(tmp_path):
    shown = str(read_config(preset="quick", runs=tmp_path / "results", data_home=ROOT / "data"))
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["runs"], lines["data_home"]) == ("results", "data")
    assert str(tmp_path) not in shown and ".." not in shown


def test_a_folder_is_shown_without_its_control_characters(tmp_path):
    folder = tmp_path / "x\x1b[2Jy"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no such name on this file system: {error}")
    assert "dataset    x\\x1b[2Jy\n" in str(read_config(dataset=str(folder)))
