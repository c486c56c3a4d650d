"""`python -m tools.machine_limit`: which rows it measures, that they fit together, and the peer."""

import csv
import sys

import keras
import pytest

from tools import machine_limit
from workbook.training.step_profile import PARTS


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Small networks and matrices, one round; the table goes to a folder of the test."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(image)
    keras.Model(image, x).save(tmp_path / "small.keras")
    settings = {"backbone": str(tmp_path / "small.keras"), "head": "slim", "size": 16}
    for name in ("SPECIFIED", "DEFAULT"):
        monkeypatch.setattr(machine_limit, name, settings | {"runs": tmp_path})
    monkeypatch.setattr(machine_limit, "SIDE", 64)
    monkeypatch.setattr(machine_limit, "ROUNDS", 1)
    monkeypatch.setattr(machine_limit, "FILE", tmp_path / "limit.csv")
    yield machine_limit.FILE
    keras.config.set_dtype_policy("float32")


def test_the_table_has_each_program_and_part_in_both_precisions(small):
    machine_limit.main()
    rows = list(csv.DictReader(small.read_text("utf-8").splitlines()))
    whole = ["matrix product", "workbook", "workbook, default network"]
    whole += [f"frozen layers, {size} images" for size in (8, 32, 96)]
    expected = {(p, "whole") for p in whole} | {("workbook", part) for part in PARTS}
    for precision in ("float32", "bfloat16"):
        found = [(r["program"], r["part"]) for r in rows if r["precision"] == precision]
        assert len(found) == len(expected) and set(found) == expected
    for row in rows:
        is_step = row["part"] == "whole" and row["program"] != "matrix product"
        assert bool(row["images_per_second"]) == is_step
        assert bool(row["gflop_per_second"]) == (row["part"] == "whole")


def test_a_rate_is_work_per_second():
    row = machine_limit.make_row("workbook", "float32", "whole", 0.5, 96, 281.0)
    assert (row["images_per_second"], row["gflop_per_second"]) == (192.0, 562)


def test_a_peer_without_torch_is_refused_in_one_sentence(tmp_path, capfd):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        peer = machine_limit.Peer(sys.executable)
    with pytest.raises(ValueError, match="Python of the peer ended"):
        peer.seconds("step", "float32")
    peer.process.wait()
    assert "no torch here" in capfd.readouterr().err
