"""Images as people have them: each is read right, pixel for pixel, or listed with a remedy."""

import contextlib
import csv
import io
import os
import re
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from workbook.decoding import pillow_heif
from workbook.folders import printable
from workbook.images import decode_image, load_images

COLORS = np.uint8([[[230, 30, 30], [30, 200, 40]], [[20, 40, 210], [240, 220, 40]]])
PICTURE = Image.fromarray(COLORS.repeat(24, 0).repeat(32, 1))  # 64 x 48: four quadrants
GREY = np.asarray(Image.fromarray(COLORS).convert("L").convert("RGB"))
WHITE_LEFT = np.uint8([[[255] * 3, [30, 200, 40]], [[255] * 3, [240, 220, 40]]])
CLEAR_LEFT = Image.fromarray(np.uint8([[0, 255]]).repeat(48, 0).repeat(32, 1))


def quadrants(pixels):
    """The middle of each quarter of an image: (size, size, 3) -> (2, 2, 3)."""
    quarter = len(pixels) // 4
    return pixels[quarter :: 2 * quarter, quarter :: 2 * quarter].astype(int)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def turned(orientation):
    """The picture as a camera that was held so stores it."""
    undo = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
        6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
    }  # fmt: skip
    return PICTURE.transpose(Image.Transpose[undo[orientation]])


def png(width, height, rows):
    """A PNG of one bit a pixel from its packed rows, without holding the pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def black_above_white(width, height):
    row = (width + 7) // 8
    return png(
        width, height, b"\0" * (row + 1) * (height // 2) + (b"\0" + b"\xff" * row) * (height // 2)
    )


JPEG = encoded(PICTURE, "JPEG", quality=95)
RGBA = PICTURE.convert("RGBA")
RGBA.putalpha(CLEAR_LEFT)
PALETTE = PICTURE.quantize(4)
CLEAR_PALETTE = PICTURE.quantize(4)
CLEAR_PALETTE.info["transparency"] = bytes(  # the colours of the left half are clear
    0 if tuple(CLEAR_PALETTE.getpalette()[3 * i : 3 * i + 2]) in [(230, 30), (20, 40)] else 255
    for i in range(4)
)
DEEP = np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257
OTHER = Image.new("RGB", (64, 48), "black")
HALVES = np.uint8([[[0] * 3] * 2, [[255] * 3] * 2])

READ = {  # what: (file name, content, the four colours)
    "jpeg": ("a.jpg", JPEG, COLORS),
    "upper-case suffix": ("IMG_0001.JPG", JPEG, COLORS),
    "no suffix": ("scan", JPEG, COLORS),
    "png named jpg": ("really a png.jpg", encoded(PICTURE, "PNG"), COLORS),
    "progressive jpeg": ("p.jpeg", encoded(PICTURE, "JPEG", progressive=True), COLORS),
    "cmyk jpeg": ("print.jpg", encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), COLORS),
    "greyscale jpeg": ("grey.jpg", encoded(PICTURE.convert("L"), "JPEG"), GREY),
    "16-bit png": ("deep.png", encoded(Image.fromarray(DEEP), "PNG"), GREY),
    "16-bit tiff": ("deep.tif", encoded(Image.fromarray(DEEP), "TIFF"), GREY),
    "32-bit tiff that holds 16": (
        "int.tif", encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), GREY,
    ),
    "palette png": ("palette.png", encoded(PALETTE, "PNG"), COLORS),
    "palette png with alpha": (
        "clear.png",
        encoded(CLEAR_PALETTE, "PNG", transparency=CLEAR_PALETTE.info["transparency"]),
        WHITE_LEFT,
    ),
    "png with alpha": ("alpha.png", encoded(RGBA, "PNG"), WHITE_LEFT),
    "grey png with alpha": (
        "la.png", encoded(RGBA.convert("LA"), "PNG"), np.where(WHITE_LEFT == 255, 255, GREY),
    ),
    "one-bit png": ("bits.png", black_above_white(40, 40), HALVES),
    "gif": ("still.gif", encoded(PALETTE, "GIF"), COLORS),
    "animated gif": (
        "moving.gif", encoded(PICTURE, "GIF", save_all=True, append_images=[OTHER] * 3), COLORS,
    ),
    "bmp": ("a.bmp", encoded(PICTURE, "BMP"), COLORS),
    "tiff": ("a.tiff", encoded(PICTURE, "TIFF", compression="tiff_lzw"), COLORS),
    "tiff of several pages": (
        "pages.tif", encoded(PICTURE, "TIFF", save_all=True, append_images=[OTHER]), COLORS,
    ),
    "1 x 1 pixel": ("dot.png", encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), [9, 8, 7]),
    "20,000 x 10 pixels": ("wide.png", encoded(PICTURE.resize((20000, 10), 0), "PNG"), COLORS),
    "10 x 20,000 pixels": ("tall.jpg", encoded(PICTURE.resize((10, 20000), 0), "JPEG"), COLORS),
    "90 megapixels": ("scan.png", black_above_white(9488, 9488), HALVES),
    "spaces in the name": (" my picture .jpg", JPEG, COLORS),
    "newline in the name": ("two\nlines.jpg", JPEG, COLORS),
    "emoji in the name": ("🦔 Școala 東京.jpg", JPEG, COLORS),
    "bytes in the name that are no UTF-8": (b"caf\xe9\xff.jpg", JPEG, COLORS),
    "a name of 250 characters": ("x" * 246 + ".jpg", JPEG, COLORS),
}  # fmt: skip
for turn in range(2, 9):
    photo = encoded(turned(turn), "JPEG", exif=exif(turn), quality=95)
    READ[f"phone photo, orientation {turn}"] = (f"IMG_{turn}.jpg", photo, COLORS)
for what, tags in (("garbage", b"garbage"), ("a cut", b"MM\0*\0\0\0\x08\xff\xff\x01\x12")):
    photo = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + tags, quality=95)
    READ[f"photo with {what} EXIF"] = ("IMG_9.jpg", photo, COLORS)
for kind in ("PNG", "TIFF"):
    READ[f"{kind} with orientation"] = (
        f"turned.{kind.lower()}", encoded(turned(6), kind, exif=exif(6)), COLORS,
    )  # fmt: skip
if features.check("webp"):
    READ |= {
        "webp": ("a.webp", encoded(PICTURE, "WEBP", quality=95), COLORS),
        "webp with alpha": ("alpha.webp", encoded(RGBA, "WEBP", lossless=True), WHITE_LEFT),
        "webp with orientation": (
            "turned.webp", encoded(turned(8), "WEBP", exif=exif(8), lossless=True), COLORS,
        ),
        "animated webp": (
            "moving.webp",
            encoded(PICTURE, "WEBP", save_all=True, append_images=[OTHER], lossless=True),
            COLORS,
        ),
    }  # fmt: skip

SAVE_AGAIN = "save it"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
BROKEN = {  # what: (file name, content, reason, remedy)
    "empty file": ("empty.jpg", b"", "an empty file", "restore or delete"),
    "text named jpg": ("text.jpg", b"not a picture", "not an image", SAVE_AGAIN),
    "web page named png": ("page.png", b"<!DOCTYPE html><html>", "not an image", SAVE_AGAIN),
    "labels beside the images": ("labels.csv", b"file,label\n", "not an image", "delete it"),
    "video": ("film.mp4", b"\0\0\0\x18ftypisom" + bytes(99), "not an image", SAVE_AGAIN),
    "heic without a decoder": ("IMG_0002.HEIC", HEIC, "HEIC.*decoder", "pillow-heif"),
    "heic named jpg": ("IMG_0003.jpg", HEIC, "HEIC.*decoder", "pillow-heif"),
    "decompression bomb": (
        "bomb.png", png(20000, 20000, bytes(2501 * 20000)), "too many pixels", "smaller",
    ),
    "32-bit tiff": (
        "int32.tif", encoded(Image.fromarray(DEEP.astype(np.int32) * 99), "TIFF"),
        "more than 16 bits", SAVE_AGAIN,
    ),
    "floating-point tiff": (
        "float.tif", encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF"),
        "floating-point", SAVE_AGAIN,
    ),
    "damaged png": (
        "flipped.png", encoded(PICTURE, "PNG").replace(b"IDAT", b"IDAT\x99", 1), ".", "save it",
    ),
}  # fmt: skip
for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", *["WEBP"] * features.check("webp")):
    rng = np.random.default_rng(0)
    noise = encoded(Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)), kind)
    BROKEN[f"truncated {kind}"] = (f"cut.{kind.lower()}", noise[: len(noise) // 2], ".", "restore")


def make(folder, name="odd.jpg", content=JPEG):
    """Write a file by a name of text or bytes; skip where the file system has no such name."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        Path(os.fsdecode(path)).write_bytes(content)
    except OSError as error:
        pytest.skip(f"no such name on this file system: {error}")
    return os.fsdecode(path)


@pytest.fixture
def dataset(tmp_path):
    """A folder of two sound classes, the odd ones to be put into "a"."""
    for i, name in enumerate("ab"):
        make(
            tmp_path / "images" / name,
            "sound.png",
            encoded(Image.new("RGB", (8, 8), (i, 9, 9)), "PNG"),
        )
    return tmp_path / "images"


def load(folder, **options):
    return load_images(folder, 32, cache_dir=folder.parent / "cache", **options)


def written(data):
    """What the CSV beside the cache says."""
    with open(data.report, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.odd_image
@pytest.mark.parametrize("what", READ)
def test_read_right(dataset, what):
    name, content, colors = READ[what]
    path = make(dataset / "a", name, content)
    data = load(dataset, strict=True)
    assert len(data.images) == 3 and not data.problems
    pixels = data.images[data.paths.index(path)]
    assert np.abs(quadrants(pixels) - np.asarray(colors)).max() <= 12
    assert (pixels == decode_image(path, 32)).all()


@pytest.mark.odd_image
@pytest.mark.parametrize("what", BROKEN)
def test_listed_with_reason_and_remedy(dataset, what):
    name, content, reason, remedy = BROKEN[what]
    if pillow_heif and "heic" in what:
        pytest.skip("a decoder is installed")
    path = make(dataset / "a", name, content)
    data = load(dataset)
    check_listed(data, dataset, path, reason, remedy)
    with pytest.raises(ValueError, match=f"(?s){re.escape(name)}.*{reason}"):
        decode_image(path, 32)


def check_listed(data, folder, path, reason, remedy):
    """One problem, of this path, in `.problems` and in the CSV; strict raises it."""
    [problem] = data.problems
    assert len(data.images) == 2 and problem["path"] == printable(path)
    assert re.search(reason, problem["reason"]) and re.search(remedy, problem["remedy"])
    assert {"kind": "problem"} | problem in written(data)
    with pytest.raises(ValueError, match=f"1 problems.*{reason}".replace(".*", "(?s:.*)")):
        load(folder, strict=True)


def link(path, target):
    try:
        os.symlink(target, path)
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"no symbolic links here: {error}")
    return str(path)


@pytest.mark.odd_image
def test_links_are_followed(dataset, tmp_path):
    make(tmp_path / "elsewhere" / "deeper", "x.jpg")
    link(dataset / "a" / "link.jpg", tmp_path / "elsewhere" / "deeper" / "x.jpg")
    link(dataset / "b" / "folder", tmp_path / "elsewhere")
    link(dataset / "c", tmp_path / "elsewhere")
    data = load(dataset, strict=True)
    assert np.bincount(data.labels).tolist() == [2, 2, 1] and len(data.images) == 5


@pytest.mark.odd_image
@pytest.mark.parametrize(
    "place, target, reason",
    [
        ("a/broken.jpg", "nowhere.jpg", "a link to nothing"),
        ("a/itself.jpg", "itself.jpg", "symbolic links|link to nothing"),
        ("a/up", ".", "read already"),
        ("a/top", "..", "read already"),
        ("c", ".", "read already"),
        ("c", "c", "not in a class folder"),
    ],
)
def test_links_to_nothing_and_loops_are_listed(dataset, place, target, reason):
    path = link(dataset / place, target)
    check_listed(load(dataset), dataset, path, reason, "link|move|restore")


@pytest.mark.odd_image
def test_links_that_lead_to_each_other(dataset):
    link(dataset / "a" / "to b", dataset / "b")
    link(dataset / "b" / "to a", dataset / "a")
    data = load(dataset)
    assert len(data.images) == 4, "each class has its own image and the other's"
    assert sorted(Path(p["path"]).name for p in data.problems) == ["to a", "to b"]


@pytest.mark.odd_image
def test_a_folder_named_like_an_image(dataset):
    make(dataset / "a" / "inner.jpg", "x.jpg")
    (dataset / "a" / "empty.jpg").mkdir()
    data = load(dataset)
    assert len(data.images) == 3 and data.labels.tolist() == [0, 0, 1]
    [problem] = data.problems
    assert problem["path"].endswith("empty.jpg") and problem["reason"] == "an empty folder"


@pytest.mark.odd_image
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(dataset):
    os.mkfifo(dataset / "a" / "pipe.jpg")
    path = str(dataset / "a" / "pipe.jpg")
    check_listed(load(dataset), dataset, path, "neither a file nor a folder", "delete it")


@pytest.mark.odd_image
@pytest.mark.parametrize(
    "name",
    [".DS_Store", "._x.jpg", "Thumbs.db", "desktop.ini", ".thumbnails/x.jpg", "__MACOSX/x.jpg"],
)
@pytest.mark.parametrize("place", ["a", ""])
def test_hidden_files_are_left_aside_and_counted(dataset, place, name):
    make((dataset / place / name).parent, Path(name).name)
    data = load(dataset, strict=True)
    assert len(data.images) == 2
    [note] = [note for note in data.warnings if "hidden" in note["reason"]]
    assert note["reason"].startswith("1 hidden") and Path(name).parts[0] in note["reason"]
    assert {"kind": "warning"} | note in written(data)


@contextlib.contextmanager
def ordinary_user(folder):
    """Permissions do not bind root: be somebody else meanwhile, so that the kernel refuses."""
    if os.name == "nt":
        pytest.skip("POSIX permissions")
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, -1)
    os.seteuid(65534)
    try:
        if not os.access(folder, os.W_OK, effective_ids=True):
            pytest.skip("root, and another user cannot reach the temporary folder")
        yield
    finally:
        os.seteuid(0)


@pytest.mark.odd_image
@pytest.mark.parametrize("name", ["a/secret.jpg", "a/closed/x.jpg", "closed/x.jpg"])
def test_without_permission(name):
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "images")
        for path in ("a/x.jpg", "b/x.jpg", name):
            make((dataset / path).parent, Path(path).name)
        closed = dataset / name if "secret" in name else (dataset / name).parent
        mode = closed.stat().st_mode
        with ordinary_user(Path(folder)):
            closed.chmod(0)
            check_listed(load(dataset), dataset, closed, "no permission", "chmod")
            closed.chmod(mode)
            assert len(load(dataset, strict=True).images) == 3, "once allowed, it is read"


def test_everything_at_once_and_nothing_uncounted(dataset):
    """As many files on the disk as images, problems and hidden files together."""
    for i, (name, content, _) in enumerate(READ.values()):
        with contextlib.suppress(pytest.skip.Exception):
            make(dataset / "a" / f"{i}", name, content)
    for i, (name, content, *_) in enumerate(BROKEN.values()):
        make(dataset / "b" / f"{i}", name, content)
    for name in (".DS_Store", "Thumbs.db", "._x.jpg"):
        make(dataset / "b", name)
    data = load(dataset)
    files = sum(len(names) for _, _, names in os.walk(dataset))
    assert files == len(data.images) + len(data.problems) + 3
    assert len(data.problems) == len(BROKEN)
    assert [note["reason"] for note in data.warnings if "hidden" in note["reason"]] == [
        "3 hidden files or folders left aside: .DS_Store, ._x.jpg, Thumbs.db"
    ]
    rows = written(data)
    assert [row["kind"] for row in rows].count("problem") == len(BROKEN)
    for row in rows:  # can be shown anywhere: one line, and no undecodable byte
        assert "".join(row.values()).encode() and "\n" not in "".join(row.values())
    again = load(dataset)
    assert (again.images == data.images).all() and again.problems == data.problems


@pytest.mark.odd_image
@pytest.mark.parametrize(
    "name, shown", [("two\nlines.jpg", r"two\nlines"), (b"caf\xe9.jpg", r"caf\udce9")]
)
def test_a_broken_file_of_an_odd_name_can_be_printed(dataset, name, shown):
    make(dataset / "a", name, b"no picture")
    [problem] = load(dataset).problems
    assert shown in problem["path"] and problem["path"].encode("utf-8")
    with pytest.raises(ValueError) as error:
        load(dataset, strict=True)
    assert shown in str(error.value) and str(error.value).encode("utf-8")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        decode_image(tmp_path / "nowhere.jpg", 32)
