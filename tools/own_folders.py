"""What the gallery of a small folder of one's own reaches on new images: results/own_folders.json.

usage: python -m tools.own_folders [DATA_HOME [SEED]]   (another seed than 11 is only printed)

Fifteen folders as somebody may have them are drawn from three sources: photographs of groceries,
photographs of animals (`caltech_animals` in DATA_HOME where it is, otherwise Caltech 101), and
drawn toys. Each is evaluated, chosen for and trained on as notebooks 4 and 6 do. Then galleries of
all images of the folder name the same new images: that of plain features, with every image and with
one mean per class, that of equal parts, and the one that is taken home. Where notebook 6 chooses
the threshold by cross-fitting, its promises are compared with what happens to the new images and to
images of other classes of the source. The new images of groceries are of the test split, from other
visits to the shops. A folder that was measured is not measured again, so the command may be
interrupted (`runs/own_folders`).
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from workbook import ROOT
from workbook.data.images import ImageDataset, load_from_config, load_images
from workbook.data.toys import render_toy
from workbook.evaluation.retrieval import bootstrap_interval
from workbook.gallery.gallery import Gallery
from workbook.models.mixture import build_mixture
from workbook.settings import read_config
from workbook.support.atomic_files import atomic_file
from workbook.support.config import Config
from workbook.training.cross_fitting import can_cross_fit, cross_fit
from workbook.training.delivery import USUAL, choose_weight, train_on_everything
from workbook.training.recipes import choose_recipe
from workbook.training.trainer import Trainer, plain_features

SOURCES = ("grocery", "animals", "toys")
SHAPES = ((12, 5), (20, 5), (5, 10), (20, 10), (5, 30))  # classes, images of each
SEED = 11  # the usual weight was chosen on folders of other seeds
FRESH = 20  # new images of each class, at most
STRANGERS = 10  # classes that the folder does not have, at most
PROTOTYPES = "plain, one mean per class"
TOYS = 400  # classes of toys to draw from

# class -> its images, and the new ones where they are not to be taken from the same
Pool = dict[str, tuple[list[str], list[str] | None]]


def list_pool(source: str, data_home: Path) -> Pool:
    """List the images of a source."""
    if source == "toys":
        return {f"toy {i}": ([str(j) for j in range(60)], None) for i in range(TOYS)}
    animals = data_home / "caltech_animals"
    name = "grocery" if source == "grocery" else animals if animals.is_dir() else "caltech101"
    data = load_images(name, 32, data_home)
    paths, splits = np.array(data.paths), data.splits
    pool: Pool = {}
    for label, class_name in enumerate(data.class_names):
        of_class = (data.labels == label) & (splits != "reference")
        if source == "grocery":
            pool[class_name] = tuple(  # type: ignore[assignment]
                list(paths[of_class & (splits == split)]) for split in ("train", "test")
            )
        else:
            pool[class_name] = list(paths[of_class]), None
    return pool


def draw_folder(pool: Pool, folder: Path, classes: int, images: int, seed: int = SEED) -> None:
    """Write `folder`/own/<class>, `folder`/new/<class> and `folder`/strangers/<class> from a pool.

    The strangers are new images of other classes.
    """
    rng = np.random.default_rng([seed, classes, images])
    enough = {name: (own, new) for name, (own, new) in pool.items() if len(own) >= images + 4}
    names = rng.permutation(sorted(enough))[: classes + STRANGERS]
    for place, name in enumerate(names):
        own, new = enough[name]
        own = list(rng.permutation(own))
        new = own[images:] if new is None else list(rng.permutation(new))
        parts = {"own": own[:images], "new": new[:FRESH]}
        for kind, chosen in (parts if place < classes else {"strangers": new[:FRESH]}).items():
            (folder / kind / name).mkdir(parents=True)
            for path in chosen:
                write_image(path, name, folder / kind / name, seed)


def write_image(path: str, class_name: str, folder: Path, seed: int) -> None:
    """Copy an image; or draw it, where its path is the number of a photograph of a toy."""
    if path.isdecimal():
        toy, _ = render_toy(int(class_name.split()[1]), int(path), 224, seed)
        Image.fromarray(toy).save(folder / f"{path}.png")
    else:
        shutil.copy(path, folder)


def measure(folder: Path) -> dict:
    """Evaluate, choose and train as notebooks 4 and 6 do, and name the new images."""
    start = time.perf_counter()
    config = read_config({}, preset="quick", dataset=str(folder / "own"), runs=str(folder / "runs"))
    data = load_from_config(config)
    trainer = Trainer(config, choose_recipe(config), data)
    trainer.fit()
    choice = choose_weight(plain_features(config, data), trainer.embed(), data)
    last = train_on_everything(config, data)
    seconds = time.perf_counter() - start
    new = sorted((folder / "new").glob("*/*"))
    labels = [path.parent.name for path in new]
    named = {}
    for weight in {0.0, USUAL, choice.weight}:
        gallery = Gallery(build_mixture(config, last, weight))
        gallery.add_dataset(data, gallery.embed_images(list(data.images))[0])
        vectors, _ = gallery.embed_images(new)
        named[weight] = gallery.compare(vectors, labels).is_right
        if not weight:
            gallery.prototypes = True
            means = gallery.compare(vectors, labels).is_right
        if weight == choice.weight:
            promises = measure_promises(gallery, folder, config, data, weight)
    right = {"plain": named[0.0], PROTOTYPES: means, "equal parts": named[USUAL]}
    right["delivered"] = named[choice.weight]
    gain = right["delivered"].astype(float) - right["plain"]
    held_out = {
        name: float(np.mean(choice.answers[weight]["unseen"]))
        for name, weight in (("plain", 0.0), ("delivered", choice.weight))
        if "unseen" in choice.answers[weight]
    }
    return {
        "classes": len(data.class_names),
        "images": len(data.labels),
        "new images": len(new),
        **{name: float(answers.mean()) for name, answers in right.items()},
        "gain": float(gain.mean()),
        "gain 95%": list(bootstrap_interval(gain)),
        "weight": choice.weight,
        "held-out classes": held_out,
        "promises": promises,
        "seconds": round(seconds),
    }


def measure_promises(
    gallery: Gallery, folder: Path, config: Config, data: ImageDataset, weight: float
) -> dict:
    """Choose the threshold by cross-fitting, and compare each share with that of new images.

    Returns
    -------
    dict
        For "false accepts" and "false rejects": the share that is promised, its 95 % interval, and
        the share that is seen. Empty where notebook 6 does not cross-fit.
    """
    if not can_cross_fit(data):
        return {}
    gallery.prototypes, gallery.trials = False, cross_fit(config, data, weight)
    policy, promises = gallery.choose_threshold(), {}
    for name, kind, key in (
        ("false accepts", "strangers", "strangers_let_in"),
        ("false rejects", "new", "known_refused"),
    ):
        paths = sorted((folder / kind).glob("*/*"))
        if paths:
            vectors, _ = gallery.embed_images(paths)
            distances = gallery.compare(vectors, [path.parent.name for path in paths]).distances
            accepted = float((distances <= gallery.threshold).mean())
            seen = accepted if kind == "strangers" else 1 - accepted
            promises[name] = {
                "promised": policy[key], "95%": policy[f"{key}_95"], "seen": seen
            }  # fmt: skip
    return promises


def measure_all(data_home: Path, cache: Path, seed: int = SEED) -> Iterator[tuple[str, dict]]:
    """Yield the name and the measures of each folder; from the cache where they are there."""
    for classes, images in SHAPES:
        for source in SOURCES:
            name = f"{source} {classes} x {images}"
            file = cache / f"{name}.json"
            if not file.exists():
                folder = cache / name
                shutil.rmtree(folder, ignore_errors=True)  # of a command that was interrupted
                draw_folder(list_pool(source, data_home), folder, classes, images, seed)
                found = measure(folder)
                shutil.rmtree(folder)
                with atomic_file(file) as part:
                    part.write_text(json.dumps(found, indent=1), "utf-8")
            yield name, json.loads(file.read_text("utf-8"))


def describe(name: str, found: dict) -> str:
    """Write a line of the table."""
    low, high = found["gain 95%"]
    held_out = " -> ".join(f"{value:.3f}" for value in found["held-out classes"].values())
    return (
        f"{name:16}{found['plain']:.3f} -> {found['delivered']:.3f}  {found['gain']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]  w {found['weight']}  held-out classes {held_out or '-':16} "
        f"{found['seconds']} s"
    )


def describe_promises(rows: dict[str, dict]) -> Iterator[str]:
    """Yield a line for each promise: the folder, what was promised, and what was seen."""
    count = kept = 0
    for name, found in rows.items():
        for kind, promise in found["promises"].items():
            low, high = promise["95%"]
            is_kept = low <= promise["seen"] <= high
            count, kept = count + 1, kept + is_kept
            yield (
                f"{name:16}{kind:14} promised {promise['promised']:.3f} [{low:.3f}, {high:.3f}], "
                f"seen {promise['seen']:.3f}" + ("" if is_kept else "  outside")
            )
    yield f"{kept} of {count} seen shares lie in the interval of what was promised"


if __name__ == "__main__":
    home = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "data"
    chosen_seed = int(sys.argv[2]) if sys.argv[2:] else SEED
    rows = {}
    cache_folder = ROOT / f"runs/own_folders/{chosen_seed}"
    cache_folder.mkdir(parents=True, exist_ok=True)
    for folder_name, row in measure_all(home.resolve(), cache_folder, chosen_seed):
        rows[folder_name] = row
        print(describe(folder_name, row), flush=True)
    for source_name in SOURCES:
        of_source = [row for name, row in rows.items() if name.startswith(source_name)]
        for name in (PROTOTYPES, "equal parts", "delivered"):
            gains = [row[name] - row["plain"] for row in of_source]
            print(
                f"{source_name:10}{name:28}mean gain {np.mean(gains):+.3f}, worst {min(gains):+.3f}"
            )
    worst = min(rows, key=lambda name: rows[name]["gain"])
    print(f"worst folder: {describe(worst, rows[worst])}")
    print(*describe_promises(rows), sep="\n")
    if chosen_seed == SEED:
        result = ROOT / "results/own_folders.json"
        result.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
