"""Measure galleries of 1,000 to 1,000,000 entries: time, memory and, with an index, recall.

    python -m tools.large_galleries                  # all sizes
    python -m tools.large_galleries 1000 10000       # these sizes only

The embeddings are drawn: 256 numbers of length 1, in classes of 100 entries. Rows go to
`results/large_galleries.csv`, where those of other sizes stay. What concerns the index needs faiss
(pip install faiss-cpu); without it those columns are empty. Notebook 9 plots the table.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workbook import ROOT
from workbook.evaluation.benchmark import timed
from workbook.support.atomic_files import write_rows

SIZES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
TABLE = ROOT / "results" / "large_galleries.csv"
DIM, PER_CLASS, QUERIES = 256, 100, 1_000


def draw_embeddings(count: int, classes: np.ndarray, seed: int) -> np.ndarray:
    """Draw embeddings (count, 256) float32 of length 1 around the centres of their classes.

    The centres vary in 64 directions, as far as 99 % of the variance of trained embeddings lies in
    fewer directions than they have numbers. `classes` are the class numbers (count,).
    """
    basis = np.random.default_rng(0).normal(size=(64, DIM)).astype(np.float32) / 8
    rng, vectors = np.random.default_rng(seed), np.empty((count, DIM), np.float32)
    for start in range(0, count, 2**15):
        part = classes[start : start + 2**15]
        numbers, place = np.unique(part, return_inverse=True)
        centres = np.stack([np.random.default_rng([7, n]).normal(size=64) for n in numbers])
        inner = centres[place] + 0.5 * rng.normal(size=(len(part), 64))
        rows = inner.astype(np.float32) @ basis
        rows += 0.1 * rng.standard_normal(rows.shape, np.float32)
        vectors[start : start + 2**15] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def make(count: int, folder: str) -> dict[str, float]:
    """Save a gallery of drawn entries; its threshold rests on other images, half of them known."""
    from workbook.gallery.gallery import Gallery
    from workbook.support.tensorflow_start import keras

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(DIM)]
    )
    gallery, classes = Gallery(model), np.arange(count) // PER_CLASS
    names, paths = (
        np.char.mod("class %d", classes),
        np.char.mod("images/%07d.jpg", np.arange(count)),
    )
    hashes = np.char.mod("%016x", np.arange(count))
    gallery.add_embeddings(draw_embeddings(count, classes, 1), names, paths, hashes)
    numbers = np.linspace(0, 2 * classes[-1] + 1, 300).astype(int)  # the second half is unknown
    held_out = draw_embeddings(300, numbers, 2)
    gallery.fit_threshold(held_out, np.char.mod("class %d", numbers))
    return {"save_seconds": timed(lambda: gallery.save(folder))[0]}


def measure(count: int, folder: str) -> dict[str, float]:
    """Load the gallery and measure it; a process of its own, so that its memory is the peak."""
    from workbook.gallery import index
    from workbook.gallery.gallery import Gallery

    process = psutil.Process()
    before = process.memory_info().rss
    seconds, gallery = timed(lambda: Gallery.load(folder))
    row = {"load_seconds": seconds}
    row["load_peak_of_array"] = (_peak_memory() - before) / gallery.embeddings.nbytes
    classes = np.random.default_rng(3).integers(0, (count - 1) // PER_CLASS + 1, QUERIES)
    queries = draw_embeddings(QUERIES, classes, 4)
    times = [timed(lambda q=q: gallery.identify_embedding(q))[0] for q in queries[:30]]
    row["first_query_ms"], row["query_ms"] = 1000 * times[0], 1000 * float(np.median(times[1:]))
    row["slowest_query_ms"] = 1000 * max(times)
    row |= _measure_change(gallery, queries[:1], folder)
    row["queries_seconds"], exact = timed(lambda: gallery.identify_embeddings(queries))
    if not index.is_installed():
        return row
    row["index_build_seconds"], measured = timed(gallery.build_index)
    row["recall_at_1"] = measured["recall_at_1"]
    row["recall_of_others"] = measured["recall_of_others"]
    times = [timed(lambda q=q: gallery.identify_embedding(q))[0] for q in queries[:300]]
    row["index_query_ms"] = 1000 * float(np.median(times))
    row["index_queries_seconds"], found = timed(lambda: gallery.identify_embeddings(queries))
    pairs = list(zip(found, exact))
    row["recall_of_queries"] = float(np.mean([a.distance == b.distance for a, b in pairs]))
    row["same_label"] = float(np.mean([a.label == b.label for a, b in pairs]))
    row["probability_off"] = max(abs(a.probability - b.probability) for a, b in pairs)
    path = next(Path(folder).glob("index-*"))
    row["index_mb"] = path.stat().st_size / 1e6
    return row


def _measure_change(gallery: Any, embedding: np.ndarray, folder: str) -> dict[str, float]:
    """Add an entry and save: seconds, and the bytes that are written."""
    before = {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}

    def add() -> None:
        gallery.add_embeddings(embedding, ["new"], ["new.jpg"], ["f" * 16])
        gallery.save(folder)

    seconds, _ = timed(add)
    paths = [p for p in Path(folder).iterdir() if before.get(p.name) != p.stat().st_mtime_ns]
    return {"add_seconds": seconds, "add_written_mb": sum(p.stat().st_size for p in paths) / 1e6}


def _peak_memory() -> int:
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss)


def main(sizes: list[int]) -> None:
    """Measure each size in processes of its own and write the table."""
    rows = {}
    if TABLE.exists():
        with open(TABLE, encoding="utf-8", newline="") as file:
            rows = {int(row["entries"]): row for row in csv.DictReader(file)}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            row: dict[str, Any] = {"entries": size}
            for step in ("make", "measure"):
                words = [sys.executable, "-m", "tools.large_galleries", step, str(size), folder]
                out = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
                row |= json.loads(out.splitlines()[-1])
        rows[size] = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
        print(rows[size], flush=True)
        write_rows(TABLE, [rows[size] for size in sorted(rows)])


if __name__ == "__main__":
    if sys.argv[1:2] in (["make"], ["measure"]):
        steps = {"make": make, "measure": measure}
        print(json.dumps(steps[sys.argv[1]](int(sys.argv[2]), sys.argv[3])))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
