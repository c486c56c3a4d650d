"""The walk through a folder that `load_images`, `identify` and `enroll` share."""

import os
from pathlib import Path

import pytest

from workbook.data.folder_layout import list_image_files, read_folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_files_of_a_folder_are_those_that_load_images_reads(tmp_path):
    visible = ["a/1.png", "a/deep/er/2.JPG", "a/Icon", "b/notes.txt", "b/no suffix"]
    hidden = [
        ".DS_Store", "a/._1.png", "a/Thumbs.db", "b/desktop.ini", "a/Icon\r",
        "__MACOSX/a/1.png", "a/.git/x.png", "b/@eaDir/1.png",
    ]  # fmt: skip
    touch(tmp_path, *visible, *hidden)
    expected = sorted(tmp_path / name for name in visible)
    assert list_image_files(tmp_path) == list_image_files(str(tmp_path)) == expected
    assert sorted(Path(path) for path, _, _ in read_folder(tmp_path).entries) == expected


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "photos/1.png", "elsewhere/2.png")
    try:
        os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "more")
        os.symlink("..", tmp_path / "photos" / "up")
        os.symlink(tmp_path / "photos", tmp_path / "name for it")
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"no symbolic links here: {error}")
    for folder in (tmp_path / "photos", tmp_path / "name for it"):
        assert list_image_files(folder) == [folder / "1.png", folder / "more" / "2.png"]


def test_an_empty_folder_has_no_files(tmp_path):
    assert list_image_files(tmp_path) == []


def test_what_is_no_folder_is_refused(tmp_path):
    touch(tmp_path, "1.png")
    for path in (tmp_path / "1.png", tmp_path / "nowhere"):
        with pytest.raises(NotADirectoryError, match=rf"{path.name} is not a folder"):
            list_image_files(path)
