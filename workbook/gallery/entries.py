"""The entries of a gallery, which are labelled embeddings, and how images compare with them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from workbook.gallery.calibration import relative_margins
from workbook.gallery.search import nearest_entries, squared_norms
from workbook.gallery.threshold import Comparison
from workbook.support.text import printable

# Two embeddings of one image differ by rounding. Features kept as float16 are off by 2**-11 of
# their value at most; here an embedding may be off by twice that, of which this is the square.
COPY_TOLERANCE = 2.0**-20


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of a gallery. They cannot be changed; `select` and `append` give others.

    Attributes
    ----------
    embeddings
        (m, dim) float32.
    labels, paths
        The class and the file of each, (m,) strings; the path is "" for an array.
    hashes
        `hash_image` of each entry's image, (m,) strings; "" where the image is not at hand.
    enrolled
        Whether each was added by hand, (m,) bool.
    rows
        The number of each entry's row in the gallery's files, (m,) int, ascending; -1 for the new
        ones, which come last.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    hashes: np.ndarray
    enrolled: np.ndarray
    rows: np.ndarray

    def __post_init__(self) -> None:
        for name in ARRAYS:  # a change in place would not reach the files
            array = getattr(self, name).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def new(
        cls, embeddings: np.ndarray, labels: Any, paths: Any, hashes: Any, enrolled: Any
    ) -> "Entries":
        """Return entries that are in no file, from arrays or lists."""
        labels, paths, hashes = (np.asarray(texts, np.str_) for texts in (labels, paths, hashes))
        rows = np.full(len(embeddings), -1)
        return cls(embeddings, labels, paths, hashes, np.asarray(enrolled, bool), rows)

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by their names."""
        return {name: getattr(self, name) for name in ARRAYS}

    def select(self, which: np.ndarray) -> "Entries":
        """Return the entries at these places or of this mask (m,), in ascending order."""
        return Entries(**{name: array[which] for name, array in self.arrays().items()})

    def append(self, more: "Entries") -> "Entries":
        """Return these entries and then more, which are new in the files."""
        more = replace(more, rows=np.full(len(more), -1))
        added = more.arrays()
        return Entries(**{n: np.concatenate([a, added[n]]) for n, a in self.arrays().items()})

    def append_enrolled(self, more: "Entries") -> "Entries":
        """Append entries of another gallery as added by hand.

        A path that stands for another image here gets a number.
        """
        taken = set(self.paths.tolist()) - {""}
        renamed = {path: _free_name(path, taken) for path in set(more.paths.tolist())}
        paths = np.array([renamed[path] for path in more.paths.tolist()], np.str_)
        return self.append(replace(more, paths=paths, enrolled=np.full(len(more), True)))

    @cached_property
    def norms(self) -> np.ndarray:
        """The squared lengths of the embeddings, (m,) float32."""
        return squared_norms(self.embeddings)

    @cached_property
    def classes(self) -> np.ndarray:
        """The number of each entry's class, (m,) int."""
        number: dict[str, int] = {}
        labels = self.labels.tolist()  # numbering a million is ten times as fast as sorting them
        return np.array([number.setdefault(label, len(number)) for label in labels], int)

    @cached_property
    def images(self) -> np.ndarray:
        """The number of the image behind each, (m,): one may be an entry at several sizes.

        An image is told by its hash or, in galleries that have none, by its label and path.
        """
        first: dict[Any, int] = {}
        keys = zip(self.hashes.tolist(), self.labels.tolist(), self.paths.tolist())
        return np.array(
            [
                first.setdefault(digest or ((label, path) if path else entry), entry)
                for entry, (digest, label, path) in enumerate(keys)
            ],
            int,
        )

    def search(
        self, queries: np.ndarray, k: int, query_groups: Any = None, entry_groups: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances and places of the nearest entries; see `nearest_entries`."""
        groups = query_groups, entry_groups
        return nearest_entries(queries, self.embeddings, k, self.norms, *groups)

    def find_copies(
        self, embeddings: np.ndarray, hashes: Sequence[str] | np.ndarray | None = None
    ) -> np.ndarray:
        """Find the entries that are the same images as these; see `Gallery.find_copies`."""
        embeddings = np.asarray(embeddings, np.float32)
        hashes = [""] * len(embeddings) if hashes is None else [str(digest) for digest in hashes]
        distances, nearest = (found[:, 0] for found in self.search(embeddings, 1))
        copies = np.where(distances <= COPY_TOLERANCE * squared_norms(embeddings), nearest, -1)
        wanted = set(hashes) - {""}
        own = enumerate(self.hashes.tolist() if wanted else ())
        entry_of = {digest: entry for entry, digest in own if digest in wanted}
        for row, digest in enumerate(hashes):
            if digest and digest in entry_of:
                copies[row] = entry_of[digest]
            elif digest and copies[row] >= 0 and self.hashes[copies[row]]:
                copies[row] = -1  # both contents are known, and they differ
        return copies

    def check_no_second_label(
        self, embeddings: np.ndarray, labels: Any, paths: Any, hashes: Any
    ) -> None:
        """Raise ValueError for an image that has another label, here or among the new ones."""
        first: dict[str, tuple[str, str]] = {}
        for label, path, digest in zip(labels, paths, hashes):
            if digest and (former := first.setdefault(digest, (label, path)))[0] != label:
                raise ValueError(_second_label(path, label, *former))
        copies = self.find_copies(embeddings, hashes)
        for row in np.flatnonzero(copies >= 0):
            if (former := self.labels[copies[row]]) != labels[row]:
                raise ValueError(
                    _second_label(paths[row], labels[row], former, self.paths[copies[row]])
                )

    def compare(self, embeddings: np.ndarray, labels: Sequence[str]) -> Comparison:
        """Compare images that are no entries with these; see `Gallery.compare`."""
        is_known = np.isin(labels, self.labels) if len(labels) else np.zeros(0, bool)
        return self._compare(np.asarray(embeddings, np.float32), labels, is_known, None)

    def compare_with_others(self) -> Comparison:
        """Compare each entry with those of all other images; see `Gallery.compare_entries`."""
        images_per_class = np.bincount(self.classes[np.unique(self.images)])
        is_known = images_per_class[self.classes] > 1
        return self._compare(self.embeddings, self.labels, is_known, self.images)

    def measure_to_other_classes(self) -> np.ndarray:
        """Return each entry's squared distance to the nearest of another class, (m,) float64."""
        return self.search(self.embeddings, 1, self.classes, self.classes)[0][:, 0]

    def _compare(
        self,
        embeddings: np.ndarray,
        labels: Sequence[str] | np.ndarray,
        is_known: np.ndarray,
        images: np.ndarray | None,
    ) -> Comparison:
        """Compare images of these labels; if they are the entries, `images` are their numbers."""
        distances, nearest = (found[:, 0] for found in self.search(embeddings, 1, images, images))
        _, numbers = np.unique([*self.labels, *labels], return_inverse=True)
        entry_classes, classes = np.split(numbers, [len(self)])
        to_others = self.search(embeddings, 1, classes, entry_classes)[0][:, 0]
        is_right = entry_classes[nearest] == classes
        # The nearest entry of another label than the nearest one's. Where that label is wrong, it
        # may be the entry's own image, which does not count.
        to_runner_up, wrong = to_others.copy(), np.flatnonzero(~is_right)
        most = 1 if images is None else 1 + int(np.bincount(images).max(initial=0))
        found, entries = self.search(
            embeddings[wrong], most, entry_classes[nearest[wrong]], entry_classes
        )
        if images is not None:
            found[images[entries] == images[wrong, None]] = np.inf
        to_runner_up[wrong] = found.min(axis=1)
        return Comparison(
            distances=distances,
            is_known=is_known,
            is_right=is_known & is_right,
            margins=relative_margins(distances, to_runner_up),
            classes=classes,
            distances_to_other_classes=to_others,
            strangers_are_simulated=images is not None or bool(is_known.all()),
        )


ARRAYS = tuple(field.name for field in fields(Entries))


def check_finite(embeddings: np.ndarray) -> None:
    """Raise ValueError for an embedding that is not finite, or too large to be squared."""
    if not (squared_norms(embeddings) < 1e37).all():
        raise ValueError("an embedding is not finite: the model or an image is broken")


def _free_name(path: str, taken: set[str]) -> str:
    """Return the path, with the first number from 2 on if it is taken."""
    number, name = 1, path
    while name in taken:
        number += 1
        name = f"{path} ({number})"
    return name


def _second_label(path: str, label: str, former: str, entry: str) -> str:
    shown = printable(path or "an image")
    where = f" ({printable(entry)})" if entry else ""
    return (
        f'{shown} cannot be "{printable(label)}": the same image is in the gallery as '
        f'"{printable(former)}"{where}. Choose that label, or remove that entry first'
    )
