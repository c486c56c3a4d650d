"""One HTML page that shows an embedding: a map, its pictures, their nearest neighbours.

The page is one file without a server or an external address. It is plain SVG: a thousand dots
need no plotting library, and plotly.js alone is half of the size that the page may have.
"""

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
from IPython.display import HTML
from PIL import Image
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # scikit-learn brings it along

from workbook.display.tables import escaped
from workbook.evaluation.retrieval import nearest_neighbors

TEMPLATE = Path(__file__).with_suffix(".html")


def tsne_points(embeddings, seed=42):
    """t-SNE of embeddings (n, dim) as (n, 2) float32, perplexity 20 or less for few images.

    Explained in notebook 05, "A map: t-SNE before and after".
    """
    perplexity = min(20, (len(embeddings) - 1) / 3)
    method = "exact" if len(embeddings) < 200 else "barnes_hut"  # a tree gains nothing on a few
    tsne = TSNE(perplexity=perplexity, random_state=seed, method=method)
    with threadpool_limits(1):  # a few points: threads would wait for each other, 20 times as long
        return tsne.fit_transform(embeddings)


def _sprite_sheet(images, side):
    """All images as thumbnails in one JPEG, row by row: (data address, thumbnails a row)."""
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
    path, embeddings, images, labels, class_names, title="Embedding", points=None, k=8, side=64,
    seed=42,
):  # fmt: skip
    """Write the page to `path` (.html) and return it as a `Path`.

    embeddings (n, dim); images (n, h, w, 3), 0..255; labels (n,) indices into `class_names`.
    points (n, 2): where the images lie on the map, by default `tsne_points`. Each image shows its
    `k` closest others with their squared Euclidean distances (`nearest_neighbors`, leave-one-out).
    side: the thumbnails' side in pixels. Raises ValueError for lengths that differ and for fewer
    than three images. Explained in notebook 05, "An interactive map".
    """
    embeddings, labels = np.asarray(embeddings, np.float32), np.asarray(labels)
    points = tsne_points(embeddings, seed) if points is None else np.asarray(points)
    lengths = {"embeddings": len(embeddings), "images": len(images), "labels": len(labels)}
    lengths["points"] = len(points)
    if len(set(lengths.values())) > 1 or len(embeddings) < 3:
        raise ValueError(f"the page needs three images or more, all of one length, not {lengths}")
    distances, neighbors = nearest_neighbors(embeddings, k=min(k, len(embeddings) - 1))
    low, high = points.min(0), points.max(0)
    address, columns = _sprite_sheet(images, side)
    data = {
        "points": np.round((points - low) / np.maximum(high - low, 1e-9), 4).tolist(),
        "labels": labels.tolist(),
        "names": [str(name) for name in class_names],
        "neighbors": neighbors.tolist(),
        "distances": np.round(distances.astype(float), 3).tolist(),
        "columns": columns,
        "side": side,
    }
    data = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no </script> in names
    parts = {"title": escaped(title), "sheet": address, "data": data}
    # in one pass: a title or a name that says {{data}} stays what it is
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text("utf-8"))
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def show_page(path, height=680):
    """The page of `write_page` as the output of a notebook cell; it is copied into the notebook.

    Explained in notebook 05, "An interactive map".
    """
    page = html.escape(Path(path).read_text("utf-8"))
    frame = f'title="Interactive map of the embedding" width="100%" height="{height}"'
    frame += f' style="border: 0" sandbox="allow-scripts" srcdoc="{page}"'
    return HTML(f"<div><iframe {frame}></iframe></div>")
