"""Batches of P classes with K images, and which epoch they belong to."""

import keras
import numpy as np
import pytest
from small_models import LABELS, VECTORS

import siamese_utils as su
from workbook.evaluation.retrieval import retrieval_metrics
from workbook.training.batches import EpochSetter, IndexBatches, largest_batch_shape, pk_batches
from workbook.training.mined_model import MinedSiameseModel
from workbook.training.mining import mine_triplets


def test_pk_batches_hold_p_classes_of_k_different_images():
    labels = np.repeat(np.arange(10), 7)
    batches = pk_batches(labels, classes=4, images=3, seed=0)
    assert batches.shape == (6, 12)  # 70 images in batches of 12
    for row in batches:
        assert len(set(row)) == 12
        assert sorted(np.bincount(labels[row])[np.unique(labels[row])]) == [3, 3, 3, 3]
    assert (batches == pk_batches(labels, 4, 3, seed=0)).all()
    assert (batches != pk_batches(labels, 4, 3, seed=1)).any()


def test_pk_batches_draw_views_of_the_same_images():
    labels = np.arange(40) % 8
    plain, views = (pk_batches(labels, 4, 3, seed=1, steps=20, views=v) for v in (1, 5))
    assert (views[0] % 40 == plain[0]).all() and plain.max() < 40
    assert set((views // 40).ravel()) == {0, 1, 2, 3, 4}
    assert all(len(set(batch % 40)) == 12 for batch in views)


def test_pk_batches_say_which_numbers_would_work():
    labels = np.repeat(np.arange(5), [9, 6, 3, 3, 1])
    message = r"2 of 5 classes have that many images.*P = 2 or a K of at most 3"
    with pytest.raises(ValueError, match=message):
        pk_batches(labels, classes=4, images=4)
    assert pk_batches(labels, 2, 4).shape == (3, 8)
    assert pk_batches(labels, 4, 3).shape == (2, 12)


# ------------------------------------------------------------------------------------- labels

FOUR = np.arange(24) % 4
TAKES_LABELS = {  # and whether one label is needed for each of 24 embeddings
    "random_triplets": (su.random_triplets, False),
    "pk_batches": (lambda y: pk_batches(y, 3, 2), False),
    "largest_batch_shape": (largest_batch_shape, False),
    "close_distance_triplets": (lambda y: su.close_distance_triplets(VECTORS, y), True),
    "mine_triplets": (lambda y: mine_triplets(VECTORS, y).numpy(), True),
    "retrieval_metrics": (lambda y: list(retrieval_metrics(VECTORS, y).values()), True),
    "a gallery": (lambda y: list(retrieval_metrics(VECTORS, y, VECTORS, y).values()), True),
    "IndexBatches": (lambda y: IndexBatches(VECTORS, y, lambda e: FOUR[None])[0][1], True),
}
READ = {
    "a column": FOUR[:, None],
    "a list": FOUR.tolist(),
    "whole floats": FOUR.astype(float),
    "bytes": FOUR.astype(np.uint8),
    "words": np.array(["a", "b", "c", "d"])[FOUR],
    "objects": np.array(["a", "b", "c", "d"], object)[FOUR],
}
REFUSED = {
    "one-hot": np.eye(4)[FOUR],
    "fractions": FOUR + 0.5,
    "nan": np.where(FOUR, FOUR, np.nan),
    "huge": FOUR * 1e300,
    "none": None,
    "not all words": np.array([0, "a", None, 1.5], object)[FOUR],
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("user", TAKES_LABELS)
def test_labels_are_read_right_everywhere(user, kind):
    function, _ = TAKES_LABELS[user]
    if user == "IndexBatches" and kind in ("words", "objects"):
        with pytest.raises(ValueError, match=r"whole numbers, such as np\.unique"):
            function(READ[kind])
    else:
        np.testing.assert_array_equal(function(READ[kind]), function(FOUR))


@pytest.mark.parametrize("user", TAKES_LABELS)
def test_what_is_no_label_is_refused_everywhere(user):
    function, counts = TAKES_LABELS[user]
    wrong_count = {"too few": FOUR[:12], "too many": [*FOUR, *FOUR]} if counts else {}
    for kind, labels in (REFUSED | wrong_count).items():
        try:
            function(labels)
        except ValueError as error:
            assert "labels of shape" in str(error), kind
        else:
            pytest.fail(f"{kind}: not refused")


def test_query_and_gallery_labels_are_of_one_kind():
    message = r"query labels such as \[0\] and gallery labels such as \['0'\]"
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(VECTORS, FOUR, VECTORS, FOUR.astype(str))


@pytest.mark.parametrize(
    "sample", [[[0, 24]], [[0, -1]], [[0.0, 1.0]], [0, 1], [[[0, 1]]], np.zeros((2, 3, 4), int)]
)
def test_indices_of_no_image_are_refused(sample):
    with pytest.raises(ValueError, match=r"sample\(0\) .* indices of 24 images"):
        IndexBatches(VECTORS, FOUR, lambda epoch: sample)


# ------------------------------------------------------------------------------------------ epochs

NUMBERS = np.arange(24, dtype=np.float32)[:, None]  # images that tell which they are
OPTIONS = {"epochs": 3, "shuffle": False, "verbose": 0}
STOP = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: setattr(STOP.model, "stop_training", True)
)


def sample_mined(epoch):
    return pk_batches(LABELS, 3, 2, seed=epoch, steps=2)


def sample_explicit(epoch):
    return sample_mined(epoch).reshape(2, 2, 3)


class Recorder:
    """A model that learns nothing and records the batches that it is trained and tested on."""

    def __init__(self, kind):
        base = MinedSiameseModel if kind == "mined" else su.SiameseModel
        self.kind, seen = kind, {True: [], False: []}
        self.sample = sample_mined if kind == "mined" else sample_explicit
        self.seen = seen

        class Recorded(base):
            def triplet_loss(self, data, training):
                parts = [data[0]] if kind == "mined" else data[0]
                numbers = np.stack([np.ravel(part) for part in parts], -1).squeeze()
                seen[training].append(numbers.astype(int).tolist())
                return super().triplet_loss(data, training)

        self.model = Recorded(keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]))
        self.model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)

    def batches(self):
        return IndexBatches(NUMBERS, LABELS, self.sample)

    def fit(self, batches, **options):
        """Fit; return the history. A mined model sets the epoch itself."""
        options = OPTIONS | options
        if self.kind == "explicit":
            options = EpochSetter.added_to(options, batches)
        self.forget()
        return self.model.fit(batches, **options).history

    def forget(self):
        for batches in self.seen.values():
            batches.clear()

    def of_epochs(self, *epochs):
        return [batch for epoch in epochs for batch in self.sample(epoch).tolist()]


@pytest.fixture(params=["explicit", "mined"])
def recorder(request):
    return Recorder(request.param)


def test_training_begins_with_the_batches_of_epoch_0(recorder):
    recorder.fit(recorder.batches())
    assert recorder.seen[True] == recorder.of_epochs(0, 1, 2)


def test_a_continued_training_has_the_batches_of_its_epochs(recorder):
    recorder.fit(recorder.batches(), initial_epoch=2, epochs=4)
    assert recorder.seen[True] == recorder.of_epochs(2, 3)


def test_after_a_training_that_was_stopped_the_next_one_begins_with_epoch_0(recorder):
    batches = recorder.batches()
    recorder.fit(batches, callbacks=[STOP])
    assert len(recorder.seen[True]) == 1
    recorder.fit(batches)
    assert recorder.seen[True] == recorder.of_epochs(0, 1, 2)


@pytest.mark.parametrize("own", [False, True], ids=["other batches", "the training's batches"])
def test_validation_sees_the_same_batches_after_each_epoch(recorder, own):
    batches = recorder.batches()
    history = recorder.fit(batches, validation_data=batches if own else recorder.batches())
    assert recorder.seen[True] == recorder.of_epochs(0, 1, 2)
    assert recorder.seen[False] == recorder.of_epochs(0, 0, 0)
    assert len(set(history["val_loss"])) == 1


def test_each_evaluation_sees_the_same_batches(recorder):
    batches = recorder.batches()
    one, two = (recorder.model.evaluate(batches, verbose=0) for _ in range(2))
    assert one == two and recorder.seen[False] == recorder.of_epochs(0, 0)


def test_steps_per_epoch_would_mix_epochs():
    recorder = Recorder("mined")
    with pytest.raises(ValueError, match="steps_per_epoch would mix epochs"):
        recorder.fit(recorder.batches(), steps_per_epoch=2)
