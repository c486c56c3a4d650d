"""The command line: `python -m workbook COMMAND`, the same on every system.

Each command has a part of `build_parser` and a function that carries it out. These functions import
what they need, because TensorFlow takes seconds to load and not every command needs it.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence

from workbook import ROOT
from workbook.support.text import printable_lines

GALLERY = "a folder that `build` or the notebooks wrote"
IMAGE = "a file, or a folder of images"
IMAGES = "a folder with one sub-folder per class, or a table of labels (.csv, .tsv)"
WITH_TENSORFLOW = {  # the commands that load it
    "audit", "build", "enroll", "remove", "merge", "index", "identify", "export", "check-gpu"
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out what was typed; an error is one message without a traceback, and exit code 1."""
    options = build_parser().parse_args(arguments)
    if options.command in WITH_TENSORFLOW:
        import workbook.support.tensorflow_start  # noqa: F401 - first of all, so that it is quiet
    try:
        options.carry_out(options)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {printable_lines(error)}")  # it may quote a name of any characters


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has the function that carries it out as `carry_out`."""
    top = argparse.ArgumentParser(
        prog="python -m workbook", description="Siamese networks: the workbook's command line."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(
        name: str, text: str, carry_out: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(carry_out=carry_out)
        return command

    run = add_command(
        "run",
        "execute the notebooks in order; results go to runs/<dataset>-<preset>/",
        run_notebooks,
    )
    run.add_argument("--publish", action="store_true", help="copy them over the committed ones")
    run.add_argument(
        "words", nargs="*", metavar="NAME=value | number",
        help="settings, such as PRESET=full DATASET=/path/to/images; numbers: these notebooks only",
    )  # fmt: skip

    workers = add_command(
        "workers", "run notebooks in several processes that train one model together", run_workers
    )
    workers.add_argument("count", type=int, help="how many processes, 2 or more")
    workers.add_argument("words", nargs="*", metavar="NAME=value | number", help="as for run")

    audit = add_command(
        "audit",
        "look for near-duplicates, doubtful labels and small classes; nothing is changed",
        audit_folder,
    )
    audit.add_argument("images", help=IMAGES)
    audit.add_argument(
        "report", nargs="?", metavar="REPORT.html", help="the page (default: <images>-audit.html)"
    )

    build = add_command("build", "make a gallery from a folder of class folders", build_gallery)
    build.add_argument(
        "model", help="a saved embedding.keras, or a backbone such as EfficientNetLite0"
    )
    build.add_argument("images", help=IMAGES)
    build.add_argument("gallery", help="the folder to write")
    build.add_argument(
        "--prototypes", action="store_true",
        help="compare with one mean per class instead of with every image",
    )  # fmt: skip

    enroll = add_command(
        "enroll", "add a class, or images of one, to a gallery without training", enroll_images
    )
    enroll.add_argument("gallery", help=GALLERY)
    enroll.add_argument("label", help="the name of the class")
    enroll.add_argument("images", nargs="+", metavar="image", help=IMAGE)
    enroll.add_argument(
        "--catalogue", action="store_true",
        help="for products on white: also enter each image smaller, as photographs show them",
    )  # fmt: skip

    remove = add_command("remove", "remove a class or an image from a gallery", remove_entries)
    remove.add_argument("gallery", help=GALLERY)
    what = remove.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", help="the class to remove")
    what.add_argument("--image", metavar="PATH", help="an image file, or a path that is listed")

    merge = add_command("merge", "add the entries of another gallery of one model", merge_galleries)
    merge.add_argument("gallery", help="the gallery to add to")
    merge.add_argument("other", help="the gallery whose entries are added")

    index = add_command(
        "index", "build an index of a large gallery, for faster answers (needs faiss)", build_index
    )
    index.add_argument("gallery", help=GALLERY)

    identify = add_command(
        "identify", "name images by a gallery's closest entries", identify_images
    )
    identify.add_argument("gallery", help=GALLERY)
    identify.add_argument("images", nargs="+", metavar="image", help=IMAGE)
    identify.add_argument("-k", type=int, default=5, help="how many entries to show (default: 5)")
    identify.add_argument(
        "--csv", metavar="FILE",
        help="write a table; for a folder the default is <folder>-identified.csv",
    )  # fmt: skip
    limit = identify.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, metavar="D", help="unknown beyond this distance")
    limit.add_argument(
        "--accept-all", action="store_const", const=math.inf, dest="threshold",
        help="no image is unknown",
    )  # fmt: skip
    for error, cases in (("accepts", "unknown images named"), ("rejects", "known ones refused")):
        limit.add_argument(
            f"--max-false-{error}", type=float, metavar="SHARE",
            help=f"the threshold for at most this share of {cases}, such as 0.05",
        )  # fmt: skip

    export = add_command(
        "export", "write a gallery for programs without this workbook", export_gallery
    )
    export.add_argument("gallery", help=GALLERY)
    export.add_argument("target", nargs="?", help="a new folder (default: <gallery>-<format>)")
    export.add_argument(
        "--format", choices=("savedmodel", "onnx", "litert"), default="savedmodel",
        help="of the model (default: savedmodel)",
    )  # fmt: skip

    check = add_command(
        "check-gpu", "measure in minutes what the documentation promises of a GPU", check_gpu_here
    )
    check.add_argument(
        "--cpu", action="store_true", help="let the processor stand in, with small networks"
    )

    lab = add_command(
        "lab", "open JupyterLab on working copies of the notebooks, in lab/", open_lab
    )
    lab.add_argument("--fresh", action="store_true", help="make new copies; the old ones are kept")
    lab.add_argument("options", nargs="*", help="after --: options of JupyterLab itself")

    learner = add_command(
        "learner",
        "write copies of the notebooks without solutions and outputs",
        write_learner_copies,
    )
    learner.add_argument("folder", nargs="?", help="default: learner/")

    site = add_command("site", "build the website, with the Python of .venv-site", build_website)
    site.add_argument("folder", nargs="?", help="where to build (default: docs/site/build)")

    cache = add_command(
        "cache", "list what is kept under runs/cache, with sizes, or remove old parts", show_cache
    )
    cache.add_argument(
        "--remove", action="store_true", help="remove what no run used for some days"
    )
    cache.add_argument(
        "--days", type=int, default=7, help="how many days (default: 7); 0: all of it"
    )
    cache.add_argument("runs", nargs="?", help="the folder of results (default: RUNS, or runs/)")

    stamp = add_command(
        "stamp",
        "write the Colab cell and the repository's address into the notebooks",
        stamp_notebooks,
    )
    stamp.add_argument("repository", nargs="?", metavar="OWNER/NAME", help="on GitHub")
    return top


def run_notebooks(options: argparse.Namespace) -> None:
    from workbook.commands.run import run

    run(options.words, options.publish)


def run_workers(options: argparse.Namespace) -> None:
    from workbook.commands.workers import start_workers

    sys.exit(start_workers(options.count, options.words))


def audit_folder(options: argparse.Namespace) -> None:
    from workbook.commands.audit import audit

    audit(options.images, options.report)


def build_gallery(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import build

    build(options.model, options.images, options.gallery, options.prototypes)


def enroll_images(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import enroll

    enroll(options.gallery, options.label, options.images, options.catalogue)


def remove_entries(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import remove

    remove(options.gallery, options.label, options.image)


def merge_galleries(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import merge

    merge(options.gallery, options.other)


def build_index(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import index

    index(options.gallery)


def identify_images(options: argparse.Namespace) -> None:
    from workbook.commands.gallery import identify

    limits = (options.threshold, options.max_false_accepts, options.max_false_rejects)
    identify(options.gallery, options.images, options.k, options.csv, *limits)


def export_gallery(options: argparse.Namespace) -> None:
    from workbook.commands.export import export

    export(options.gallery, options.target, options.format)


def check_gpu_here(options: argparse.Namespace) -> None:
    from workbook.commands.check_gpu import check_gpu

    sys.exit(check_gpu(options.cpu))


def open_lab(options: argparse.Namespace) -> None:
    from workbook.commands.lab import launch_lab

    launch_lab(options.fresh, options.options)


def write_learner_copies(options: argparse.Namespace) -> None:
    from workbook.commands.learner import write_copies

    write_copies(options.folder)


def build_website(options: argparse.Namespace) -> None:
    from workbook.commands.site import build_site

    build_site(options.folder)


def show_cache(options: argparse.Namespace) -> None:
    from workbook.commands.cache import list_cache

    runs = options.runs or os.environ.get("SIAMESE_RUNS") or ROOT / "runs"
    list_cache(runs, options.remove, options.days)


def stamp_notebooks(options: argparse.Namespace) -> None:
    from workbook.commands.stamp import stamp_all

    stamp_all(options.repository)


if __name__ == "__main__":
    main()
