"""What you take away: a gallery of labelled embeddings that tells what is on a picture.

    python -m workbook build runs/toys-quick/embedding.keras my_images/ my_gallery/
    python -m workbook identify my_gallery/ picture.jpg

Notebook 05 saves one of its run in `runs/<run>/gallery`. Explained there, "A gallery to take away".
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from siamese_utils import embed
from workbook.images import decode_image, load_images
from workbook.retrieval import nearest_neighbors
from workbook.settings import read_config
from workbook.start import keras


@dataclass(frozen=True)
class Match:
    """What `Gallery.identify` answers.

    label: that of the closest entry, or "unknown" if that is too far; distance: to the closest
    entry, squared Euclidean; nearest: the k closest as (label, distance, path or None).
    """

    label: str
    distance: float
    nearest: list


class Gallery:
    """Labelled embeddings, and which of them an image is closest to.

    embedding_model: RGB images 0..255 (batch, s, s, 3) -> (batch, dim). `.embeddings` (m, dim)
    float32; `.labels` and `.paths` (m,) strings. `.threshold`: an image whose closest entry is
    farther is "unknown"; None, as at first, means never. Raises ValueError for a model of another
    input. Explained in notebook 05, "A gallery to take away".
    """

    FORMAT = 1  # of what `save` writes

    def __init__(self, embedding_model):
        _, height, width, channels = embedding_model.input_shape
        if height is None or (height, channels) != (width, 3):
            raise ValueError(f"the model takes {embedding_model.input_shape}, not (batch, s, s, 3)")
        self.model, self.size, self.threshold = embedding_model, height, None
        self._set(np.empty((0, embedding_model.output_shape[-1]), np.float32), [], [])

    def _set(self, embeddings, labels, paths):
        self.embeddings, self.search = embeddings, None  # the search is fitted when it is needed
        self.labels, self.paths = (np.array([str(x) for x in v], str) for v in (labels, paths))

    def _array(self, image):
        if isinstance(image, (str, Path)):
            return decode_image(image, self.size)
        image, shape = np.asarray(image), (self.size, self.size, 3)
        if image.shape != shape or (image.dtype.kind == "f" and 0 < image.max() <= 1):
            raise ValueError(
                f"an image of shape {image.shape} with values up to {image.max(initial=0)}: the "
                f"model takes {shape}, RGB 0..255; resize and rescale it, or give its path"
            )
        return image

    def _embed(self, images):
        batches = (images[start : start + 64] for start in range(0, len(images), 64))
        found = [embed(self.model, np.stack([self._array(x) for x in b])) for b in batches]
        return np.concatenate([self.embeddings[:0], *found])

    def add(self, images_or_paths, labels):
        """Add n images: paths, or arrays (s, s, 3) RGB 0..255; labels (n,) are kept as strings.

        Raises OSError or ValueError, and adds none, if one is no image or of another size.
        """
        paths = [x if isinstance(x, (str, Path)) else "" for x in images_or_paths]
        self.add_embeddings(self._embed(images_or_paths), labels, paths)

    def add_embeddings(self, embeddings, labels, paths=None):
        """Add what `embed` gave: embeddings (n, dim), labels (n,), paths (n,) or None.

        Raises ValueError for another size, unequal lengths, nan, or the label "unknown".
        """
        embeddings, labels = np.asarray(embeddings, np.float32), [str(label) for label in labels]
        paths = [""] * len(labels) if paths is None else paths
        shape = (len(labels), self.embeddings.shape[1])
        if embeddings.shape != shape or len(paths) != len(labels):
            raise ValueError(
                f"embeddings {embeddings.shape} and {len(paths)} paths for {len(labels)} labels: "
                f"it takes embeddings {shape} and one path a label"
            )
        if "unknown" in labels:
            raise ValueError('the label "unknown" is what a stranger is called: choose another')
        if not np.isfinite(embeddings).all():
            raise ValueError("an embedding that is not finite: the model or an image is broken")
        embeddings = np.concatenate([self.embeddings, embeddings])
        self._set(embeddings, [*self.labels, *labels], [*self.paths, *paths])

    def remove(self, label=None, path=None):
        """Remove the entries of this label, this path, or both; how many. ValueError if none."""
        gone = np.full(len(self.labels), (label, path) != (None, None))
        for wanted, values in ((label, self.labels), (path, self.paths)):
            gone &= wanted is None or values == str(wanted)
        if not gone.any():
            raise ValueError(f"no entry with label={label!r} path={path!r}; see .labels and .paths")
        self._set(self.embeddings[~gone], self.labels[~gone], self.paths[~gone])
        return int(gone.sum())

    def identify(self, image, k=5):
        """The `Match` of one image: a path, or an array (s, s, 3) RGB 0..255.

        Raises ValueError if the gallery is empty; OSError or ValueError for what is no image.
        """
        return self.identify_embedding(self._embed([image])[0], k)

    def identify_embedding(self, embedding, k=5):
        """The `Match` of an embedding (dim,)."""
        if not len(self.labels):
            raise ValueError("the gallery is empty; add images first: gallery.add(paths, labels)")
        if k < 1:
            raise ValueError(f"k={k}: ask for at least 1")
        if self.search is None:  # a tree: answers a single query faster than brute force
            self.search = NearestNeighbors(algorithm="ball_tree").fit(self.embeddings)
        found = self.search.kneighbors(embedding[None], min(k, len(self.labels)))
        nearest = [
            (str(self.labels[i]), float(distance**2), str(self.paths[i]) or None)
            for distance, i in zip(*(array[0] for array in found))
        ]
        label, distance, _ = nearest[0]
        unknown = self.threshold is not None and distance > self.threshold
        return Match("unknown" if unknown else label, distance, nearest)

    def _closest(self, embeddings, labels):
        """(distance, is the class in the gallery, is the closest label right), each (n,)."""
        labels = np.array([str(label) for label in labels])
        distances, indices = nearest_neighbors(embeddings, self.embeddings)
        right = self.labels[indices[:, 0]] == labels
        return distances[:, 0], np.isin(labels, self.labels), right

    def open_set(self, embeddings, labels):
        """How queries (n, dim) of classes in the gallery (known) and of others fare: two shares.

        known_accuracy: of the known, accepted *and* given the right label; unknown_rejection: of
        the others, called "unknown". nan for a kind that is missing.
        Explained in notebook 05, "Strangers".
        """
        distances, known, right = self._closest(embeddings, labels)
        accepted = distances <= (np.inf if self.threshold is None else self.threshold)
        share = lambda kind: float(kind.mean()) if len(kind) else np.nan  # noqa: E731
        return {
            "known_accuracy": share((right & accepted)[known]),
            "unknown_rejection": share(~accepted[~known]),
        }

    def fit_threshold(self, embeddings, labels):
        """Set `.threshold` to the best mean of `open_set`'s two shares; both, and the threshold.

        Give *validation* queries that are not in the gallery, of its classes and of others; then
        call `open_set` on test queries, for these shares are optimistic. Raises ValueError if one
        of the two kinds is missing.
        """
        distances, known, right = self._closest(embeddings, labels)
        if known.all() or not known.any():
            raise ValueError(
                f"{known.sum()} of {len(known)} queries are of known classes: give both kinds"
            )
        limits = np.unique(distances)
        right, others = np.sort(distances[right]), np.sort(distances[~known])
        gain = np.searchsorted(right, limits, "right") / known.sum()
        gain -= np.searchsorted(others, limits, "right") / len(others)
        self.threshold = float(limits[gain.argmax()])
        return self.open_set(embeddings, labels) | {"threshold": self.threshold}

    def _fingerprint(self):
        digest = hashlib.sha256()
        for weights in self.model.get_weights():
            digest.update(np.ascontiguousarray(weights))
        return digest.hexdigest()

    def save(self, folder):
        """Write the model and the entries, and last gallery.json, which names the two files.

        The files are named by their content and gallery.json is replaced in one stroke, so a save
        that is cut short leaves the older gallery as it was. Arrays and JSON; nothing is pickled.
        """
        folder, entries = Path(folder), io.BytesIO()
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(entries, embeddings=self.embeddings, labels=self.labels, paths=self.paths)
        weights, content = self._fingerprint(), hashlib.sha256(entries.getvalue()).hexdigest()
        about = {
            "format": self.FORMAT,
            "embedding_size": self.embeddings.shape[1],
            "threshold": self.threshold,
            "model": f"embedding-{weights[:16]}.keras",
            "model_weights_sha256": weights,
            "entries": f"entries-{content[:16]}.npz",
            "entries_sha256": content,
        }
        for name, write in (
            (about["model"], self.model.save),
            (about["entries"], lambda path: path.write_bytes(entries.getvalue())),
            ("gallery.json", lambda path: path.write_text(json.dumps(about, indent=1))),
        ):
            partial = folder / f"part{os.getpid()}-{name}"
            write(partial)
            os.replace(partial, folder / name)
        for old in (*folder.glob("embedding-*.keras"), *folder.glob("entries-*.npz")):
            if old.name not in about.values():
                old.unlink()

    @classmethod
    def load(cls, folder):
        """What `save` wrote. Raises FileNotFoundError if there is no gallery in `folder`.

        Raises ValueError for a newer format, another embedding size, or files that are not those
        that were saved.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "gallery.json").read_text("utf-8"))
            if about["format"] > cls.FORMAT:
                raise ValueError(
                    f"{folder}: written by a newer version (format {about['format']}; this one "
                    f"reads {cls.FORMAT}): update the workbook"
                )
            entries = (folder / about["entries"]).read_bytes()
            gallery = cls(keras.models.load_model(folder / about["model"], compile=False))
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise FileNotFoundError(f"{folder} holds no whole gallery: {error!r}") from error
        size, expected = gallery.embeddings.shape[1], about["embedding_size"]
        changed = f"the model gives {size} numbers, not {expected}" if size != expected else ""
        if not changed and gallery._fingerprint() != about["model_weights_sha256"]:
            changed = "the model has other weights than the one that the entries are from"
        if not changed and hashlib.sha256(entries).hexdigest() != about["entries_sha256"]:
            changed = f"{about['entries']} was changed"
        if changed:
            raise ValueError(f"{folder}: {changed}; build the gallery again")
        with np.load(io.BytesIO(entries), allow_pickle=False) as stored:
            gallery._set(stored["embeddings"], stored["labels"], stored["paths"])
        gallery.threshold = about["threshold"]
        return gallery


def build(model, images, folder):
    """Make a gallery of a folder of class folders, with the embedding saved in the file `model`."""
    gallery = Gallery(keras.models.load_model(model, compile=False))
    cache = read_config().runs / "cache"
    data = load_images(Path(images).expanduser().resolve(), gallery.size, cache_dir=cache)
    names = [data.class_names[label] for label in data.labels]
    gallery.add_embeddings(embed(gallery.model, data.images), names, data.paths)
    gallery.save(folder)
    print(f"\n{len(names)} images of {len(data.class_names)} classes in {folder}")
    for problem in data.problems:
        print(f"  not read: {problem['path']}: {problem['reason']}")


def identify(folder, images, k):
    """Print the label and the k nearest entries of each image file."""
    gallery = Gallery.load(folder)
    for path in images:
        match = gallery.identify(path, k)
        print(f"{path}: {match.label} (distance {match.distance:.3f})")
        for label, distance, entry in match.nearest:
            print(f"  {distance:.3f} {label} {entry or ''}".rstrip())
