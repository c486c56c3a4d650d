"""Loading a .keras file that somebody else may have written, as carefully as it can be done.

From such a file Keras makes whatever layers and functions the file names. Its safe mode refuses
code that is in the file itself, and has been got round more than once: so a model is as trusted as
a program, and what is checked here keeps damage and accidents out, and the tricks that are known.
"""

import warnings
import zipfile
from pathlib import Path

import h5py  # Keras brings it along
from packaging.version import Version

from workbook.support.atomic_files import atomic_file
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

# Below it a .keras file can run code in spite of safe mode: CVE-2025-8747 and CVE-2025-9906 (until
# 3.11.0), CVE-2026-1462 (until 3.13.2). Of .h5, which is not loaded here: CVE-2025-9905.
SAFE_MODE_SINCE = "3.13.2"
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}


def load_model(path):
    """The model in a .keras file, in Keras's safe mode and not compiled.

    Raises FileNotFoundError where there is none. Raises ValueError that names the file: before
    anything of it is loaded, for one of another kind, with more in it than Keras writes, or that
    would take far more memory than it has bytes; and for one that Keras refuses. Warns below Keras
    `SAFE_MODE_SINCE`. Explained in notebook 05, "A gallery to take away".
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{printable(path)}: no such file; is the path right?")
    try:
        _look_into(path)
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


def _look_into(path):
    """ValueError for what `keras.Model.save` does not write, as far as the outside shows it."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError("it is no .keras file, as Keras 3 writes it")
    most = 10**7 + 10 * path.stat().st_size  # Keras packs nothing, so that this is ample
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if {member.filename for member in members} != MEMBERS or len(members) != len(MEMBERS):
            raise ValueError(f"it does not hold just {', '.join(sorted(MEMBERS))}")
        if (size := sum(member.file_size for member in members)) > most:
            raise ValueError(f"it would unpack to {size / 1e6:.0f} MB (a zip bomb?)")
        with archive.open("model.weights.h5") as file, h5py.File(file, "r") as weights:
            if (size := _bytes_in(weights)) > most:
                raise ValueError(f"its weights would fill {size / 1e6:.0f} MB (a bomb?)")


def _bytes_in(weights):
    """What the arrays of an HDF5 file fill; ValueError for one that leads to other files."""
    sizes = []

    def look(name, item):
        if isinstance(item, h5py.Group):
            links = [item.get(inner, getlink=True) for inner in item]
            if not all(isinstance(link, h5py.HardLink) for link in links):
                raise ValueError(f"a link in its weights: {name}")
        elif item.is_virtual or item.external:
            raise ValueError(f"weights that lie in another file: {name}")
        else:
            sizes.append((item.size or 0) * item.dtype.itemsize)

    look("/", weights)
    weights.visititems(look)
    return sum(sizes)


def save_model(model, path):
    """`model.save(path)`, a .keras file, of which no kill or full disk leaves half."""
    with atomic_file(path) as part:
        model.save(part)
