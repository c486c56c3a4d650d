"""`python -m workbook check-gpu`: each check on small networks, with a GPU that is only pretended.

The processor computes in all of these tests. Where the code asks whether there is a GPU, it is told
that there is one.
"""

from types import SimpleNamespace

import pytest

from workbook.__main__ import main
from workbook.commands import check_gpu
from workbook.commands.check_gpu import FAILS, HOLDS, MEASURED, SKIPPED, Row
from workbook.support.tensorflow_start import tf

GPU = SimpleNamespace(name="/physical_device:GPU:0")


@pytest.fixture
def bench(tmp_path):
    return check_gpu.Bench(check_gpu.FOR_CPU, tmp_path)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as far as the command can tell."""
    monkeypatch.setattr(check_gpu, "GPUS", [GPU])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {})


def run(monkeypatch, capsys, checks, *options):
    """Run the command with these checks in place of all; return (exit code, what it printed)."""
    monkeypatch.setattr(check_gpu, "CHECKS", checks)
    with pytest.raises(SystemExit) as end:
        main(["check-gpu", *options])
    return end.value.code or 0, capsys.readouterr().out


def good(_):
    yield Row("speed", "3 images/s")
    yield check_gpu.judge("memory", "2 of 2", "both compute", True)


def bad(_):
    yield check_gpu.judge("sameness", "0.3", "0.1 at most", False)


def broken(_):
    yield Row("before it breaks", "1")
    raise RuntimeError("out of | memory\nand more")


def test_without_a_gpu_one_sentence_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(check_gpu, "GPUS", [])
    code, printed = run(monkeypatch, capsys, {"good": good})
    assert code == 2 and len(printed.splitlines()) == 1
    assert "no GPU is visible" in printed and "--cpu" in printed


@pytest.mark.parametrize("options", [(), ("--cpu",)])
def test_if_all_promises_hold_the_exit_code_is_0(gpu, monkeypatch, capsys, options):
    code, printed = run(monkeypatch, capsys, {"good": good}, *options)
    assert code == 0 and "1 promises hold, 0 fail" in printed


@pytest.mark.parametrize("check", [bad, broken])
def test_a_failing_or_broken_check_is_a_row_and_the_others_still_run(
    gpu, monkeypatch, capsys, check
):
    code, printed = run(monkeypatch, capsys, {"first": check, "second": good})
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert code == 1 and "1 promises hold, 1 fail" in printed
    assert len({line.count("|") for line in table}) == 1, "a table in Markdown"
    assert len({len(line) for line in table}) == 1
    assert any(FAILS in line for line in table) and any("both compute" in line for line in table)
    if check is broken:
        assert any("before it breaks" in line for line in table), "what it measured is kept"
        assert "RuntimeError: out of / memory" in printed and "and more" not in printed


def test_the_scale_is_the_large_one_only_where_there_is_a_gpu(monkeypatch, capsys):
    scales = []

    def remember(bench):
        scales.append(bench.scale)
        yield Row("scale", "")

    for gpus in ([], [GPU]):
        monkeypatch.setattr(check_gpu, "GPUS", gpus)
        monkeypatch.setattr(check_gpu, "describe_machine", str)
        run(monkeypatch, capsys, {"scale": remember}, "--cpu")
    assert scales == [check_gpu.FOR_CPU, check_gpu.FOR_GPU]
    assert check_gpu.FOR_GPU.epoch["weights"] == "imagenet"


def test_the_settings_of_the_user_do_not_change_what_is_measured(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("SIAMESE_PRECISION", "mixed_float16")
    monkeypatch.setenv("SIAMESE_DATA_HOME", str(tmp_path / "mine"))
    config = bench.configure(**check_gpu.FOR_CPU.network)
    assert config.precision == "float32" and config.data_home == tmp_path / "mine"


def test_speed_is_compared_with_the_processor_and_float32_has_to_win(bench, gpu, monkeypatch):
    """The steps are real; the clock says that the processor took a second and each way half one."""
    monkeypatch.setattr(
        check_gpu, "median_by_turns", lambda ways, _: {n: 0.5 if n else 1.0 for n in ways}
    )
    rows = list(check_gpu.check_speed(bench))
    assert [row.verdict for row in rows] == [MEASURED] + [HOLDS] * 4
    assert "12 images/s" in rows[0].measured and "24 images/s, 2.0 ×" in rows[1].measured
    monkeypatch.setattr(check_gpu, "median_by_turns", lambda ways, _: dict.fromkeys(ways, 1.0))
    monkeypatch.setattr(
        check_gpu.Bench, "step", lambda *_, **__: SimpleNamespace(run=float, size=1)
    )
    verdicts = {row.check: row.verdict for row in check_gpu.check_speed(bench)}
    assert verdicts.pop("training step, float32") == FAILS, "not faster than the processor"
    assert FAILS not in verdicts.values()


def test_a_precision_with_another_loss_fails(bench, monkeypatch):
    def step(_, precision="float32", **__):
        return SimpleNamespace(run=lambda: 0.5 + 0.1 * (precision != "float32"), size=1)

    monkeypatch.setattr(check_gpu.Bench, "step", step)
    rows = {row.check: row for row in check_gpu.check_speed(bench)}
    assert rows["training step, mixed_float16"].verdict == FAILS
    assert "off by 0.1000" in rows["training step, mixed_float16"].measured
    assert rows["training step, float32, XLA"].verdict == HOLDS


def test_the_frozen_layers_are_timed_on_both(bench):
    [row] = check_gpu.check_trunk(bench)
    assert row.verdict == MEASURED and float(row.measured.split()[0]) > 0


def test_two_processes_compute_at_once_and_a_dead_one_is_noticed(bench, monkeypatch):
    [row] = check_gpu.check_memory(bench)
    assert row.verdict == HOLDS and row.measured.startswith("4 of 4")
    monkeypatch.setattr(check_gpu, "PROCESS", "input(); print('failed', flush=True); input()")
    [row] = check_gpu.check_memory(bench)
    assert row.verdict == FAILS and row.measured.startswith("0 of 4")


def test_a_step_by_hand_is_that_of_the_class_and_a_wrong_class_is_noticed(bench, monkeypatch):
    [row] = check_gpu.check_gradient_step(bench)
    assert row.verdict == HOLDS and "change by 0.0e+00" not in row.measured
    right = check_gpu.su.SiameseModel.triplet_loss
    monkeypatch.setattr(
        check_gpu.su.SiameseModel, "triplet_loss", lambda *args, **kw: -right(*args, **kw)
    )
    [row] = check_gpu.check_gradient_step(bench)
    assert row.verdict == FAILS


def test_all_devices_train_as_one(bench):
    rows = list(check_gpu.check_all_devices(bench))
    assert [row.verdict for row in rows] == [HOLDS, SKIPPED]
    assert tf.config.experimental.tensor_float_32_execution_enabled(), "it is on again"


def test_photographs_that_cannot_be_had_are_no_failure(bench, monkeypatch):
    assert [row.verdict for row in check_gpu.check_photographs(bench)] == [SKIPPED]

    def offline(_):
        raise FileNotFoundError("grocery could not be downloaded")

    with_photographs = check_gpu.Bench(check_gpu.FOR_GPU, bench.folder)
    monkeypatch.setattr(check_gpu, "load_from_config", offline)
    [row] = check_gpu.check_photographs(with_photographs)
    assert row.verdict == SKIPPED and "could not be downloaded" in row.measured


def test_an_epoch_on_photographs_is_trained_and_compared_with_before(bench):
    """Drawn toys stand in for the photographs, a small network for ResNet50."""
    settings = check_gpu.SMALL | {"dataset": bench.toys()}
    scale = check_gpu.Scale({}, 2, 2, 1, settings)
    [row] = check_gpu.check_photographs(check_gpu.Bench(scale, bench.folder))
    assert row.verdict in (HOLDS, FAILS) and "→" in row.measured
    before, after = (float(word.strip(";")) for word in row.measured.split()[2:5:2])
    assert (after > before) == (row.verdict == HOLDS)


def test_a_resumed_training_equals_an_uninterrupted_one(bench, monkeypatch):
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    rows = {row.check: row for row in check_gpu.check_resume(bench)}
    assert rows["resumed after 2 of 4 epochs"].verdict == HOLDS
    assert rows["the same seed twice"].verdict == HOLDS
    assert (bench.folder / "parts" / "embedding.keras").exists()


def test_a_resumed_training_that_differs_fails(bench, gpu, monkeypatch):
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(check_gpu, "largest_difference", lambda *_: 1e-9)
    rows = {row.check: row for row in check_gpu.check_resume(bench)}
    assert rows["the same seed twice"].verdict == MEASURED, "not promised of a GPU"
    assert rows["resumed after 2 of 4 epochs"].verdict == FAILS
