"""JupyterLab on working copies of the notebooks: typing goes to lab/, and notebooks/ stays clean.

The copies lie as deep as the notebooks do, so that their links and imports hold.
"""

import itertools
import os
import shutil
import sys

from workbook import ROOT

FIRST = "01_data_exploration.ipynb"


def working_copies(folder, fresh=False):
    """Copy each notebook to `folder` unless it is there: nothing that was typed is overwritten.

    `fresh` gives the folder another name first, and says which; then all copies are new.
    """
    if fresh and folder.exists():
        names = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(1))
        kept = next(name for name in names if not name.exists())
        folder.rename(kept)
        print(f"what was in {folder.name}/ is in {kept.name}/ now")
    folder.mkdir(exist_ok=True)
    older = []
    for source in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        copy = folder / source.name
        if not copy.exists():
            shutil.copy(source, copy)
        elif copy.stat().st_mtime < source.stat().st_mtime:
            older.append(source.name[:2])
    if older:
        print(f"notebooks/ has newer versions of {', '.join(older)} than {folder.name}/. To have "
              "them: make lab FRESH=1 (yours are kept, in a folder beside)")  # fmt: skip


def launch_lab(fresh=False, options=()):
    """Serve the workbook's root, and open the first working copy; `options` are JupyterLab's own.

    Returns when the server ends. Raises PermissionError for root without "--allow-root".
    """
    if os.name == "posix" and os.geteuid() == 0 and "--allow-root" not in options:
        raise PermissionError(
            "JupyterLab would run as root, and every cell could change anything on this machine. "
            "Start it as another user; where there is none, as in a container: "
            "make lab OPTIONS=--allow-root"
        )
    working_copies(ROOT / "lab", fresh)
    places = [str(ROOT / "workbook/jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, places))
    from jupyterlab.labapp import main  # reads the variable

    page = f"/lab/tree/lab/{FIRST}"
    sys.exit(main([f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={page}", *options]))
