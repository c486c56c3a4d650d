"""What stands behind the method in `siamese_utils.py`: data, mining, training, evaluation.

`python -m workbook --help` lists the commands. Each module says in its first line what it is for.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
