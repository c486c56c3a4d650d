"""JupyterLab on working copies of the notebooks: what is typed goes to lab/, not to notebooks/.

The copies lie as deep in the tree as the notebooks do, so that their links and imports work.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from workbook import ROOT
from workbook.commands.notebook_files import list_notebooks


def make_working_copies(folder: Path, fresh: bool = False) -> None:
    """Copy each notebook to `folder` unless it is there, so that nothing typed is overwritten.

    With `fresh`, the folder is first renamed, its new name is printed, and all copies are new.
    """
    if fresh and folder.exists():
        names = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(1))
        kept = next(name for name in names if not name.exists())
        folder.rename(kept)
        print(f"what was in {folder.name}/ is in {kept.name}/ now")
    folder.mkdir(exist_ok=True)
    outdated = []
    for source in list_notebooks():
        copy = folder / source.name
        if not copy.exists():
            shutil.copy(source, copy)
        elif copy.stat().st_mtime < source.stat().st_mtime:
            outdated.append(source.name[:2])
    if outdated:
        print(
            f"notebooks/ has newer versions of {', '.join(outdated)} than {folder.name}/. To get "
            "them: make lab FRESH=1 (yours are kept in a folder beside it)"
        )


def launch_lab(fresh: bool = False, options: Iterable[str] = ()) -> None:
    """Serve the workbook's root and open the first working copy; return when the server ends.

    `options` are those of JupyterLab. Raises PermissionError for root without "--allow-root".
    """
    if os.name == "posix" and os.geteuid() == 0 and "--allow-root" not in options:
        raise PermissionError(
            "JupyterLab would run as root, and every cell could change anything on this machine. "
            "Start it as another user; where there is none, as in a container: "
            "make lab OPTIONS=--allow-root"
        )
    make_working_copies(ROOT / "lab", fresh)
    folders = [str(ROOT / "workbook/jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, folders))
    from jupyterlab.labapp import main  # reads the variable when it is imported

    first_page = f"/lab/tree/lab/{list_notebooks()[0].name}"
    sys.exit(main([f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={first_page}", *options]))
