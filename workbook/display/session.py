"""The setup of a notebook session: TensorFlow, seed, plot style, versions, `??` shown in place.

It can be imported before TensorFlow is loaded; `setup_notebook` then loads it quietly.
"""

import re
import sys
from typing import Any

import matplotlib.pyplot as plt
from IPython import get_ipython

from workbook.display.figures import PALETTE

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.titlesize": 11, "font.size": 10, "legend.frameon": False, "figure.dpi": 100,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "savefig.dpi": 150, "savefig.bbox": "tight",
}  # fmt: skip


def setup_notebook(seed: int = 42) -> None:
    """Start TensorFlow quietly, set the seed and the plot style, and print the versions.

    Every notebook's setup cell calls it. Notebook 01, "Setup", explains it.

    Parameters
    ----------
    seed : of Python, NumPy and TensorFlow.
    """
    from workbook.support.tensorflow_start import GPUS, keras, tf  # loads TensorFlow

    keras.utils.set_random_seed(seed)
    plt.rcParams.update(STYLE)
    if shell := get_ipython():
        shell.set_hook("show_in_pager", show_in_place, 0)
    print(
        "Python", sys.version.split()[0], "TensorFlow", tf.__version__, "Keras", keras.__version__
    )
    print(
        f"{len(GPUS)} GPU" if GPUS else "no GPU: fine for quick (Colab: Runtime > Change runtime)"
    )


def show_in_place(_: Any, data: dict[str, str], **__: Any) -> None:
    """Print the answer to `?` and `??` below the cell, without colours and machine-specific parts.

    Colours are made for a dark terminal; the path of a file and the address of a function differ
    from machine to machine.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", data["text/plain"]).partition("File:")[0]
    print(re.sub(r"<function (\S+) at 0x\w+>", r"\1", text))
