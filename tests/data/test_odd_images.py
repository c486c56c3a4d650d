"""Images as people have them: each is read right, pixel for pixel, or listed with a remedy."""

import contextlib
import csv
import io
import os
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, features

from workbook.data.decoding import FORMATS, pillow_heif
from workbook.data.images import decode_image, load_images
from workbook.support.text import printable

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


def png(width, height, rows, bits=1, color=0, clear=None):
    """A PNG from its packed rows, of one bit a pixel, without holding the pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + (chunk(b"tRNS", clear) if clear else b"")
    body += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def black_above_white(width, height):
    row = (width + 7) // 8
    return png(
        width, height, b"\0" * (row + 1) * (height // 2) + (b"\0" + b"\xff" * row) * (height // 2)
    )


def deep_png(pixels, clear=()):
    """A PNG of 16 bits a colour, (h, w) or (h, w, 3); `clear`: what is transparent in it."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    color = 2 if pixels.ndim == 3 else 0
    return png(*pixels.shape[1::-1], rows, 16, color, np.array(clear, ">u2").tobytes())


def tiff(grey, bits=16, black=1, order="<"):
    """A TIFF of 12 or 16 bits a pixel, from (h, w) integers; `black` 0: white is 0."""
    height, width = grey.shape
    pixels = grey.astype(f"{order}u2").tobytes()
    if bits == 12:  # two pixels in three bytes
        one, two = grey.reshape(-1, 2).astype(int).T
        three = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], 1)
        pixels = three.astype(np.uint8).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: black, 273: 8, 277: 1, 278: height}
    tags[279] = len(pixels)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(pixels))
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return head + pixels + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4)


def profile(space, connection, **tags):
    """A small ICC profile of these tags."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        place = 132 + 12 * len(tags) + len(body)
        table += name.encode() + struct.pack(">II", place, len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    header = struct.pack(">I4sI4s4s4s", 132 + len(table) - 4 + len(body), b"", 0x02400000, b"prtr",
                         space, connection)  # fmt: skip
    header += bytes(12) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
D50 = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
LINEAR_GREY = profile(b"GRAY", b"XYZ ", wtpt=D50, kTRC=b"curv" + bytes(8))
# a press whose first ink is white paper's opposite, and whose other inks leave no trace
LIGHTNESS = np.array([[255 * (ink < 8), 128, 128] for ink in range(16)], np.uint8).tobytes()
ONE_INK = profile(
    b"CMYK", b"Lab ", wtpt=D50,
    A2B0=b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + (65536 * np.eye(3)).astype(">i4").tobytes()
    + bytes(range(256)) * 4 + LIGHTNESS + bytes(range(256)) * 3,
)  # fmt: skip
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
HALF_CLEAR = np.where(np.asarray(CLEAR_LEFT) > 0, DEEP, 0).astype(np.uint16)
WIDE = COLORS.repeat(8, 0).repeat(8, 1).astype(int)  # (16, 16, 3), to be made of 16 bits
MIST = np.where(np.arange(16)[:, None] < 8, 60000, WIDE * 257)

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
    "16-bit tiff whose white is 0": ("inverse.tif", tiff(65535 - DEEP, black=0), GREY),
    "12-bit pgm": (
        "raw.pgm", b"P5 64 48 4095\n" + (DEEP >> 4).astype(">u2").tobytes(), GREY,
    ),
    "16-bit tiff, the other byte first": ("mm.tif", tiff(DEEP, order=">"), GREY),
    "12-bit tiff": ("raw.tif", tiff(DEEP >> 4, bits=12), GREY),
    "16-bit png, 0 is transparent": (
        "hole.png", deep_png(HALF_CLEAR, [0]), np.where(WHITE_LEFT == 255, 255, GREY),
    ),
    "16-bit png, one grey is transparent": (
        "mist.png", deep_png(np.maximum(HALF_CLEAR, 900), [900]),
        np.where(WHITE_LEFT == 255, 255, GREY),
    ),
    "16 bits a colour": ("rgb16.png", deep_png(WIDE * 257), COLORS),
    "16 bits a colour, one is transparent": (
        "rgb16.png", deep_png(MIST, [60000] * 3), WHITE_LEFT,
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

for kind in ("PNG", "JPEG", "TIFF", *["WEBP"] * features.check("webp")):
    READ[f"{kind} with an sRGB profile"] = (
        f"srgb.{kind.lower()}", encoded(PICTURE, kind, icc_profile=SRGB), COLORS,
    )  # fmt: skip
    READ[f"{kind} with a profile of other colours"] = (
        f"swapped.{kind.lower()}", encoded(PICTURE, kind, icc_profile=SWAPPED), COLORS[..., ::-1],
    )  # fmt: skip
SHADE = Image.new("L", (8, 8), 128)
READ |= {
    "palette with a profile": (
        "palette.png", encoded(PALETTE, "PNG", icc_profile=SWAPPED), COLORS[..., ::-1],
    ),
    "alpha with a profile": (
        "alpha.png", encoded(RGBA, "PNG", icc_profile=SWAPPED),
        np.where(WHITE_LEFT == 255, 255, COLORS[..., ::-1]),
    ),
    "grey with a profile of colours": (
        "grey.png", encoded(SHADE, "PNG", icc_profile=SWAPPED), [128] * 3,
    ),
    "grey with a linear profile": (  # half the light is 188 of 255
        "grey.jpg", encoded(SHADE, "JPEG", icc_profile=LINEAR_GREY), [188] * 3,
    ),
    "16-bit grey with a linear profile": (
        "grey16.png",
        encoded(Image.new("I;16", (8, 8), 128 * 257), "PNG", icc_profile=LINEAR_GREY), [188] * 3,
    ),
    "cmyk with a profile": (
        "press.jpg",
        encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", icc_profile=ONE_INK),
        [255] * 3,
    ),
    "cmyk with a profile, full ink": (
        "press.tif",
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF", icc_profile=ONE_INK), [0] * 3,
    ),
}  # fmt: skip

WARNED = {  # what: (file name, content, the four colours, reason, remedy)
    f"{bits} of 16 bits, {kind}": (
        f"low.{kind.lower()}", encoded(Image.fromarray(DEEP >> 16 - bits), kind), GREY,
        f"no value above .*: read as {bits} bits", "8 bits a colour",
    )
    for bits in (8, 10, 12, 14) for kind in ("PNG", "TIFF")
}  # fmt: skip
WARNED |= {
    "12 of 16 bits a colour": (
        "low.png", deep_png(WIDE * 16), COLORS // 16, "no value above 4095: read as nearly black",
        "8 bits a colour",
    ),
    "a broken profile": (
        "broken.png", encoded(PICTURE, "PNG", icc_profile=b"no profile" * 30), COLORS,
        "colour profile is ignored: cannot open", "in sRGB",
    ),
    "half a profile": (
        "half.jpg", encoded(PICTURE, "JPEG", quality=95, icc_profile=SWAPPED[:300]), COLORS,
        "colour profile is ignored", "in sRGB",
    ),
    "a profile of another kind": (
        "inks.png", encoded(PICTURE, "PNG", icc_profile=ONE_INK), COLORS,
        "colour profile is ignored: cannot build", "in sRGB",
    ),
    "cmyk with a profile of another kind": (
        "inks.jpg", encoded(PICTURE.convert("CMYK"), "JPEG", quality=95, icc_profile=SRGB), COLORS,
        "colour profile is ignored", "in sRGB",
    ),
}  # fmt: skip


def box(*brands):
    """The beginning of a file of the family of MP4."""
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands)
    return struct.pack(">I", 4 + len(content)) + content + bytes(99)


def patched(content, place, new):
    return content[:place] + new + content[place + len(new) :]


EPS = encoded(PICTURE, "EPS")
BMP, DDS = encoded(PICTURE, "BMP"), encoded(PICTURE, "DDS")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
NO_IMAGE = {  # whole files that are no images: (file name, content, reason, remedy)
    "postscript named jpg": ("holiday.jpg", EPS, "PostScript.*not an image", "export it as PNG"),
    "postscript with a preview": ("a.eps", b"\xc5\xd0\xd3\xc6" + bytes(99), "PostScript", "export"),
    "pdf": ("scan.pdf", b"%PDF-1.7\n", "PDF.*not an image", "pdftoppm"),
    "wmf": ("clip.wmf", b"\xd7\xcd\xc6\x9a" + bytes(99), "metafile.*not an image", "export"),
    "emf": ("clip.jpg", b"\1\0\0\0" + bytes(36) + b" EMF", "metafile", "export"),
    "svg": ("logo.svg", SVG, "SVG.*not an image", "export it as PNG"),
    "svg in XML": ("l.png", b"\xef\xbb\xbf<?xml?>\n<!-- a -->" + SVG, "SVG.*not an", "export"),
    "web page": ("page.png", b"\n<!DOCTYPE html><html>" + SVG, "a web page", "download the image"),
    "web page in capitals": ("p.jpg", b"<HTML><BODY>404", "a web page", "download the image"),
    "git lfs pointer": (
        "lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer", "git lfs pull",
    ),
    "git-annex pointer": (
        "annex.jpg", b"/annex/objects/SHA256E-s9--0.jpg\n", "git-annex pointer", "git annex get",
    ),
    "text named jpg": ("text.jpg", "kein Bild: ß".encode(), "text, not an image", "delete it"),
    "long text": ("text.jpg", "ß".encode() * 3000, "text, not an image", "delete it"),
    "labels beside the images": ("labels.csv", b"file,label\n", "text, not an image", "move it"),
    "mp4": ("film.mp4", box(b"isom", b"mp42"), "a video", "ffmpeg"),
    "mov named jpg": ("IMG_1.jpg", box(b"qt  "), "a video", "ffmpeg"),
    "old mov": ("old.mov", b"\0\0\0\x08wide\0\0\1\0mdat" + bytes(99), "a video", "ffmpeg"),
    "avi": ("film.avi", b"RIFF\0\0\1\0AVI LIST" + bytes(99), "a video", "ffmpeg"),
    "canon raw": ("IMG_1.CR2", b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "RAW", "develop it"),
    "newer canon raw": ("IMG_1.CR3", box(b"crx ", b"isom"), "RAW", "develop it"),
    "fuji raw": ("DSCF1.RAF", b"FUJIFILMCCD-RAW 0201" + bytes(99), "RAW", "develop it"),
    "dng, which is a tiff": (
        "IMG_1.dng", encoded(PICTURE, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "RAW", "develop it",
    ),
    "a tiff that begins with a small copy": (
        "DSC_1.NEF", encoded(PICTURE, "TIFF", tiffinfo={254: 1, 330: 8}), "RAW", "develop it",
    ),
    "raw known by its name": ("DSC1.arw", b"II*\0\xff\xff\xff\0" + bytes(99), "RAW", "develop it"),
    "hdf5": ("batch.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5", "save its images"),
    "numpy": ("batch.npy", b"\x93NUMPY\1\0" + bytes(99), "NumPy", "save its images"),
    "dicom": ("scan.dcm", bytes(128) + b"DICM" + bytes(9), "DICOM", "save it as PNG"),
    "jpeg xl": ("new.jxl", b"\xff\x0a" + bytes(99), "JPEG XL.*no decoder", "save it as JPEG"),
    "zip": ("all.zip", b"PK\3\4" + bytes(99), "an archive", "unpack it"),
    "bytes": ("x.jpg", b"\xfe\1" * 99, "not an image that Pillow can read", "save it as JPEG"),
    "bmp of an unknown compression": (
        "a.bmp", patched(BMP, 30, b"\x09"), "a kind of image that Pillow does not read", "as PNG",
    ),
    "bmp of odd bits": (
        "a.bmp", patched(BMP, 28, b"\x0d"), "a kind of image that Pillow does not read", "as PNG",
    ),
    "dds of an unknown kind": (
        "a.dds", patched(DDS, 80, b"\4\0\0\0ZZZZ"), "a kind of image that Pillow", "as PNG",
    ),
    "32-bit tiff": (
        "int32.tif", encoded(Image.fromarray(DEEP.astype(np.int32) * 99), "TIFF"),
        "more than 16 bits", "8 bits a colour",
    ),
    "floating-point tiff": (
        "float.tif", encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF"),
        "floating-point", "8 bits a colour",
    ),
}  # fmt: skip
HEIC = box(b"heic", b"mif1", b"heic")
BROKEN = {  # what: (file name, content, reason, remedy)
    "empty file": ("empty.jpg", b"", "an empty file", "restore or delete"),
    "heic without a decoder": ("IMG_0002.HEIC", HEIC, "HEIC.*decoder", "pillow-heif"),
    "heic named jpg": ("IMG_0003.jpg", HEIC, "HEIC.*decoder", "pillow-heif"),
    "decompression bomb": (
        "bomb.png", png(20000, 20000, bytes(2501 * 20000)), "too many pixels", "smaller",
    ),
    "damaged png": (
        "flipped.png", encoded(PICTURE, "PNG").replace(b"IDAT", b"IDAT\x99", 1), ".", "save it",
    ),
}  # fmt: skip
for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", *["WEBP"] * features.check("webp")):
    rng = np.random.default_rng(0)
    noise = encoded(Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)), kind)
    BROKEN[f"truncated {kind}"] = (f"cut.{kind.lower()}", noise[: len(noise) // 2], ".", "restore")
HAS_AVIF = "avif" in features.get_supported()
BROKEN["damaged avif"] = (
    "cut.avif", (encoded(PICTURE, "AVIF") if HAS_AVIF else box(b"avif"))[:150],
    *(("AVIF, but damaged", "restore") if HAS_AVIF else ("AVIF.*no decoder", "upgrade pillow")),
)  # fmt: skip
BROKEN |= NO_IMAGE


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


def place_of(kind, what):
    """The folder of a case: all are in one dataset, which is loaded once."""
    tables = {"read": READ, "warned": WARNED, "broken": BROKEN}
    return Path("a", f"{kind} {list(tables[kind]).index(what)}")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """(folder, dataset): all cases of the three tables, hidden files, and two sound images."""
    folder = tmp_path_factory.mktemp("everything") / "images"
    for i, name in enumerate("ab"):
        make(folder / name, "sound.png", encoded(Image.new("RGB", (8, 8), (i, 9, 9)), "PNG"))
    for kind, table in (("read", READ), ("warned", WARNED), ("broken", BROKEN)):
        for what, (name, content, *_) in table.items():
            with contextlib.suppress(pytest.skip.Exception):
                make(folder / place_of(kind, what), name, content)
    for name in (".DS_Store", "Thumbs.db", "._x.jpg"):
        make(folder / "b", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"starts {args}"))
        return folder, load(folder)


def path_of(everything, kind, what, name):
    path = os.fsdecode(
        os.path.join(os.fsencode(everything[0] / place_of(kind, what)), os.fsencode(name))
    )
    if not os.path.lexists(path):
        pytest.skip("no such name on this file system")
    return path


def entries_of(path, rows):
    """What is said of a file, except that others are the same."""
    rows = [row for row in rows if row["path"] == printable(path)]
    return [row for row in rows if "the same image" not in row["reason"]]


@pytest.mark.parametrize("what", READ)
def test_read_right(everything, what):
    name, _, colors = READ[what]
    _, data = everything
    path = path_of(everything, "read", what, name)
    assert not entries_of(path, data.warnings) and not entries_of(path, data.problems)
    pixels = data.images[data.paths.index(path)]
    assert np.abs(quadrants(pixels) - np.asarray(colors)).max() <= 12
    if what != "90 megapixels":  # which takes as long as all the others
        assert (pixels == decode_image(path, 32)).all()


@pytest.mark.parametrize("what", WARNED)
def test_read_with_a_warning(everything, what):
    name, _, colors, reason, remedy = WARNED[what]
    _, data = everything
    path = path_of(everything, "warned", what, name)
    pixels = data.images[data.paths.index(path)]
    assert np.abs(quadrants(pixels) - np.asarray(colors)).max() <= 12
    [warning] = entries_of(path, data.warnings)
    assert re.search(reason, warning["reason"]) and re.search(remedy, warning["remedy"])
    assert {"kind": "warning"} | warning in written(data)
    with pytest.warns(UserWarning, match=f"{re.escape(path)}.*{reason}"):
        assert (decode_image(path, 32) == pixels).all()


@pytest.mark.parametrize("what", BROKEN)
def test_listed_with_reason_and_remedy(everything, what):
    name, _, reason, remedy = BROKEN[what]
    if pillow_heif and "heic" in what:
        pytest.skip("a decoder is installed")
    _, data = everything
    path = path_of(everything, "broken", what, name)
    [problem] = entries_of(path, data.problems)
    assert path not in data.paths
    assert re.search(reason, problem["reason"]) and re.search(remedy, problem["remedy"])
    assert {"kind": "problem"} | problem in written(data)
    with pytest.raises(ValueError, match=f"(?s){re.escape(name)}.*{reason}"):
        decode_image(path, 32)


def test_everything_at_once_and_nothing_uncounted(everything):
    """As many files on the disk as images, problems and hidden files; the cache says the same."""
    folder, data = everything
    files = sum(len(names) for _, _, names in os.walk(folder))
    assert files == len(data.images) + len(data.problems) + 3
    assert len(data.problems) == len(BROKEN) - bool(pillow_heif) * sum("heic" in b for b in BROKEN)
    assert [note["reason"] for note in data.warnings if "hidden" in note["reason"]] == [
        "3 hidden files or folders skipped: .DS_Store, ._x.jpg, Thumbs.db"
    ]
    rows = written(data)
    assert data.report.read_text("utf-8").startswith('"kind","path","reason","remedy"\n')
    assert [row["kind"] for row in rows].count("problem") == len(data.problems)
    for row in rows:  # can be shown anywhere: one line, and no undecodable byte
        assert "".join(row.values()).encode() and "\n" not in "".join(row.values())
    again = load(folder)
    assert (again.images == data.images).all()
    assert again.problems == data.problems and again.warnings == data.warnings


def test_a_whole_file_is_not_to_be_restored():
    """The remedy for what is no damaged image never says so."""
    for _, _, _, remedy in NO_IMAGE.values():
        assert "restore" not in remedy
    assert not set(FORMATS) & {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FPX", "MIC", "PDF"}


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
@pytest.mark.parametrize("name", ["holiday.jpg", "drawing.eps"])
def test_no_content_starts_another_program(dataset, tmp_path, monkeypatch, name):
    mark, program = tmp_path / "mark", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None, raising=False)
    path = make(dataset / "a", name, EPS)
    with pytest.raises(OSError), Image.open(path) as image:  # what Pillow does by itself
        image.load()
    assert mark.exists(), "otherwise the stand-in proves nothing"
    mark.unlink()
    with pytest.raises(ValueError, match="PostScript drawing"):
        decode_image(path, 32)
    check_listed(load(dataset), dataset, path, "PostScript", "export")
    assert not mark.exists()


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


def test_links_are_followed(dataset, tmp_path):
    make(tmp_path / "elsewhere" / "deeper", "x.jpg")
    link(dataset / "a" / "link.jpg", tmp_path / "elsewhere" / "deeper" / "x.jpg")
    link(dataset / "b" / "folder", tmp_path / "elsewhere")
    link(dataset / "c", tmp_path / "elsewhere")
    data = load(dataset, strict=True)
    assert np.bincount(data.labels).tolist() == [2, 2, 1] and len(data.images) == 5
    named = {w["path"]: w["reason"] for w in data.warnings if "out of the folder" in w["reason"]}
    elsewhere = str(tmp_path / "elsewhere")
    assert named == {
        str(dataset / link): f"a link that leads out of the folder, to {target}: 1 files come by it"
        for link, target in (
            ("a/link.jpg", f"{elsewhere}/deeper/x.jpg"), ("b/folder", elsewhere), ("c", elsewhere)
        )
    }  # fmt: skip


def test_links_within_the_folder_need_no_warning_and_many_that_lead_out_are_counted(
    dataset, tmp_path
):
    for i in range(25):
        make(tmp_path / "elsewhere", f"{i:02}.jpg")
        link(dataset / "a" / f"{i:02}.jpg", tmp_path / "elsewhere" / f"{i:02}.jpg")
    link(dataset / "b" / "within.png", dataset / "a" / "sound.png")
    (tmp_path / "a name for it").symlink_to(dataset)
    data = load(tmp_path / "a name for it")
    named = [w["reason"] for w in data.warnings if "out of the folder" in w["reason"]]
    assert len(data.images) == 28 and len(named) == 21
    assert named[-1] == (
        "5 more links that lead out of the folder, with 5 files: 20.jpg, 21.jpg, 22.jpg, 23.jpg, "
        "24.jpg"
    )


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


def test_links_that_lead_to_each_other(dataset):
    link(dataset / "a" / "to b", dataset / "b")
    link(dataset / "b" / "to a", dataset / "a")
    data = load(dataset)
    assert len(data.images) == 4, "each class has its own image and the other's"
    assert sorted(Path(p["path"]).name for p in data.problems) == ["to a", "to b"]


def test_a_folder_named_like_an_image(dataset):
    make(dataset / "a" / "inner.jpg", "x.jpg")
    (dataset / "a" / "empty.jpg").mkdir()
    data = load(dataset)
    assert len(data.images) == 3 and data.labels.tolist() == [0, 0, 1]
    [problem] = data.problems
    assert problem["path"].endswith("empty.jpg") and problem["reason"] == "an empty folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(dataset):
    os.mkfifo(dataset / "a" / "pipe.jpg")
    path = str(dataset / "a" / "pipe.jpg")
    check_listed(load(dataset), dataset, path, "neither a file nor a folder", "delete it")
    with pytest.raises(ValueError, match=r"pipe\.jpg: neither a file nor a folder: save the image"):
        decode_image(path, 32)


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_what_is_no_file_is_no_image(tmp_path, kind):
    if kind == "device" and not os.path.exists("/dev/zero"):
        pytest.skip("no such device here")
    path, says = {
        "folder": (tmp_path, "a folder, not an image: give the images in it"),
        "device": ("/dev/zero", "neither a file nor a folder"),
    }[kind]
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {says}"):
        decode_image(path, 32)


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
