"""What you take away: a gallery of labelled embeddings that says what an image shows.

    python -m workbook build runs/toys-quick/embedding.keras my_images/ my_gallery/
    python -m workbook identify my_gallery/ photo.jpg
    python -m workbook enroll my_gallery/ "new class" new/*.jpg

A run of the notebooks saves one in `runs/<run>/gallery`. Notebook 6, "Strangers and galleries",
explains it.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siamese_utils import embed
from workbook.data.images import ImageDataset, on_white
from workbook.data.report import report_entry
from workbook.gallery import storage
from workbook.gallery.calibration import name_method, relative_margins
from workbook.gallery.entries import COPY_TOLERANCE, Entries, check_finite
from workbook.gallery.images import Image, hash_image, read_image
from workbook.gallery.index import EntryIndex, advise_index, open_index
from workbook.gallery.prototypes import average_classes, compare_with_other_means
from workbook.gallery.search import squared_norms
from workbook.gallery.threshold import (
    Comparison,
    Trials,
    choose_policy,
    collect_trials,
    describe_threshold,
)
from workbook.models.saved_models import load_model
from workbook.support.folder_lock import hold_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import list_first, normalize_label, printable

CATALOGUE_SIZES = (1, 0.9, 0.8, 0.7)  # chosen on the validation images of `grocery`
NO_TRIALS = (
    "this gallery holds no measured distances of known images and strangers, because an earlier "
    "version saved it or no threshold was chosen: build it again"
)


@dataclass(frozen=True)
class Match:
    """The answer of `Gallery.identify`.

    Attributes
    ----------
    label
        The label of the nearest entry, or "unknown" if that is farther than the threshold.
    distance
        The squared Euclidean distance to the nearest entry.
    nearest
        The k nearest entries as (label, distance, path or None). Of a gallery of prototypes these
        are the means of classes, without a path.
    probability
        Of the nearest entry's label to be right, if the gallery has the image's class; None where
        too few images were measured.
    """

    label: str
    distance: float
    nearest: list[tuple[str, float, str | None]]
    probability: float | None = None


class Gallery:
    """Labelled embeddings, and a search for the entries that are nearest to an image.

    Parameters
    ----------
    embedding_model
        A Keras model from RGB images 0..255, (batch, s, s, 3), to embeddings (batch, dim).
    prototypes
        Whether images are compared with one mean per class instead of with every entry. The
        entries are kept, so that adding or removing one changes the mean of its class.

    Attributes
    ----------
    model, size
        The embedding model and s, the side of its images in pixels.
    entries
        The entries. `embeddings`, `labels`, `paths`, `hashes` and `enrolled` are its arrays.
    threshold
        An image whose nearest entry is farther is "unknown". None, as at first, means never.
    policy
        How `fit_threshold` chose the threshold and what it measured: a dict, or None.
    trials
        The distances that were measured then; another policy and probabilities rest on them.

    Raises
    ------
    ValueError
        For a model of another kind of input.
    """

    def __init__(self, embedding_model: keras.Model, prototypes: bool = False):
        _, height, width, channels = embedding_model.input_shape
        if height is None or (height, channels) != (width, 3):
            raise ValueError(f"the model takes {embedding_model.input_shape}, not (batch, s, s, 3)")
        self.model, self.size, self.prototypes = embedding_model, height, prototypes
        self.threshold: float | None = None
        self.policy: dict[str, Any] | None = None
        self.trials: Trials | None = None
        self._saved: storage.Saved | None = None
        self._index: EntryIndex | None = None
        self._index_is_open = False
        empty = np.empty((0, embedding_model.output_shape[-1]), np.float32)
        self._set_entries(Entries.new(empty, [], [], [], []))

    @property
    def embeddings(self) -> np.ndarray:
        """The embeddings of the entries, (m, dim) float32."""
        return self.entries.embeddings

    @property
    def labels(self) -> np.ndarray:
        """The class of each entry, (m,) strings."""
        return self.entries.labels

    @property
    def paths(self) -> np.ndarray:
        """The file of each entry, (m,) strings; "" for an array."""
        return self.entries.paths

    @property
    def hashes(self) -> np.ndarray:
        """`hash_image` of each entry's image, (m,) strings; "" where the image is not at hand."""
        return self.entries.hashes

    @property
    def enrolled(self) -> np.ndarray:
        """Whether each entry was added by hand, (m,) bool: `save_over` keeps these."""
        return self.entries.enrolled

    @cached_property
    def model_weights_sha256(self) -> str:
        """The hash of the model's weights: embeddings of two models cannot be compared."""
        return storage.hash_weights(self.model)

    def _set_entries(self, entries: Entries) -> None:
        self.entries = entries
        self._means: Entries | None = None
        if self.trials:
            self.trials = replace(self.trials, are_current=False)

    @property
    def compared(self) -> Entries:
        """What images are compared with: the entries, or the means of their classes."""
        if not self.prototypes:
            return self.entries
        if self._means is None:
            self._means = average_classes(self.entries)
        return self._means

    # ------------------------------------------------------------------- 1 adding and removing

    def embed_images(
        self, images: Sequence[Image] | np.ndarray, sizes: Sequence[float] = (1,)
    ) -> tuple[np.ndarray, list[str]]:
        """Embed images; they are read a batch at a time.

        Parameters
        ----------
        images
            n paths, or arrays (s, s, 3) of RGB values 0..255, uint8 or floating point.
        sizes
            Shares of its own size at which each image is embedded, on white.

        Returns
        -------
        embeddings, hashes
            Embeddings (len(sizes) * n, dim) float32, all images at the first size, then all at
            the next; and n hashes, see `hash_image`.

        Raises
        ------
        OSError, ValueError
            If one is no image, or an array of another shape, kind or range.
        """
        dim = self.embeddings.shape[1]
        parts, bar = [np.empty((len(sizes), 0, dim), np.float32)], None
        hashes: list[str] = []
        if len(images) > 256:
            bar = keras.utils.Progbar(len(images), unit_name="image")
        for start in range(0, len(images), 64):
            batch = [read_image(image, self.size) for image in images[start : start + 64]]
            hashes += map(hash_image, batch)
            pixels = np.stack(batch)
            parts.append(np.stack([embed(self.model, on_white(pixels, share)) for share in sizes]))
            if bar:
                bar.update(start + len(batch))
        return np.concatenate(parts, axis=1).reshape(-1, dim), hashes

    def add(
        self,
        images: Sequence[Image] | np.ndarray,
        labels: Sequence[Any] | np.ndarray,
        sizes: Sequence[float] = (1,),
    ) -> None:
        """Add images by hand; `save_over` carries them over to the gallery that is built next.

        Parameters
        ----------
        images
            n paths, or arrays (s, s, 3) of RGB values 0..255.
        labels
            One label for each image; see `normalize_label`.
        sizes
            Shares of its own size at which each image becomes an entry, on white: give
            `CATALOGUE_SIZES` for catalogue images of products.

        Raises
        ------
        OSError, ValueError
            If one is no image, for a label that no class can have, and for an image that has
            another label already. Nothing is added then.
        """
        if isinstance(images, (str, Path)):
            raise ValueError(f"{str(images)!r} is one path: give a list of paths")
        labels = check_labels(labels, len(images), "images")
        embeddings, hashes = self.embed_images(images, sizes)
        paths = [str(x) if isinstance(x, (str, Path)) else "" for x in images]
        self.add_embeddings(
            embeddings,
            labels * len(sizes),
            paths * len(sizes),
            hashes * len(sizes),
            enrolled=True,
        )

    def add_embeddings(
        self,
        embeddings: np.ndarray,
        labels: Sequence[Any] | np.ndarray,
        paths: Sequence[Any] | np.ndarray | None = None,
        hashes: Sequence[str] | np.ndarray | None = None,
        model_weights_sha256: str | None = None,
        enrolled: bool = False,
    ) -> None:
        """Add entries whose embeddings are at hand.

        Parameters
        ----------
        embeddings
            What `embed` gave for this gallery's model, (n, dim).
        labels
            One label for each.
        paths, hashes
            The file and the `hash_image` of each, where known. Only with hashes is an image that
            has another label already refused.
        model_weights_sha256
            The hash of the model that made the embeddings, where the caller knows it.
        enrolled
            Whether they are added by hand, so that `save_over` keeps them.

        Raises
        ------
        ValueError
            For embeddings of another size or model, or that are not finite; for unequal lengths;
            for a label that no class can have; for an image that has another label already.
        """
        if model_weights_sha256 not in (None, self.model_weights_sha256):
            raise ValueError(
                "the embeddings are of another model, so their distances to these entries mean "
                "nothing: embed the images with gallery.model"
            )
        embeddings = np.asarray(embeddings, np.float32)
        labels = check_labels(labels, len(embeddings), "embeddings")
        paths = [""] * len(labels) if paths is None else [str(path) for path in paths]
        shape = (len(labels), self.embeddings.shape[1])
        if embeddings.shape != shape or len(paths) != len(labels):
            raise ValueError(
                f"embeddings {embeddings.shape} and {len(paths)} paths for {len(labels)} labels: "
                f"embeddings {shape} and one path for each label are needed"
            )
        check_finite(embeddings)
        if hashes is not None:
            if len(hashes) != len(labels):
                raise ValueError(f"{len(hashes)} hashes for {len(labels)} labels")
            self.entries.check_no_second_label(embeddings, labels, paths, hashes)
        hashes = [""] * len(labels) if hashes is None else hashes
        marks = np.full(len(labels), enrolled)
        new = Entries.new(embeddings, labels, paths, hashes, marks)
        self._set_entries(self.entries.append(new))

    def add_dataset(
        self, dataset: ImageDataset, embeddings: np.ndarray, rows: np.ndarray | None = None
    ) -> list[dict[str, str]]:
        """Add images of a dataset, with their labels, paths and hashes.

        Parameters
        ----------
        dataset
            What `load_images` returned, at this gallery's size.
        embeddings
            The embeddings of all its images, (n, dim).
        rows
            Which of them become entries; by default all.

        Returns
        -------
        list of dict
            One report entry (path, reason, remedy) for each image that was left out because the
            same image has two labels.
        """
        rows = np.arange(len(dataset.labels)) if rows is None else np.asarray(rows)
        hashes = [hash_image(dataset.images[i]) for i in rows]
        names = [normalize_label(dataset.class_names[dataset.labels[i]]) for i in rows]
        labels_of: dict[str, set[str]] = {}
        for digest, name in zip(hashes, names):
            labels_of.setdefault(digest, set()).add(name)
        kept = [j for j, digest in enumerate(hashes) if len(labels_of[digest]) == 1]
        self.add_embeddings(
            embeddings[rows[kept]],
            [names[j] for j in kept],
            [dataset.short_paths[rows[j]] for j in kept],
            [hashes[j] for j in kept],
        )
        return [
            report_entry(
                dataset.short_paths[rows[j]],
                f"the same image is in several classes: {list_first(sorted(labels_of[digest]))}",
                "keep it in the right one only",
            )
            for j, digest in enumerate(hashes)
            if len(labels_of[digest]) > 1
        ]

    def merge(self, other: "Gallery") -> int:
        """Add the entries of another gallery of the same model that this one does not have.

        They count as added by hand. A path that stands for another image here gets a number.

        Returns
        -------
        int
            How many entries were added.

        Raises
        ------
        ValueError
            For a gallery of another model, and for an image that has two labels in the two.
        """
        if other.model_weights_sha256 != self.model_weights_sha256:
            raise ValueError(
                "the two galleries are of different models, so their distances cannot be "
                "compared: build one of them again with the other's model"
            )
        own, more = self.entries, other.entries
        own.check_no_second_label(more.embeddings, more.labels, more.paths, more.hashes)
        new = own.find_copies(more.embeddings, more.hashes) < 0
        self._set_entries(own.append_enrolled(more.select(new)))
        return int(new.sum())

    def remove(self, label: object = None, path: object = None, image: Image | None = None) -> int:
        """Remove the entries that fit all that is given.

        Parameters
        ----------
        label, path
            A value of `labels` or `paths`.
        image
            A path or an array. The entries of the same image are removed, at all their sizes.

        Returns
        -------
        int
            How many entries were removed.

        Raises
        ------
        ValueError
            If no entry fits.
        """
        if label is None and path is None and image is None:
            raise ValueError("say which entries to remove: give a label, a path or an image")
        fits, wanted = np.ones(len(self.labels), bool), []
        if label is not None:
            fits &= np.isin(self.labels, [str(label), _spell(label)])
            wanted.append(f"the label {label}")
        if path is not None:
            fits &= self.paths == str(path)
            wanted.append(f"the path {path}")
        if image is not None:
            copy = self.find_copies(*self.embed_images([image]))[0]
            images = self.entries.images
            fits &= (images == images[copy]) & (copy >= 0)
            wanted.append("this image" if isinstance(image, np.ndarray) else f"the image {image}")
        if not fits.any():
            classes = list_first(sorted(set(self.labels.tolist()))) or "none"
            raise ValueError(
                f"no entry has {printable(' and '.join(wanted))}; the classes are: {classes}"
            )
        self._set_entries(self.entries.select(~fits))
        return int(fits.sum())

    # ------------------------------------------------------------------------- 2 identifying

    def identify(self, image: Image, k: int = 5) -> Match:
        """Name one image by its nearest entry.

        Parameters
        ----------
        image
            A path, or an array (s, s, 3) of RGB values 0..255, uint8 or floating point.
        k
            How many of the nearest entries to list.

        Raises
        ------
        OSError, ValueError
            For what is no image, for an empty gallery and for k below 1.
        """
        self._check_not_empty()
        return self.identify_embedding(self.embed_images([image])[0][0], k)

    def identify_embedding(self, embedding: np.ndarray, k: int = 5) -> Match:
        """Name an embedding (dim,) by its nearest entry; see `identify`."""
        return self.identify_embeddings(np.asarray(embedding)[None], k)[0]

    def identify_embeddings(self, embeddings: np.ndarray, k: int = 5) -> list[Match]:
        """Name embeddings (n, dim) together, which is faster for many; see `identify`."""
        self._check_not_empty()
        if k < 1:
            raise ValueError(f"k={k}: ask for at least 1")
        queries = np.asarray(embeddings, np.float32)
        check_finite(queries)
        compared = self.compared
        k = min(k, len(compared))
        distances, places = self._find_nearest(queries, k)
        probabilities: list[float | None] = [None] * len(queries)
        if self.why_no_probability() is None:
            to_runner_up = self._measure_to_other_label(queries, distances, places)
            margins = relative_margins(distances[:, 0], to_runner_up)
            probabilities = list(map(float, self.estimate_probabilities(margins)))
        matches = []
        for row, probability in enumerate(probabilities):
            nearest = [
                (str(compared.labels[place]), float(distance), str(compared.paths[place]) or None)
                for distance, place in zip(distances[row, :k], places[row, :k])
            ]
            label, distance, _ = nearest[0]
            unknown = self.threshold is not None and distance > self.threshold
            matches.append(Match("unknown" if unknown else label, distance, nearest, probability))
        return matches

    def _find_nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and places (n, k or more) of the nearest, by the index if it serves."""
        if self.index is None:
            return self.compared.search(queries, k)
        return self.index.search(self.entries, queries, k)

    def _measure_to_other_label(
        self, queries: np.ndarray, distances: np.ndarray, places: np.ndarray
    ) -> np.ndarray:
        """Return each query's distance to the nearest entry of another label than the first's."""
        classes = self.compared.classes
        is_other = classes[places] != classes[places[:, :1]]
        result = np.where(is_other, distances, np.inf).min(axis=1)
        rows = np.flatnonzero(np.isinf(result))  # all that are listed have one label
        own = classes[places[rows, 0]]
        if self.index is None:
            result[rows] = self.compared.search(queries[rows], 1, own, classes)[0][:, 0]
        else:
            result[rows] = self.index.measure_to_others(self.entries, queries[rows], own)
        return result

    @property
    def index(self) -> EntryIndex | None:
        """The index that `build_index` made, while it is current; else all entries are compared."""
        saved = self._saved
        if saved is None or saved.about["format"] < 6 or saved.about["index"] is None:
            return None
        if self.prototypes:
            return None  # few means are compared, and all at once
        if not self._index_is_open:
            self._index_is_open = True
            self._index = open_index(saved.folder, saved.about, self.embeddings.shape[1])
        if self._index and (reason := self._index.why_outdated(self.entries)):
            print(f"{reason}, so all are compared; {advise_index(saved.folder)}")
            self._index = None
        return self._index

    @property
    def needs_saving(self) -> bool:
        """Whether the entries are not all in files of the present format."""
        is_old = self._saved is None or self._saved.about["format"] < storage.FORMAT
        return is_old or self.entries is not self._saved_entries

    def build_index(self) -> dict[str, float]:
        """Build an index beside the gallery's files; it is used from then on, and after `load`.

        Returns
        -------
        dict
            What `EntryIndex.choose_lists` measured, as entries that stand in for queries.

        Raises
        ------
        ValueError
            If the gallery is not saved as it is, has too few entries, or faiss is not installed.
        """
        if self.prototypes:
            raise ValueError("a gallery of prototypes compares with few means: it needs no index")
        saved = self._saved
        if saved is None or self.needs_saving:
            raise ValueError("save the gallery before its index is built: gallery.save(folder)")
        covered = sum(part["entries"] for part in saved.about["parts"])
        index = EntryIndex.build(self.entries, covered)
        measured = index.choose_lists(self.entries)
        recall = measured["recall_at_1"]
        self._saved = storage.write_index(saved.folder, saved, index.write, recall)
        self._index, self._index_is_open = index, True
        return measured

    def estimate_probabilities(self, margins: np.ndarray) -> np.ndarray:
        """Return the probabilities (n,) that the nearest entries' labels are right.

        Parameters
        ----------
        margins
            `Comparison.margins` of images whose class the gallery has, (n,).

        Raises
        ------
        ValueError
            Without `trials`, or if these have too few known images.
        """
        if self.trials is None:
            raise ValueError(f"no probability: {NO_TRIALS}")
        return self.trials.calibrator(margins)

    def why_no_probability(self) -> str | None:
        """Return why `identify` gives no probability, or None if it gives one."""
        try:
            self.estimate_probabilities(np.ones(1))
        except ValueError as reason:
            return str(reason)
        return None

    def find_copies(
        self, embeddings: np.ndarray, hashes: Sequence[str] | np.ndarray | None = None
    ) -> np.ndarray:
        """Find the entries that are the same images as these.

        An image is recognised by its hash. Where the hash of either is unknown, it is recognised
        by an embedding that differs by no more than rounding explains (`COPY_TOLERANCE`).

        Parameters
        ----------
        embeddings
            Embeddings (n, dim) of images.
        hashes
            `hash_image` of each, where known.

        Returns
        -------
        array
            The index of an entry of the same image, or -1, (n,).
        """
        return self.entries.find_copies(embeddings, hashes)

    def _check_not_empty(self) -> None:
        if not len(self.labels):
            raise ValueError("the gallery is empty: enroll images first")

    # ------------------------------------------------------------------- 3 known or a stranger

    def compare(self, embeddings: np.ndarray, labels: Sequence[Any] | np.ndarray) -> Comparison:
        """Compare images that are not in the gallery with its entries.

        Parameters
        ----------
        embeddings, labels
            Embeddings (n, dim) and class names (n,). Images whose class the gallery does not have
            are the strangers. Where there are none, strangers are simulated: each image without
            the entries of its class.
        """
        labels = [_spell(label) for label in labels]
        if len(labels) != len(embeddings):
            raise ValueError(f"{len(labels)} labels for {len(embeddings)} embeddings")
        self._check_not_empty()
        return self.compared.compare(embeddings, labels)

    def compare_entries(self) -> Comparison:
        """Compare each entry with those of all other images (leave-one-out).

        A class of one image has no other entry to match, so this image counts as not known. The
        strangers are simulated.
        """
        self._check_not_empty()
        if self.prototypes:
            return compare_with_other_means(self.entries, self.compared)
        return self.entries.compare_with_others()

    def open_set(
        self, embeddings: np.ndarray, labels: Sequence[Any] | np.ndarray
    ) -> dict[str, float]:
        """Measure how images of known classes and strangers fare with the threshold.

        See `compare` for the arguments and `Comparison.measure_shares` for the three shares.
        """
        return self.compare(embeddings, labels).measure_shares(self.threshold)

    def leave_one_out(self) -> dict[str, float]:
        """Measure the shares of `open_set` for the entries, each against the other images."""
        return self.compare_entries().measure_shares(self.threshold)

    def fit_threshold(
        self,
        embeddings: np.ndarray | None = None,
        labels: Sequence[Any] | np.ndarray | None = None,
        strangers_let_in: float | None = 0.05,
        hashes: Sequence[str] | np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Measure `trials`, choose `threshold` by a rule, and note in `policy` what it does.

        At most the given share of the strangers is accepted (false accepts). On that condition as
        few known images as possible are refused (false rejects): the threshold lies half way
        between the farthest known image that can be accepted and the nearest stranger that has
        to be refused.

        Give *validation* images and judge the threshold by `open_set` on test images, because the
        shares measured here are optimistic. Where known images or strangers are missing, the
        entries stand in, leave-one-out. Such simulated strangers lie farther away than real ones,
        because the network was trained to keep them away. So with known images that were held out
        they are only an upper bound: the threshold is then the farthest of these known images.

        Parameters
        ----------
        embeddings, labels
            Embeddings (n, dim) and class names (n,) of images that are not in the gallery.
        strangers_let_in
            The largest share of strangers to accept, from 0 to below 1. None chooses the best
            balance of the two errors instead.
        hashes
            `hash_image` of each image, where known, to tell exactly whether it is an entry.

        Returns
        -------
        dict
            The new `policy`.

        Raises
        ------
        ValueError
            For images that are entries, for entries that all have the same embedding, and where
            nothing can stand in for a stranger.
        """
        self._check_not_empty()
        self._check_not_collapsed()
        embeddings = self.embeddings[:0] if embeddings is None else embeddings
        if copies := int((self.find_copies(embeddings, hashes) >= 0).sum()):
            raise ValueError(
                f"{copies} of {len(embeddings)} images are entries of this gallery, where they "
                "match themselves at distance 0: choose the threshold on images that are held out "
                "(gallery.find_copies tells which are not), or by leave-one-out: fit_threshold()"
            )
        held_out = self.compare(embeddings, [] if labels is None else labels)
        trials = collect_trials(held_out, self.compare_entries)
        policy = choose_policy(trials, strangers_let_in)
        self.trials, self.policy, self.threshold = trials, policy, policy["threshold"]
        if policy["known"] and policy["known_refused"] > 0.5:
            refused = round(policy["known_refused"] * policy["known"])
            print(
                f"CAUTION: the threshold {self.threshold:.3f} refuses {refused} of "
                f"{policy['known']} known images. More training or more images separate the two "
                "kinds better; to accept more of both, give `identify` a larger "
                "--max-false-accepts, or choose_threshold a larger strangers_let_in"
            )
        return policy

    def choose_threshold(
        self, strangers_let_in: float | None = 0.05, known_refused: float | None = None
    ) -> dict[str, Any]:
        """Choose `threshold` and `policy` again, from `trials`; see `choose_policy`.

        Raises ValueError without `trials`, and for a share that is none.
        """
        if self.trials is None:
            raise ValueError(f"no threshold can be chosen: {NO_TRIALS}")
        self.policy = choose_policy(self.trials, strangers_let_in, known_refused)
        self.threshold = self.policy["threshold"]
        return self.policy

    def measure_entries_again(self) -> None:
        """Measure `trials` again if they rest on entries alone and these were changed since.

        The threshold stays as it is. Trials of held-out images cannot be measured again.
        """
        old, has_others = self.trials, len(np.unique(self.labels)) > 1
        if old and old.rest_on_entries and has_others and not old.are_current:
            nothing = self.compare(self.embeddings[:0], [])
            self.trials = collect_trials(nothing, self.compare_entries)

    def measure_let_in(self) -> float | None:
        """Return the share of simulated strangers that are accepted; None if it has no meaning.

        The strangers are the entries, each without its class. They are compared only if `trials`
        do not tell.
        """
        if self.threshold is None or not len(self.entries):
            return None
        if self.trials and self.trials.rest_on_entries and self.trials.are_current:
            distances = self.trials.stranger_distances
        else:
            distances = self._measure_to_other_classes()
        distances = distances[np.isfinite(distances)]  # of one class alone all are infinite
        return float((distances <= self.threshold).mean()) if len(distances) else None

    def _measure_to_other_classes(self) -> np.ndarray:
        if self.prototypes:
            return self.compare_entries().distances_to_other_classes
        return self.entries.measure_to_other_classes()

    def _check_not_collapsed(self) -> None:
        spread = squared_norms(np.ptp(self.embeddings, axis=0)[None])[0]
        if len(np.unique(self.labels)) > 1 and spread <= COPY_TOLERANCE * self.entries.norms.max():
            raise ValueError(
                "the embedding has collapsed: all entries have the same one, so no threshold "
                "separates the classes. Train again, with a lower learning rate or more data"
            )

    def describe_threshold(self) -> str:
        """Describe the threshold, its rule and what was measured, in a sentence."""
        return describe_threshold(self.threshold, self.policy)

    def describe_probability(self) -> str:
        """Describe what a probability means and rests on, or why there is none, in a sentence."""
        if reason := self.why_no_probability():
            return reason
        assert self.trials is not None
        count = len(self.trials.known_right)
        how = "held out" if self.trials.known_held_out else "entries, leave-one-out"
        text = (
            "probability: that the nearest entry's label is right, if the gallery has the image's "
            f"class; {name_method(count)} on {count} known images ({how})"
        )
        return text if self.trials.are_current else f"{text}, before entries were added or removed"

    # --------------------------------------------------------------------------------- 4 files

    def save(self, folder: str | os.PathLike) -> None:
        """Write the gallery; what was saved in `folder` before is replaced.

        Where these entries were read from `folder` or saved there, only what is new is written.
        A save that is cut short leaves the older gallery as it was. `save_over` keeps the entries
        that were added to the older one by hand.
        """
        about = {
            "threshold": self.threshold,
            "policy": self.policy,
            "prototypes": self.prototypes,
            "model_weights_sha256": self.model_weights_sha256,
        }
        arrays, flags = {}, None
        if self.trials:
            flags = asdict(self.trials)
            arrays = {name: flags.pop(name) for name in storage.TRIALS}
        former = self._saved
        self._saved, rows = storage.write_gallery(
            Path(folder),
            self.model,
            self.entries.arrays(),
            arrays,
            about | {"trials": flags},
            self._saved,
        )
        self.entries = self._saved_entries = replace(self.entries, rows=rows)
        if former is None or self._saved.about["index"] != former.about.get("index"):
            self._index, self._index_is_open = None, False
        if former and former.about.get("index") and not self._saved.about["index"]:
            print(f"the gallery was written anew, without an index; {advise_index(folder)}")

    def save_over(self, folder: str | os.PathLike) -> None:
        """Save a gallery that was built anew, and keep what was added by hand to the one before.

        What is kept is printed. Entries whose image this gallery has already are not needed twice.

        Raises
        ------
        ValueError
            If entries were added by hand to the gallery in `folder` and it is of another model,
            so that they cannot be kept; nothing is saved then.
        """
        folder = Path(folder)
        with hold_folder(folder, "saving a gallery"):
            former = self.read_enrolled(folder)
            copies = self.find_copies(former.embeddings, former.hashes)
            new, labels = copies < 0, former.labels
            renamed = ~new & (self.labels[copies] != labels) if len(copies) else new
            self._set_entries(self.entries.append_enrolled(former.select(new)))
            if new.any():
                print(f"kept from the gallery before: {_count_labels(labels[new])}")
            if renamed.any():
                print(
                    "not kept, because the same images now have another label: "
                    f"{_count_labels(labels[renamed])}"
                )
            self.save(folder)

    def read_enrolled(self, folder: str | os.PathLike) -> Entries:
        """Return the entries that were added by hand to the gallery in `folder`.

        Up to format 3 such entries were not marked. There they are those of classes that this
        gallery does not have. Raises ValueError if there are any and they are of another model.
        """
        folder = Path(folder)
        nothing = self.entries.select(np.zeros(0, int))
        if not (folder / "gallery.json").is_file():
            return nothing
        try:
            about = storage.read_about(folder)
            entries = Entries(**storage.read_entries(folder, about)[0])
        except storage.NotWholeError as error:
            print(f"{printable(folder)} holds no whole gallery ({printable(error)}): replaced")
            return nothing
        except ValueError as error:
            raise ValueError(f"{printable(folder)}: {printable(error)}") from error
        marked = entries.enrolled
        if about["format"] < 4:
            marked = ~np.isin(entries.labels, self.labels)
        if not marked.any():
            return nothing  # those that are there may have another size
        if about["model_weights_sha256"] != self.model_weights_sha256:
            raise ValueError(
                f"{printable(folder)} is not replaced: entries were added to it "
                f"({_count_labels(entries.labels[marked])}), and they are of another model, so "
                "they cannot be kept. Save into another folder and enroll their images there, or "
                "delete this folder"
            )
        return entries.select(marked)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Gallery":
        """Read what `save` wrote; nothing of the model is loaded unless its file is the one saved.

        A model can run code: load a gallery as you would run a program. The threshold of format 1
        is not taken over, which is printed.

        Raises
        ------
        FileNotFoundError
            If there is no gallery in `folder`, or none that is whole.
        ValueError
            For a newer format, another embedding size, or files that are not those saved.
        """
        folder = Path(folder)
        storage.require_gallery(folder)
        shown = printable(folder)
        try:
            about = storage.read_about(folder)
            saved = storage.Saved.of(folder, about)
            arrays, trials = storage.read_entries(folder, about)
            storage.check_hash(folder / about["model"], about.get("model_sha256"))
            prototypes = about["format"] >= 6 and about["prototypes"]
            gallery = cls(load_model(folder / about["model"]), prototypes)
            if (dim := gallery.embeddings.shape[1]) != about["embedding_size"]:
                raise ValueError(
                    f"the model gives {dim} numbers, not {about['embedding_size']}: restore its "
                    "files"
                )
            if gallery.model_weights_sha256 != about["model_weights_sha256"]:
                raise ValueError("the model has other weights than that of the entries: restore it")
        except (OSError, storage.NotWholeError) as error:
            raise FileNotFoundError(
                f"{shown} holds no whole gallery ({printable(error)}): build it again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{shown}: {printable(error)}, or build the gallery again") from error
        gallery.entries = gallery._saved_entries = Entries(**arrays)
        gallery._saved = saved
        if about["format"] == 1:
            print(
                f"{shown} is of format 1, whose threshold could be chosen on its own entries: it "
                "is not taken over, and no image is called unknown. Choose another: "
                "gallery.fit_threshold(), then gallery.save(folder)"
            )
        else:
            gallery.threshold, gallery.policy = about["threshold"], about["policy"]
        if trials:
            gallery.trials = Trials(**trials, **about["trials"])
        # the first query needs these: it is then as fast as the later ones
        _ = gallery.compared.norms, gallery.compared.classes, gallery.why_no_probability()
        return gallery


def check_labels(labels: Sequence[Any] | np.ndarray, count: int, what: str) -> list[str]:
    """Return `count` labels normalised; raise ValueError for a single text or a reserved label."""
    if isinstance(labels, str):
        raise ValueError(f"labels={labels!r} is one text: give a list, one label for each image")
    if len(labels) != count:
        raise ValueError(f"{count} {what} for {len(labels)} labels: give one label for each")
    return [normalize_label(label) for label in labels]


def _spell(label: object) -> str:
    """Return a label as `normalize_label` spells it, which may also be a stranger's or none."""
    return unicodedata.normalize("NFC", str(label)).strip()


def _count_labels(labels: np.ndarray) -> str:
    counts = Counter(map(str, labels))
    return list_first(f"{label} ({count} entries)" for label, count in counts.items())
