"""What a save writes: only what is new, and never anything that is lost when it is cut short."""

import contextlib

import numpy as np
import pytest
from gallery_helpers import edit, line, line_gallery

from workbook.gallery import storage
from workbook.gallery.gallery import Gallery


@pytest.fixture
def opened(model, tmp_path):
    """A gallery of 100 entries that was saved and loaded again."""
    filled = line_gallery(model, np.arange(100), np.arange(100) % 7, [f"{i}" for i in range(100)])
    filled.save(tmp_path / "g")
    return Gallery.load(tmp_path / "g")


def counts(folder):
    return [part["entries"] for part in edit(folder)["parts"]]


def written(folder, save):
    """The names of the files that `save()` writes, with new content or the same."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    save()
    now = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    return {name for name in now if before.get(name) != now[name]}


def test_one_entry_more_is_a_file_more(opened, model, tmp_path):
    folder = tmp_path / "g"
    former = edit(folder)
    opened.add_embeddings(line(model, [0.5]), ["new"])
    names = written(folder, lambda: opened.save(folder))
    now = edit(folder)
    # the trials are none and nothing was removed, so the state has the same name and content
    assert names - {".folder.lock"} == {"gallery.json", now["parts"][1]["file"], now["state"]}
    assert counts(folder) == [100, 1] and now["parts"][0] == former["parts"][0]
    assert now["model"] == former["model"]
    again = Gallery.load(folder)
    np.testing.assert_array_equal(again.embeddings, opened.embeddings)
    assert again.labels.tolist() == opened.labels.tolist()


def test_parts_are_merged_now_and_then(opened, model, tmp_path):
    folder, sizes = tmp_path / "g", []
    for i in range(9):
        opened.add_embeddings(line(model, [i + 0.5]), [f"a label of another length {i}"])
        opened.save(folder)
        if i % 2:  # the process that adds is sometimes another one
            opened = Gallery.load(folder)
        sizes.append(counts(folder))
    assert sizes[:4] == [[100, 1], [100, 2], [100, 2, 1], [100, 4]]
    assert sizes[-1] == [100, 8, 1]
    assert Gallery.load(folder).labels[-9:].tolist() == [
        f"a label of another length {i}" for i in range(9)
    ]


def test_what_is_removed_is_noted_and_a_quarter_is_written_anew(opened, model, tmp_path):
    folder = tmp_path / "g"
    part = edit(folder)["parts"]
    opened.remove(path="3")
    opened.add_embeddings(line(model, [3.5]), ["new"])
    opened.save(folder)
    assert counts(folder) == [100, 1] and edit(folder)["parts"][0] == part[0]
    again = Gallery.load(folder)
    for name in ("embeddings", "labels", "paths", "hashes", "enrolled"):
        np.testing.assert_array_equal(getattr(again, name), getattr(opened, name))
    assert "3" not in again.paths and len(again.labels) == 100
    again.remove(label=1)  # 15 of 101 rows, with the one from before 16
    again.save(folder)
    assert counts(folder) == [100, 1]
    again.remove(label=2)
    again.save(folder)
    expected = [path for path in again.paths if path == "" or int(path) % 7 not in (1, 2)]
    assert counts(folder) == [len(expected)] and "3" not in expected
    assert Gallery.load(folder).paths.tolist() == expected


def test_a_removed_entry_in_a_part_that_is_merged_is_gone(opened, model, tmp_path):
    folder = tmp_path / "g"
    for label in "abc":
        opened.add_embeddings(line(model, [0.5, 0.6]), [label] * 2, [f"{label}1", f"{label}2"])
        opened.save(folder)
        opened.remove(path=f"{label}1")
        opened.save(folder)
    opened.remove(path="7")
    opened.add_embeddings(line(model, [1, 2, 3, 4]), ["d"] * 4, ["d1", "d2", "d3", "d4"])
    opened.save(folder)
    assert counts(folder) == [100, 7] and (Gallery.load(folder).paths == opened.paths).all()
    assert opened.paths[-7:].tolist() == ["a2", "b2", "c2", "d1", "d2", "d3", "d4"]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_changes_and_saves_is_what_is_read(model, tmp_path, seed):
    rng, folder, values = np.random.default_rng(seed), tmp_path / "g", []
    gallery, number = line_gallery(model, [], []), 0
    for _ in range(40):
        if rng.random() < 0.6:
            count = int(rng.integers(1, 9))
            new = [str(number + i) for i in range(count)]
            gallery.add_embeddings(line(model, [float(x) for x in new]), ["a"] * count, new)
            values, number = values + new, number + count
        elif values:
            values.remove(path := str(rng.choice(values)))
            gallery.remove(path=path)
        if rng.random() < 0.5:
            gallery.save(folder)
        if rng.random() < 0.3:
            gallery.save(folder)
            gallery = Gallery.load(folder)
        assert gallery.paths.tolist() == values
        assert gallery.embeddings[:, 0].tolist() == [float(x) for x in values]
    gallery.save(folder)
    again = Gallery.load(folder)
    assert again.paths.tolist() == values and len(counts(folder)) <= 2 + np.log2(number)
    files = {path.name for path in folder.iterdir()} - {".folder.lock", "gallery.json"}
    assert files == storage.list_files(folder)


@pytest.mark.parametrize("step", range(6))
def test_a_save_that_is_cut_short_at_any_step_loses_nothing(
    opened, model, tmp_path, monkeypatch, step
):
    folder, calls = tmp_path / "g", []
    opened.add_embeddings(line(model, [0.5]), ["new"])
    opened.save(folder)
    before = opened.paths.tolist()
    opened.add_embeddings(line(model, [0.6, 0.7]), ["newer", "newer"])  # the part of 1 is merged

    class KilledError(BaseException):
        pass

    def killed_at(step, function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) == step + 1:
                raise KilledError
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(storage.os, "replace", killed_at(step, storage.os.replace))
    monkeypatch.setattr(storage.Path, "unlink", killed_at(step, storage.Path.unlink))
    with contextlib.suppress(KilledError):
        opened.save(folder)
    monkeypatch.undo()
    assert Gallery.load(folder).paths.tolist() in (before, opened.paths.tolist())
    opened.save(folder)
    assert Gallery.load(folder).paths.tolist() == opened.paths.tolist()


@pytest.mark.parametrize("change", ["another save", "a file", "a file is missing", "the model"])
def test_a_folder_that_was_changed_meanwhile_is_written_anew(opened, model, tmp_path, change):
    folder = tmp_path / "g"
    about = edit(folder)
    if change == "another save":
        line_gallery(model, [1, 2], "ab").save(folder)
    elif change == "a file":
        (folder / about["parts"][0]["file"]).write_bytes(b"broken")
    elif change == "a file is missing":
        (folder / about["parts"][0]["file"]).unlink()
    else:
        (folder / about["model"]).write_bytes(b"broken")
    opened.add_embeddings(line(model, [0.5]), ["new"])
    opened.save(folder)
    assert counts(folder) == [101] and len(Gallery.load(folder).labels) == 101


def test_the_copy_in_another_folder_is_whole(opened, model, tmp_path):
    opened.add_embeddings(line(model, [0.5]), ["new"])
    opened.save(tmp_path / "g")
    opened.save(tmp_path / "copy")
    assert counts(tmp_path / "copy") == [101] and counts(tmp_path / "g") == [100, 1]
    assert len(Gallery.load(tmp_path / "copy").labels) == 101


@pytest.mark.parametrize("count, new, kept", [(0, 1, 0), (4, 3, 1), (4, 4, 0), (1, 2, 0)])
def test_a_part_that_is_not_larger_is_written_with_the_new_entries(count, new, kept):
    rows = np.concatenate([np.arange(count), np.full(new, -1)])
    assert storage.count_kept_parts([count], rows) == kept


def test_entries_are_not_changed_in_place(opened):
    """Such a change would not be saved, so it is refused."""
    with pytest.raises(ValueError, match="read-only"):
        opened.labels[0] = "other"
    with pytest.raises(AttributeError):
        opened.labels = opened.labels[::-1]
