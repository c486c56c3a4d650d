"""The setup of a notebook session: seed, plot style, versions, and `??` shown in place."""

import re
import sys

import matplotlib.pyplot as plt
from IPython import get_ipython

from workbook.support.tensorflow_start import GPUS, keras, tf


def show_in_place(_, data, **__):
    """Print what `?` and `??` found: without colours, which are made for a dark terminal.

    Without the path of the file and the address of a function, too: they are others elsewhere.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", data["text/plain"]).partition("File:")[0]
    print(re.sub(r"<function (\S+) at 0x\w+>", r"\1", text))


def setup_notebook(seed=42):
    """What every notebook's setup cell calls: seed, plot style, versions, and `??` shown in place.

    Colours are colour-blind-safe (Okabe and Ito 2008). Explained in notebook 01, "Setup".
    """
    keras.utils.set_random_seed(seed)
    colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    plt.rcParams.update({
        "axes.prop_cycle": plt.cycler(color=colors),
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.alpha": 0.3, "axes.titlesize": 11, "font.size": 10, "legend.frameon": False,
        "figure.dpi": 100, "savefig.dpi": 150, "savefig.bbox": "tight",
    })  # fmt: skip
    if shell := get_ipython():
        shell.set_hook("show_in_pager", show_in_place, 0)
    print(
        "Python", sys.version.split()[0], "TensorFlow", tf.__version__, "Keras", keras.__version__
    )
    print(
        f"{len(GPUS)} GPU" if GPUS else "no GPU: fine for quick (Colab: Runtime > Change runtime)"
    )
