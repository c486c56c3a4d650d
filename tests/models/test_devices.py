"""One device, two logical devices, two worker processes: the same training; precision and XLA."""

import json
import os
import warnings
from types import SimpleNamespace

import forked
import numpy as np
import pytest
import together

from workbook import settings
from workbook.commands import workers
from workbook.models import devices
from workbook.models.backbones import build_from_config
from workbook.models.devices import choose_strategy
from workbook.settings import read_config
from workbook.support import tensorflow_start
from workbook.support.tensorflow_start import keras, tf
from workbook.training.mining import squared_distances

SCRIPT = together.__file__
ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}  # the devices that are compared are CPUs, also beside a GPU


def finish(process):
    done = process.finish()
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "curves.json"
    finish(forked.start([SCRIPT, "one", out], env=os.environ | ON_CPU))
    return json.loads(out.read_text("utf-8"))


def equal(one, other):
    """The curves and embeddings of two trainings agree to 1e-4."""
    for mining, curves in one.items():
        for name, values in curves.items() if mining != "replicas" else ():
            np.testing.assert_allclose(other[mining][name], values, atol=1e-4, err_msg=name)


def test_two_logical_devices_train_as_one(one_device, tmp_path):
    out = tmp_path / "curves.json"
    finish(forked.start([SCRIPT, "all", out], env=os.environ | ON_CPU))
    two = json.loads(out.read_text("utf-8"))
    assert (one_device["replicas"], two["replicas"]) == (1, 2)
    equal(one_device, two)


def test_two_worker_processes_train_as_one(one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "GPUS", [])
    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    ports = workers.find_free_ports(2)
    environments = [workers.worker_environment(i, ports, tmp_path) | ON_CPU for i in range(2)]
    for process in [
        forked.start([SCRIPT, "workers", out], env=environment)
        for out, environment in zip(outs, environments)
    ]:
        finish(process)
    for out in outs:
        two = json.loads(out.read_text("utf-8"))
        assert two["replicas"] == 2
        equal(one_device, two)


def test_workers_without_an_address_say_what_to_do(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"TF_CONFIG.*workbook workers 2"):
        choose_strategy(read_config(preset="quick", devices="workers"))


TWO_GPUS = [SimpleNamespace(name=f"/physical_device:GPU:{i}") for i in range(2)]


@pytest.fixture
def found(monkeypatch, tmp_path):
    """What TensorFlow finds, to be filled; a machine whose only sign of a GPU is in `found.bin`."""
    gpus, found = [], SimpleNamespace(bin=tmp_path / "bin", grow=[], gpus=None)
    found.gpus = gpus
    found.bin.mkdir()
    monkeypatch.setenv("PATH", str(found.bin))
    monkeypatch.setattr(tensorflow_start, "DRIVER", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    grow = lambda gpu, on: found.grow.append((gpu, on))  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    return found


def test_every_gpu_gives_its_memory_as_it_is_needed(found, monkeypatch, capsys):
    found.gpus += TWO_GPUS
    assert tensorflow_start.use_gpus() == TWO_GPUS
    assert found.grow == [(gpu, True) for gpu in TWO_GPUS] and not capsys.readouterr().out

    def too_late(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", too_late)
    assert tensorflow_start.use_gpus() == TWO_GPUS
    assert "GPU:1 keeps its memory to itself: import the workbook f" in capsys.readouterr().out


def test_a_gpu_that_tensorflow_cannot_use_is_reported_in_a_line(found, monkeypatch, capsys):
    assert tensorflow_start.use_gpus() == [] and not capsys.readouterr().out, (
        "a machine without one"
    )
    smi = found.bin / "nvidia-smi"
    smi.write_text("#!/bin/sh\n")
    smi.chmod(0o755)
    assert tensorflow_start.use_gpus() == []
    (line,) = capsys.readouterr().out.splitlines()
    assert "TensorFlow cannot use: " in line and 'pip install "tensorflow[and-cuda]"' in line
    if not tensorflow_start.GPUS:
        assert "Could not find cuda drivers" in line, "its own reason, asked of the real one"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    tensorflow_start.use_gpus()
    assert not capsys.readouterr().out, "hidden on purpose"


def test_each_local_worker_has_a_gpu_of_its_own(found, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "GPUS", [])
    assert "CUDA_VISIBLE_DEVICES" not in workers.worker_environment(1, [1, 2], tmp_path)
    monkeypatch.setattr(workers, "GPUS", TWO_GPUS)
    own = lambda i: workers.worker_environment(i, [1, 2], tmp_path)["CUDA_VISIBLE_DEVICES"]  # noqa: E731
    assert [own(0), own(1)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [own(0), own(1)] == ["2", "5"]
    with pytest.raises(ValueError, match=r"3 processes for 2 GPU.*CUDA_VISIBLE_DEVICES=-1"):
        workers.start_workers(3, [])


def test_the_tests_download_nothing_where_there_is_a_gpu(monkeypatch):
    """`full`, the default there, would; a plain `pytest` says `quick` too."""
    monkeypatch.setattr(settings, "GPUS", TWO_GPUS)
    assert (read_config().preset, read_config().dataset) == ("quick", "toys")


def test_precision_holds_from_the_first_layer_on(tmp_path):
    """Otherwise the frozen trunk would compute in another precision than the tail."""
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]).save(tmp_path / "b.keras")
    options = {"backbone": tmp_path / "b.keras", "size": 8, "runs": tmp_path}
    config = read_config({}, preset="quick", precision="mixed_bfloat16", **options)
    try:
        model = build_from_config(config)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("frozen_trunk").get_layer("frozen_layers").compute_dtype == "bfloat16"
    assert model.get_layer("trainable_tail").get_layer("feature_norm").compute_dtype == "bfloat16"


def train(policy="float32", jit_compile=False, mining="semi-hard", epochs=4):
    """A small training on one device; returns (model, history)."""
    keras.config.set_dtype_policy(policy)
    try:
        model = together.build(mining, jit_compile)
    finally:
        keras.config.set_dtype_policy("float32")
    return model, together.fit(model, epochs)


@pytest.mark.parametrize("mining", ["all", "semi-hard", "batch-hard"])  # the others: as semi-hard
def test_xla_trains_as_without(mining):
    _, plain = train(mining=mining)
    _, compiled = train(mining=mining, jit_compile=True)
    for name, values in plain.items():
        np.testing.assert_allclose(compiled[name], values, atol=1e-3, err_msg=name)


def test_half_precision_scales_the_loss_and_reports_it_unscaled():
    _, plain = train(epochs=1)
    model, half = train("mixed_float16", epochs=1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.scale_loss(1.0) > 1000, "scaled, so that small gradients survive"
    np.testing.assert_allclose(half["loss"], plain["loss"], atol=0.02)
    np.testing.assert_allclose(half["d_an"], plain["d_an"], atol=0.02)
    vectors = model.embedding(together.IMAGES[:4])
    assert vectors.dtype == "float32" and squared_distances(vectors).dtype == "float32"
    dense = model.embedding.get_layer("trainable_tail").get_layer("dense_1")
    assert dense.compute_dtype == "float16", "the layers do compute in half precision"
    distances = squared_distances(model.embedding(together.IMAGES))
    labels = tf.constant(together.LABELS)
    found = model.triplet_loss_function(distances, labels, model.miner(distances, labels))
    assert found.d_ap.dtype == found.d_an.dtype == found.loss.dtype == "float32"


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [
        ("flags : avx512f avx512_bf16 clzero", True),
        ("flags : amx_bf16 avx512_vnni amx_tile", True),
        ("Features : asimd bf16 i8mm", True),
        ("flags : avx2 avx512f avx512_vnni", False),
        (None, True),
    ],
)
def test_a_processor_without_bfloat16_is_warned_of(monkeypatch, tmp_path, flags, has_it):
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices, "GPUS", [])
    if flags:
        devices.CPU_INFO.write_text(flags, "utf-8")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            choose_strategy(read_config(preset="quick", precision="mixed_bfloat16"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert [("PRECISION=float32" in str(w.message)) for w in caught] == [True] * (not has_it)


def test_one_setting_chooses_precision_and_one_xla():
    try:
        choose_strategy(read_config(preset="quick", precision="mixed_bfloat16"))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert read_config(preset="quick", xla="on").jit_compile is True
    assert read_config(preset="quick").jit_compile == "auto"
