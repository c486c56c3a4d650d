"""One HTML page that shows an embedding: a map, its images, their nearest neighbours.

The page is one file without a server or an external address. It is plain SVG: a thousand dots
need no plotting library, and plotly.js alone is half of the size that the page may have.
"""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from IPython.display import HTML
from numpy.typing import ArrayLike
from PIL import Image

from workbook.display.projections import FEWEST, tsne_map
from workbook.display.tables import escaped
from workbook.evaluation.collapse import CollapsedError
from workbook.evaluation.retrieval import nearest_neighbors

TEMPLATE = Path(__file__).with_suffix(".html")


def make_sprite_sheet(images: Sequence[np.ndarray] | np.ndarray, side: int) -> tuple[str, int]:
    """Put all images, 0..255, as thumbnails of `side` pixels into one JPEG.

    Returns
    -------
    (address, columns) : the JPEG as a data address, and the thumbnails per row.
    """
    columns = int(np.ceil(np.sqrt(len(images))))
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for i, image in enumerate(images):
        thumbnail = Image.fromarray(np.asarray(image, np.uint8))
        thumbnail = thumbnail.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(thumbnail, (i % columns * side, i // columns * side))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), columns


def write_page(
    path: str | Path,
    embeddings: ArrayLike,
    images: Sequence[np.ndarray] | np.ndarray,
    labels: ArrayLike,
    class_names: Sequence[str],
    title: str = "Embedding",
    points: ArrayLike | None = None,
    k: int = 8,
    side: int = 64,
    seed: int = 42,
) -> Path:
    """Write the page to `path` and return it as a `Path`.

    Parameters
    ----------
    path : ends with .html.
    embeddings : (n, dim), at least three rows.
    images : (n, h, w, 3), 0..255.
    labels : (n,) indices into `class_names`.
    class_names : (c,).
    title : of the page. If the embeddings have collapsed, the page adds so to it and shows all
        images at one point.
    points : (n, 2), where the images lie on the map; by default a `tsne_map` with `seed`.
    k : how many closest images the page lists for an image (`nearest_neighbors`, leave-one-out).
    side : of the thumbnails, in pixels.

    Raises
    ------
    ValueError : for lengths that differ and for fewer than three images.
    """
    vectors, kinds = np.asarray(embeddings, np.float32), np.asarray(labels)
    lengths = {"embeddings": len(vectors), "images": len(images), "labels": len(kinds)}
    lengths |= {} if points is None else {"points": len(np.asarray(points))}
    if len(set(lengths.values())) > 1 or len(vectors) < FEWEST:
        raise ValueError(
            f"the page needs at least {FEWEST} images, and one embedding, label and point of each; "
            f"there are {lengths}"
        )
    try:
        places = np.asarray(tsne_map(vectors, seed).points if points is None else points)
    except CollapsedError as error:
        places, title = np.zeros((len(vectors), 2)), f"{title} ({error})"
    distances, neighbors = nearest_neighbors(vectors, k=min(k, len(vectors) - 1))
    low, high = places.min(0), places.max(0)
    address, columns = make_sprite_sheet(images, side)
    data = {
        "points": np.round((places - low) / np.maximum(high - low, 1e-9), 4).tolist(),
        "labels": kinds.tolist(),
        "names": [str(name) for name in class_names],
        "neighbors": neighbors.tolist(),
        "distances": np.round(distances.astype(float), 3).tolist(),
        "columns": columns,
        "side": side,
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no </script> in names
    parts = {"title": escaped(title), "sheet": address, "data": text}
    # in one pass: a title or a name that says {{data}} stays what it is
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], TEMPLATE.read_text("utf-8"))
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def show_page(path: str | Path, height: int = 680) -> HTML:
    """Return the page of `write_page` as the output of a notebook cell, which holds a copy of it.

    Parameters
    ----------
    path : of the page.
    height : of the frame, in pixels.
    """
    page = html.escape(Path(path).read_text("utf-8"))
    frame = f'title="Interactive map of the embedding" width="100%" height="{height}"'
    frame += f' style="border: 0" sandbox="allow-scripts" srcdoc="{page}"'
    return HTML(f"<div><iframe {frame}></iframe></div>")
