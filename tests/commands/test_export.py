"""A gallery for other programs: the same embeddings, by the lines of docs/export.md themselves."""

import re

import forked
import keras
import numpy as np
import pytest
from PIL import Image
from small_models import small_embedding

from workbook import ROOT
from workbook.__main__ import main
from workbook.gallery.gallery import Gallery

NEEDED = {
    "savedmodel": (), "onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)
}  # fmt: skip
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text("utf-8"), re.DOTALL)


def lines_of(kind):
    """The page's lines for this format, put together as its text says."""
    lines, onnx, litert = BLOCKS
    if kind == "savedmodel":
        return lines
    own = {"onnx": onnx, "litert": litert}[kind]
    lines = lines.replace(", tensorflow as tf", "").replace("model, gallery =", "gallery =")
    lines = lines.replace('tf.saved_model.load("exported/model"), ', "")
    return lines.replace("embedding = model.serve(np.float32(pixels)[None]).numpy()\n", own)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a gallery of photographs of three colours, a new image and a stranger."""
    place = tmp_path_factory.mktemp("export")
    keras.utils.set_random_seed(0)
    gallery = Gallery(small_embedding())
    rng = np.random.default_rng(0)

    def photograph(color, path):
        noise = rng.integers(-20, 21, (60, 90, 3))
        Image.fromarray(np.uint8(np.clip(color + noise, 0, 255))).save(path)

    colors = {"rouge": (230, 20, 20), "bleu": (20, 20, 230), "vert é": (20, 230, 20)}
    for label, color in colors.items():
        for i in range(3):
            photograph(np.array(color), place / f"{i}.jpg")
        gallery.add([place / f"{i}.jpg" for i in range(3)], [label] * 3)
    (place / "known.jpg").write_bytes((place / "2.jpg").read_bytes())
    photograph(np.array((240, 240, 240)), place / "stranger.jpg")
    gallery.threshold = gallery.identify(place / "stranger.jpg").distance / 2
    gallery.save(place / "my_gallery")
    return place


def run(place, program):
    env = {"PATH": "", "PYTHONUTF8": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "HOME": str(place)}
    done = forked.start(["-c", program], place, env).finish()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", NEEDED)
def test_the_pages_lines_identify_with_what_was_exported(place, kind):
    for package in NEEDED[kind]:
        pytest.importorskip(package)
    out = place / f"out-{kind}"
    main(["export", str(place / "my_gallery"), str(out), "--format", kind])
    (place / "exported").unlink(missing_ok=True)
    (place / "exported").symlink_to(out)
    gallery = Gallery.load(place / "my_gallery")
    with np.load(out / "gallery.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["labels"], gallery.labels)
        np.testing.assert_array_equal(arrays["embeddings"], gallery.embeddings)
    for name in ("known", "stranger"):
        (place / "image.jpg").write_bytes((place / f"{name}.jpg").read_bytes())
        match = gallery.identify(place / "image.jpg")
        program = lines_of(kind) + '\nnp.save("answer.npy", embedding)'
        assert run(place, program) == match.label, name
        assert match.label == ("vert é" if name == "known" else "unknown")
        expected, _ = gallery.embed_images([place / "image.jpg"])
        np.testing.assert_allclose(np.load(place / "answer.npy"), expected, atol=1e-4)


def test_the_lines_are_ten():
    assert len(BLOCKS[0].splitlines()) == 10 and "workbook" not in "".join(BLOCKS)


def test_what_is_missing_or_in_the_way_is_said_in_a_sentence(place, monkeypatch):
    def stopped(*words):
        with pytest.raises(SystemExit) as stop:
            main(["export", str(place / "my_gallery"), *words])
        return str(stop.value.code)

    (place / "file").touch()
    end = stopped(str(place / "file" / "new"))
    assert "nothing can be written into" in end and "choose another place" in end
    (place / "there").mkdir(exist_ok=True)
    assert "there exists: name another folder, or delete it" in stopped(str(place / "there"))
    monkeypatch.setattr("workbook.commands.export.find_spec", lambda package: None)
    end = stopped(str(place / "new"), "--format", "onnx")
    assert end == "error: --format onnx needs packages: pip install tf2onnx onnx"

    def refuse(self, path, format, verbose):
        raise ValueError(f"Unrecognized format={format}. Supported formats are: none")

    monkeypatch.setattr(keras.Model, "export", refuse)
    end = stopped(str(place / "new"), "--format", "litert")
    assert "does not export litert: pip install --upgrade keras" in end
    assert not list(place.glob("new*")), "nothing is left over"


def test_an_unknown_format_is_refused(place, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(place / "my_gallery"), "--format", "pickle"])
    assert "invalid choice: 'pickle'" in capsys.readouterr().err


def test_the_default_folder_is_beside_the_gallery(place):
    main(["export", str(place / "my_gallery")])
    assert (place / "my_gallery-savedmodel/model/saved_model.pb").is_file()
