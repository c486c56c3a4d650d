"""Same seed, same result, bit by bit, in processes of their own; another seed, another result."""

import subprocess
import sys

import numpy as np
import small_run


def test_two_processes_of_one_seed_agree_in_every_bit_and_another_seed_does_not(tmp_path):
    seeds = {"one": 1, "two": 1, "other": 2}
    children = [
        subprocess.Popen([sys.executable, small_run.__file__, tmp_path / f"{name}", out, str(seed)])
        for name, seed in seeds.items()
        for out in [tmp_path / f"{name}.npz"]
    ]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    one, two, other = (dict(np.load(tmp_path / f"{name}.npz")) for name in seeds)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        assert (one[name] != other[name]).any(), name


def test_a_batch_depends_on_the_seed_and_the_epoch_alone():
    _, batches = small_run.build(seed=1)
    for epoch in (5, 0, 3):  # in whatever order they are asked for
        batches.set_epoch(epoch)
        again = small_run.build(seed=1)[1]
        for _ in range(epoch):
            again.on_epoch_end()
        np.testing.assert_array_equal(batches.batches, again.batches)
        assert (batches.batches != small_run.build(seed=2)[1].sample(epoch)).any()
