"""Small images, embeddings and changes of saved galleries, for the tests of the gallery."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from workbook.__main__ import main
from workbook.gallery.gallery import Gallery


def draw(folder, color, count, seed=0, name="{} é.png", side=16):
    """Save `count` noisy images of this colour; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng([*color, seed]), []
    for i in range(count):
        noise = rng.integers(-20, 21, (side, side, 3))
        paths.append(folder / name.format(i))
        Image.fromarray(np.uint8(np.clip(color + noise, 0, 255))).save(paths[-1])
    return paths


def line(model, values):
    """Embeddings that differ in their first number only."""
    x = np.zeros((len(values), model.output_shape[-1]), np.float32)
    x[:, 0] = values
    return x


def line_gallery(model, values, labels, paths=None):
    """A gallery of such embeddings."""
    gallery = Gallery(model)
    gallery.add_embeddings(line(model, values), list(labels), paths)
    return gallery


def random_gallery(model, seed):
    """30 entries of four classes, and (200 queries, labels): half of them near entries."""
    rng = np.random.default_rng(seed)
    values, labels = 10 * rng.normal(size=30), rng.integers(0, 4, 30)
    gallery = line_gallery(model, values, labels)
    near = rng.integers(0, 30, 100)
    values = [*values[near] + 0.1 * rng.normal(size=100), *20 * rng.normal(size=100)]
    queries = line(model, values)
    queries[:, 1] = 0.1  # beside the line of the entries: none is a copy
    return gallery, (queries, [*labels[near], *rng.integers(0, 7, 100)])


def edit(folder, **changes):
    """Change gallery.json; what it says then."""
    path = folder / "gallery.json"
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(about))
    return about


def as_format(folder, version):
    """Rewrite a saved gallery as that older version of the workbook would have saved it."""
    about = edit(folder, format=version)
    (part,) = about.pop("parts")
    with np.load(folder / part["file"]) as stored:
        arrays = {name: stored[name] for name in ("embeddings", "labels", "paths")}
    np.savez(folder / part["file"], **arrays)
    about |= {"entries": part["file"], "entries_sha256": sha256(folder / part["file"])}
    for key, since in (("policy", 2), ("model_sha256", 3), ("trials", 5), ("state", 6)):
        if version < since:
            del about[key]
    (folder / "gallery.json").write_text(json.dumps(about))


def sha256(path):
    """The hash of a file as gallery.json has it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put_part(folder, content, **changes):
    """Put other bytes into the first part of a saved gallery, with the hash that fits them."""
    (part, *others) = edit(folder)["parts"]
    (folder / part["file"]).write_bytes(content)
    part |= {"sha256": sha256(folder / part["file"])} | changes
    edit(folder, parts=[part, *others])


def stopped(*words):
    """The message with which the command line ends."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return str(stop.value.code)
