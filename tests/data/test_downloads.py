"""Named datasets from a local server that really cuts the line: whole, or not there at all."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import zipped
from local_server import CHUNKED, Server, half, nonsense, page, reset, stall, whole
from PIL import Image

from workbook import ROOT
from workbook.data import downloads, images
from workbook.data.images import decode_image, load_images
from workbook.support import atomic_files, network

ORIGINAL = dict(downloads.DATASETS)


def png(*seed):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def classes(top, counts):
    """{entry name: content} of one folder per class."""
    return {
        f"{top}/{name}/{j}.png": png(*name.encode(), j)
        for name, count in counts.items()
        for j in range(count)
    }


def tarred(entries, *odd):
    """A tar.gz of {name: content} and of more TarInfo without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for info in odd:
            file.addfile(info)
    return buffer.getvalue()


def tar_link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


OBJECTS = {"BACKGROUND_Google": 6, "Faces": 6, "Faces_easy": 6, "ant": 6}
CATEGORIES = tarred(classes("101_ObjectCategories", OBJECTS))
CALTECH = {"caltech-101/101_ObjectCategories.tar.gz": CATEGORIES, "caltech-101/show.m": b"%"}
PEOPLE = classes("lfw_funneled", {"Ana_Pop": 5, "Ion_Rus": 4, "Once": 1, "Three": 3})
GROCERY_TOP = ORIGINAL["grocery"].inside
GROCERY = {
    f"{GROCERY_TOP}/classes.csv": b"name,id,coarse,id,icon,text\nFig,0,F,0,/i/fig.png,\n"
    b"Kiwi,1,F,0,/i/kiwi.png,\n",
    f"{GROCERY_TOP}/train.txt": b"train/f.png, 0, 0\ntrain/k.png, 1, 0\n",
    f"{GROCERY_TOP}/val.txt": b"val/f.png, 0, 0\n",
    f"{GROCERY_TOP}/test.txt": b"test/k.png, 1, 0\n",
} | {
    f"{GROCERY_TOP}/{name}.png": png(*name.encode())
    for name in ("i/fig", "i/kiwi", "train/f", "train/k", "val/f", "test/k")
}
ARCHIVES = {"caltech101": zipped(CALTECH), "lfw": tarred(PEOPLE), "grocery": zipped(GROCERY)}
COUNTS = {"caltech101": 12, "lfw": 9, "grocery": 6}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(network, "TIMEOUT", 1)
    lines = {"classes.csv": 3, "train.txt": 2, "val.txt": 1, "test.txt": 1}
    monkeypatch.setattr(downloads, "GROCERY_LINES", lines)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def serve(server, monkeypatch):
    """serve(name, archive, *steps): what the address of a dataset answers, and its true hash."""

    def serve(name, archive, *steps):
        digest = None if name == "grocery" else hashlib.sha256(archive).hexdigest()
        source = dataclasses.replace(ORIGINAL[name], address=server.url, sha256=digest)
        monkeypatch.setitem(downloads.DATASETS, name, source)
        server.plan, server.asked = list(steps) or [whole(archive)], 0

    return serve


def load(name, tmp_path):
    return load_images(name, 8, tmp_path / "data", tmp_path / "cache")


def nothing_left(tmp_path):
    return not any((tmp_path / "data").rglob("*"))


def check_fails_then_recovers(name, tmp_path, serve, says):
    """A clear error that leaves nothing; and the next run, the fault gone, succeeds."""
    with pytest.raises(FileNotFoundError, match=f"(?s){says}") as error:
        load(name, tmp_path)
    address = downloads.DATASETS[name].address
    assert str(error.value).startswith(f"{name}: {address} could not be downloaded: ")
    assert "Nothing incomplete is left. Run again, or put" in str(error.value)
    assert "SIAMESE_DATASET=toys" in str(error.value)
    assert nothing_left(tmp_path), "nothing that a later run would trust"
    assert socket.getdefaulttimeout() is None, "the time limit was for the download alone"
    serve(name, ARCHIVES[name])
    assert len(load(name, tmp_path).images) == COUNTS[name]


@pytest.mark.parametrize("name", ARCHIVES)
def test_downloaded_once_and_read(tmp_path, serve, server, name):
    serve(name, ARCHIVES[name])
    data = load(name, tmp_path)
    assert data.name == name and len(data.images) == COUNTS[name] and not data.problems
    assert (data.images[0] == decode_image(data.paths[0], 8)).all()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [ORIGINAL[name].folder]
    assert len(load(name, tmp_path).images) == COUNTS[name] and server.asked == 1


def test_caltech101_leaves_out_the_background_and_one_of_two_faces(tmp_path, serve):
    serve("caltech101", ARCHIVES["caltech101"])
    data = load("caltech101", tmp_path)
    assert data.class_names == ["Faces", "ant"]
    [note] = [note for note in data.warnings if "left out" in note["reason"]]
    assert note["reason"].startswith("2 classes, 12 images left out: BACKGROUND_Google, Faces_easy")


def test_lfw_is_people_with_four_images(tmp_path, serve):
    serve("lfw", ARCHIVES["lfw"])
    data = load("lfw", tmp_path)
    assert data.class_names == ["Ana_Pop", "Ion_Rus"] and np.bincount(data.labels).tolist() == [
        5,
        4,
    ]
    [note] = [note for note in data.warnings if "left out" in note["reason"]]
    assert "2 classes, 4 images" in note["reason"] and "fewer than 4 images" in note["reason"]


def test_lfw_is_the_file_that_scikit_learn_takes():
    lfw = pytest.importorskip("sklearn.datasets._lfw")
    source = ORIGINAL["lfw"]
    assert (source.address, source.sha256) == lfw.FUNNELED_ARCHIVE[1:]


CUT = ARCHIVES["caltech101"]


NETWORK = {  # what: (the answer, what the error says)
    "cut": (half(CUT), "IncompleteRead"),
    "cut by a reset": (half(CUT, reset), "reset|IncompleteRead"),
    "cut between chunks": (half(CUT, header=CHUNKED), "Response ended prematurely"),
    "cut without a length": (half(CUT, header=("Connection", "close")), "sha256 is not"),
    "stalled half-way": (half(CUT, stall), "timed out"),
    "stalled at once": (stall, "timed out"),
    "closed at once": (reset, "reset|closed"),
    "no http": (nonsense, "no http"),
    "wrong checksum": (whole(CUT[:-1] + b"x"), "sha256 is not .* changed or damaged"),
    "empty": (whole(b""), "sha256 is not"),
    "web page": (page(), "a web page came"),
    "404": (page(404), "404"),
    "403": (page(403), "403"),
    "500": (page(500), "500"),
    "a reason that would clear the terminal": (
        whole(b"", 404, reason="no\x1b[2J"), r"404.*no\\x1b\[2J",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NETWORK)
def test_network_faults(tmp_path, serve, what):
    step, says = NETWORK[what]
    serve("caltech101", CUT, step)
    check_fails_then_recovers("caltech101", tmp_path, serve, says)


def test_a_web_page_where_no_hash_is_known(tmp_path, serve):
    serve("grocery", ARCHIVES["grocery"], page())
    check_fails_then_recovers("grocery", tmp_path, serve, "a web page came")


def test_no_network(tmp_path, serve, server, monkeypatch):
    serve("lfw", ARCHIVES["lfw"])
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/archive"
        source = dataclasses.replace(downloads.DATASETS["lfw"], address=address)
        monkeypatch.setitem(downloads.DATASETS, "lfw", source)
        check_fails_then_recovers("lfw", tmp_path, serve, "refused")


def test_a_name_that_no_server_has(tmp_path, serve, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    source = dataclasses.replace(ORIGINAL["lfw"], address="http://nowhere.invalid/archive")
    monkeypatch.setitem(downloads.DATASETS, "lfw", source)
    with monkeypatch.context() as offline:
        offline.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(FileNotFoundError, match="Name or service not known"):
            load("lfw", tmp_path)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("step", [half(CUT), half(CUT, reset), half(CUT, header=CHUNKED)])
def test_a_cut_download_is_started_anew(tmp_path, serve, server, step):
    serve("caltech101", CUT, step, whole(CUT))
    assert len(load("caltech101", tmp_path).images) == 12 and server.asked == 2


def test_an_answer_of_404_is_not_asked_again(tmp_path, serve, server):
    serve("caltech101", CUT, page(404))
    with pytest.raises(FileNotFoundError):
        load("caltech101", tmp_path)
    assert server.asked == 1


NESTED_OUT = {"caltech-101/101_ObjectCategories.tar.gz": tarred({"../../x": b"out"})}
UNSAFE = {  # what: (dataset, archive, what the error says)
    "zip, up": ("grocery", zipped(GROCERY | {"../../x": b"out"}), r"'\.\./\.\./x' leaves"),
    "zip, up from within": ("grocery", zipped(GROCERY | {"a/../../../x": b"out"}), "leaves"),
    "zip, absolute": ("grocery", zipped(GROCERY | {"/x": b"out"}), "'/x' leaves"),
    "zip, backslashes": ("grocery", zipped(GROCERY | {"..\\..\\x": b"out"}), "leaves"),
    "zip, drive": ("grocery", zipped(GROCERY | {"C:\\x": b"out"}), "leaves"),
    "zip, link": ("grocery", zipped(GROCERY | {zip_link("link"): b"/etc"}), "'link' is a link"),
    "tar, up": ("lfw", tarred(PEOPLE | {"../../x": b"out"}), r"'\.\./\.\./x' leaves"),
    "tar, absolute": ("lfw", tarred(PEOPLE | {"/x": b"out"}), "'/x' leaves"),
    "tar, link up": ("lfw", tarred(PEOPLE, tar_link("lfw_funneled/l", "../../..")), "funneled/l"),
    "tar, absolute link": ("lfw", tarred(PEOPLE, tar_link("lfw_funneled/l", "/etc")), "funneled/l"),
    "tar, inner link": ("lfw", tarred(PEOPLE, tar_link("lfw_funneled/l", "Ana_Pop")), "is a link"),
    "tar, hard link": ("lfw", tarred(PEOPLE, tar_link("hard", "../x", tarfile.LNKTYPE)), "hard"),
    "tar, pipe": ("lfw", tarred(PEOPLE, tar_link("pipe", "", tarfile.FIFOTYPE)), "pipe"),
    "tar within a zip, up": ("caltech101", zipped(NESTED_OUT), "leaves"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_archives_that_would_leave_their_folder(tmp_path, serve, what):
    name, archive, says = UNSAFE[what]
    serve(name, archive)
    check_fails_then_recovers(name, tmp_path, serve, f"the archive is unsafe: .*{says}")
    assert not list(tmp_path.rglob("x")) and not Path("/x").exists()


@pytest.mark.parametrize("name, pack", [("grocery", zipped), ("lfw", tarred)])
def test_an_archive_of_too_much_is_not_unpacked(tmp_path, serve, monkeypatch, name, pack):
    monkeypatch.setattr(downloads, "MAX_UNPACKED", 10**6)
    serve(name, pack({"big": bytes(2 * 10**6)}))
    check_fails_then_recovers(name, tmp_path, serve, "unsafe: it unpacks to over 0.001 GB")


def flipped(archive):
    """One bit of the middle changed: the sums inside do not fit any more."""
    middle = len(archive) // 2
    return archive[:middle] + bytes([archive[middle] ^ 1]) + archive[middle + 1 :]


def grocery(**changes):
    """The groceries with other lists: their name without ".txt", their content."""
    return zipped(GROCERY | {f"{GROCERY_TOP}/{k}.txt": content for k, content in changes.items()})


NO_VAL = {name: content for name, content in GROCERY.items() if "val.txt" not in name}
WRONG = {  # what: (dataset, archive, what the error says)
    "zip cut": ("grocery", ARCHIVES["grocery"][:-100], "damaged"),
    "zip of a flipped bit": ("grocery", flipped(ARCHIVES["grocery"]), "damaged"),
    "no archive": ("grocery", b"no archive at all", "damaged"),
    "tar cut": ("lfw", ARCHIVES["lfw"][:-1000], "damaged"),
    "tar within a zip, cut": (
        "caltech101", zipped(CALTECH | {next(iter(CALTECH)): CATEGORIES[:-999]}), "damaged",
    ),
    "tar within a zip, missing": (
        "caltech101", zipped({"caltech-101/show.m": b"%"}), "No such file.*101_ObjectCategories",
    ),
    "other content": ("lfw", tarred({"elsewhere/a/0.png": png(1)}), "holds no lfw_funneled"),
    "grocery without a split": ("grocery", zipped(NO_VAL), r"val\.txt has 0 lines, not 1"),
    "grocery, split too short": (
        "grocery", zipped(GROCERY | {f"{GROCERY_TOP}/train.txt": b"train/f.png, 0, 0\n"}),
        r"train\.txt has 1 lines, not 2",
    ),
    "grocery, a picture from elsewhere": (
        "grocery", grocery(val=b"val/../../../x.png, 0, 0\n"), r"which is not in the folder",
    ),
    "grocery, an absolute picture": ("grocery", grocery(val=b"/etc/x.png, 0, 0\n"), "not in the f"),
    "grocery, a picture that is missing": (
        "grocery", grocery(val=b"val/g.png, 0, 0\n"), r"name 'val/g\.png', which is missing",
    ),
    "grocery, a class that is missing": (
        "grocery", grocery(val=b"val/f.png, 7, 0\n"), r"name the class 7, which classes\.csv does",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_archives_that_are_not_what_they_should_be(tmp_path, serve, what):
    name, archive, says = WRONG[what]
    serve(name, archive)
    check_fails_then_recovers(name, tmp_path, serve, says)


def test_a_grocery_folder_that_is_incomplete_is_named(tmp_path, server):
    (tmp_path / "data" / "grocery_store").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"grocery_store is incomplete: classes\.csv.*Delete it"):
        load("grocery", tmp_path)


def test_groceries_whose_lists_are_others_are_read_with_a_warning(tmp_path, serve, monkeypatch):
    serve("grocery", ARCHIVES["grocery"])
    lists = downloads.grocery_lists(downloads.fetch("grocery", tmp_path / "data"))
    known = hashlib.sha256(json.dumps(lists).encode()).hexdigest()
    for digest, warned in (("0" * 64, 1), (known, 0)):
        monkeypatch.setattr(images, "GROCERY_LISTS", digest)
        notes = [note["reason"] for note in load("grocery", tmp_path).warnings]
        assert notes.count("its lists are not those of the authors' commit") == warned


def test_the_known_lists_are_those_of_the_groceries_at_hand():
    folder = ROOT.parent / "shared/datasets/grocery_store"
    if not folder.is_dir():
        pytest.skip("no ../shared with the groceries")
    lists = downloads.grocery_lists(folder)
    assert hashlib.sha256(json.dumps(lists).encode()).hexdigest() == downloads.GROCERY_LISTS
    downloads._check_grocery(folder)


@contextlib.contextmanager
def full_disk(limit):
    """The kernel refuses to let any file grow beyond `limit` bytes."""
    resource = pytest.importorskip("resource", reason="no file size limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["archive", "content"])
def test_the_disk_is_full(tmp_path, serve, what):
    """The archive does not fit, or what is in it."""
    big = np.random.default_rng(0).bytes(300_000) if what == "archive" else bytes(300_000)
    serve("lfw", tarred(PEOPLE | {"lfw_funneled/big.txt": big}))
    with full_disk(200_000), pytest.raises(FileNotFoundError, match=r"disk or quota is full.*Make"):
        load("lfw", tmp_path)
    assert nothing_left(tmp_path)
    serve("lfw", ARCHIVES["lfw"])
    assert len(load("lfw", tmp_path).images) == 9


def test_the_disk_is_full_while_decoding(tmp_path):
    for entry, content in classes("images", {"a": 6, "b": 6}).items():
        (tmp_path / entry).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / entry).write_bytes(content)
    with full_disk(1_000_000), pytest.raises(OSError, match=r"disk or quota is full.*Make room"):
        load_images(tmp_path / "images", 200, cache_dir=tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())
    assert len(load_images(tmp_path / "images", 200, cache_dir=tmp_path / "cache").images) == 12


CHILD = """
import sys; sys.path.insert(0, {root!r})
import dataclasses
from workbook.data import downloads
source = downloads.DATASETS["caltech101"]
downloads.DATASETS["caltech101"] = dataclasses.replace(source, address={url!r}, sha256={sha!r})
"""
DOWNLOAD = 'downloads.fetch("caltech101", {data!r})'
LOAD = """
import hashlib
from workbook.data.images import load_images
data = load_images("caltech101", 8, {data!r}, {cache!r})
print("read", len(data.images), hashlib.sha256(data.images.tobytes()).hexdigest())
"""


def child(server, tmp_path, work):
    """The same work in a process of its own."""
    code = (CHILD + work).format(
        root=str(ROOT), url=server.url, sha=hashlib.sha256(CUT).hexdigest(),
        data=str(tmp_path / "data"), cache=str(tmp_path / "cache"),
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_download_and_decode_at_once(tmp_path, serve, server):
    together = threading.Barrier(2)

    def at_once(handler):
        together.wait(60)
        whole(CUT)(handler)

    serve("caltech101", CUT, at_once)
    other = child(server, tmp_path, LOAD)
    while not server.asked and other.poll() is None:
        time.sleep(0.05)
    data = load("caltech101", tmp_path)
    said = other.communicate(timeout=120)[0].splitlines()[-1]
    assert said == f"read 12 {hashlib.sha256(data.images.tobytes()).hexdigest()}"
    assert server.asked == 2, "neither waited for the other"
    left = [path.name for place in ("data", "cache") for path in (tmp_path / place).iterdir()]
    assert left == ["caltech101", data.report.parent.name]


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_killed_while_downloading(tmp_path, serve, server):
    serve("caltech101", CUT, half(CUT, stall))
    process = child(server, tmp_path, DOWNLOAD)
    while not server.asked and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [left] = (tmp_path / "data").iterdir()
    assert ".part-" in left.name, "it was killed at work"
    serve("caltech101", CUT)
    assert len(load("caltech101", tmp_path).images) == 12
    os.utime(left, (0, 0))  # left by a run of long ago
    with atomic_files.temporary_build_folder(tmp_path / "data" / "lfw"):
        assert left.exists(), "it is another's"
    with atomic_files.temporary_build_folder(tmp_path / "data" / "caltech101"):
        assert not left.exists() and (tmp_path / "data" / "caltech101").is_dir()
