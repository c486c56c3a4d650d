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


def test_nested_classes_follow_links_once_and_list_what_is_beside(tmp_path):
    touch(tmp_path, "photos/A/x/1.png", "photos/B/x/1.png", "photos/B/lost.png", "out/y/2.png")
    try:
        os.symlink(tmp_path / "out", tmp_path / "photos/A/more")
        os.symlink(tmp_path / "photos/A", tmp_path / "photos/B/again")
        os.symlink("..", tmp_path / "photos/A/up")
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"no symbolic links here: {error}")
    listing = read_folder(tmp_path / "photos", "leaves")
    found = {(Path(path).name, name) for path, _, name in listing.entries}
    assert found == {("1.png", "A/x"), ("1.png", "B/x"), ("2.png", "y")}
    assert {Path(p["path"]).name: p["reason"] for p in listing.problems} == {
        "again": "a link to a folder that is read already",
        "up": "a link to a folder that is read already",
        "lost.png": "not in a class folder",
    }
    assert "a link that leads out of the folder" in listing.warnings[0]["reason"]


def test_leaves_whose_names_differ_only_in_spelling_are_one_class(tmp_path):
    touch(tmp_path, "g/caf\u00e9/1.png", "g/cafe\u0301/2.png", "h/other/3.png", "k/caf\u00e9/4.png")
    if len(list((tmp_path / "g").iterdir())) < 2:
        pytest.skip("this file system has one spelling for both")
    listing = read_folder(tmp_path, "leaves")
    assert {name for _, _, name in listing.entries} == {"g/caf\u00e9", "other", "k/caf\u00e9"}
    assert ["spellings of one name, merged" in w["reason"] for w in listing.warnings] == [True]


def test_an_empty_folder_has_no_files(tmp_path):
    assert list_image_files(tmp_path) == []


def test_what_is_no_folder_is_refused(tmp_path):
    touch(tmp_path, "1.png")
    for path in (tmp_path / "1.png", tmp_path / "nowhere"):
        with pytest.raises(NotADirectoryError, match=rf"{path.name} is not a folder"):
            list_image_files(path)
