"""Load a .keras file that somebody else may have written, as carefully as possible.

From such a file Keras makes whatever layers and functions the file names. Its safe mode refuses
code inside the file, but it has been circumvented more than once. So trust a model file only as far
as you would trust a program. The checks here stop damaged files, accidents and the known tricks.
"""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py  # Keras requires it
from packaging.version import Version

from workbook.support.atomic_files import atomic_file
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

# Below it a .keras file can run code in spite of safe mode: CVE-2025-8747 and CVE-2025-9906 (until
# 3.11.0), CVE-2026-1462 (until 3.13.2). Of .h5, which is not loaded here: CVE-2025-9905.
SAFE_MODE_SINCE = "3.13.2"
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}


def load_model(path: str | Path) -> keras.Model:
    """Load the model in a .keras file, in Keras's safe mode and not compiled.

    Warns below Keras `SAFE_MODE_SINCE`, which can be made to run code.

    Raises
    ------
    FileNotFoundError : if there is no such file.
    ValueError : names the file and the reason. Before anything of it is loaded: for a file of
        another kind, with other members than Keras writes, or one that would need far more memory
        than it has bytes. Then: for whatever Keras refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{printable(path)}: no such file; is the path right?")
    try:
        _check_archive(path)
        if Version(keras.__version__) < Version(SAFE_MODE_SINCE):
            warnings.warn(
                f"Keras {keras.__version__} lets a .keras file run code when it is loaded: give it "
                "none that you would not run as a program, or update it: pip install "
                f'"keras>={SAFE_MODE_SINCE}"',
                stacklevel=2,
            )
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ValueError(f"it holds a {type(model).__name__}, not a model")
        return model
    except Exception as error:  # whatever a strange or damaged file raises
        if isinstance(error, MemoryError):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{printable(path)} is not loaded: {printable(reason)}") from error


def _check_archive(path: Path) -> None:
    """Raise a ValueError for what `keras.Model.save` does not write, before anything is loaded."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError("it is no .keras file, as Keras 3 writes it")
    most = 10**7 + 10 * path.stat().st_size  # Keras compresses nothing, so this is ample
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if {member.filename for member in members} != MEMBERS or len(members) != len(MEMBERS):
            raise ValueError(f"it does not hold just {', '.join(sorted(MEMBERS))}")
        if (size := sum(member.file_size for member in members)) > most:
            raise ValueError(f"it would unpack to {size / 1e6:.0f} MB (a zip bomb?)")
        with archive.open("model.weights.h5") as file, h5py.File(file, "r") as weights:
            if (size := _count_bytes(weights)) > most:
                raise ValueError(f"its weights would fill {size / 1e6:.0f} MB (a bomb?)")


def _count_bytes(weights: h5py.File) -> int:
    """Count the bytes of all arrays of an HDF5 file; ValueError for links to other files."""
    sizes = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            links = [item.get(inner, getlink=True) for inner in item]
            if not all(isinstance(link, h5py.HardLink) for link in links):
                raise ValueError(f"a link in its weights: {name}")
        elif item.is_virtual or item.external:
            raise ValueError(f"weights that lie in another file: {name}")
        else:
            sizes.append((item.size or 0) * item.dtype.itemsize)

    visit("/", weights)
    weights.visititems(visit)
    return sum(sizes)


def save_model(model: keras.Model, path: str | Path) -> None:
    """Save a model as a .keras file; a kill or a full disk leaves no half-written file."""
    with atomic_file(path) as part:
        model.save(part)
