"""`python -m workbook cache`: what is listed, what is removed, and what never is."""

import contextlib
import os
import time

import pytest

from workbook.__main__ import main
from workbook.support.folder_lock import lock_folder, unlock_folder

KEY = "0123456789abcdef"
OURS = {  # name: what is in it, if it is a folder; bytes; days since a run used it
    f"images-{KEY}": ("pixels.rgb", 3_000_000, 30),
    f"trunk-{KEY}.npy": ("", 2_000_000, 8),
    f"trunk-{KEY[::-1]}.npy": ("", 1_000_000, 6),
    f"toys-{KEY}.npz": ("", 500_000, 30),
    "efficientnet_lite0-57934424.keras": ("", 400_000, 0),
    f"trunk-{KEY}.npy.part-x1_y": ("work/new.npy", 300_000, 2),
    f"toys-{KEY}.npz.part-ab": ("work/new.npz", 200_000, 0),  # a living run's
}
OTHERS = ["trunk-mine.npy", f"trunk-{KEY}.npz", f"images-{KEY}x", "embedding.keras", "linked"]


@pytest.fixture
def runs(tmp_path):
    """A folder of results, in which everything was used some days ago."""
    cache = tmp_path / "runs/cache"
    for name, (inside, size, days) in OURS.items():
        path, file = cache / name, cache / name / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        then = time.time() - days * 86400 - 60
        os.utime(path, (then, then))
    for name in OTHERS:
        (cache / name).write_bytes(b"mine")
        os.utime(cache / name, (0, 0))
    return tmp_path / "runs"


def names(runs):
    return {path.name for path in (runs / "cache").iterdir()}


def test_everything_is_listed_with_size_and_last_use_and_nothing_removed(runs, capsys):
    main(["cache", str(runs)])
    lines = capsys.readouterr().out.splitlines()
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 8 * 86400 - 60))
    assert lines[1] == f"      2.0 MB  used {day}  trunk-{KEY}.npy  a frozen trunk's output"
    assert [line.split()[4] for line in lines[: len(OURS)]] == list(OURS), "the largest first"
    assert sum("left alone" in line for line in lines) == len(OTHERS)
    assert lines[-2].startswith("      7.4 MB in ") and lines[-1].endswith("cache --remove")
    assert names(runs) == {*OURS, *OTHERS}


@pytest.mark.parametrize("days, stays", [(7, 4), (0, 1)])
def test_what_no_run_used_for_some_days_goes_and_what_is_not_ours_stays(runs, days, stays):
    main(["cache", "--remove", "--days", str(days), str(runs)])
    living = f"toys-{KEY}.npz.part-ab"
    young = [n for n, (*_, age) in OURS.items() if age < days or n == living]
    young += [f"trunk-{KEY}.npy.part-x1_y"] * (days == 7)
    assert names(runs) == {*young, *OTHERS} and len({*young}) == stays


@pytest.mark.parametrize("days, is_kept", [(7, True), (0, False)])
def test_with_0_days_a_file_dated_in_the_future_is_removed_too(runs, days, is_kept):
    path, future = runs / "cache" / f"toys-{KEY}.npz", time.time() + 3600
    os.utime(path, (future, future))
    main(["cache", "--remove", "--days", str(days), str(runs)])
    assert path.exists() == is_kept


@pytest.mark.parametrize("hours, is_kept", [(1, True), (1000, False)])
def test_an_unfinished_file_of_the_near_future_may_be_a_living_runs(runs, hours, is_kept):
    path, future = runs / "cache" / f"toys-{KEY}.npz.part-ab", time.time() + hours * 3600
    os.utime(path, (future, future))
    main(["cache", "--remove", "--days", "0", str(runs)])
    assert path.exists() == is_kept


def test_links_and_folders_with_more_in_them_stay(runs, tmp_path):
    cache, folder = runs / "cache", tmp_path / "photographs"
    folder.mkdir()
    (folder / "pixels.rgb").touch()
    link = cache / f"images-{KEY[::-1]}"
    with contextlib.suppress(OSError):  # Windows without the right to make links
        link.symlink_to(folder)
        assert link.is_symlink()
    (cache / f"images-{KEY}" / "my notes.txt").touch()
    os.utime(cache / f"images-{KEY}", (0, 0))
    main(["cache", "--remove", "--days", "0", str(runs)])
    assert (folder / "pixels.rgb").exists() and (cache / f"images-{KEY}" / "pixels.rgb").exists()


def test_nothing_is_removed_while_a_training_runs(runs, monkeypatch):
    def held(folder):
        raise RuntimeError(f"process 7 is training in {folder}")

    lock_folder(runs / "toys-quick")
    unlock_folder(runs / "toys-quick")  # the file of a training that has ended
    with monkeypatch.context() as patch:
        patch.setattr("workbook.commands.cache.lock_folder", held)
        with pytest.raises(SystemExit, match="nothing is removed: process 7 is training in"):
            main(["cache", "--remove", str(runs)])
    assert names(runs) == {*OURS, *OTHERS}
    main(["cache", "--remove", str(runs)])
    assert f"trunk-{KEY}.npy" not in names(runs)


def test_without_a_cache_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="nothing is kept here yet"):
        main(["cache", str(tmp_path)])
