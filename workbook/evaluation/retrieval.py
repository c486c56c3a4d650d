"""Retrieval and verification: what an embedding is worth, as numbers.

Explained in notebook 05.
"""

import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from siamese_utils import checked_labels


def _neighbors(query, gallery, k, own=None):
    """`nearest_neighbors`, where `own` (n,) is each query's own place in the gallery, or None."""
    spare = own is not None
    if not 1 <= k <= len(gallery) - spare:
        raise ValueError(f"k={k}: a query has {len(gallery) - spare} candidates in the gallery")
    asked = min(k + 1 + spare, len(gallery))

    def ordered(distances, indices, own):
        if spare:
            distances[indices == own[:, None]] = np.inf
        distances = np.square(distances, dtype=np.float32)
        order = np.lexsort((indices, distances))
        return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)

    search = NearestNeighbors(n_neighbors=asked, algorithm="brute").fit(gallery)
    distances, indices = ordered(*search.kneighbors(query), own)
    if asked < len(gallery):  # equals across the k-th place: which of them came is chance
        for row in np.flatnonzero(distances[:, k - 1] == distances[:, k]):
            mine = slice(row, row + 1)
            every = pairwise_distances(query[mine], gallery), np.arange(len(gallery))[None]
            exact = ordered(*every, own[mine] if spare else None)
            distances[row], indices[row] = (array[0, :asked] for array in exact)
    return distances[:, :k], indices[:, :k]


def nearest_neighbors(query, gallery=None, k=1):
    """The k closest gallery rows of every query row: (distances, indices), each (n, k).

    query (n, dim), gallery (m, dim); `gallery=None` means leave-one-out: the query itself is
    excluded by its index, not by its distance, so that an exact duplicate counts. Squared Euclidean
    float32 distances, ascending, ties to the lowest index. scikit-learn searches in blocks: no
    n x m matrix is held. Raises ValueError if k is above the number of candidates.
    Explained in notebook 05, "The closest training image".
    """
    if gallery is None:
        return _neighbors(query, query, k, own=np.arange(len(query)))
    return _neighbors(query, gallery, k)


def retrieval_metrics(
    query, query_labels, gallery=None, gallery_labels=None, ks=(1, 2, 4, 8), per_query=False
):
    """recall@k, precision@1, R-precision and MAP@R, each 0..1, as a dict of floats.

    With R the number of gallery images of the query's class (itself excluded): recall@k is the
    share of queries with one of them among the k closest; R-precision the share of them among the R
    closest; MAP@R the mean over i = 1..R of precision@i where the i-th is of the class, else 0
    (Musgrave et al. 2020, section 3.2). `gallery=None` means leave-one-out. Queries with R = 0
    cannot be answered and are left out; ValueError if none is left, and for labels that are not one
    a row, (n,) (see `checked_labels`). `per_query=True` gives arrays, one value an answered query.
    Explained in notebook 05, "Measures".
    """
    query, alone = np.asarray(query, np.float32), gallery is None
    query_labels = others = checked_labels(query_labels, len(query))
    gallery = query if alone else np.asarray(gallery, np.float32)
    if not alone:
        others = checked_labels(gallery_labels, len(gallery))
    if others.dtype.kind != query_labels.dtype.kind:
        raise ValueError(f"query labels {query_labels[:1]}, gallery labels {others[:1]}: one kind")
    values, counts = np.unique(others, return_counts=True)
    place = np.searchsorted(values, query_labels).clip(max=len(values) - 1)
    relevant = np.where(values[place] == query_labels, counts[place] - alone, 0)
    asked = np.flatnonzero(relevant)
    if not len(asked):
        raise ValueError("no query has another image of its class to find")
    k = min(max(*ks, relevant.max()), len(others) - alone)
    rank, found = np.arange(1, k + 1), []
    for part in np.array_split(asked, -(-len(asked) * k // 2**22)):  # bounds the memory at large R
        _, indices = _neighbors(query[part], gallery, k, part if alone else None)
        hits = others[indices] == query_labels[part, None]
        within = hits & (rank <= relevant[part, None])
        precision = hits.cumsum(1) / rank
        row = {f"recall@{k}": hits[:, :k].any(1) for k in ks}
        row["precision@1"] = hits[:, 0]
        row["r_precision"] = within.sum(1) / relevant[part]
        row["map@r"] = (precision * within).sum(1) / relevant[part]
        found.append(row)
    result = {name: np.concatenate([row[name] for row in found]).astype(float) for name in found[0]}
    return result if per_query else {name: float(v.mean()) for name, v in result.items()}


def raw_pixels(images, side=16):
    """The embedding to beat: images shrunk to side x side by block means, as one row of numbers.

    images (n, size, size, 3), also a memmap: a block of rows is read at a time -> (n, side * side *
    3) float32, 0..255. Pixels past the last whole block are left out. Raises ValueError for a side
    above the size. Explained in notebook 01, "The baseline to beat: raw pixels".
    """
    step = images.shape[1] // side
    if not step:
        raise ValueError(f"side={side} is above the {images.shape[1]} pixels of the images")
    rows = np.empty((len(images), side * side * 3), np.float32)
    for first in range(0, len(images), 512):
        block = np.asarray(images[first : first + 512, : side * step, : side * step])
        block = block.reshape(len(block), side, step, side, step, 3).mean((2, 4), dtype=np.float32)
        rows[first : first + 512] = block.reshape(len(block), -1)
    return rows


def split_recall(embeddings, dataset, split):
    """recall@1 of one split of `dataset`, from the embeddings (n, dim) of all its images.

    Classes that training sees: the closest *training* image must be of the class. Classes held out
    whole: the closest *other* image of the split must be (leave-one-out). nan for an empty split.
    Explained in notebook 05, "The closest training image" and "Classes never seen".
    """
    rows, train = dataset.where(split), dataset.where("train")
    if split == "test":
        train = dataset.gallery
    if not len(rows):
        return float("nan")
    checked_labels(dataset.labels, len(embeddings))  # one embedding an image
    query, labels = embeddings[rows], dataset.labels[rows]
    if not np.isin(labels, dataset.labels[train]).any():
        return retrieval_metrics(query, labels, ks=(1,))["recall@1"]
    _, indices = nearest_neighbors(query, embeddings[train])
    return float((dataset.labels[train][indices[:, 0]] == labels).mean())


def bootstrap_interval(values, seed=42):
    """95 % interval (low, high) of the mean of `values` (n,), one value a query, as two floats.

    Percentile bootstrap, 9,999 resamples (Efron and Tibshirani 1993, section 13.3), for example of
    `retrieval_metrics(..., per_query=True)["map@r"]`. It covers the choice of the queries, *not*
    the seed of the training: for that, train again. Raises ValueError unless there are two finite
    values. Explained in notebook 05, "Measures".
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"values of shape {values.shape}: an interval takes two or more finite numbers in one "
            "row, such as one measure of retrieval_metrics(..., per_query=True)"
        )
    at_once = max(1, 2**20 // len(values))  # bounds the memory
    interval = bootstrap(
        (values,), np.mean, batch=at_once, method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)
