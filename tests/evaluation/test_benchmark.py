"""What notebook 9 measures with: the right result, the right calls, memory that is seen."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from siamese_utils import close_distance_triplets
from workbook.evaluation import benchmark
from workbook.support.tensorflow_start import keras


def with_clock(monkeypatch, *readings):
    clock = iter(readings)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))


def test_timed_gives_seconds_and_result(monkeypatch):
    with_clock(monkeypatch, 5.0, 7.5)
    assert benchmark.timed(lambda a, b: a - b, 7, 4) == (2.5, 3)


def test_the_first_call_does_not_count_and_one_slow_one_does_not_move_the_median(monkeypatch):
    with_clock(monkeypatch, 0, 2, 10, 11, 20, 99)
    calls = []
    assert benchmark.median_seconds(lambda: calls.append(1), 3) == 2
    assert len(calls) == 4


def test_peak_memory_sees_what_is_already_freed():
    with benchmark.PeakMemory() as memory:
        array = np.ones(2**28, np.uint8)  # 0.27 GB
        time.sleep(0.1)
        del array
    assert memory.more > 0.2 and memory.peak > memory.before


def test_ways_are_measured_by_turns_after_a_first_call_each(monkeypatch):
    with_clock(monkeypatch, 0, 1, 0, 9, 0, 3, 0, 8, 0, 2, 0, 10)  # of each round: slow, then fast
    calls = []
    ways = {"first": lambda: calls.append("first"), "second": lambda: calls.append("second")}
    speeds = benchmark.measure_by_turns(ways, 3)
    assert calls == ["first", "second"] * 4
    assert (speeds["first"].seconds, speeds["second"].seconds) == (2, 9)
    assert speeds["first"].peak_gb > 0


def test_the_limits_of_the_machine_follow_from_work_and_time(monkeypatch):
    monkeypatch.setattr(benchmark, "median_seconds", lambda function, times: function() or 0.5)
    monkeypatch.setattr(benchmark.tf, "matmul", lambda *_: SimpleNamespace(numpy=lambda: None))
    gflops, gbytes = benchmark.measure_machine(100, megabytes=1)
    assert (gflops, gbytes) == pytest.approx((2 * 100**3 / 0.5 / 1e9, 2e6 / 0.5 / 1e9))


def test_operations_count_each_weight_once_per_place():
    inner = keras.Sequential(
        [
            keras.Input((None, None, 3)),  # as a backbone that takes any size
            keras.layers.Conv2D(4, 3, 2, padding="same"),  # 8 x 8 -> 4 x 4
            keras.layers.DepthwiseConv2D(3, padding="same"),
        ]
    )
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(inner(image))
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    convolutions = 2 * 16 * (3 * 3 * 3 * 4 + 3 * 3 * 4)
    assert benchmark.count_operations(model) == convolutions + 2 * 4 * 4 * 4 * 5


def test_the_plain_loop_gives_the_triplets_of_the_fast_one():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(40, 8)), rng.integers(5, size=40)
    plain = benchmark.plain_close_distance(vectors, labels)
    np.testing.assert_array_equal(plain, close_distance_triplets(vectors, labels))
