"""An image that a gallery is asked about: its pixels, checked, and the name of its content."""

import hashlib
from pathlib import Path

import numpy as np

from workbook.data.images import decode_image
from workbook.support.text import printable

Image = str | Path | np.ndarray  # a path, or an array (s, s, 3) of RGB values 0..255


def read_image(image: Image, size: int) -> np.ndarray:
    """Return an image as an array (size, size, 3) of RGB values 0..255.

    A path is decoded; an array is checked. Raises OSError or ValueError for what is no image, and
    for an array of another shape, kind or range.
    """
    if isinstance(image, (str, Path)):
        if Path(image).is_dir():
            raise IsADirectoryError(
                f"{printable(image)} is a folder, not an image: give the images in it"
            )
        if not Path(image).exists():
            raise FileNotFoundError(f"{printable(image)}: no such file; is the path right?")
        return decode_image(image, size)
    pixels, shape = np.asarray(image), (size, size, 3)
    if pixels.shape != shape:
        raise ValueError(
            f"an image of shape {pixels.shape}: the model takes {shape}, RGB 0..255; resize it, or "
            "give its path"
        )
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise ValueError(
            f"an image of {pixels.dtype}, whose black and white are unknown: give RGB 0..255 as "
            "uint8 or floating point"
        )
    if not 0 <= pixels.min() <= pixels.max() <= 255 or (
        pixels.dtype.kind == "f" and 0 < pixels.max() <= 1
    ):
        raise ValueError(
            f"an image with values from {pixels.min()} to {pixels.max()}: the model takes RGB "
            "0..255; rescale it, or give its path"
        )
    whole = pixels.astype(np.uint8)
    return whole if (whole == pixels).all() else pixels


def hash_image(pixels: np.ndarray) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an image's values: its content's name."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]
