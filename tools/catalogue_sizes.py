"""One-shot with the catalogue picture at several sizes: results/grocery/catalogue_sizes.json.

usage: python -m tools.catalogue_sizes [DATA_HOME]

A catalogue shows a product as large as it can be, on white; a photograph of a shelf does not. So
each catalogue picture is entered several times, smaller each time, and a photograph takes the class
of the closest entry. SIZES were chosen on the validation split, with six trainings of the fifth
search of notebook 07: `search_sizes.csv` beside the result, in percent. To be used after the
README's command for `grocery`, on what its five trainings left.
"""

import json
import sys

import keras
import numpy as np

import siamese_utils as su
from workbook import ROOT, images, retrieval, settings, trunk_cache

SIZES = (1, 0.9, 0.8, 0.7)  # of the picture's own side


def smaller(pictures, share):
    """Pictures (n, side, side, 3) uint8 at `share` of their size, in the middle of white."""
    side = pictures.shape[1]
    inner = round(share * side)
    before = (side - inner) // 2
    place = slice(before, before + inner)
    shrunk = keras.ops.image.resize(np.float32(pictures), (inner, inner), antialias=True)
    made = np.full_like(pictures, 255)
    made[:, place, place] = np.clip(np.rint(shrunk), 0, 255)
    return made


def answers(embedding, data, split, sizes, cache):
    """Whether the closest catalogue entry of each image of `split` is of its class: (n,) bool."""
    trunk, tail = su.split_at_freeze_point(embedding)
    features = trunk_cache.trunk_features(trunk, data.images, cache)
    queries = su.embed(tail, features, rows=data.where(split))
    reference = data.where("reference")
    entries = np.concatenate([smaller(data.images[reference], size) for size in sizes])
    _, nearest = retrieval.nearest_neighbors(queries, su.embed(embedding, entries))
    found = data.labels[reference][nearest[:, 0] % len(reference)]
    return found == data.labels[data.where(split)]


if __name__ == "__main__":
    words = {"preset": "full", "dataset": "grocery", "backbone": "EfficientNetLite0"}
    config = settings.read_config(**words, data_home=(sys.argv[1:] or [""])[0])
    data, cache = images.load_from_config(config), config.runs / "cache"
    folders = [config.run_dir, *sorted(config.run_dir.glob("seed-*"))]
    trained = [keras.models.load_model(folder / "embedding.keras") for folder in folders]
    table = {"sizes": SIZES, "trainings": len(trained)}
    for split in ("validation", "test"):
        for name, sizes in (("as it is", (1,)), ("at these sizes", SIZES)):
            right = [answers(embedding, data, split, sizes, cache) for embedding in trained]
            shares = [float(one.mean()) for one in right]
            low, high = retrieval.bootstrap_interval(np.mean(right, axis=0))
            sd = np.std(shares, ddof=1) if len(shares) > 1 else np.nan
            print(f"{split:10} {name:14} {np.mean(shares):.3f} ± {sd:.3f} [{low:.3f}, {high:.3f}]")
            table[f"{split}, {name}"] = [round(share, 3) for share in shares]
    file = ROOT / "results/grocery/catalogue_sizes.json"
    file.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
