"""Same seed, same result, bit by bit, in another process; another seed, another result."""

import subprocess
import sys

import numpy as np
import small_run


def test_two_processes_of_one_seed_agree_in_every_bit_and_another_seed_does_not(tmp_path):
    command = [sys.executable, small_run.__file__, tmp_path / "child", tmp_path / "child.npz", "1"]
    child = subprocess.Popen(command)
    same, other = (small_run.result(*small_run.fit(tmp_path / f"{s}", seed=s)) for s in (1, 2))
    assert child.wait(120) == 0
    with np.load(tmp_path / "child.npz") as elsewhere:
        assert set(elsewhere) == set(same) == {"loss", "d_ap", "d_an", "active", "embeddings"}
        for name in same:
            np.testing.assert_array_equal(elsewhere[name], same[name], err_msg=name)
            assert (same[name] != other[name]).any(), name


def test_a_batch_depends_on_the_seed_and_the_epoch_alone():
    _, batches = small_run.build(seed=1)
    for epoch in (5, 0, 3):  # in whatever order they are asked for
        batches.set_epoch(epoch)
        again = small_run.build(seed=1)[1]
        for passed in range(epoch + 1):
            again.set_epoch(passed)
        np.testing.assert_array_equal(batches.batches, again.batches)
        assert (batches.batches != small_run.build(seed=2)[1].sample(epoch)).any()
