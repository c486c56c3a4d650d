"""What a notebook needs in Google Colab: its first cell fetches the workbook and calls `prepare`.

Installs what is missing and nothing else: a runtime's own TensorFlow, Keras and NumPy stay.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

from workbook import ROOT

DRIVE = Path("/content/drive/MyDrive")
KEPT = ("tensorflow", "keras", "numpy")  # replacing one of them breaks a runtime
ELSEWHERE = (
    "jupyterlab",
    "nbval",
    "hypothesis",
)  # Colab is the notebook, and nothing is tested in it


def version(name):
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(lines):
    """The requirements that a notebook has to install here, of the lines of requirements.txt.

    Raises RuntimeError where a package of `KEPT` is of a version that does not fit.
    """
    lines = (line.partition("#")[0].strip() for line in lines)
    wanted = [Requirement(line) for line in lines if line]
    wanted = [requirement for requirement in wanted if requirement.name not in ELSEWHERE]
    unfit = [r for r in wanted if not (v := version(r.name)) or not r.specifier.contains(v)]
    for requirement in unfit:
        if requirement.name in KEPT and version(requirement.name):
            raise RuntimeError(
                f"this runtime has {requirement.name} {version(requirement.name)}, the workbook "
                f"needs {requirement}: choose the latest version in Runtime > Change runtime type"
            )
    return [str(requirement) for requirement in unfit]


def prepare(drive=DRIVE):
    """Install what is missing; put results and caches on Drive if it is mounted."""
    packages = missing((ROOT / "requirements.txt").read_text("utf-8").splitlines())
    if packages:
        print("installing", *packages)
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder, "constraints.txt")
            pins.write_text("\n".join(f"{n}=={version(n)}" for n in KEPT if version(n)))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(pins)]
            subprocess.run([*pip, *packages], check=True)
    if drive.is_dir():
        home = drive / "siamese-networks"
        os.environ.setdefault("SIAMESE_RUNS", str(home / "runs"))
        os.environ.setdefault("SIAMESE_DATA_HOME", str(home / "data"))
        print("results and caches go to Drive, and outlive this session:", home)
    else:
        print("results end with this session; to keep them: Files > Mount Drive, then run again")
