"""The command line: `python -m workbook COMMAND`, the same on every system."""

import argparse
import os
import sys

from workbook import ROOT
from workbook.support.text import printable_lines


def parser():
    """What can be typed; each command's words become the attributes that its function takes."""
    top = argparse.ArgumentParser(
        prog="python -m workbook", description="Siamese networks: a workbook, and what it makes."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, **details):
        return commands.add_parser(name, help=text, description=text.capitalize(), **details)

    run = command("run", "execute the notebooks in order; results go to runs/<dataset>-<preset>/")
    run.add_argument("--publish", action="store_true", help="copy them over the committed ones")
    run.add_argument(
        "words", nargs="*", metavar="NAME=value | number",
        help="settings, such as PRESET=full DATASET=/path/to/images; numbers: these notebooks only",
    )  # fmt: skip
    identify = command("identify", "name images by a gallery's closest entries")
    identify.add_argument("gallery", help="a folder that `build` or notebook 05 wrote")
    identify.add_argument("images", nargs="+", metavar="image", help="a file, or a folder of them")
    identify.add_argument("-k", type=int, default=5, help="how many entries to show (5)")
    identify.add_argument(
        "--csv", metavar="FILE",
        help="write a table; for a folder that is <folder>-identified.csv unless said otherwise",
    )  # fmt: skip
    enroll = command("enroll", "add a class, or pictures of one, to a gallery without training")
    enroll.add_argument("gallery", help="a folder that `build` or notebook 05 wrote")
    enroll.add_argument("label", help="the name of the class")
    enroll.add_argument("images", nargs="+", metavar="image", help="a file, or a folder of them")
    enroll.add_argument(
        "--catalogue", action="store_true",
        help="for products on white: enter each smaller as well, as photographs show them",
    )  # fmt: skip
    build = command("build", "make a gallery of a folder of class folders")
    build.add_argument("model", help="an embedding.keras that notebook 04 saved")
    build.add_argument("images", help="a folder with one sub-folder a class")
    build.add_argument("gallery", help="the folder to write")
    lab = command("lab", "open JupyterLab on working copies of the notebooks, in lab/")
    lab.add_argument("--fresh", action="store_true", help="new copies; the old ones are kept")
    lab.add_argument("options", nargs="*", help="after --: options of JupyterLab itself")
    learner = command("learner", "write copies of the notebooks without solutions and outputs")
    learner.add_argument("folder", nargs="?", help="default: learner/")
    workers = command("workers", "run notebooks in several processes that train one model together")
    workers.add_argument("count", type=int, help="how many processes, 2 or more")
    workers.add_argument("words", nargs="*", metavar="NAME=value | number", help="as for run")
    cache = command("cache", "list what is kept under runs/cache, with sizes; or remove old parts")
    cache.add_argument("--remove", action="store_true", help="what no run used for some days")
    cache.add_argument("--days", type=int, default=7, help="how many days (7); 0: all of it")
    cache.add_argument("runs", nargs="?", help="the folder of results (default: RUNS, or runs/)")
    stamp = command("stamp", "write the Colab cell, and the repository's address, into notebooks")
    stamp.add_argument("repository", nargs="?", metavar="OWNER/NAME", help="on GitHub")
    return top


def main(arguments=None):
    """Do what was typed; an error is one line, and exit code 1."""
    options = parser().parse_args(arguments)
    try:
        carry_out(options)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {printable_lines(error)}")  # what it quotes may be a stranger's


def carry_out(options):
    # each command loads only what it needs: TensorFlow alone takes seconds
    if options.command == "run":
        from workbook.commands.run import run

        run(options.words, options.publish)
    elif options.command in ("identify", "build", "enroll"):
        from workbook.commands import gallery as commands

        if options.command == "build":
            commands.build(options.model, options.images, options.gallery)
        elif options.command == "enroll":
            commands.enroll(options.gallery, options.label, options.images, options.catalogue)
        else:
            commands.identify(options.gallery, options.images, options.k, options.csv)
    elif options.command == "lab":
        from workbook.commands.lab import launch_lab

        launch_lab(options.fresh, options.options)
    elif options.command == "learner":
        from workbook.commands.learner import write_copies

        write_copies(options.folder)
    elif options.command == "workers":
        from workbook.commands.workers import start_workers

        sys.exit(start_workers(options.count, options.words))
    elif options.command == "cache":
        from workbook.commands.cache import list_cache

        runs = options.runs or os.environ.get("SIAMESE_RUNS") or ROOT / "runs"
        list_cache(runs, options.remove, options.days)
    else:
        from workbook.commands.stamp import stamp_all

        stamp_all(options.repository)


if __name__ == "__main__":
    main()
