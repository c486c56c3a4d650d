"""Retrieval: is the closest image of the right class? Notebook 05 explains the measures."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from siamese_utils import check_labels
from workbook.evaluation.collapse import NOT_FINITE

RESAMPLES = 9_999


class SplitDataset(Protocol):
    """What the functions on splits need of a dataset; `ImageDataset` has it."""

    labels: np.ndarray

    def where(self, *splits: str) -> np.ndarray:
        """Return the indices of the images in any of `splits`."""

    @property
    def gallery(self) -> np.ndarray:
        """Indices of every image that a test image is compared with."""


def _search(
    query: np.ndarray, gallery: np.ndarray, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Answer as `nearest_neighbors` does; `own` (n,) is each query's own row of the gallery."""
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise ValueError(NOT_FINITE)
    candidates = len(gallery) - (own is not None)
    if not 1 <= k <= candidates:
        raise ValueError(f"k={k}: a query has {candidates} candidates in the gallery")
    asked = min(k + 1 + (own is not None), len(gallery))  # one more shows a tie at the k-th place

    def order(
        distances: np.ndarray, indices: np.ndarray, own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sort each row by squared float32 distance, then by index; the query itself comes last."""
        if own is not None:
            distances[indices == own[:, None]] = np.inf
        distances = np.square(distances, dtype=np.float32)
        places = np.lexsort((indices, distances))
        return np.take_along_axis(distances, places, 1), np.take_along_axis(indices, places, 1)

    search = NearestNeighbors(n_neighbors=asked, algorithm="brute").fit(gallery)
    distances, indices = search.kneighbors(query)
    distances, indices = order(distances, indices, own)
    if asked < len(gallery):  # of several at the k-th distance, the search returned any
        for row in np.flatnonzero(distances[:, k - 1] == distances[:, k]):
            one = slice(row, row + 1)
            to_all = pairwise_distances(query[one], gallery)
            exact = order(to_all, np.arange(len(gallery))[None], None if own is None else own[one])
            distances[row], indices[row] = (array[0, :asked] for array in exact)
    return distances[:, :k], indices[:, :k]


def nearest_neighbors(
    query: np.ndarray, gallery: np.ndarray | None = None, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k closest gallery rows of every query row.

    Parameters
    ----------
    query : (n, dim) numbers.
    gallery : (m, dim) numbers. None means leave-one-out: the queries are the gallery, and each
        query itself is excluded by its index (not by its distance, so an exact duplicate counts).
    k : how many rows to find, at least 1.

    Returns
    -------
    distances : (n, k) float32, squared Euclidean, ascending.
    indices : (n, k) int64 rows of the gallery. Of equal distances the lowest index comes first.

    Raises
    ------
    ValueError : if `k` is above the number of candidates, for NaN or infinity.

    Notes
    -----
    scikit-learn searches in blocks, so no n x m matrix is held in memory.
    """
    if gallery is None:
        return _search(query, query, k, own=np.arange(len(query)))
    return _search(query, gallery, k)


def retrieval_metrics(
    query: ArrayLike,
    query_labels: ArrayLike,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    per_query: bool = False,
) -> dict[str, Any]:
    """Measure how well images of the query's class are found: recall@k, precision@1, MAP@R.

    Let R be the number of gallery images of the query's class, without the query itself. Then
    recall@k is the share of queries with at least one of them among the k closest, R-precision the
    share of them among the R closest, and MAP@R the mean over i = 1..R of the precision among the
    i closest where the i-th is of the class, else 0. A query with R = 0 cannot be answered and does
    not count.

    Parameters
    ----------
    query, gallery : (n, dim) and (m, dim) embeddings. Without a gallery: leave-one-out.
    query_labels, gallery_labels : (n,) and (m,) whole numbers or words, as in `check_labels`.
    ks : the k of recall@k.
    per_query : give one value per answered query instead of the means.

    Returns
    -------
    dict with the keys "recall@<k>", "precision@1", "r_precision" and "map@r". The values are floats
    0..1 or, with `per_query`, arrays (number of answered queries,) of float64.

    Raises
    ------
    ValueError : if no query can be answered, or for labels that are not one per row.

    References
    ----------
    Musgrave, Belongie and Lim 2020, "A metric learning reality check", section 3.2.
    """
    query = np.asarray(query, np.float32)
    labels = check_labels(query_labels, len(query))
    own = np.arange(len(query)) if gallery is None else None
    entries = query if gallery is None else np.asarray(gallery, np.float32)
    entry_labels = labels if gallery is None else check_labels(gallery_labels, len(entries))
    if entry_labels.dtype.kind != labels.dtype.kind:
        raise ValueError(
            f"query labels such as {labels[:1]} and gallery labels such as {entry_labels[:1]}: "
            "both must be numbers, or both words"
        )
    relevant = _count_companions(labels, entry_labels, excluded=own is not None)
    asked = np.flatnonzero(relevant)
    if not len(asked):
        raise ValueError("no query has another image of its class to find")
    k = min(max(*ks, relevant.max()), len(entries) - (own is not None))
    rank, parts = np.arange(1, k + 1), []
    for part in np.array_split(asked, -(-len(asked) * k // 2**22)):  # bounds the memory at large R
        _, indices = _search(query[part], entries, k, None if own is None else part)
        hits = entry_labels[indices] == labels[part, None]
        within = hits & (rank <= relevant[part, None])
        precision = hits.cumsum(1) / rank
        row = {f"recall@{k}": hits[:, :k].any(1) for k in ks}
        row["precision@1"] = hits[:, 0]
        row["r_precision"] = within.sum(1) / relevant[part]
        row["map@r"] = (precision * within).sum(1) / relevant[part]
        parts.append(row)
    values = {name: np.concatenate([row[name] for row in parts]).astype(float) for name in parts[0]}
    return values if per_query else {name: float(each.mean()) for name, each in values.items()}


def _count_companions(labels: np.ndarray, others: np.ndarray, excluded: bool) -> np.ndarray:
    """Count, for each label, the equal ones among `others`, without itself if `excluded`."""
    values, counts = np.unique(others, return_counts=True)
    places = np.searchsorted(values, labels).clip(max=len(values) - 1)
    return np.where(values[places] == labels, counts[places] - excluded, 0)


def raw_pixels(images: np.ndarray, side: int = 16) -> np.ndarray:
    """Shrink images to side x side by the means of blocks: the embedding that has to be beaten.

    Parameters
    ----------
    images : (n, size, size, 3), 0..255; a memmap is read a block of rows at a time.
    side : pixels per row and column of the small image, at most `size`. Pixels past the last whole
        block are not used.

    Returns
    -------
    (n, side * side * 3) float32, 0..255.
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


def is_leave_one_out(dataset: SplitDataset) -> bool:
    """Tell whether the dataset is too small for test images, so that training images are asked."""
    return getattr(dataset, "uses_leave_one_out", not len(dataset.where("test")))


def split_neighbors(
    embeddings: np.ndarray, dataset: SplitDataset, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Find the closest allowed image of each image of one split.

    Which images may answer depends on the split. For classes that training sees, they are the
    training images (for "test": the dataset's whole gallery). For classes that were held out, they
    are the other images of the split (leave-one-out). If the dataset is too small for a test
    split, the question of "test" is put to the gallery itself, by leave-one-out as well.

    Parameters
    ----------
    embeddings : (n, dim), one per image of the dataset.
    dataset : for example an `ImageDataset`, with labels (n,).
    split : "train", "validation", "test", "unseen" or "reference".

    Returns
    -------
    queries : (q,) the images that were asked, as rows of the dataset. Under leave-one-out these are
        only images that have a companion of their class; q may be 0.
    neighbors : (q,) the closest allowed image of each, as rows of the dataset.
    """
    labels = check_labels(dataset.labels, len(embeddings))
    queries = dataset.where(split)
    gallery = dataset.gallery if split == "test" else dataset.where("train")
    if split == "test" and not len(queries) and is_leave_one_out(dataset):
        queries = gallery
    is_seen = np.isin(labels[queries], labels[gallery]).any()
    if is_seen and not np.isin(queries, gallery).any():
        _, nearest = nearest_neighbors(embeddings[queries], embeddings[gallery])
        return queries, gallery[nearest[:, 0]]
    with_companion = _count_companions(labels[queries], labels[queries], True) > 0
    if not with_companion.any():
        return queries[:0], queries[:0]
    _, nearest = nearest_neighbors(embeddings[queries])
    return queries[with_companion], queries[nearest[with_companion, 0]]


def split_recall(embeddings: np.ndarray, dataset: SplitDataset, split: str) -> float:
    """Measure recall@1 of one split, 0..1; nan if none of its images can be asked.

    `split_neighbors` says which images may answer, and has the parameters.
    """
    queries, neighbors = split_neighbors(embeddings, dataset, split)
    if not len(queries):
        return float("nan")
    return float((dataset.labels[queries] == dataset.labels[neighbors]).mean())


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike | None = None, seed: int = 42
) -> tuple[float, float]:
    """Compute a 95 % interval of the mean of `values` by the percentile bootstrap.

    The interval covers the choice of the queries or groups, not the seed of the training: for
    that, train several times (see `results.paired_difference`).

    Parameters
    ----------
    values : (n,) finite numbers, one per query, for example of
        `retrieval_metrics(..., per_query=True)["map@r"]`.
    groups : (n,) whole numbers or words, the group of each query. Whole groups are then resampled,
        each with all of its values (cluster bootstrap). Use classes as groups for a claim about new
        classes, and visits where photographs come in visits: values of one group are alike, so
        resampling single queries would make the interval too narrow.
    seed : of the 9,999 resamples.

    Returns
    -------
    (low, high), two floats.

    Raises
    ------
    ValueError : unless there are at least two finite values and, with groups, two groups.

    References
    ----------
    Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3 (percentiles). Field
    and Welsh 2007, "Bootstrapping clustered data", section 3 (cluster bootstrap); also Davison and
    Hinkley 1997, "Bootstrap methods and their application", section 3.8.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"values of shape {values.shape}: an interval needs at least two finite numbers in one "
            "row, such as one measure of retrieval_metrics(..., per_query=True)"
        )
    group = np.arange(len(values))
    if groups is not None:
        names, group = np.unique(check_labels(groups, len(values)), return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"all values are of the group {names[0]}: two groups are needed")
    sums, sizes = np.bincount(group, values), np.bincount(group)
    rng, means = np.random.default_rng(seed), np.empty(RESAMPLES)
    at_once = max(1, 2**20 // len(sums))  # bounds the memory
    for first in range(0, RESAMPLES, at_once):
        part = means[first : first + at_once]
        drawn = rng.integers(len(sums), size=(len(part), len(sums)))
        part[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
