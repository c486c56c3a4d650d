"""An index of a large gallery, which finds the nearest entries among a part of them.

    python -m workbook index my_gallery/

The entries are sorted into lists around k-means centres (an inverted file), as 8 bits per number. A
query is compared with those in the lists of the nearest centres; the candidates are then measured
exactly. docs/large_galleries.md says when this pays. The index is made by faiss, which is not
needed otherwise.

References
----------
Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor search", section 4, for the
inverted file. Douze et al. 2024, "The Faiss library".
"""

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from workbook.gallery.arrays import check_hash
from workbook.gallery.entries import Entries
from workbook.gallery.search import nearest_entries, squared_distances
from workbook.support.text import printable

FEWEST = 1_000  # entries; fewer are compared in less time than the index takes to be read
PAYS_FROM = 200_000  # entries; from here on the user is told of an index
CANDIDATES = 256  # of each query, which are measured exactly
# The shares that have to be found where the number of lists is chosen. Of the nearest entries,
# enough that it is 0.99 for other queries, too. Of the nearest entries of another class, fewer:
# only the probability rests on them, and where one is missed, another is found that is hardly
# farther.
GOAL, GOAL_OTHERS = 0.995, 0.95
LEAST_RECALL = 0.99  # an index below it is warned of
JUDGES = 500  # entries by which the number of lists is chosen, and as many that judge it
MOST_BESIDE = 0.05  # the share of entries outside the index up to which it is used
INSTALL = "pip install faiss-cpu"


class EntryIndex:
    """An index of the first rows of a gallery's files.

    It stays as it is when entries are added or removed: removed ones are passed over, and those
    beside the index are compared with each query.

    Attributes
    ----------
    covered
        How many rows of the gallery's files it covers; those removed before have no entry in it.
    """

    def __init__(self, index: Any, covered: int):
        self._index, self.covered = index, covered
        self._placed: tuple[Entries | None, np.ndarray, int] = (None, np.zeros(0, int), 0)

    @classmethod
    def build(cls, entries: Entries, covered: int) -> "EntryIndex":
        """Make the index of entries that are all in the gallery's files.

        Raises
        ------
        ValueError
            If faiss is not installed, or there are fewer than `FEWEST` entries.
        """
        count, dim = entries.embeddings.shape
        if count < FEWEST:
            raise ValueError(
                f"the gallery has {count} entries, and an index needs {FEWEST:,}: so few are "
                "compared at once, no index is needed"
            )
        faiss = _import_faiss()
        lists = int(min(2 * np.sqrt(count), count / 39))  # with fewer each, k-means warns
        centres = faiss.IndexFlatL2(dim)
        index = faiss.IndexIVFScalarQuantizer(
            centres, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
        )
        rows = np.random.default_rng(0).choice(count, min(count, 40 * lists), replace=False)
        index.train(entries.embeddings[np.sort(rows)])
        for start in range(0, count, 2**16):
            part = slice(start, start + 2**16)
            index.add_with_ids(entries.embeddings[part], entries.rows[part])
        return cls(index, covered)

    @classmethod
    def read(cls, path: str | os.PathLike, covered: int, dim: int) -> "EntryIndex":
        """Read what `write` wrote; ValueError without faiss, or if it is of other embeddings."""
        try:
            index = _import_faiss().read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{Path(path).name} cannot be read: {error}") from error
        if index.d != dim or index.ntotal > covered:
            raise ValueError(f"{Path(path).name} is an index of other entries")
        return cls(index, covered)

    def write(self, path: str | os.PathLike) -> None:
        """Write the index to a file; OSError if the disk does not take it."""
        try:
            _import_faiss().write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"the index could not be written: {error}") from error

    @property
    def lists(self) -> tuple[int, int]:
        """How many lists each query is compared with, and how many there are."""
        return self._index.nprobe, self._index.nlist

    def why_outdated(self, entries: Entries) -> str | None:
        """Return why all entries are compared instead, or None while the index serves."""
        beside = len(entries) - self._place(entries)[1]
        if beside <= MOST_BESIDE * len(entries):
            return None
        return f"{beside:,} of {len(entries):,} entries were added after the index was built"

    def _place(self, entries: Entries) -> tuple[np.ndarray, int]:
        """Return the place of each row's entry, or -1, and the first place beside the index."""
        known, places, first = self._placed
        if known is not entries:
            first = int(np.count_nonzero((entries.rows >= 0) & (entries.rows < self.covered)))
            places = np.full(self.covered, -1)
            places[entries.rows[:first]] = np.arange(first)
            self._placed = entries, places, first
        return places, first

    def search(
        self, entries: Entries, queries: np.ndarray, k: int, candidates: int = CANDIDATES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest entries, which may miss some, and others; the distances are exact.

        Parameters
        ----------
        entries
            The gallery's entries as they are now, at least k.
        queries
            Embeddings (n, dim) float32.
        candidates
            How many entries of the index are measured exactly for each query.

        Returns
        -------
        tuple of arrays
            Squared distances (n, c) float64 and places (n, c), as `nearest_entries` gives them. The
            first k of each row are the answer. The others are the remaining candidates, among
            which is often one of another class; infinity and -1 stand where there are no more.
        """
        candidates = max(candidates, k)
        distances, found = self._search_lists(entries, queries, candidates, candidates)
        # Where too many of the candidates were removed since, the answer could lie behind them.
        few = np.flatnonzero(np.isinf(distances[:, :k]).any(axis=1))
        if len(few):
            distances[few], found[few] = np.inf, -1
            distances[few, :k], found[few, :k] = entries.search(queries[few], k)
        return distances, found

    def _search_lists(
        self, entries: Entries, queries: np.ndarray, k: int, candidates: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same; infinity and -1 where there are fewer than k candidates."""
        queries = np.ascontiguousarray(queries, np.float32)
        places, first = self._place(entries)
        _, rows = self._index.search(queries, candidates)
        found = np.where(rows >= 0, places[rows], -1)
        distances = np.full(found.shape, np.inf)
        of_query, of_rank = np.nonzero(found >= 0)
        distances[of_query, of_rank] = squared_distances(
            queries, of_query, entries.embeddings, found[of_query, of_rank]
        )
        if first < len(entries):
            others = entries.embeddings[first:], k, entries.norms[first:]
            more, beside = nearest_entries(queries, *others)
            distances = np.concatenate([distances, more], axis=1)
            found = np.concatenate([found, np.where(beside >= 0, first + beside, -1)], axis=1)
        order = np.lexsort((found, distances))[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(found, order, 1)

    def measure_to_others(
        self, entries: Entries, queries: np.ndarray, own_classes: np.ndarray
    ) -> np.ndarray:
        """Return each query's distance (n,) to the nearest entry found of another class.

        Where all candidates are of the class, more are asked for, and at last all entries.
        """
        nearest = np.full(len(queries), np.inf)
        for candidates in (CANDIDATES, 8 * CANDIDATES):
            rows = np.flatnonzero(np.isinf(nearest))
            distances, places = self._search_lists(entries, queries[rows], candidates, candidates)
            distances[entries.classes[places] == own_classes[rows, None]] = np.inf
            nearest[rows] = distances.min(axis=1)
        rows = np.flatnonzero(np.isinf(nearest))
        exact = entries.search(queries[rows], 1, own_classes[rows], entries.classes)
        nearest[rows] = exact[0][:, 0]
        return nearest

    def choose_lists(self, entries: Entries) -> dict[str, float]:
        """Choose how many lists to search by some entries, and measure the index on others.

        Each entry is a query that is compared with the entries of other images. The number is
        doubled until both kinds of recall reach their goals, or all lists are searched.

        Returns
        -------
        dict
            recall_at_1, the share of the judging entries whose nearest entry is found, or one at
            the same distance; recall_of_others, the same of the nearest entry of another class,
            on which the probability rests; milliseconds of a query in the index, and
            milliseconds_exact where all entries are compared.
        """
        count = min(JUDGES, len(entries) // 2)
        rows = np.random.default_rng(1).choice(len(entries), 2 * count, replace=False)
        queries, images, classes = entries.embeddings[rows], entries.images, entries.classes
        exact = entries.search(queries, 1, images[rows], images)[0][:, 0]
        exact_others = entries.search(queries, 1, classes[rows], classes)[0][:, 0]

        def measure(part: slice) -> list[float]:
            found = self._search_lists(entries, queries[part], CANDIDATES, CANDIDATES)
            found[0][images[found[1]] == images[rows[part], None]] = np.inf
            others = self.measure_to_others(entries, queries[part], classes[rows[part]])
            pairs = ((found[0].min(axis=1), exact[part]), (others, exact_others[part]))
            return [float((a <= b * (1 + 1e-9)).mean()) for a, b in pairs]

        self._index.nprobe = 1
        goals = np.array([GOAL, GOAL_OTHERS])
        while (measure(slice(count)) < goals).any() and self._index.nprobe < self._index.nlist:
            self._index.nprobe = min(2 * self._index.nprobe, self._index.nlist)
        recall_at_1, recall_of_others = measure(slice(count, 2 * count))
        return {
            "recall_at_1": recall_at_1,
            "recall_of_others": recall_of_others,
            "milliseconds": _median_milliseconds(lambda x: self.search(entries, x, 5), queries),
            "milliseconds_exact": _median_milliseconds(lambda x: entries.search(x, 5), queries[:9]),
        }


def _median_milliseconds(search: Any, queries: np.ndarray) -> float:
    times = []
    for query in queries[:101]:
        start = time.perf_counter()
        search(query[None])
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def open_index(folder: Path, about: dict[str, Any], dim: int) -> EntryIndex | None:
    """Return the index that gallery.json names; if it cannot be read, say so and return None."""
    facts = about["index"]
    covered = sum(part["entries"] for part in about["parts"][: facts["parts"]])
    try:
        check_hash(folder / facts["file"], facts["sha256"])
        return EntryIndex.read(folder / facts["file"], covered, dim)
    except ValueError as error:
        print(f"the index is not used, and all entries are compared: {printable(error)}")
        return None


def advise_index(folder: str | os.PathLike) -> str:
    """Return the sentence that says how an index is built, and what is missing for it."""
    needs = "" if is_installed() else f", after {INSTALL}"
    return f"an index is built by: python -m workbook index {printable(folder)}{needs}"


def is_installed() -> bool:
    """Return whether faiss can be imported."""
    return find_spec("faiss") is not None


def _import_faiss() -> Any:
    if not is_installed():
        raise ValueError(f"an index needs the package faiss: {INSTALL}")
    import faiss

    return faiss
