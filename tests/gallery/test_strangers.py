"""A gallery or a model from a stranger: refused before it is believed, and nothing of it runs."""

import io
import json
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from gallery_helpers import edit, put_part, sha256
from PIL import Image

from workbook.__main__ import main
from workbook.gallery import storage
from workbook.gallery.gallery import Gallery
from workbook.models import backbones, saved_models
from workbook.support.tensorflow_start import keras


@pytest.fixture
def gallery(model, tmp_path):
    """(the folder of a saved gallery of two entries, what its gallery.json says)."""
    filled = Gallery(model)
    filled.add_embeddings(np.eye(2, 8, dtype=np.float32), ["red", "blue"], ["red/0.png", ""])
    filled.fit_threshold()
    filled.save(tmp_path / "g")
    return tmp_path / "g", edit(tmp_path / "g")


@pytest.fixture
def nothing_loaded(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a file was loaded")

    monkeypatch.setattr(keras.models, "load_model", load)


def refused(folder, says):
    with pytest.raises(FileNotFoundError, match=f"(?s)g holds no whole gallery \\(.*{says}"):
        Gallery.load(folder)


# ------------------------------------------------------------------------------- 1 gallery.json


def files_of(about):
    return {about["model"], about["parts"][0]["file"], about["state"]}


DIGITS = "0123456789abcdef"
NAMES = {
    "absolute": f"/tmp/embedding-{DIGITS}.keras",
    "up": f"../embedding-{DIGITS}.keras",
    "in a folder": f"in/embedding-{DIGITS}.keras",
    "backslashes": f"..\\embedding-{DIGITS}.keras",
    "a drive": f"C:embedding-{DIGITS}.keras",
    "a network share": f"\\\\server\\share\\embedding-{DIGITS}.keras",
    "a network share, slashes": f"//server/share/embedding-{DIGITS}.keras",
    "an address": f"hf://somebody/embedding-{DIGITS}.keras",
    "another kind of file": f"embedding-{DIGITS}.h5",
    "a name of one's own": "embedding-mine.keras",
    "a line more": f"embedding-{DIGITS}.keras\n",
    "nothing": "",
    "no text": 5,
    "null": None,
}


@pytest.mark.parametrize("key", ["model", "parts", "state"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_only_names_that_save_gives_are_opened(gallery, nothing_loaded, key, name):
    folder, about = gallery
    assert storage.list_files(folder) == files_of(about)
    if key != "model" and isinstance(name, str):
        kind = "entries" if key == "parts" else key
        name = name.replace("embedding", kind).replace(".keras", ".npz")
    edit(folder, **{key: [about["parts"][0] | {"file": name}] if key == "parts" else name})
    refused(folder, rf"gallery\.json, {key}: ")
    assert storage.list_files(folder) == set(), "the next save removes nothing"


WRONG = {
    "embedding_size": [-1, 8.0, "8", True, None],
    "threshold": ["1", float("nan"), float("inf"), True, [1]],
    "policy": [[], "rule", {}, {"threshold": 1.0}],
    "trials": [[], {}, {"known_held_out": 1, "strangers_simulated": True, "are_current": True}],
    "model_sha256": ["0" * 63, "G" * 64, 7, None],
    "model_weights_sha256": [None, 0],
    "parts": [None, {}, [{}], [5], "file"],
    "state_sha256": [None, {}],
    "format": [None, -1, "3", 3.0, True],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_missing_key_is_named(gallery, nothing_loaded, key):
    folder, about = gallery
    (folder / "gallery.json").write_text(json.dumps({k: about[k] for k in about if k != key}))
    refused(folder, "names no format" if key == "format" else f"{key}: is missing")


@pytest.mark.parametrize("key, value", [(key, value) for key in WRONG for value in WRONG[key]])
def test_a_value_of_another_kind_is_named(gallery, nothing_loaded, key, value):
    edit(gallery[0], **{key: value})
    refused(gallery[0], "names no format" if key == "format" else f"{key}: ")


def test_a_policy_with_a_value_of_another_kind_is_named(gallery, nothing_loaded):
    edit(gallery[0], policy=gallery[1]["policy"] | {"strangers": "many"})
    refused(gallery[0], "policy: ")


@pytest.mark.parametrize("text", ["[]", "null", '"g"', "[" * 10**5, " " * 10**6 + "{}"])
def test_other_json_is_no_gallery(gallery, nothing_loaded, text):
    (gallery[0] / "gallery.json").write_text(text)
    refused(gallery[0], r"gallery\.json")


def test_the_file_of_the_model_is_checked_before_it_is_loaded(gallery, nothing_loaded):
    folder, about = gallery
    (folder / about["model"]).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"keras was changed: restore it"):
        Gallery.load(folder)


def test_a_save_removes_the_files_of_the_gallery_before_and_no_others(gallery):
    folder, about = gallery
    own = ["embedding-mine.keras", "entries-2024.npz", f"embedding-{DIGITS}.keras"]
    for name in own:
        (folder / name).write_text("mine")
    again = Gallery.load(folder)
    again.remove("red")
    again.save(folder)
    now = edit(folder)
    assert now["parts"] != about["parts"]
    expected = {*own, "gallery.json", *files_of(now)}
    assert {path.name for path in folder.iterdir()} - {".folder.lock"} == expected


# ------------------------------------------------------------------------------- 2 the entries


def npz(write=np.savez, **changes):
    buffer = io.BytesIO()
    arrays = {
        "embeddings": np.eye(2, 8, dtype=np.float32),
        "labels": ["a", "b"],
        "paths": ["", ""],
        "hashes": ["", ""],
        "enrolled": [False, True],
    }
    write(buffer, **arrays | changes)
    return buffer.getvalue()


def state(**changes):
    buffer = io.BytesIO()
    arrays = {
        "removed": np.zeros(0, int),
        "known_distances": [0.5], "known_margins": [0.5], "known_right": [True],
        "known_classes": [0], "stranger_distances": [1.0, 2.0], "stranger_classes": [0, 1],
    }  # fmt: skip
    np.savez(buffer, **arrays | changes)
    return buffer.getvalue()


def claims(shape):
    """Entries whose embeddings are said to be of that shape, with 64 bytes behind it."""
    header, buffer = io.BytesIO(), io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(io.BytesIO(npz())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            own = name == "embeddings.npy"
            new.writestr(name, header.getvalue() + bytes(64) if own else old.read(name))
    return buffer.getvalue()


ENTRIES = {  # what: (entries, what the error says)
    "packed": lambda: npz(np.savez_compressed, labels=np.zeros(10**7, "U2")),
    "a shape without its bytes": lambda: claims((2 * 10**9, 8)),
    "another array": lambda: npz(more=np.zeros(3)),
    "an array less": lambda: zipped_without("paths.npy"),
    "objects": lambda: npz(labels=np.array([{}, {}], object)),
    "numbers for labels": lambda: npz(labels=[1, 2]),
    "one label too many": lambda: npz(labels=["a", "b", "c"]),
    "other embeddings": lambda: npz(embeddings=np.zeros((2, 9), np.float32)),
    "embeddings in a row": lambda: npz(embeddings=np.zeros(16, np.float32)),
    "float64": lambda: npz(embeddings=np.zeros((2, 8))),
    "not finite": lambda: npz(embeddings=np.full((2, 8), np.nan, np.float32)),
    "the label unknown": lambda: npz(labels=["a", "unknown"]),
    "one hash too many": lambda: npz(hashes=["", "", ""]),
    "numbers for marks": lambda: npz(enrolled=[0, 1]),
    "no zip": lambda: b"no zip",
}
STATES = {
    "a margin too many": (lambda: state(known_margins=[0.5, 0.5]), "2 known_margins"),
    "a distance that is infinite": (lambda: state(stranger_distances=[1.0, np.inf]), "not finite"),
    "trials missing": (lambda: npz(), "does not hold removed, known_distances"),
    "a row removed twice": (lambda: state(removed=[0, 0]), "do not ascend"),
    "a row before the first": (lambda: state(removed=[-1]), "do not ascend"),
    "a row after the last": (lambda: state(removed=[0, 2]), "row 2 was removed of 2"),
    "a share of a row": (lambda: state(removed=[0.5]), r"an array \(1,\) of float64"),
}


def zipped_without(left_out):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if name != left_out:
                new.writestr(name, old.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("make", ENTRIES.values(), ids=ENTRIES)
def test_entries_of_another_make_are_refused_in_little_memory(gallery, nothing_loaded, make):
    content = make()
    put_part(gallery[0], content)
    tracemalloc.start()
    refused(gallery[0], r"entries-\w+\.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 10**6 + 3 * len(content), "nothing was unpacked"


@pytest.mark.parametrize("make, says", STATES.values(), ids=STATES)
def test_a_state_of_another_make_is_refused(gallery, nothing_loaded, make, says):
    folder, about = gallery
    (folder / about["state"]).write_bytes(make())
    edit(folder, state_sha256=sha256(folder / about["state"]))
    refused(folder, rf"state-\w+\.npz: .*{says}")


def test_a_part_of_another_length_and_a_file_that_is_named_twice_are_refused(
    gallery, nothing_loaded
):
    folder, about = gallery
    edit(folder, parts=[about["parts"][0] | {"entries": 3}])
    refused(folder, r"entries-\w+\.npz: 2 embeddings, not 3 as gallery\.json says")
    edit(folder, parts=about["parts"] * 2)  # a small file could fill the memory
    refused(folder, "parts: ")


def test_arrays_of_a_later_format_are_refused_in_an_older_one(gallery, nothing_loaded):
    part = gallery[1]["parts"][0]
    edit(gallery[0], format=3, entries=part["file"], entries_sha256=part["sha256"])
    refused(gallery[0], "it does not hold embeddings, labels, paths")


def test_a_label_reaches_the_terminal_and_the_table_without_its_control_characters(
    gallery, tmp_path, capsys
):
    image, table = tmp_path / "p.png", tmp_path / "t.csv"
    Image.new("RGB", (16, 16), "red").save(image)
    put_part(gallery[0], npz(labels=["\x1b[2Jred", "\x1b[2Jred"], paths=["\x07", "\x07"]))
    edit(gallery[0], threshold=None)
    main(["identify", str(gallery[0]), str(image)])
    main(["identify", str(gallery[0]), str(image), "--csv", str(table)])
    main(["enroll", str(gallery[0]), "\x1b[2Jred", str(image)])
    said = capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")  # Keras's bar
    assert r": \x1b[2Jred (distance" in said and r" \x1b[2Jred \x07" in said
    assert r"1 image added; \x1b[2Jred has 3" in said
    assert "\x1b[2J" not in said + table.read_text() and "\x07" not in said + table.read_text()


# --------------------------------------------------------------------------------- 3 the model


def rewritten(source, target, **changes):
    """A copy of a .keras file with other members; `weights`: what to do to them, a function."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model.weights.h5" and "weights" in changes:
                buffer = io.BytesIO(content)
                with h5py.File(buffer, "r+") as file:
                    changes["weights"](file)
                content = buffer.getvalue()
            new.writestr(name, content)
        for name, content in changes.get("more", {}).items():
            new.writestr(name, content)
    return target


def outer_link(file):
    file["out"] = h5py.ExternalLink("/etc/passwd", "/")


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3,))
    file.create_virtual_dataset("v", layout)


MODELS = {  # what is changed in a model; what the error says
    "a member that leads out": ({"more": {"assets/../../x": b"x"}}, "it does not hold just"),
    "an array without its bytes": (
        {"weights": lambda file: file.create_dataset("big", (10**9,), "f4")}, "would fill 4000 MB",
    ),
    "a link": ({"weights": outer_link}, "a link in its weights"),
    "weights elsewhere": ({"weights": virtual}, "lie in another file"),
}  # fmt: skip


@pytest.mark.parametrize("changes, says", MODELS.values(), ids=MODELS)
def test_a_model_is_looked_into_before_it_is_loaded(model, tmp_path, nothing_loaded, changes, says):
    model.save(tmp_path / "good.keras")
    rewritten(tmp_path / "good.keras", tmp_path / "bad.keras", **changes)
    with pytest.raises(ValueError, match=rf"bad\.keras is not loaded: .*({says})"):
        saved_models.load_model(tmp_path / "bad.keras")


def test_a_model_that_would_unpack_to_much_is_not_loaded(tmp_path, nothing_loaded):
    with zipfile.ZipFile(tmp_path / "big.keras", "w", zipfile.ZIP_DEFLATED) as file:
        for name in saved_models.MEMBERS:
            file.writestr(name, bytes(10**7))
    with pytest.raises(ValueError, match=r"big\.keras is not loaded: it would unpack to 30 MB"):
        saved_models.load_model(tmp_path / "big.keras")


def test_what_is_no_model_is_not_loaded(model, tmp_path, nothing_loaded):
    model.save(tmp_path / "good.keras")
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "good.keras").rename(tmp_path / "good.h5")
    for name in ("text.keras", "good.h5"):
        with pytest.raises(ValueError, match=f"{name} is not loaded: it is no .keras file"):
            saved_models.load_model(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.keras: no such file"):
        saved_models.load_model(tmp_path / "absent.keras")


@pytest.fixture
def code(tmp_path):
    """(a function that saves a model with code of its own, the file that this code makes)."""
    mark = tmp_path / "it ran"
    function = eval(f"lambda x: (open({str(mark)!r}, 'w').close(), x)[1]")

    def save(path):
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.Lambda(function)(inputs)
        keras.Model(inputs, keras.layers.Flatten()(x)).save(path)
        mark.unlink(missing_ok=True)  # building the model ran it, too
        return path

    return save, mark


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_code_in_a_model_does_not_run(gallery, code, tmp_path):
    folder, about = gallery
    save, mark = code
    save(folder / about["model"])
    edit(folder, model_sha256=storage.hash_file(folder / about["model"]))
    refused_by_keras = r"embedding-\w+\.keras is not loaded: .*[Ll]ambda"
    with pytest.raises(ValueError, match=refused_by_keras):
        Gallery.load(folder)
    with pytest.raises(ValueError, match=r"own\.keras is not loaded: .*[Ll]ambda"):
        backbones.load_backbone(str(save(tmp_path / "own.keras")), "file", (16, 16, 3))
    with pytest.raises(SystemExit, match=r"error: .*own\.keras is not loaded"):
        main(["build", str(tmp_path / "own.keras"), str(tmp_path), str(tmp_path / "new")])
    save(tmp_path / "own.h5").rename(folder / about["model"])  # what Keras 3.10 would run
    edit(folder, model_sha256=storage.hash_file(folder / about["model"]))
    with pytest.raises(ValueError, match=r"it is no \.keras file"):
        Gallery.load(folder)
    assert not mark.exists()


def test_an_older_keras_is_warned_of(model, tmp_path, monkeypatch, recwarn):
    model.save(tmp_path / "good.keras")
    monkeypatch.setattr(keras, "__version__", saved_models.SAFE_MODE_SINCE)
    saved_models.load_model(tmp_path / "good.keras")
    assert not [one for one in recwarn if "run code" in str(one.message)]
    monkeypatch.setattr(keras, "__version__", "3.10.0")
    with pytest.warns(UserWarning, match=r"Keras 3\.10\.0 lets .* run code.*>=3\.13\.2"):
        assert saved_models.load_model(tmp_path / "good.keras").input_shape == (None, 16, 16, 3)
