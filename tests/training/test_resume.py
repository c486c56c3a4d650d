"""Training survives: processes really killed, files really damaged, disks really full."""

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile

import forked
import keras
import numpy as np
import pytest
import small_run

import siamese_utils as su
from workbook.models import saved_models
from workbook.support import atomic_files, folder_lock
from workbook.training import checkpoint as checkpoint_module
from workbook.training.batches import EpochSetter, IndexBatches
from workbook.training.losses import TripletLoss


@pytest.fixture
def waiting(tmp_path):
    """small_run.py, which trains in a folder called run, in the middle of its second epoch."""
    words = [tmp_path / "run", tmp_path / "resumed.npz", 1, "wait", "-", 6]
    command = [sys.executable, small_run.__file__, *map(str, words)]
    child = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    yield child
    child.kill()
    child.communicate()


def run(*words, killed=False):
    """What small_run.py prints with these words; an error if it ends otherwise than it should."""
    done = forked.start([small_run.__file__, *words]).finish()
    assert (done.returncode != 0) == killed, done.stderr
    return done.stdout


def test_killed_again_and_again_the_result_is_bit_equal(tmp_path, waiting):
    folder, out = tmp_path / "run", tmp_path / "resumed.npz"

    assert "waiting\n" in iter(waiting.stdout.readline, "")
    with pytest.raises(RuntimeError, match=f"process {waiting.pid} is training in .*SIAMESE_RUNS"):
        folder_lock.lock_folder(folder)  # a second process is refused ...
    waiting.kill()  # SIGKILL from outside
    waiting.wait()
    folder_lock.lock_folder(folder)  # ... until the first is dead: a killed one leaves no lock
    folder_lock.lock_folder(folder)  # and a process may come again
    folder_lock.unlock_folder(folder)

    written = run(folder, out, 1, "write", "v9.npy", 2, killed=True)
    assert "continuing after epoch 1" in written
    (part,) = folder.glob("*.part.npz")
    assert part.stat().st_size and not zipfile.is_zipfile(part), "cut in the middle"

    between = run(folder, out, 1, "os.rename", ".part.npz", 2, killed=True)  # the old one is moved
    assert "continuing after epoch 2" in between
    assert not (folder / "checkpoint.npz").exists()

    at_the_end = run(folder, out, 1, "os.remove", "checkpoint.npz", 1, killed=True)  # one is gone
    assert "continuing after epoch 3" in at_the_end
    assert "continuing after epoch 6" in run(folder, out, 1)
    assert [path.name for path in folder.iterdir()] == ["training.lock"], "nothing else stays"

    expected = small_run.result(*small_run.fit(tmp_path / "straight"))
    assert len(expected["loss"]) == small_run.EPOCHS
    with np.load(out) as resumed:
        assert set(resumed) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)


# ---------------------------------------------------------------- in this process: small and fast


def stop_in(epoch):
    """A callback that interrupts as the stop button does, at the start of that epoch (from 1)."""

    def stop(now, logs):
        if now == epoch - 1:
            raise KeyboardInterrupt

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with the checkpoints of epochs 2 and 1, and what a whole training gives."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        small_run.fit(folder, callbacks=[stop_in(3)])
    model, history = small_run.fit(folder / "straight", new_model=True)
    return folder, model.get_weights(), history


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(stopped[0], tmp_path / "run")


@pytest.fixture
def expected(stopped):
    """The history of a whole training, in one go."""
    return stopped[2]


def restore(folder, seed=1, change=None, **options):
    """The epoch that a model of that seed, changed by `change`, finds in `folder`."""
    model, batches = small_run.build(seed) if change else small_run.rebuild(seed)
    if change:
        change(model, batches)
    return checkpoint_module.Checkpoint(folder, batches, {"seed": seed}, **options).restore(model)


def equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_stopped_training_goes_on_and_a_finished_one_starts_again(interrupted, stopped, capsys):
    for goes_on in (True, False):
        model, history = small_run.fit(interrupted)
        assert history == stopped[2] and equal(model.get_weights(), stopped[1])
        assert ("continuing after epoch 2" in capsys.readouterr().out) is goes_on


def test_the_same_cell_again_in_the_same_kernel(tmp_path, expected):
    model, batches = small_run.rebuild()
    checkpoint = checkpoint_module.Checkpoint(tmp_path, batches, {"seed": 1})
    for callbacks in ([stop_in(1)], [stop_in(4)], []):
        with contextlib.suppress(KeyboardInterrupt), checkpoint:
            done = checkpoint.restore(model)
            options = {"epochs": small_run.EPOCHS, "initial_epoch": done, "verbose": 0}
            history = model.fit(batches, callbacks=[*callbacks, checkpoint], **options).history
    assert history == expected


def test_a_plain_siamese_model_goes_on_too(tmp_path):
    def fit(folder, callbacks=()):
        keras.utils.set_random_seed(2)
        tail = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        model = su.SiameseModel(tail)
        model.compile(keras.optimizers.Adam(0.01))
        images = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
        sample = lambda e: su.random_triplets(small_run.LABELS, 12, e).reshape(2, 6, 3)  # noqa: E731
        batches = IndexBatches(images, small_run.LABELS, sample)
        with checkpoint_module.Checkpoint(folder, batches, {}) as checkpoint:
            done = checkpoint.restore(model)
            options = {"epochs": 4, "initial_epoch": done, "verbose": 0}
            callbacks = [EpochSetter(batches), *callbacks, checkpoint]
            history = model.fit(batches, callbacks=callbacks, **options).history
        return done, history, model.get_weights()

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", [stop_in(3)])
    (done, history, weights), (_, *straight) = fit(tmp_path / "run"), fit(tmp_path / "straight")
    assert done == 2 and history == straight[0] and equal(weights, straight[1])


def test_forgetting_with_or_restore_is_an_error_and_removes_nothing(interrupted):
    model, batches = small_run.rebuild()
    checkpoint = checkpoint_module.Checkpoint(interrupted, batches, {"seed": 1})
    with pytest.raises(RuntimeError, match=r"initial_epoch=checkpoint\.restore"), checkpoint:
        model.fit(batches, callbacks=[checkpoint], verbose=0)
    checkpoint.restore(model)
    with pytest.raises(RuntimeError, match=r"within `with Checkpoint"):
        model.fit(batches, callbacks=[checkpoint], verbose=0)
    assert restore(interrupted) == 2


class Clock:
    """A `time` for `checkpoint`: an epoch takes 30 seconds, writing takes as many as told."""

    def __init__(self, monkeypatch, writing):
        self.now, self.epochs, self.written = 0, 0, []

        @contextlib.contextmanager
        def slow_file(path):
            self.now += writing
            self.written.append(self.epochs)
            with atomic_files.atomic_file(path) as part:
                yield part

        monkeypatch.setattr(checkpoint_module, "time", self)
        monkeypatch.setattr(checkpoint_module, "atomic_file", slow_file)
        monkeypatch.setattr(checkpoint_module.Checkpoint, "LONGEST_PAUSE", 300)

    def monotonic(self):
        return self.now

    def epoch(self):
        def pass_by(epoch, logs):
            self.now, self.epochs = self.now + 30, self.epochs + 1

        return keras.callbacks.LambdaCallback(on_epoch_end=pass_by)


@pytest.mark.parametrize("writing, epochs", [(0, range(7)), (4, [0, 3, 6]), (60, [0])])
def test_writing_takes_a_twentieth_of_the_time(tmp_path, monkeypatch, writing, epochs):
    """In six epochs of 30 s: written each, each third (after 80 s), and not within 300 s."""
    clock = Clock(monkeypatch, writing)
    small_run.fit(tmp_path, callbacks=[clock.epoch()])
    assert clock.written == list(epochs)


def test_what_was_not_written_yet_a_stop_writes_and_a_kill_loses(tmp_path, monkeypatch, expected):
    """The next training goes on from there, to the same result."""
    clock = Clock(monkeypatch, writing=60)

    def kill(epoch, logs):  # what SIGKILL leaves
        if epoch == 3:
            shutil.copytree(tmp_path / "stopped", tmp_path / "killed")

    killed = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    with pytest.raises(checkpoint_module.Interrupted, match="interrupted after epoch 4"):
        small_run.fit(tmp_path / "stopped", callbacks=[clock.epoch(), killed, stop_in(5)])
    assert clock.written == [0, 4]
    for name, epoch in ("stopped", 4), ("killed", 0):
        assert restore(tmp_path / name) == epoch
        assert small_run.fit(tmp_path / name)[1] == expected


def test_what_fails_after_the_training_loses_nothing_of_it(tmp_path, expected):
    """Such as a full disk where the embedding is to be saved: only a whole `with` ends it."""
    model, batches = small_run.rebuild()
    options = {"epochs": small_run.EPOCHS, "verbose": 0}
    with (
        pytest.raises(OSError, match="full"),
        checkpoint_module.Checkpoint(tmp_path, batches, {"seed": 1}) as checkpoint,
    ):
        checkpoint.restore(model)
        model.fit(batches, callbacks=[checkpoint], **options)
        raise OSError("the disk is full")
    assert restore(tmp_path) == small_run.EPOCHS
    assert small_run.fit(tmp_path)[1] == expected


def test_half_precision_goes_on_in_the_same_kernel(tmp_path, capsys):
    """Its optimiser has one inside, whose name Keras numbers too."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(KeyboardInterrupt):
            small_run.fit(tmp_path / "run", callbacks=[stop_in(3)], new_model=True)
        model, history = small_run.fit(tmp_path / "run", new_model=True)
        assert "continuing after epoch 2" in capsys.readouterr().out
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        straight, expected = small_run.fit(tmp_path / "straight", new_model=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert history == expected and equal(model.get_weights(), straight.get_weights())


def test_whatever_byte_is_changed_no_damaged_state_is_used(interrupted, capsys):
    model, batches = small_run.rebuild()
    checkpoint = checkpoint_module.Checkpoint(interrupted, batches, {"seed": 1})

    def restored():
        epoch = checkpoint.restore(model)
        return epoch, [v.numpy() for v in checkpoint.variables]

    file = interrupted / "checkpoint.npz"
    raw, good = file.read_bytes(), {2: restored()[1]}
    file.unlink()
    good[1] = restored()[1]
    epochs = []
    for place in np.linspace(0, len(raw) - 1, 80).astype(int):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        epoch, variables = restored()
        assert equal(variables, good[epoch]), place
        epochs.append(epoch)
    assert capsys.readouterr().out.count("is damaged") == epochs.count(1) > 40


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint", "half"])
def test_a_damaged_last_checkpoint_leaves_the_one_before_and_the_same_result(
    interrupted, content, expected, capsys
):
    file = interrupted / "checkpoint.npz"
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2] if content == "half" else content)
    assert restore(interrupted) == 1
    assert "checkpoint.npz is damaged" in capsys.readouterr().out
    if content == "half":
        with pytest.raises(KeyboardInterrupt):  # and what is damaged displaces nothing
            small_run.fit(interrupted, callbacks=[stop_in(3)])
        assert zipfile.is_zipfile(interrupted / "checkpoint-before.npz")
        assert small_run.fit(interrupted)[1] == expected


def test_both_damaged_trains_from_the_start_and_says_so(interrupted, capsys):
    for file in interrupted.glob("*.npz"):
        file.write_bytes(b"x")
    assert restore(interrupted) == 0
    assert capsys.readouterr().out.count("is damaged") == 2


def other_margin(model, batches):
    model.triplet_loss_function = TripletLoss(0.4)


def other_rate(model, batches):
    model.compile(keras.optimizers.AdamW(1e-3))


def other_images(model, batches):
    batches.images = batches.images + 1


@pytest.mark.parametrize(
    "word, options",
    {
        "seed: 1 there, 2 here": {"seed": 2},
        "margin: 0.5 there, 0.4 here": {"change": other_margin},
        "optimizer": {"change": other_rate},
        "images": {"change": other_images},
    }.items(),
)
def test_a_checkpoint_of_another_training_is_named_and_not_used(interrupted, word, options, capsys):
    assert restore(interrupted, **options) == 0
    printed = capsys.readouterr().out
    assert printed.count("is of another training and not used") == 2 and word in printed


def test_resume_false_drops_an_interrupted_training(interrupted):
    assert restore(interrupted, resume=False) == 0
    assert not list(interrupted.glob("*.npz"))


# ----------------------------------------------------------------------------------- no room left


@contextlib.contextmanager
def small_disk(folder, size):
    """A real file system of `size` bytes at `folder`; skips where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs Linux and root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def file_limit(size):
    """The system refuses to let a file of this process grow beyond `size` bytes."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def intact(folder, size):
    """The last good checkpoint is there, bit by bit, and nothing half-made beside it."""
    assert restore(folder) == 2
    assert not list(folder.glob("*.part*")) and size == (folder / "checkpoint.npz").stat().st_size


def test_a_write_that_the_system_refuses_is_an_error_and_costs_nothing(interrupted, expected):
    size = (interrupted / "checkpoint.npz").stat().st_size
    with file_limit(size // 2), pytest.raises(OSError, match=r"checkpoint\.npz could not"):
        small_run.fit(interrupted)
    intact(interrupted, size)
    assert small_run.fit(interrupted)[1] == expected


def test_a_full_disk_is_an_error_and_costs_nothing(interrupted, tmp_path):
    size = (interrupted / "checkpoint.npz").stat().st_size
    disk = tmp_path / "disk"
    with small_disk(disk, 2 * size + 70_000):  # a third file, for a moment, does not fit
        for file in interrupted.glob("*.npz"):
            shutil.copy(file, disk)
        with pytest.raises(OSError, match=r"No space left on device; 0 MB are free.*make room"):
            small_run.fit(disk)
        intact(disk, size)


def test_a_full_disk_shows_before_the_first_epoch(tmp_path):
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: steps.append(1))
    with file_limit(2000), pytest.raises(OSError, match="make room"):
        small_run.fit(tmp_path / "run", callbacks=[count])
    assert not steps and not list((tmp_path / "run").glob("*.npz"))


def test_a_model_is_saved_whole_or_not_at_all(tmp_path):
    model, _ = small_run.rebuild()
    path = tmp_path / "embedding.keras"
    saved_models.save_model(model.embedding, path)
    good = path.read_bytes()
    with file_limit(len(good) // 2), pytest.raises(OSError, match=r"embedding\.keras could not be"):
        saved_models.save_model(model.embedding, path)
    assert path.read_bytes() == good and os.listdir(tmp_path) == ["embedding.keras"]
