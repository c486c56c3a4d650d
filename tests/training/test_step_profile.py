"""The parts of a training step: which programs are timed, and that they add up to the whole."""

import numpy as np
import pytest

from workbook.settings import read_config
from workbook.support.tensorflow_start import keras
from workbook.training import step_profile
from workbook.training.step_profile import PARTS, TrainingStep


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A backbone of 16 pixels whose last layer is trained, with the slim head."""
    folder = tmp_path_factory.mktemp("step")
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="frozen")(image)
    x = keras.layers.Conv2D(8, 3, name="trained")(x)
    keras.Model(image, x).save(folder / "small.keras")
    options = {"backbone": str(folder / "small.keras"), "head": "slim", "size": 16}
    return read_config({}, preset="quick", train_from="trained", runs=str(folder), **options)


@pytest.fixture(scope="module")
def step(config):
    return TrainingStep(config, classes=4, images=3, kept=40)


def test_a_step_trains_on_a_batch_of_kept_features(step):
    images, labels = step.gather()
    assert images.shape == (12, 7, 7, 8) and images.dtype == np.float32
    assert step.batches.images.dtype == np.float16
    assert (np.unique(labels, return_counts=True)[1] == 3).all()
    before = [weight.numpy() for weight in step.model.trainable_weights]
    losses = [step.run() for _ in range(2)]  # the learning rate of the first step is 0
    assert all(0 < loss < 10 for loss in losses)
    after = [weight.numpy() for weight in step.model.trainable_weights]
    assert any((one != other).any() for one, other in zip(before, after))


def test_its_operations_are_those_of_the_tail_forward_once_and_backward_twice(step):
    per_image = 2 * 25 * (3 * 3 * 8 * 8) + 2 * 8 * 256  # 5 x 5 places, then the Dense layer
    assert step.gigaflops == pytest.approx(3 * 12 * per_image / 1e9)


def test_the_parts_are_differences_and_add_up_to_the_whole(step, monkeypatch):
    """With a clock by which each program takes a second more than the one before it."""
    called = []

    def clock(programs, repeats):
        for name, program in programs.items():
            program()
            called.append(name)
        assert repeats == 7
        return {name: 0.25 if name == "gather" else float(i) for i, name in enumerate(programs)}

    monkeypatch.setattr(step_profile, "median_by_turns", clock)
    parts = step.profile(7)
    assert called == list(parts) == list(PARTS)
    assert parts == {"gather": 0.25} | dict.fromkeys(PARTS[1:], 1.0)


def test_the_last_program_is_a_whole_step_and_those_before_it_train_nothing(step):
    programs = step._growing_programs()
    weights = step.model.trainable_weights
    for name, program in programs.items():
        before = [weight.numpy() for weight in weights]
        program()
        moved = any((b != w.numpy()).any() for b, w in zip(before, weights))
        assert moved == (name == "optimiser"), name


def test_without_a_trained_part_of_the_backbone_the_head_is_measured_as_a_whole(config):
    frozen = read_config(
        {}, preset="quick", backbone=config.backbone, head="slim", size=16, runs=str(config.runs),
        train_from="none",
    )  # fmt: skip
    assert set(TrainingStep(frozen, classes=4, images=3, kept=40).profile(1)) == set(PARTS)
