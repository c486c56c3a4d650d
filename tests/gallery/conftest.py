"""What the tests of the gallery share: a small model, a folder of images, a gallery of it."""

import gallery_helpers
import keras
import pytest
from small_models import small_embedding

from workbook.gallery.gallery import Gallery


@pytest.fixture(scope="session")
def model():
    keras.utils.set_random_seed(0)
    return small_embedding()


@pytest.fixture(scope="session")
def other_model():
    """A model of the same shape with other weights."""
    keras.utils.set_random_seed(1)
    return small_embedding()


@pytest.fixture
def folder(tmp_path):
    """Two classes of three noisy images, red and blue, and a file that is no image."""
    colors = {"red": (230, 20, 20), "東京 blue": (20, 20, 230)}
    for i, (name, color) in enumerate(colors.items()):
        gallery_helpers.draw(tmp_path / "images" / name, color, 3, seed=i)
    (tmp_path / "images" / "red" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def gallery(model, folder):
    paths = sorted(folder.rglob("*.png"))
    filled = Gallery(model)
    filled.add(paths, [path.parent.name for path in paths])
    return filled


@pytest.fixture
def saved(gallery, tmp_path):
    """The folder of that gallery, saved with a threshold."""
    gallery.fit_threshold()
    gallery.save(tmp_path / "g")
    return tmp_path / "g"
