"""One file to one array: which files are images; their colours, bits and transparency.

What a file is, its content says and not its name, and no decoder here starts another program.
`images` reads whole folders with it. Explained in notebook 01.
"""

import contextlib
import functools
import io
import os
import re
import stat
import threading
import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, features

from workbook.data.report import explain_os_error

try:
    import pillow_heif  # optional: iPhone photos
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

# Pillow warns of many pixels and refuses twice as many (178,956,970); the refusal is reported.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Pixels in a file, and nothing else: EPS would start Ghostscript, WMF has Windows draw, and in
# MPEG, HDF5, GRIB and BUFR there is no image that Pillow reads. TGA has no signature: the last.
_IMAGES = "JPEG PNG GIF WEBP BMP TIFF AVIF HEIF JPEG2000 PPM ICO CUR ICNS DIB PSD QOI PCX DCX DDS "
_IMAGES += "SGI SUN MSP XBM XPM IM FLI FITS SPIDER PIXAR BLP FTEX TGA"
Image.init()
FORMATS = [name for name in _IMAGES.split() if name in Image.OPEN]

Remarks = list[tuple[str, str]]  # (reason, remedy) of what deserves a look

_big_image = threading.Lock()  # one at a time, so that memory stays bounded


class Unreadable(ValueError):
    """A file that cannot be read as an image; its arguments are the reason and the remedy."""


def open_image(path: str | os.PathLike) -> io.BufferedReader:
    """Open a file for `decode`.

    Raises Unreadable for a folder, and for a pipe or a device, which may never end.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise Unreadable("a folder, not an image", "give the images in it, or load the folder")
    if not stat.S_ISREG(mode):
        raise Unreadable("neither a file nor a folder", "save the image as a file, or delete it")
    return open(path, "rb")


def decode(file: BinaryIO, size: int) -> tuple[np.ndarray, Remarks]:
    """Decode an open image file and resize it to a square.

    Returns
    -------
    pixels : (size, size, 3) uint8
        RGB, 0..255.
    remarks : list of (reason, remedy)
        What deserves a look, although the image could be read.
    """
    notes: Remarks = []
    head = file.read(16)
    image: Any
    with Image.open(file, formats=FORMATS) as image:
        if image.format == "TIFF" and _is_raw(image.tag_v2, head):
            raise Unreadable(*_RAW)
        profile, grey = image.info.get("icc_profile"), image.mode[0] in "1LI"
        # 16 bits a colour, of which Pillow keeps the upper 8
        deep = any(re.search(r"(RGB.?|LA);16[BLN]", str(tile[3])) for tile in image.tile)
        image.draft("RGB", (size, size))  # lets JPEG decode at a lower resolution: faster
        big = image.width * image.height > 2**24
        with _big_image if big else contextlib.nullcontext():
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F":
                reason = "floating-point pixels, whose black and white are unknown"
                raise Unreadable(reason, _SAVE_8_BITS)
            if image.mode[0] == "I":  # 16 bits a pixel, or 32 that hold 16
                image = _eight_bits(image, notes)
            elif deep:
                _look_at_deep_colors(image, notes)
            mode = "RGBA" if image.has_transparency_data else "RGB"
            if image.mode != mode and not (image.mode == "CMYK" and profile):
                image = image.convert(mode)
            image = image.resize((size, size), Image.Resampling.BILINEAR)
    if profile:
        image = _to_srgb(image, profile, grey, notes)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")), notes


# ------------------------------------------------------------------------------ 1 bits and colours

_SAVE_8_BITS = "save it with 8 bits a colour, as PNG or JPEG"


def _eight_bits(image: Any, notes: Remarks) -> Any:
    """A grey image of 16 bits a pixel as "L", or as "LA" where one of its values is transparent."""
    values, clear = np.asarray(image), image.info.get("transparency")
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        reason = "more than 16 bits a pixel, whose black and white are unknown"
        raise Unreadable(reason, _SAVE_8_BITS)
    bits = min(tags.get(258, (16,))[0], 16)
    if bits == 16 and 0 < highest < 2**14:
        bits = next(b for b in (8, 10, 12, 14) if highest < 2**b)
        reason = f"16 bits a pixel, but no value above {highest}: read as {bits} bits"
        notes.append((reason, f"compare it with its original; if it is wrong, {_SAVE_8_BITS}"))
    grey = (values.astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
    grey = Image.fromarray(255 - grey if tags.get(262) == 0 else grey)  # 0: white is the lowest
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _look_at_deep_colors(image: Any, notes: Remarks) -> None:
    """Pillow keeps the upper 8 of 16 bits, but all of the colour that stands for transparent."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    highest = max(high for _, high in image.convert("RGB").getextrema())
    if highest < 64:
        reason = f"16 bits a colour, but no value above {highest * 256 + 255}: read as nearly black"
        notes.append((reason, f"compare it with its original; if it is wrong, {_SAVE_8_BITS}"))


def _to_srgb(image: Any, profile: bytes, grey: bool, notes: Remarks) -> Any:
    """An RGB, RGBA or CMYK image in the colours of sRGB, by the profile that its file carries."""
    mode = "L" if grey and profile[16:20] == b"GRAY" else image.mode.removesuffix("A")
    transform, wrong = _transform(profile, mode)
    if wrong:
        notes.append((f"its colour profile is ignored: {wrong}", "save it anew, in sRGB"))
    if transform is None:
        return image
    colors: Any = ImageCms.applyTransform(image.convert(mode), transform)
    if image.mode == "RGBA":
        colors.putalpha(image.getchannel("A"))
    return colors


@functools.lru_cache(16)
def _transform(profile: bytes, mode: str) -> tuple[Any, str]:
    """(how a profile's colours become sRGB, None if they are the same; what is wrong with it)."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
        )
        if mode != "RGB":
            return transform, ""
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, [*steps]), -1).reshape(27, 27, 3)
        changed = np.asarray(ImageCms.applyTransform(Image.fromarray(colors), transform))
    except (OSError, ImportError, ImageCms.PyCMSError) as error:
        return None, str(error)
    # rounding apart, sRGB itself
    return (transform if np.abs(changed - colors.astype(int)).max() > 2 else None), ""


# ----------------------------------------------------------------------------- 2 what is no image

_RESTORE = "restore it, save it anew, or delete it"
_EXPORT = "export it as PNG, or delete it"
_RAW = "a camera's RAW file", "develop it: save it as JPEG with the camera's program, or delete it"
_RAW_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
_FRAMES = "save single images of it (ffmpeg -i film.mp4 %04d.jpg), or delete it"
_NO_IMAGES = [  # how the file begins; what it is; what to do
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing (EPS), not an image", _EXPORT),
    (rb"%PDF", "a PDF document, not an image", "save its images as PNG (pdftoppm -png)"),
    (
        rb"\xd7\xcd\xc6\x9a|\x01\0\x09\0\0\x03|\x01\0\0\0.{36} EMF",
        "a Windows metafile (WMF, EMF), not an image",
        _EXPORT,
    ),
    (rb"version https://git-lfs", "a Git LFS pointer, not the image", "fetch it: git lfs pull"),
    (rb"/annex/objects/", "a git-annex pointer, not the image", "fetch it: git annex get"),
    (
        rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)",
        "a web page (HTML), not an image",
        "download the image itself and save it here, or delete it",
    ),
    (rb"\s*(<[?!].*)?<svg[\s>]", "a drawing (SVG), not an image", _EXPORT),
    (rb"FUJIFILMCCD-RAW|II\*\0.{4}CR|IIU\0|IIR[OS]|MMOR|FOVb|\0MRM|.{4}ftypcrx ", *_RAW),
    (
        rb"\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01[\xba\xb3]|FLV|\x30\x26\xb2\x75"
        rb"|.{4}(moov|mdat|wide|skip|pnot)",
        "a video, not an image",
        _FRAMES,
    ),
    (
        rb"\x89HDF|CDF[\x01\x02]|GRIB|BUFR|\x93NUMPY",
        "a file of arrays (HDF5, NetCDF, GRIB, NumPy), not an image",
        "save its images as PNG, or delete it",
    ),
    (rb".{128}DICM", "a medical file (DICOM)", "save it as PNG (pydicom), or delete it"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL, and no decoder is installed", "save it as JPEG or PNG"),
    (
        rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|\xfd7zXZ|BZh",
        "an archive, not an image",
        "unpack it here and delete it",
    ),
]


def explain(path: str | os.PathLike, error: Exception) -> tuple[str, str]:
    """Return (reason, remedy) for a file that could not be read, from its content if that tells."""
    if isinstance(error, Unreadable):
        reason, remedy = error.args
        return reason, remedy
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels (a decompression bomb?)", "save it smaller"
    if isinstance(error, OSError) and error.errno:
        return explain_os_error(path, error)
    head = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(4096)
    if known := _what_is(head, os.path.splitext(path)[1].lower()):
        return known
    why = str(error) or type(error).__name__
    unusual = r"(?i)unsupported|unimplemented|not (supported|implemented|available)|unknown|unrecog"
    if isinstance(error, NotImplementedError) or re.search(unusual, why):
        return f"a kind of image that Pillow does not read: {why}", "save it as PNG or JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can read", "save it as JPEG or PNG, or delete it"
    return why, _RESTORE


def _what_is(head: bytes, suffix: str) -> tuple[str, str] | None:
    """(reason, remedy) for the first bytes of a file that say why it could not be read, or None."""
    if not head:
        return "an empty file", "restore or delete it"
    for pattern, reason, remedy in _NO_IMAGES:
        if re.match(pattern, head.removeprefix(b"\xef\xbb\xbf"), re.DOTALL | re.IGNORECASE):
            return reason, remedy
    if head[4:8] == b"ftyp":
        return _what_box(head)
    if suffix in _RAW_SUFFIXES:
        return _RAW
    if not re.search(rb"[\0-\x08\x0e-\x1f]", head):
        with contextlib.suppress(UnicodeDecodeError):
            head[: -4 if len(head) > 4000 else None].decode()  # may end within a character
            return "text, not an image", "delete it, or move it out of the folder"
    return None


def _what_box(head: bytes) -> tuple[str, str]:
    """The same for the family of MP4, whose brands tell."""
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[i : i + 4] for i in range(8, end, 4)}
    if brands & {b"avif", b"avis"}:
        if "avif" in features.get_supported():
            return "AVIF, but damaged", _RESTORE
        return "AVIF, and this Pillow has no decoder", "pip install --upgrade pillow"
    if any(brand[:3] in (b"hei", b"hev", b"mif", b"msf") for brand in brands):
        if pillow_heif:
            return "HEIC, but damaged", _RESTORE
        return "HEIC, and no decoder is installed", "pip install pillow-heif, or save it as JPEG"
    return "a video (MP4, MOV), not an image", _FRAMES


def _is_raw(tags: Any, head: bytes) -> bool:
    """A TIFF that is a DNG, a CR2, or begins with a small copy of what lies in sub-directories."""
    return 50706 in tags or head[8:10] == b"CR" or (bool(tags.get(254, 0) & 1) and 330 in tags)
