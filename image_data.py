"""From files to arrays: folders of images, datasets that can be had, decoding, the image cache.

`siamese_utils` offers what is public here (`ImageDataset`, `load_images`, `decode_image`) under its
own name. Images are RGB, uint8, 0..255. Explained in notebook 01.
"""

import hashlib
import json
import os
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from toys import render_toys

ROOT = Path(__file__).resolve().parent

GROCERY_COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
GROCERY_URL = f"https://github.com/marcusklasson/GroceryStoreDataset/archive/{GROCERY_COMMIT}.zip"


@dataclass
class ImageDataset:
    """Images with what is known of them; made by `load_images`. n images, c classes.

    images (n, size, size, 3) uint8 RGB 0..255; labels (n,) int32 in 0..c-1; splits (n,) of
    "train", "validation", "test", "unseen" (classes that are never trained on) or "reference"
    (one catalogue picture a class); factors: name -> (n,) float32, known for the toys only;
    problems: what could not be read, one dict a file with path, reason and remedy.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: list
    paths: list
    splits: np.ndarray
    gallery_splits: tuple = ("train",)
    factors: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)

    def where(self, *splits):
        """Indices (int64, ascending) of the images in any of `splits`."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @property
    def gallery(self):
        """Indices of every training image: what a test image is compared with."""
        return self.where(*self.gallery_splits)


def load_images(dataset="toys", size=64, data_home=None, cache_dir=None, seed=42, strict=False):
    """Load `toys`, `grocery` or a folder of images as an `ImageDataset`.

    A folder holds one sub-folder a class, or `train...` and `test...` folders of such. Files are
    decoded and resized once, in parallel, into a memory-mapped array under `cache_dir`
    (default: `<root>/runs/cache`). What cannot be read is listed in `.problems`, or raised as
    ValueError with `strict=True`. Raises FileNotFoundError for a missing folder and ValueError
    for one without two classes of images. Explained in notebook 01.
    """
    data_home, cache_dir = Path(data_home or ROOT / "data"), Path(cache_dir or ROOT / "runs/cache")
    if str(dataset) == "toys":
        return _load_toys(size, seed, cache_dir)
    gallery_splits, problems = ("train",), []
    if str(dataset) == "grocery":
        entries = _grocery_entries(_find_grocery(data_home))
    else:
        entries, problems = _folder_entries(Path(dataset).expanduser())
        if not any(split == "validation" for _, split, _ in entries):
            entries = _hold_out(entries, seed)
            gallery_splits = ("train", "validation")
    images, kept, failed = _decode_all([entry[0] for entry in entries], size, cache_dir)
    problems += failed
    if strict and problems:
        raise ValueError("; ".join(f"{p['path']}: {p['reason']}" for p in problems))
    paths, splits, names = zip(*(entries[i] for i in kept)) if len(kept) else ((), (), ())
    class_names = list(dict.fromkeys(names))
    if len(class_names) < 2:
        raise ValueError(
            f"{dataset}: {len(paths)} readable images in {len(class_names)} classes; it takes two "
            "sub-folders with images, one a class" + _first_problems(problems)
        )
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[name] for name in names], np.int32)
    return ImageDataset(
        Path(dataset).name, images, labels, class_names, list(paths), np.array(splits),
        gallery_splits, {}, problems,
    )  # fmt: skip


def _first_problems(problems):
    return "".join(f"\n  {p['path']}: {p['reason']}" for p in problems[:5])


def _problem(path, reason, remedy):
    return {"path": str(path), "reason": reason, "remedy": remedy}


def _folder_entries(folder):
    """[(path, split, class name)] of a folder in a fixed order, and its problems."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one with a sub-folder a class")
    problems, entries = [], []
    prefixes = {"train": "train", "test": "test", "val": "validation"}

    def children(path):
        return sorted(path.iterdir(), key=lambda child: unicodedata.normalize("NFC", child.name))

    parts = {
        child: split
        for child in children(folder)
        for prefix, split in prefixes.items()
        if child.is_dir() and child.name.lower().startswith(prefix)
    }
    if not {"train", "test"} <= set(parts.values()):
        parts = {folder: ""}
    for part, split in parts.items():
        for class_folder in children(part):
            if class_folder.is_file():
                problems.append(_problem(class_folder, "not in a class folder", "move it into one"))
            if not class_folder.is_dir() or class_folder.name.startswith("."):
                continue
            name = unicodedata.normalize("NFC", class_folder.name)
            files = [path for path in sorted(class_folder.rglob("*")) if not path.is_dir()]
            visible = [path for path in files if not path.name.startswith(".")]
            if len(visible) < len(files):
                hidden = f"{len(files) - len(visible)} hidden files"
                problems.append(_problem(class_folder, hidden, "nothing: they are no images"))
            if not visible:
                problems.append(_problem(class_folder, "empty class", "add images or delete it"))
            entries += [(str(path), split, name) for path in visible]
    return sorted(entries, key=lambda e: (e[2], e[1] != "train", e[0])), problems


def _hold_out(entries, seed):
    """Give entries their splits: whole classes first, then images within the other classes.

    With train and test folders given, one training image in five becomes validation, and a class
    that only the test folder has is unseen. Otherwise a quarter of the classes becomes unseen
    (from eight classes up), and of every other class one image in five is test, one validation.
    """
    by_class = {}
    for i, (_, split, name) in enumerate(entries):
        by_class.setdefault(name, {}).setdefault(split, []).append(i)
    rng, splits = np.random.default_rng(seed), [split for _, split, _ in entries]
    undivided = [name for name, parts in by_class.items() if "" in parts]
    unseen = set(rng.permutation(undivided)[: len(undivided) // 4 if len(undivided) >= 8 else 0])
    for name, parts in by_class.items():
        if name in unseen or not parts.keys() & {"train", ""}:
            assigned = ["unseen"] * len(entries)
        else:
            pool = parts.get("train", parts.get("", []))
            fifth = len(pool) // 5
            kinds = ["validation"] * fifth + ["test"] * (fifth if "" in parts else 0)
            shuffled = rng.permutation(pool)
            assigned = {i: "train" for i in pool} | dict(zip(shuffled, kinds))
            assigned |= {i: "test" for i in parts.get("test", [])}
        for i in (i for part in parts.values() for i in part):
            splits[i] = assigned[i]
    return [(path, split, name) for (path, _, name), split in zip(entries, splits)]


def _find_grocery(data_home):
    """The Grocery Store dataset's folder below `data_home`, downloaded on first use."""
    folder = data_home / "grocery_store"
    if not (folder / "classes.csv").is_file():
        try:
            archive = keras.utils.get_file(
                "grocery_store.zip", GROCERY_URL, cache_dir=data_home, cache_subdir="downloads"
            )
        except Exception as error:
            raise FileNotFoundError(
                f"{GROCERY_URL} could not be downloaded ({error}). Without a network: put the "
                f"dataset into {folder}, or set SIAMESE_DATA_HOME to the folder that holds "
                "grocery_store/, or run with SIAMESE_DATASET=toys"
            ) from error
        partial = data_home / "grocery_store.part"
        with zipfile.ZipFile(archive) as content:
            content.extractall(partial)
        (partial / f"GroceryStoreDataset-{GROCERY_COMMIT}/dataset").rename(folder)
    return folder


def _grocery_entries(folder):
    """The authors' splits, and their one iconic picture a class as split "reference"."""
    rows = [
        line.split(",") for line in (folder / "classes.csv").read_text("utf-8").splitlines()[1:]
    ]
    names = {int(row[1]): row[0] for row in rows}
    entries = [(str(folder / row[4].strip("/ ")), "reference", row[0]) for row in rows]
    for split in ("train", "validation", "test"):
        lines = (folder / f"{split[:3] if split == 'validation' else split}.txt").read_text("utf-8")
        for line in lines.splitlines():
            path, label, _ = line.split(",")
            entries.append((str(folder / path), split, names[int(label)]))
    return sorted(entries, key=lambda e: (e[2], e[1], e[0]))


def decode_image(path, size):
    """One file as a (size, size, 3) uint8 RGB array: upright, over white, stretched to a square.

    Raises OSError or ValueError, naming the file, for what Pillow cannot decode.
    """
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # lets JPEG decode at a lower resolution: faster
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a pixel
            image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(
                Image.new("RGBA", image.size, "white"), image.convert("RGBA")
            )
        image = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _decode_all(paths, size, cache_dir):
    """(images memmap, indices of the paths that were read, problems); decoded once, then cached."""
    stats = [
        (path, os.path.getsize(path), os.path.getmtime(path))
        for path in paths
        if os.path.exists(path)
    ]
    key = hashlib.sha256(json.dumps([size, stats]).encode()).hexdigest()[:16]
    cache, report = cache_dir / f"images-{key}.npy", cache_dir / f"images-{key}.json"
    if not (cache.exists() and report.exists()):
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial, kept, problems = cache.with_suffix(f".part{os.getpid()}"), [], []
        shape = (max(len(paths), 1), size, size, 3)
        images = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)

        def decode(path):
            try:
                return decode_image(path, size)
            except Exception as error:
                reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
                return _problem(path, reason or type(error).__name__, "replace or delete the file")

        progress = keras.utils.Progbar(len(paths), unit_name="image")
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), 512):  # bounded, so memory stays flat
                for i, result in enumerate(pool.map(decode, paths[start : start + 512]), start):
                    if isinstance(result, dict):
                        problems.append(result)
                    else:
                        images[len(kept)] = result
                        kept.append(i)
                    progress.update(i + 1)
        images.flush()
        report.write_text(json.dumps({"kept": kept, "problems": problems}))
        os.replace(partial, cache)  # a cache that exists is a whole one
    found = json.loads(report.read_text())
    images = np.load(cache, mmap_mode="r")[: len(found["kept"])]
    return images, found["kept"], found["problems"]


def _load_toys(size, seed, cache_dir, seen=80, validation=12, unseen=24):
    """Of a seen class every fourth image is for test; the other classes are held out whole.

    32 images of a seen class, so that 24 are left to train on, and 24 of each other class.
    """
    sizes = [32] * seen + [24] * (validation + unseen)
    recipe = (ROOT / "toys.py").read_text("utf-8") + str((size, seed, sizes))
    cache = cache_dir / f"toys-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.npz"
    if not cache.exists():
        images, labels, factors = render_toys(sizes, size, seed)
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".part{os.getpid()}.npz")
        np.savez(partial, images=images, labels=labels, **factors)
        os.replace(partial, cache)
    with np.load(cache) as stored:
        factors = dict(stored)
    images, labels = factors.pop("images"), factors.pop("labels")
    instance = np.concatenate([np.arange(n) for n in sizes])
    splits = np.where(instance % 4 == 3, "test", "train").astype("<U10")
    splits[labels >= seen] = "validation"
    splits[labels >= seen + validation] = "unseen"
    names = [f"toy {c:03}" for c in range(len(sizes))]
    paths = [f"toys/{names[c]}/{i:02}" for c, i in zip(labels, instance)]
    return ImageDataset("toys", images, labels, names, paths, splits, factors=factors)
