"""Omniglot: downloaded whole or not at all, merged by content, refused where it is damaged."""

import dataclasses
import hashlib
import io
import threading
import zipfile

import numpy as np
import pytest
from archives import zipped
from local_server import Server, half, page, reset, whole
from PIL import Image

from workbook import ROOT
from workbook.data import downloads, omniglot
from workbook.data.downloads import DATASETS, File, fetch
from workbook.data.images import load_images
from workbook.data.omniglot import (
    MINIMAL,
    add_classes,
    alphabets,
    draw_on_paper,
    draw_trials,
    keep_alphabets,
    load_background,
    load_trials,
)
from workbook.support import network

SHARED = ROOT.parent / "shared/datasets"
RUNS, WAYS = 2, 20


def png(*seed, side=105):
    """A black-and-white drawing as the files have it: 1 bit per pixel, ink is black."""
    paper = np.random.default_rng(seed).random((side, side)) > 0.1
    buffer = io.BytesIO()
    Image.fromarray(paper).save(buffer, "PNG")
    return buffer.getvalue()


def background(top, names, people=20):
    """Two characters of each alphabet; an alphabet looks the same in whichever zip it is."""
    return {
        f"{top}/{name}/character{c:02}/{c:04}_{person:02}.png": png(*name.encode(), c, person)
        for name in names
        for c in (1, 2)
        for person in range(1, people + 1)
    }


def trials_of(answers):
    entries = {}
    for run, answer in enumerate(answers, start=1):
        lines = []
        for i, right in enumerate(answer, start=1):
            entries[f"run{run:02}/training/class{i:02}.png"] = png(0, run, i)
            entries[f"run{run:02}/test/item{i:02}.png"] = png(1, run, i)
            names = f"run{run:02}/test/item{i:02}.png run{run:02}/training/class{right + 1:02}.png"
            lines.append(names + "\n")
        entries[f"run{run:02}/class_labels.txt"] = "".join(lines)
    return entries


ANSWERS = np.random.default_rng(0).permuted(np.tile(np.arange(WAYS), (RUNS, 1)), axis=1)
TRIALS = trials_of(ANSWERS)
SETS = [background("small1", ["Abc", "Greek"]), background("small2", ["Greek", "Xyz"])]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(network, "TIMEOUT", 1)
    monkeypatch.setattr(omniglot, "RUNS", RUNS)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def serve(server, monkeypatch):
    """serve(zips, steps): the three files that the address answers with, in turn."""

    def serve(zips, steps=None):
        names = ("images_background_small1.zip", "images_background_small2.zip", "all_runs.zip")
        files = tuple(File(n, hashlib.sha256(z).hexdigest()) for n, z in zip(names, zips))
        source = dataclasses.replace(
            DATASETS["omniglot"], address=f"{server.url}/", files=files, images=120, classes=6
        )
        monkeypatch.setitem(downloads.DATASETS, "omniglot", source)
        server.plan, server.asked = steps or [whole(z) for z in zips], 0

    return serve


def test_three_files_are_downloaded_once_and_read(tmp_path, serve, server):
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)])
    data, trials = load_background("omniglot", tmp_path), load_trials("omniglot", tmp_path)
    assert server.asked == 3
    assert data.images.shape == (120, 35, 35, 1) and data.images.dtype == np.uint8
    assert alphabets(data) == ["Abc", "Greek", "Xyz"], "Greek is in both, and counts once"
    assert np.bincount(data.labels).tolist() == [20] * 6
    assert trials.support.shape == trials.queries.shape == (RUNS, WAYS, 35, 35, 1)
    assert (trials.answers == ANSWERS).all()


def test_a_pixel_is_the_ink_of_nine(tmp_path, serve):
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)])
    with Image.open(io.BytesIO(png(0, 2, 5))) as image:
        ink = 1 - np.asarray(image, float)
    mean = ink[6:9, 30:33].mean()
    trials = load_trials("omniglot", tmp_path)
    assert trials.support[1, 4, 2, 10, 0] == round(255 * mean)
    paper = draw_on_paper(trials.support[1, 4])
    assert paper.shape == (35, 35, 3) and (paper[2, 10] == 255 - round(255 * mean)).all()


@pytest.mark.parametrize("fault", ["missing page", "half", "reset", "web page", "other file"])
@pytest.mark.parametrize("which", [0, 2])
def test_a_failed_download_leaves_nothing(tmp_path, serve, fault, which):
    zips = [zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)]
    bad = {
        "missing page": page(404),
        "half": half(zips[which]),
        "reset": half(zips[which], reset),
        "web page": page(),
        "other file": whole(zipped({"a": b"b"})),
    }[fault]
    serve(zips, [*(whole(z) for z in zips[:which]), bad])
    with pytest.raises(FileNotFoundError, match=r"omniglot: .* could not be downloaded: .*Nothing"):
        load_background("omniglot", tmp_path)
    assert not any(tmp_path.rglob("*.zip"))


def test_what_is_there_but_damaged_is_named(tmp_path, serve):
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)])
    folder = fetch("omniglot", tmp_path)
    path = folder / "images_background_small2.zip"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"images_background_small2\.zip was changed or damaged"):
        load_background("omniglot", tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"images_background_small2\.zip is missing.*Delete it"):
        load_trials("omniglot", tmp_path)


def with_entry(name, content=b""):
    return zipped(SETS[0] | {name: content})


def cut_zip():
    """A zip whose list of files is whole, while a byte of a drawing in it is another one."""
    content = bytearray(zipped(SETS[0]))
    start = content.find(b"IHDR")
    content[start + 40] ^= 255
    return bytes(content)


SMALL_1 = {
    "leaves": (with_entry("../out.png"), "leaves the folder"),
    "absolute": (with_entry("/etc/out.png"), "leaves the folder"),
    "another file": (with_entry("small1/readme.txt"), "no image of a character"),
    "bomb": (with_entry("small1/Abc/character03/0003_01.png", bytes(10**7)), "unpacks to over"),
    "no zip": (b"nothing of the kind", "not a zip file"),
    "cut": (zipped(SETS[0])[:-30], "not a zip file"),
    "changed byte": (cut_zip(), "small1.zip cannot be used"),
    "no image": (with_entry("small1/Abc/character01/0001_21.png", b"PNG?"), "0001_21.png"),
    "size": (with_entry("small1/Abc/character01/0001_21.png", png(1, side=64)), "64 x 64"),
    "few people": (zipped(background("small1", ["Abc", "Greek"], 19)), "118 different|119 diff"),
    "one more": (with_entry("small1/Abc/character01/0001_21.png", png(7)), "121 different images"),
}


@pytest.mark.parametrize("kind", SMALL_1)
def test_a_strange_archive_is_refused(tmp_path, serve, kind, monkeypatch):
    """Also one whose hash is right, such as a file that its authors damaged."""
    monkeypatch.setattr(omniglot, "MAX_UNPACKED", 5 * 10**6)
    archive, reason = SMALL_1[kind]
    serve([archive, zipped(SETS[1]), zipped(TRIALS)])
    with pytest.raises(ValueError, match=reason) as caught:
        load_background("omniglot", tmp_path)
    assert "Delete it and run again" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.png").exists() and not (tmp_path.parent / "out.png").exists()


TWICE = ANSWERS.copy()
TWICE[1, 0] = TWICE[1, 1]
STRANGE_TRIALS = {
    "answer twice": (trials_of(TWICE), "do not name each character"),
    "one run": (trials_of(ANSWERS[:1]), "does not hold 2 runs"),
    "other file": (TRIALS | {"run01/test/item21.txt": b""}, "no part of a trial"),
    "item 21": (TRIALS | {"run01/test/item21.png": png(9)}, "does not hold"),
    "other labels": (TRIALS | {"run02/class_labels.txt": b"\xff\x00 x\n"}, "does not hold"),
}


@pytest.mark.parametrize("kind", STRANGE_TRIALS)
def test_strange_trials_are_refused(tmp_path, serve, kind):
    entries, reason = STRANGE_TRIALS[kind]
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(entries)])
    with pytest.raises(ValueError, match=reason):
        load_trials("omniglot", tmp_path)


@pytest.mark.parametrize(("mirrored", "forms"), [(True, 8), (False, 4)])
def test_turned_and_mirrored_characters_are_classes_of_their_own(tmp_path, serve, mirrored, forms):
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)])
    data = load_background("omniglot", tmp_path)
    more = add_classes(data, mirrored)
    assert len(more.images) == len(more.labels) == len(more.paths) == forms * 120
    assert len(more.class_names) == len(set(more.class_names)) == forms * 6
    assert (np.bincount(more.labels) == 20).all() and alphabets(more) == alphabets(data)
    shown = {more.class_names[k]: more.images[more.labels == k] for k in range(forms * 6)}
    name = data.class_names[2]
    own = data.images[data.labels == 2]
    np.testing.assert_array_equal(shown[name], own)
    np.testing.assert_array_equal(shown[f"{name}, turned by 270 degrees"][7], np.rot90(own[7], 3))
    if mirrored:
        np.testing.assert_array_equal(shown[f"{name}, mirrored"][7], np.fliplr(own[7]))
        twice = shown[f"{name}, mirrored, turned by 90 degrees"][7]
        np.testing.assert_array_equal(twice, np.rot90(np.fliplr(own[7])))


def test_alphabets_are_held_out_whole(tmp_path, serve):
    serve([zipped(SETS[0]), zipped(SETS[1]), zipped(TRIALS)])
    data = load_background("omniglot", tmp_path)
    kept = keep_alphabets(data, ["Xyz", "Abc"])
    assert alphabets(kept) == ["Abc", "Xyz"] and len(kept.images) == 80
    names = [kept.class_names[label] for label in kept.labels]
    assert names == [n for n in (data.class_names[x] for x in data.labels) if "Greek" not in n]
    assert kept.fingerprint != data.fingerprint
    with pytest.raises(ValueError, match="no alphabet 'Latin'; there are Abc, Greek, Xyz"):
        keep_alphabets(data, ["Latin"])
    with pytest.raises(ValueError, match="Abc has 2 characters; a run needs 20"):
        draw_trials(data, 1, 0)


def test_all_background_alphabets_are_two_files(tmp_path, server, monkeypatch):
    zips = [zipped(background("images_background", ["Abc", "Greek", "Xyz"])), zipped(TRIALS)]
    known = DATASETS["omniglot-full"]
    assert [file.name for file in known.files] == ["images_background.zip", "all_runs.zip"]
    assert (known.images, known.classes) == (964 * 20, 964)
    files = tuple(
        File(file.path, hashlib.sha256(z).hexdigest()) for file, z in zip(known.files, zips)
    )
    source = dataclasses.replace(known, address=f"{server.url}/", files=files, classes=6)
    monkeypatch.setitem(downloads.DATASETS, "omniglot-full", source)
    server.plan, server.asked = [whole(z) for z in zips], 0
    with pytest.raises(ValueError, match="120 different images of 6 characters, but 19280 of 6"):
        load_background("omniglot-full", tmp_path)
    source = dataclasses.replace(source, images=120)
    monkeypatch.setitem(downloads.DATASETS, "omniglot-full", source)
    assert len(load_background("omniglot-full", tmp_path).images) == 120
    assert (load_trials("omniglot-full", tmp_path).answers == ANSWERS).all()
    assert server.asked == 2 and (tmp_path / "omniglot_full" / "all_runs.zip").is_file()


@pytest.mark.parametrize("name", ["omniglot", "omniglot-full"])
def test_other_notebooks_cannot_read_it(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is for notebook 7 alone: make run"):
        load_images(name, 8, tmp_path, tmp_path)


@pytest.fixture(scope="module")
def shared_data():
    if not (SHARED / "omniglot").is_dir():
        pytest.skip("no ../shared with Omniglot")
    return load_background("omniglot", SHARED), load_trials("omniglot", SHARED)


def test_the_files_at_hand_are_the_known_ones(shared_data):
    data, trials = shared_data
    assert alphabets(data) == sorted({name for names in MINIMAL.values() for name in names})
    for name, expected in MINIMAL.items():
        path = SHARED / "omniglot" / f"images_background_{name}.zip"
        with zipfile.ZipFile(path) as archive:
            assert {n.split("/")[1] for n in archive.namelist()} - {""} == set(expected)
    trained = {image.tobytes() for image in data.images}
    asked = np.concatenate([trials.queries, trials.support]).reshape(-1, 35 * 35)
    assert not [image for image in asked if image.tobytes() in trained]


def test_drawn_trials_are_like_the_official_ones(shared_data):
    data, _ = shared_data
    trials = draw_trials(keep_alphabets(data, ["Greek", "Korean"]), 4, 0)
    label = {
        image.tobytes(): (c, p % 20) for p, (image, c) in enumerate(zip(data.images, data.labels))
    }
    for support, queries, answers in zip(trials.support, trials.queries, trials.answers):
        examples = [label[image.tobytes()] for image in support]
        asked = [label[image.tobytes()] for image in queries]
        assert [examples[a][0] for a in answers] == [c for c, _ in asked]
        assert len({c for c, _ in examples}) == 20
        names = {data.coarse[c] for c, _ in examples}
        assert len(names) == 1, "one alphabet"
        assert len({p for _, p in examples}) == len({p for _, p in asked}) == 1, "one person each"
        assert examples[0][1] != asked[0][1]
    assert data.coarse[label[trials.support[0, 0].tobytes()][0]] == "Greek", "they take turns"
    assert data.coarse[label[trials.support[1, 0].tobytes()][0]] == "Korean"
