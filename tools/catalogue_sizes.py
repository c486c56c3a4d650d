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

import numpy as np

import siamese_utils as su
from workbook import ROOT, images, retrieval, settings, trunk_cache
from workbook.start import keras

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


def enter(embedding, data, sizes):
    """Embeddings (len(sizes) * n, dim) of the n catalogue pictures at each size, their classes."""
    reference = data.where("reference")
    pictures = np.concatenate([smaller(data.images[reference], size) for size in sizes])
    return su.embed(embedding, pictures), np.tile(data.labels[reference], len(sizes))


if __name__ == "__main__":
    words = {"preset": "full", "dataset": "grocery", "backbone": "EfficientNetLite0"}
    config = settings.read_config(**words, data_home=(sys.argv[1:] or [""])[0])
    data = images.load_from_config(config)
    folders = [config.run_dir, *sorted(config.run_dir.glob("seed-*"))]
    trained = [keras.models.load_model(folder / "embedding.keras") for folder in folders]
    trunk, _ = su.split_at_freeze_point(trained[0])  # frozen: the same in all of them
    features = trunk_cache.trunk_features(trunk, data.images, config.runs / "cache")
    right, alone = {}, len(data.where("reference"))
    for embedding in trained:
        _, tail = su.split_at_freeze_point(embedding)
        entries, classes = enter(embedding, data, SIZES)
        for split in ("validation", "test"):
            rows = data.where(split)
            queries = su.embed(tail, features, rows=rows)
            for what, count in (("as it is", alone), ("at these sizes", len(entries))):
                found = retrieval.retrieval_metrics(
                    queries, data.labels[rows], entries[:count], classes[:count], (1,), True
                )
                right.setdefault(f"{split}, {what}", []).append(found["recall@1"])
    table = {"sizes": SIZES, "trainings": len(trained)}
    for what, answers in right.items():
        shares = [float(one.mean()) for one in answers]
        sd = np.std(shares, ddof=1) if len(shares) > 1 else np.nan
        low, high = retrieval.bootstrap_interval(np.mean(answers, axis=0))
        print(f"{what:26} {np.mean(shares):.3f} ± {sd:.3f} [{low:.3f}, {high:.3f}]")
        table[what] = [round(share, 3) for share in shares]
    file = ROOT / "results/grocery/catalogue_sizes.json"
    file.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
