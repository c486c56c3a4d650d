"""The gallery's commands as they are typed: what they print, write, refuse and keep."""

import csv
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import forked
import gallery_helpers
import numpy as np
import pytest
from gallery_helpers import stopped
from PIL import Image

from workbook import ROOT
from workbook.__main__ import main
from workbook.commands import gallery as gallery_commands
from workbook.gallery import entries as entries_module
from workbook.gallery import search, storage
from workbook.gallery.gallery import CATALOGUE_SIZES, Gallery


def command(*words):
    environment = os.environ | {"PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-m", "workbook", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", env=environment, cwd=ROOT,
    )  # fmt: skip


def test_command_line_in_a_fresh_process(model, folder, tmp_path):
    model.save(tmp_path / "embedding.keras")
    built = command("build", tmp_path / "embedding.keras", folder, tmp_path / "g")
    assert built.returncode == 0, built.stderr
    assert "6 images of 2 classes" in built.stdout and "report.csv" in built.stdout
    assert re.search(r"not read: .*notes\.txt: .*not an image.*: .+", built.stdout), "with a remedy"
    assert "add images, or a test folder beside train" in built.stdout, "warnings too"
    one, two = folder / "red" / "2 é.png", folder / "東京 blue" / "0 é.png"
    words = ["identify", tmp_path / "g", one, two, "-k", 2]
    asked = forked.start(["-m", "workbook", *words], ROOT).finish()
    assert asked.returncode == 0, asked.stderr
    gallery, expected = Gallery.load(tmp_path / "g"), []
    entries = [f"{name}/{i} é.png" for name in ("red", "東京 blue") for i in range(3)]
    assert gallery.paths.tolist() == entries, "nothing of this machine's folders"
    assert gallery.policy["strangers"] == 6 and not gallery.policy["known_held_out"]
    limit = f"threshold {gallery.threshold:.3f}"
    for path in (one, two):
        match = gallery.identify(path, k=2)
        expected.append(f"{path}: {path.parent.name} (distance {match.distance:.3f}, {limit})")
        expected += [f"  {d:.3f} {label} {entry}" for label, d, entry in match.nearest]
    expected += [gallery.describe_threshold(), gallery.describe_probability()]
    assert asked.stdout.splitlines() == expected


def test_all_images_are_answered_and_the_unreadable_counted(saved, folder, tmp_path, capsys):
    grey, bad = tmp_path / "grey.bmp", tmp_path / "bad.jpg"
    Image.new("RGB", (16, 16), "grey").save(grey)
    bad.write_text("no image")
    known = folder / "red" / "0 é.png"
    end = stopped("identify", saved, known, bad, tmp_path / "absent.png", folder / "*.png", grey)
    assert "no files there" in end and "*.png" in end
    end = stopped("identify", saved, known, bad, tmp_path / "absent.png", grey, "-k", 1)
    assert "2 of 4 images could not be read" in end
    gallery = Gallery.load(saved)
    found, limit = gallery.identify(grey), gallery.threshold
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{known}: red (distance 0.000, threshold {limit:.3f})"
    assert lines[2].startswith(f"ERROR {bad}: ") and "not an image" in lines[2]
    assert "absent.png: no such file" in lines[3]
    label = "unknown" if found.distance > limit else found.nearest[0][0]
    assert lines[4] == f"{grey}: {label} (distance {found.distance:.3f}, threshold {limit:.3f})"


def test_a_folder_is_answered_in_a_table(saved, folder, capsys):
    stopped("identify", saved, folder)  # notes.txt is no image
    table = folder.with_name("images-identified.csv")
    assert f"6 images, 0 of them unknown, 1 not read, in {table}" in capsys.readouterr().out
    assert table.read_text("utf-8").startswith('"path","label","distance",'), "all is quoted"
    with open(table, encoding="utf-8", newline="") as file:
        rows = {os.path.relpath(row["path"], folder): row for row in csv.DictReader(file)}
    assert len(rows) == 7 and "not an image" in rows[os.path.join("red", "notes.txt")]["error"]
    for path in folder.rglob("*.png"):
        row = rows[os.path.relpath(path, folder)]
        assert row["label"] == row["nearest"] == path.parent.name
        assert row["entry"] == str(path) and float(row["distance"]) < 1e-3 and not row["error"]
    main(["identify", str(saved), str(folder / "red" / "0 é.png"), "--csv", str(folder / "a.csv")])
    assert len((folder / "a.csv").read_text("utf-8").splitlines()) == 2


def test_a_class_is_added_on_the_command_line(saved, folder, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (20, 200 + i, 20)).save(tmp_path / "new" / f"{i}.png")
    asked = tmp_path / "asked.png"
    Image.new("RGB", (16, 16), (22, 203, 20)).save(asked)
    assert Gallery.load(saved).identify(asked).nearest[0][0] != "green frog"
    main(["enroll", str(saved), "green frog", str(tmp_path / "new" / "*.png")])
    out = capsys.readouterr().out
    assert "3 images added; green frog has 3 entries, the gallery 9" in out
    assert "strangers let in" in out
    gallery = Gallery.load(saved)
    assert gallery.identify(asked).label == "green frog"
    assert gallery.paths[-3:].tolist() == ["new/0.png", "new/1.png", "new/2.png"]
    assert gallery.policy["strangers"] == 6, "the threshold is that of before"
    assert gallery.enrolled.tolist() == [True] * 9
    end = stopped("enroll", saved, "frog", tmp_path / "new")
    assert '0.png is an entry already, as "green frog" (new/0.png): remove that entry' in end
    end = stopped("enroll", saved, "green frog", tmp_path / "new")
    assert '0.png is an entry already, as "green frog" (new/0.png): it is not needed twice' in end
    assert "notes.txt" in stopped("enroll", saved, "paper", folder / "red" / "notes.txt")
    assert len(Gallery.load(saved).labels) == 9, "what failed added nothing"


def test_a_catalogue_image_is_entered_at_four_sizes(saved, tmp_path, capsys):
    product, shelf = tmp_path / "product.png", tmp_path / "shelf.png"
    Image.new("RGB", (16, 16), (20, 200, 20)).save(product)
    white = Image.new("RGB", (16, 16), "white")
    white.paste((20, 200, 20), (2, 2, 13, 13))  # 11 of 16 pixels, as at 0.7
    white.save(shelf)
    main(["enroll", str(saved), "green frog", str(product), "--catalogue"])
    assert "1 image added; green frog has 4 entries, the gallery 10" in capsys.readouterr().out
    gallery = Gallery.load(saved)
    match = gallery.identify(shelf, k=10)
    own = [distance for label, distance, _ in match.nearest if label == "green frog"]
    assert match.nearest[0][0] == "green frog" and own[0] < own[-1] / 2
    alone = gallery.compare_entries()
    assert not alone.is_known[-4:].any(), "the other sizes are the same image: no match"
    assert (alone.distances[-4:] == alone.distances_to_other_classes[-4:]).all()
    assert alone.is_known[:6].all()
    in_python = Gallery(gallery.model)
    in_python.add([product], ["green frog"], sizes=CATALOGUE_SIZES)
    np.testing.assert_allclose(in_python.embeddings, gallery.embeddings[-4:], rtol=1e-5, atol=1e-5)


def test_a_training_image_cannot_be_enrolled_under_a_wrong_name(model, folder, tmp_path):
    model.save(tmp_path / "embedding.keras")
    main(["build", *map(str, (tmp_path / "embedding.keras", folder, tmp_path / "g"))])
    end = stopped("enroll", tmp_path / "g", "wrong name", folder / "red" / "1 é.png")
    assert '1 é.png is an entry already, as "red" (red/1 é.png): remove that entry first' in end
    gallery = Gallery.load(tmp_path / "g")
    assert len(gallery.labels) == 6 and not gallery.enrolled.any()


def test_of_the_paths_of_two_cameras_enough_is_kept_to_tell_them_apart(saved, tmp_path, capsys):
    for seed, camera in enumerate(["cam1", "cam2"]):
        place = tmp_path / camera / "DCIM"
        path = gallery_helpers.draw(place, (20, 200, 20), 1, seed=seed, name="IMG_{}.png")[0]
        main(["enroll", str(saved), "frog", str(path)])
    gallery = Gallery.load(saved)
    assert gallery.paths[-2:].tolist() == ["DCIM/IMG_0.png", "cam2/DCIM/IMG_0.png"]
    assert gallery.compare_entries().is_known[-2:].all()
    main(["remove", str(saved), "--image", "DCIM/IMG_0.png"])
    assert "1 entry removed; the gallery has 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "label, says",
    [
        ("", "the label is empty"),
        (" unknown ", 'no class can be called "unknown"'),
        ("nan", 'no class can be called "nan"'),
        ("1.png", "1.png is an image, not the name of a class: the label comes before"),
        ("absent.JPEG", "absent.JPEG is an image, not the name of a class"),
        ("{folder}/image", "image is an image, not the name of a class"),
    ],
)
def test_a_label_that_is_none_is_refused(saved, tmp_path, label, says):
    image = gallery_helpers.draw(tmp_path, (9, 9, 9), 1)[0]
    (tmp_path / "image").write_bytes(image.read_bytes())  # without a suffix
    assert says in stopped("enroll", saved, label.format(folder=tmp_path), image)
    assert len(Gallery.load(saved).labels) == 6


def test_a_label_has_one_spelling_and_a_similar_one_is_named(saved, tmp_path, capsys):
    images = gallery_helpers.draw(tmp_path / "new", (20, 200, 20), 3)
    for label, image in zip(["Cafe\u0301", " Caf\u00e9 ", "caf\u00e9"], images):
        main(["enroll", str(saved), label, str(image)])
    assert Gallery.load(saved).labels.tolist()[6:] == ["Caf\u00e9", "Caf\u00e9", "caf\u00e9"]
    assert "note: Caf\u00e9 is another class, because capital letters" in capsys.readouterr().out
    main(["remove", str(saved), "--label", "Cafe\u0301"])
    assert "2 entries removed; the gallery has 7" in capsys.readouterr().out


def test_a_class_and_an_image_are_removed(saved, folder, tmp_path, capsys):
    copy = tmp_path / "copy.bmp"
    Image.open(folder / "red" / "0 é.png").save(copy)
    main(["remove", str(saved), "--image", str(copy)])
    assert "1 entry removed; the gallery has 5" in capsys.readouterr().out
    assert str(folder / "red" / "0 é.png") not in Gallery.load(saved).paths
    main(["remove", str(saved), "--label", "red"])
    assert Gallery.load(saved).labels.tolist() == ["東京 blue"] * 3
    end = stopped("remove", saved, "--label", "red")
    assert "no entry has the label red; the classes are: 東京 blue" in end
    assert "no entry has the image" in stopped("remove", saved, "--image", copy)
    assert "absent.png: no such file" in stopped("remove", saved, "--image", "absent.png")
    with pytest.raises(SystemExit):
        main(["remove", str(saved)])
    assert len(Gallery.load(saved).labels) == 3


@pytest.mark.parametrize("held_out", [False, True])
def test_the_entries_are_compared_no_more_often_than_needed(
    saved, gallery, tmp_path, monkeypatch, held_out
):
    """What the trials tell is not measured again; a comparison is two searches, a share is one."""
    if held_out:
        images = gallery_helpers.draw(tmp_path / "new", (230, 60, 20), 3)
        gallery.fit_threshold(gallery.embed_images(images)[0], ["red", "red", "else"])
        gallery.save(saved)
    compared = []

    def counted(queries, entries, *arguments):
        if len(queries) >= len(entries):
            compared.append(len(queries))
        return search.nearest_entries(queries, entries, *arguments)

    monkeypatch.setattr(entries_module, "nearest_entries", counted)
    image = gallery_helpers.draw(tmp_path / "green", (20, 200, 20), 1)[0]
    main(["enroll", str(saved), "green", str(image)])
    assert compared == ([6, 7] if held_out else [7, 7])


def test_galleries_are_merged(saved, gallery, other_model, tmp_path, capsys):
    other = Gallery(gallery.model)
    images = gallery_helpers.draw(tmp_path / "new", (20, 200, 20), 2)
    other.add([*images, gallery.paths[0]], ["frog", "frog", "red"])
    other.save(tmp_path / "other")
    main(["merge", str(saved), str(tmp_path / "other")])
    out = capsys.readouterr().out
    assert "2 entries added, already in there: 1; the gallery has 8" in out
    assert Gallery.load(saved).identify(images[1]).nearest[0][0] == "frog"
    Gallery(other_model).save(tmp_path / "another")
    assert "of different models" in stopped("merge", saved, tmp_path / "another")
    assert "absent is no folder" in stopped("merge", saved, tmp_path / "absent")
    assert "absent is no folder" in stopped("merge", tmp_path / "absent", saved)
    assert not (tmp_path / "absent").exists()


def test_of_two_that_enroll_at_once_both_are_kept(saved, tmp_path):
    """Each process reads, adds and writes; without a lock the slower one would win."""
    colors = {"green": (20, 200, 20), "grey": (90, 90, 90)}
    processes = []
    for label, color in colors.items():
        image = gallery_helpers.draw(tmp_path / label, color, 1)[0]
        processes.append(forked.start(["-m", "workbook", "enroll", saved, label, image], ROOT))
    assert [process.finish().returncode for process in processes] == [0, 0]
    assert sorted(Gallery.load(saved).labels.tolist()[6:]) == ["green", "grey"]
    names = {path.name.split("-")[0] for path in saved.iterdir()}
    assert names - {".folder.lock"} == {"embedding", "entries", "state", "gallery.json"}
    assert {path.name for path in saved.glob("*-*")} == storage.list_files(saved), "none is left"


def test_a_change_waits_until_the_other_is_written(saved, tmp_path, monkeypatch):
    """In one process: between reading and writing, a second one wants to enroll."""
    first, second = (gallery_helpers.draw(tmp_path / str(n), (20, 200, n), 1)[0] for n in range(2))
    add, threads = Gallery.add_embeddings, []

    def interrupted(self, *arguments, **options):
        if not threads:
            work = lambda: gallery_commands.enroll(str(saved), "b", [str(second)])  # noqa: E731
            threads.append(threading.Thread(target=work))
            threads[0].start()
            threads[0].join(0.5)
        add(self, *arguments, **options)

    monkeypatch.setattr(Gallery, "add_embeddings", interrupted)
    main(["enroll", str(saved), "a", str(first)])
    threads[0].join()
    assert Gallery.load(saved).labels.tolist()[6:] == ["a", "b"]


def test_building_over_a_gallery_keeps_what_was_enrolled(
    model, other_model, folder, tmp_path, capsys
):
    frog = gallery_helpers.draw(tmp_path / "new", (20, 200, 20), 1)[0]
    model.save(tmp_path / "embedding.keras")
    other_model.save(tmp_path / "other.keras")
    build = ["build", str(tmp_path / "embedding.keras"), str(folder), str(tmp_path / "g")]
    main(build)
    main(["enroll", str(tmp_path / "g"), "frog", str(frog)])
    main(build)
    assert "kept from the gallery before: frog (1 entries)" in capsys.readouterr().out
    assert Gallery.load(tmp_path / "g").labels.tolist()[6:] == ["frog"]
    end = stopped("build", tmp_path / "other.keras", folder, tmp_path / "g")
    assert "is not replaced: entries were added to it (frog (1 entries))" in end
    assert Gallery.load(tmp_path / "g").identify(frog).nearest[0][0] == "frog"


# ------------------------------------------------------------------------------------ the table


@pytest.fixture
def nothing_embedded(monkeypatch):
    def embed(*_):
        raise AssertionError("something was embedded")

    monkeypatch.setattr("workbook.gallery.gallery.embed", embed)


@pytest.mark.parametrize(
    "name, says",
    [
        ("a.png", "a.png is the name of an image, not of a table"),
        ("new.JPG", "new.JPG is the name of an image, not of a table"),
        ("nodir/x.csv", "there is no folder"),
        ("folder", "folder is a folder: give the name of a file"),
        ("notes.csv", "notes.csv is not a table that identify wrote, so it is not overwritten"),
        ("empty.csv", "empty.csv is not a table that identify wrote"),
        ("other.csv", "other.csv is not a table that identify wrote"),
    ],
)
def test_the_table_is_checked_before_anything_is_embedded(
    saved, folder, tmp_path, nothing_embedded, name, says
):
    image = gallery_helpers.draw(tmp_path, (9, 9, 9), 1, name="a.png")[0]
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.csv").write_text("my notes, which must stay\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "other.csv").write_text('"path","label"\n')
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    assert says in stopped("identify", saved, image, "--csv", tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == before


def test_notes_in_the_place_of_the_default_table_stay(saved, folder, nothing_embedded):
    notes = folder.with_name("images-identified.csv")
    notes.write_text("my notes")
    assert "images-identified.csv is not a table" in stopped("identify", saved, folder)
    assert notes.read_text() == "my notes"


def test_a_folder_that_cannot_be_written_to_is_named_at_once(
    saved, folder, tmp_path, nothing_embedded, monkeypatch
):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write everywhere
    end = stopped("identify", saved, folder, "--csv", tmp_path / "t.csv")
    assert re.search("nothing can be written into .* .Permission denied.: choose another", end)
    end = stopped("build", "absent.keras", folder, tmp_path / "new")
    assert "absent.keras: no such model" in end
    Path(tmp_path / "m.keras").touch()
    end = stopped("build", tmp_path / "m.keras", folder, tmp_path / "new" / "g")
    assert "nothing can be written into" in end and not (tmp_path / "new").exists()


def test_a_table_of_before_is_replaced_as_a_whole(saved, folder, tmp_path, monkeypatch):
    table, image = tmp_path / "t.csv", folder / "red" / "0 é.png"
    main(["identify", str(saved), str(image), str(image), "--csv", str(table)])
    before = table.read_bytes()
    assert len(before.splitlines()) == 3

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("csv.DictWriter.writerows", full)
        assert "No space left" in stopped("identify", saved, image, "--csv", table)
    assert table.read_bytes() == before and len(list(tmp_path.glob("t*"))) == 1
    main(["identify", str(saved), str(image), "--csv", str(table)])
    assert len(table.read_bytes().splitlines()) == 2


def test_of_a_folder_the_files_of_systems_are_skipped(saved, tmp_path, capsys):
    photos = tmp_path / "photos"
    gallery_helpers.draw(photos, (20, 200, 20), 2)
    for name in ("Thumbs.db", "__MACOSX/._0.png", "Icon\r", ".hidden.png", "more/desktop.ini"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("no image")
    gallery_helpers.draw(tmp_path / "linked", (20, 100, 20), 1)
    (photos / "link").symlink_to(tmp_path / "linked", target_is_directory=True)
    main(["enroll", str(saved), "green", str(photos)])
    assert "3 images added" in capsys.readouterr().out
    main(["identify", str(saved), str(photos)])
    assert "3 images, 0 of them unknown" in capsys.readouterr().out


def test_k_below_one_is_refused_at_once(saved, folder, nothing_embedded):
    assert "-k 0: ask for at least 1" in stopped("identify", saved, folder, "-k", 0)


@pytest.mark.parametrize(
    "words, message",
    [
        (["identify", "absent", "a.png"], "absent is no folder, so it is no gallery"),
        (["enroll", "empty", "x", "a.png"], "empty holds no gallery.json"),
        (["identify", "embedding.keras", "a.png"], "embedding.keras is no folder"),
        (["build", "embedding.keras", "empty", "g"], "each in a sub-folder with its images"),
        (["build", "absent.keras", "images", "g"], "absent.keras: no such"),
        (["build", "embedding.keras", "images", "file"], "file is a file: give a folder"),
        (["build", "embedding.keras", "images", "file/g"], "file is a file: give a folder"),
        (["remove", "absent", "--label", "x"], "absent is no folder"),
        (["index", "absent"], "absent is no folder"),
    ],
)
def test_command_line_errors_are_one_message(tmp_path, folder, model, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    model.save("embedding.keras")
    Path("empty").mkdir()
    Path("file").touch()
    assert message in stopped(*words)
    assert not Path("absent").exists() and not Path("g").exists()


def test_no_gallery_is_built_among_other_files(folder, model, tmp_path, nothing_embedded):
    model.save(tmp_path / "embedding.keras")
    before = sorted(folder.rglob("*"))
    end = stopped("build", tmp_path / "embedding.keras", folder, folder)
    assert f"{folder} is no gallery and holds other files (" in end and "red" in end
    assert sorted(folder.rglob("*")) == before


def test_a_gallery_in_the_place_of_the_images_is_called_so(saved, model, tmp_path):
    model.save(tmp_path / "embedding.keras")
    for words in (
        ["identify", saved, saved],
        ["enroll", saved, "new", saved],
        ["build", tmp_path / "embedding.keras", saved, tmp_path / "new"],
        ["audit", saved],
    ):
        assert f"{saved} is a gallery, which holds no images" in stopped(*words)
    assert not saved.with_name(f"{saved.name}-identified.csv").exists()


def test_without_threshold_or_entries_the_answer_names_no_python(saved, folder, capsys):
    main(["identify", str(saved), str(folder / "red" / "0 é.png"), "--accept-all"])
    assert "no image is called unknown, as --accept-all says" in capsys.readouterr().out
    for label in ("red", "東京 blue"):
        main(["remove", str(saved), "--label", label])
    end = stopped("identify", saved, folder / "red" / "0 é.png")
    assert end == "error: the gallery is empty: enroll images first"


def test_a_gallery_is_built_from_a_backbones_name_without_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIAMESE_SIZE", "64")
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "runs"))
    colors = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 220)}
    for name, color in colors.items():
        gallery_helpers.draw(tmp_path / "my_images" / name, color, 4, side=32)
        gallery_helpers.draw(tmp_path / "new", color, 1, seed=1, name=f"{name}.png", side=32)
    main(["build", "EfficientNetLite0", str(tmp_path / "my_images"), str(tmp_path / "my_gallery")])
    out = capsys.readouterr().out
    assert "12 images of 3 classes" in out
    assert "features of EfficientNetLite0 as they are: nothing was trained on these images" in out
    assert "simulated by leaving out each image's class" in out
    gallery = Gallery.load(tmp_path / "my_gallery")
    np.testing.assert_allclose(np.square(gallery.embeddings).sum(1), 1, rtol=1e-5)
    for name in colors:
        assert gallery.identify(tmp_path / "new" / f"{name}.png").label == name
    end = stopped("build", "EfficientNetLite9", tmp_path / "my_images", tmp_path / "g")
    assert "EfficientNetLite9: no such model" in end and "such as EfficientNetLite0" in end
