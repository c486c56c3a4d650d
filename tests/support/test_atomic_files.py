"""Files and folders that are complete or absent, whatever happens while they are written."""

import errno
import os

import pytest

from workbook.support.atomic_files import (
    atomic_file,
    mark_used,
    publish_folder,
    remove_leftovers,
    temporary_build_folder,
    write_rows,
)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_by_a_complete_one(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic_file(path) as part:
        assert part.suffix == ".csv", "a writer that looks at the suffix writes the right format"
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == {"table.csv"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_keeps_the_file_of_before(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), atomic_file(str(path)) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == {"table.csv"}


def test_a_file_that_cannot_be_written_is_named_with_the_space_left(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with (
        pytest.raises(OSError, match=r"table\.csv could not be written \(No space.* MB are free"),
        atomic_file(path) as part,
    ):
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and names(tmp_path) == {"table.csv"}


def test_of_a_file_only_its_own_leftovers_are_removed(tmp_path):
    others = ["checkpoint-mine.part.npz", "checkpoint.old.part.npz", "embedding.12.part.keras"]
    for name in ("checkpoint.npz", "checkpoint.4711.part.npz", *others):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "checkpoint.npz")
    assert names(tmp_path) == {"checkpoint.npz", *others}


def test_a_folder_is_built_beside_its_place_and_then_published(tmp_path):
    target = tmp_path / "new" / "film"
    with temporary_build_folder(target) as work:
        assert work.parent.parent == target.parent and not target.exists()
        (work / "1.txt").write_text("one")
        publish_folder(work, target)
    assert names(target) == {"1.txt"} and names(target.parent) == {"film"}


def test_of_two_published_folders_the_first_stays(tmp_path):
    target = tmp_path / "film"
    for text in ("first", "second"):
        with temporary_build_folder(target) as work:
            (work / "1.txt").write_text(text)
            publish_folder(work, target)
    assert (target / "1.txt").read_text() == "first" and names(tmp_path) == {"film"}


def test_an_error_while_building_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_build_folder(tmp_path / "film") as work:
        (work / "1.txt").write_text("one")
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_a_full_disk_is_explained(tmp_path):
    with (
        pytest.raises(OSError, match=r"film could not be written: the disk or quota is full.*Make"),
        temporary_build_folder(tmp_path / "film"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not names(tmp_path)


def test_another_error_of_the_system_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), temporary_build_folder(tmp_path / "film"):
        (tmp_path / "nowhere").read_text()


def test_old_build_folders_of_the_same_target_are_removed_and_nothing_else(tmp_path):
    old, young = "film.part-a1b2c3d4", "film.part-12345678"
    others = ["film.part-1", "film.part-abcdefgh", "film.part-backups", "other.part-a1b2c3d4"]
    for name in (old, young, *others):
        (tmp_path / name / "work").mkdir(parents=True)
    (tmp_path / "film.part-abcdefgh" / "mine.txt").write_text("mine")
    (tmp_path / "film.part-notes.txt").write_text("mine")
    for path in tmp_path.iterdir():
        if path.name != young:
            os.utime(path, (0, 0))
    with temporary_build_folder(tmp_path / "film"):
        pass
    assert names(tmp_path) == {young, "film.part-notes.txt", *others}


def test_a_used_file_gets_the_present_time_and_a_missing_one_is_no_error(tmp_path):
    path = tmp_path / "cache.npy"
    path.touch()
    os.utime(path, (0, 0))
    mark_used(path)
    assert path.stat().st_mtime > 10**9
    mark_used(tmp_path / "nowhere")


def test_rows_of_different_names_share_a_table(tmp_path):
    write_rows(tmp_path / "table.csv", [{"a": 1, "b": "x, y"}, {"a": 2, "c": 0.5}])
    assert (tmp_path / "table.csv").read_bytes() == b'a,b,c\n1,"x, y",\n2,,0.5\n'
