"""What stands behind the method in `siamese_utils.py`: data, mining, training, evaluation.

`python -m workbook --help` lists the commands. Each module says in its first line what it is for.
"""

import warnings
from pathlib import Path

# In a notebook without ipywidgets, importing pooch would print this with the path of a file here.
warnings.filterwarnings("ignore", "IProgress not found")

ROOT = Path(__file__).resolve().parent.parent
