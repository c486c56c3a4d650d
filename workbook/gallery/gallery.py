"""What you take away: a gallery of labelled embeddings that tells what is on a picture.

    python -m workbook build runs/toys-quick/embedding.keras my_images/ my_gallery/
    python -m workbook identify my_gallery/ picture.jpg
    python -m workbook enroll my_gallery/ "new class" new/*.jpg

Notebook 05 saves one of its run in `runs/<run>/gallery`. Explained there, "A gallery to take away".
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from siamese_utils import embed
from workbook.data.images import decode_image, on_white
from workbook.gallery import storage
from workbook.gallery.threshold import Trial, _threshold
from workbook.models.saved_models import load_model
from workbook.support.atomic_files import temporary_build_folder
from workbook.support.tensorflow_start import keras
from workbook.support.text import printable

CATALOGUE_SIZES = (1, 0.9, 0.8, 0.7)  # chosen on `grocery`'s validation split: notebook 05


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
    farther is "unknown"; None, as at first, means never. `.policy`: by which rule `fit_threshold`
    chose it, and what it measured (a dict, or None). Raises ValueError for a model of another
    input. Explained in notebook 05, "A gallery to take away".
    """

    FORMAT = 3  # of what `save` writes; 1 had no policy, 2 no hash of the model's file

    def __init__(self, embedding_model):
        _, height, width, channels = embedding_model.input_shape
        if height is None or (height, channels) != (width, 3):
            raise ValueError(f"the model takes {embedding_model.input_shape}, not (batch, s, s, 3)")
        self.model, self.size, self.threshold, self.policy = embedding_model, height, None, None
        self._set(np.empty((0, embedding_model.output_shape[-1]), np.float32), [], [])

    def _set(self, embeddings, labels, paths):
        self.embeddings, self.search = embeddings, None  # the search is fitted when it is needed
        self.labels, self.paths = (np.array([str(x) for x in v], str) for v in (labels, paths))

    def _array(self, image):
        if isinstance(image, (str, Path)):
            if Path(image).is_dir():
                raise IsADirectoryError(
                    f"{printable(image)} is a folder, not a picture: give the pictures in it"
                )
            if not Path(image).exists():
                raise FileNotFoundError(f"{printable(image)}: no such file; is the path right?")
            return decode_image(image, self.size)
        image, shape = np.asarray(image), (self.size, self.size, 3)
        if image.shape != shape or (image.dtype.kind == "f" and 0 < image.max() <= 1):
            raise ValueError(
                f"an image of shape {image.shape} with values up to {image.max(initial=0)}: the "
                f"model takes {shape}, RGB 0..255; resize and rescale it, or give its path"
            )
        return image

    def embeddings_of(self, images, sizes=(1,)):
        """Embeddings (n, dim) of paths or arrays (s, s, 3); a batch is read when its turn comes.

        With several `sizes` (shares of the picture's own, see `on_white`) (len(sizes) * n, dim):
        all at the first, then all at the next. Raises OSError or ValueError if one is no image or
        of another size.
        """
        found, bar = [np.empty((len(sizes), 0, self.embeddings.shape[1]), np.float32)], None
        if len(images) > 256:
            bar = keras.utils.Progbar(len(images), unit_name="image")
        for start in range(0, len(images), 64):
            batch = np.stack([self._array(image) for image in images[start : start + 64]])
            found.append([embed(self.model, on_white(batch, share)) for share in sizes])
            if bar:
                bar.update(start + len(batch))
        return np.concatenate(found, axis=1).reshape(-1, self.embeddings.shape[1])

    @staticmethod
    def _checked(labels, count, what):
        """`labels` as a list of `count` texts; ValueError for a single text or "unknown"."""
        if isinstance(labels, str):
            raise ValueError(f"labels={labels!r} is one text: give a list, one label a picture")
        labels = [str(label) for label in labels]
        if len(labels) != count:
            raise ValueError(f"{count} {what} for {len(labels)} labels: it takes one label each")
        if "unknown" in labels:
            raise ValueError('the label "unknown" is what a stranger is called: choose another')
        return labels

    def add(self, images_or_paths, labels, sizes=(1,)):
        """Add n images: paths, or arrays (s, s, 3) RGB 0..255; labels (n,) are kept as strings.

        Each is an entry at each of `sizes`, shares of its own size, on white: `CATALOGUE_SIZES` for
        catalogue pictures. They are read and embedded a batch at a time. Raises OSError or
        ValueError, and adds none, if one is no image or of another size, for the label "unknown",
        and for a text instead of a list. Explained in notebook 05, "A gallery to take away".
        """
        if isinstance(images_or_paths, (str, Path)):
            raise ValueError(f"{str(images_or_paths)!r} is one path: give a list of paths")
        labels = self._checked(labels, len(images_or_paths), "images")
        paths = [x if isinstance(x, (str, Path)) else "" for x in images_or_paths]
        found = self.embeddings_of(images_or_paths, sizes)
        self.add_embeddings(found, labels * len(sizes), paths * len(sizes))

    def add_embeddings(self, embeddings, labels, paths=None):
        """Add what `embed` gave: embeddings (n, dim), labels (n,), paths (n,) or None.

        Raises ValueError for another size, unequal lengths, nan, or the label "unknown".
        """
        embeddings = np.asarray(embeddings, np.float32)
        labels = self._checked(labels, len(embeddings), "embeddings")
        paths = [""] * len(labels) if paths is None else paths
        shape = (len(labels), self.embeddings.shape[1])
        if embeddings.shape != shape or len(paths) != len(labels):
            raise ValueError(
                f"embeddings {embeddings.shape} and {len(paths)} paths for {len(labels)} labels: "
                f"it takes embeddings {shape} and one path a label"
            )
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
        return self.identify_embedding(self.embeddings_of([image])[0], k)

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

    def trial(self, embeddings=None, labels=None):
        """The `Trial` of pictures (n, dim) of the classes `labels` (n,) against the entries.

        Without them leave-one-out: each entry against all others, but for those of its own picture
        (its label and path, so also at another size). A class of one picture has then nobody to be
        found by, and counts as not known; strangers are simulated. Raises ValueError for an empty
        gallery. Explained in notebook 05, "Strangers".
        """
        alone, count = embeddings is None, len(self.labels)
        if alone:
            embeddings, labels = self.embeddings, self.labels
        if not count:
            raise ValueError("the gallery is empty; add images first: gallery.add(paths, labels)")
        labels = [*self.labels, *(str(label) for label in labels)]
        _, numbers = np.unique(labels, return_inverse=True)
        own, asked = numbers[:count], numbers[count:]
        if len(asked) != len(embeddings):
            raise ValueError(f"{len(asked)} labels for {len(embeddings)} embeddings")

        if alone:
            first = {}  # entry of a picture; what has no path is one of its own
            named = enumerate(zip(self.labels, self.paths))
            picture = np.array([first.setdefault(name if name[1] else i, i) for i, name in named])

        def summary(block, start):  # of squared distances (rows, entries), bounded in memory
            rows = np.arange(start, start + len(block))
            same = own == asked[rows, None]
            if alone:
                block[picture == picture[rows, None]] = np.inf
            known = (same & np.isfinite(block)).any(1)
            right = same[rows - start, block.argmin(1)] & known
            foreign = np.where(same, np.inf, block).min(1)
            return np.column_stack([block.min(1), known, right, foreign])

        parts = [np.empty((0, 4), np.float32)]
        if len(asked):
            parts += pairwise_distances_chunked(
                np.asarray(embeddings, np.float32), self.embeddings, reduce_func=summary,
                working_memory=64, squared=True,
            )  # fmt: skip
        distances, known, right, foreign = np.concatenate(parts).T
        known, right = known.astype(bool), right.astype(bool)
        simulated = alone or bool(known.all())
        strangers = foreign if simulated else distances[~known]
        strangers = strangers[np.isfinite(strangers)]  # none if the gallery has one class
        return Trial(distances, known, right, foreign, strangers, simulated)

    def holds(self, embeddings):
        """Which of the embeddings (n, dim) are copies of an entry: (n,) bool.

        The same picture embedded twice differs by rounding alone. Those must not choose a
        threshold: they find themselves. Explained in notebook 05, "Strangers".
        """
        distances = self.trial(embeddings, [""] * len(embeddings)).distances
        return distances <= 1e-8 * np.square(embeddings, dtype=np.float32).sum(1)

    def open_set(self, embeddings, labels):
        """How pictures (n, dim) of classes in the gallery (known) and strangers fare: three shares.

        known_accuracy: of the known, accepted *and* given the right label; known_refused: of them,
        called "unknown"; unknown_rejection: of the strangers, called "unknown". Strangers are the
        pictures of other classes or, where there are none, simulated: each picture without the
        entries of its class. nan for a kind that is missing.
        Explained in notebook 05, "Strangers".
        """
        return self._shares(self.trial(embeddings, labels))

    def leave_one_out(self):
        """`open_set` of the entries themselves, each against the others.

        Explained in notebook 05, "A gallery to take away".
        """
        return self._shares(self.trial())

    def _shares(self, trial):
        limit = np.inf if self.threshold is None else self.threshold
        accepted = trial.distances <= limit
        share = lambda kind: float(kind.mean()) if len(kind) else np.nan  # noqa: E731
        return {
            "known_accuracy": share((trial.right & accepted)[trial.known]),
            "known_refused": share(~accepted[trial.known]),
            "unknown_rejection": share(trial.strangers > limit),
        }

    def fit_threshold(self, embeddings=None, labels=None, strangers_let_in=0.05):
        """Set `.threshold` by a policy; returns `.policy`, a dict with what was measured.

        At most this share of the strangers is let in, and no more of the known are refused than
        that costs: the threshold lies half way between the farthest known picture, rightly named,
        that can be accepted and the closest stranger who then stays outside.
        `strangers_let_in=None`: the best balance of the two shares instead.

        Give *validation* pictures (n, dim), (n,) that are not in the gallery, of its classes and
        of others, and judge by `open_set` on test pictures, for these shares are optimistic. Where
        a kind is missing, the gallery stands in: its entries, leave-one-out, for the known; for
        strangers pictures and entries, each without the entries of its class. Real strangers come
        closer than those, for the network was not trained to keep them away. So beside known
        pictures that were held out they only bound the threshold: it is that farthest known one.

        Raises ValueError for a picture that is an entry, and where nothing can play the stranger.
        Prints a caution if most of the known are refused. Explained in notebook 05, "Strangers".
        """
        if strangers_let_in is not None and not 0 <= strangers_let_in < 1:
            raise ValueError(f"strangers_let_in={strangers_let_in}: a share from 0 to below 1")
        among_themselves = self.trial()
        trial = among_themselves
        if embeddings is not None and len(embeddings):
            if copies := int(self.holds(embeddings).sum()):
                raise ValueError(
                    f"{copies} of {len(embeddings)} pictures are entries of this gallery, where "
                    "they find themselves at distance 0: choose the threshold on pictures that "
                    "are held out (gallery.holds tells which are not), or by leave-one-out: "
                    "fit_threshold()"
                )
            trial = self.trial(embeddings, labels)
        held_out = bool(trial is not among_themselves and trial.known.any())
        friends, strangers = trial if held_out else among_themselves, trial.strangers
        if trial.simulated and trial is not among_themselves:
            strangers = np.concatenate([strangers, among_themselves.strangers])
        if not len(strangers):
            raise ValueError(
                "the gallery has one class and no picture is of another: nothing can play the "
                "stranger, so there is no threshold. Add a class, or give pictures of others"
            )
        tight = held_out and trial.simulated
        self.threshold = _threshold(friends, np.sort(strangers), strangers_let_in, tight)
        refused = friends.distances[friends.known] > self.threshold
        self.policy = {
            "threshold": self.threshold,
            "strangers_let_in_at_most": strangers_let_in,
            "strangers": len(strangers),
            "strangers_simulated": trial.simulated,
            "strangers_let_in": float((strangers <= self.threshold).mean()),
            "known": len(refused),
            "known_held_out": held_out,
            "known_refused": float(refused.mean()) if len(refused) else None,
        }
        if len(refused) and refused.mean() > 0.5:
            print(
                f"CAUTION: the threshold {self.threshold:.3f} refuses {refused.sum()} of "
                f"{len(refused)} known pictures. More training or more pictures part the two kinds "
                "better; a larger strangers_let_in lets in more of both"
            )
        return self.policy

    def describe_threshold(self):
        """The threshold, its policy and what that measured, as a sentence."""
        if self.threshold is None:
            return "no threshold: never unknown; gallery.fit_threshold() chooses one"
        if self.policy is None or self.policy["threshold"] != self.threshold:
            return f"threshold {self.threshold:.3f}, set by hand"
        policy = self.policy
        limit, refused = policy["strangers_let_in_at_most"], policy["known_refused"]
        rule = "the best balance" if limit is None else f"at most {limit:.0%} of strangers let in"
        kind = "pictures of other classes"
        if policy["strangers_simulated"]:
            kind = "simulated, each picture without its class; real ones come closer"
        text = f"threshold {self.threshold:.3f} ({rule}): when it was chosen, "
        text += f"{policy['strangers_let_in']:.1%} of {policy['strangers']} strangers ({kind}) were"
        if refused is None:
            return f"{text} let in; there was no known picture to refuse"
        how = "held out" if policy["known_held_out"] else "entries, leave-one-out"
        return f"{text} let in, {refused:.1%} of {policy['known']} known pictures ({how}) refused"

    def _fingerprint(self):
        digest = hashlib.sha256()
        for weights in self.model.get_weights():
            digest.update(np.ascontiguousarray(weights))
        return digest.hexdigest()

    def save(self, folder):
        """Write the model and the entries, and last gallery.json, which names the two files.

        The files are named by their content and gallery.json is replaced in one stroke, so a save
        that is cut short leaves the older gallery as it was. Then its two files go, and no others.
        Arrays and JSON; nothing is pickled.
        """
        folder = Path(folder)
        former = storage.files_of(folder, self.FORMAT)
        with temporary_build_folder(folder / "gallery") as work:
            self.model.save(work / "model.keras")
            arrays = {"embeddings": self.embeddings, "labels": self.labels, "paths": self.paths}
            np.savez(work / "entries.npz", **arrays)
            model = storage.hash_of(work / "model.keras")
            entries = storage.hash_of(work / "entries.npz")
            about = {
                "format": self.FORMAT,
                "embedding_size": self.embeddings.shape[1],
                "threshold": self.threshold,
                "policy": self.policy,
                "model": f"embedding-{model[:16]}.keras",
                "model_sha256": model,
                "model_weights_sha256": self._fingerprint(),
                "entries": f"entries-{entries[:16]}.npz",
                "entries_sha256": entries,
            }
            (work / "gallery.json").write_text(json.dumps(about, indent=1), "utf-8")
            os.replace(work / "model.keras", folder / about["model"])
            os.replace(work / "entries.npz", folder / about["entries"])
            os.replace(work / "gallery.json", folder / "gallery.json")
        for name in former - {about["model"], about["entries"]}:
            (folder / name).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder):
        """What `save` wrote; nothing of the model is loaded unless its file is the one saved.

        Raises FileNotFoundError if there is no gallery in `folder`, or none that is whole and as
        `save` writes it. Raises ValueError for a newer format, another embedding size, or files
        that are not those that were saved. Of the first format the threshold is not taken over,
        which is printed. A model can run code: load a gallery as you would run a program.
        """
        folder = Path(folder)
        shown = printable(folder)
        if not (folder / "gallery.json").is_file():
            what = "holds no gallery.json" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(
                f"{shown} {what}, so it is no gallery: give the folder that notebook 05 wrote "
                "(runs/<run>/gallery), or make one: python -m workbook build MODEL IMAGES GALLERY"
            )
        try:
            about = storage.read_about(folder, cls.FORMAT)
            size, model = about["embedding_size"], folder / about["model"]
            entries = storage.read_entries(folder, about)
            storage.check_hash(model, about.get("model_sha256"))
            gallery = cls(load_model(model))
            if (found := gallery.embeddings.shape[1]) != size:
                raise ValueError(f"the model gives {found} numbers, not {size}: restore its files")
            if gallery._fingerprint() != about["model_weights_sha256"]:
                raise ValueError("the model has other weights than that of the entries: restore it")
        except (OSError, storage.NotWhole) as error:
            raise FileNotFoundError(
                f"{shown} holds no whole gallery ({printable(error)}): build it again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{shown}: {printable(error)}, or build the gallery again") from error
        gallery._set(*entries)
        if about["format"] == 1:
            print(
                f"{shown} is of the former format, whose threshold could be chosen on its own "
                "entries: it is left out, and nothing is unknown. Notebook 05 gives it another, or "
                "in Python gallery.fit_threshold(), then gallery.save(folder)"
            )
            return gallery
        gallery.threshold, gallery.policy = about["threshold"], about["policy"]
        return gallery
