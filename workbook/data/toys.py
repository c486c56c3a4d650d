"""The embedded dataset `toys`: photographs of toys, drawn from a seed with NumPy and Pillow.

Data, not method: `images.load_images` calls it. Explained in notebook 01.
"""

import colorsys
import functools
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# A class is a recipe: silhouette, pattern, palette, detail. The three tables below have 23, 11
# and 13 rows: coprime, so classes whose ids are less than 3,289 apart never agree on all three.
_TURN = np.linspace(0, 2 * np.pi, 360, endpoint=False)  # once around the toy
_COS, _SIN = np.cos(_TURN), np.sin(_TURN)
_RADII = {  # silhouettes as a radius around the centre, with k lobes
    "gear": lambda k: 1 + 0.16 * np.tanh(4 * np.cos((k + 4) * _TURN)),
    "star": lambda k: 0.45 + 0.55 * np.abs(_TURN * k / np.pi % 2 - 1),
    "flower": lambda k: 0.62 + 0.38 * np.abs(np.cos(k * _TURN / 2)),
    "splash": lambda k: 1 + 0.22 * np.cos(k * _TURN),
    "polygon": lambda k: 1 / np.cos(_TURN % (2 * np.pi / k) - np.pi / k),
    "pillow": lambda k: (np.abs(_COS) ** k + np.abs(_SIN) ** k) ** (-1 / k),
    "heart": lambda k: 2 - 2 * _SIN + _SIN * np.sqrt(np.abs(_COS)) / (_SIN + 1.4),
    "pebble": lambda k: 1 + 0.13 * np.cos(2 * _TURN + k) + 0.11 * np.cos(3 * _TURN + k * k),
}
_PROFILES = {  # silhouettes as half-widths in tenths, read from top to bottom
    "bottle": "22222455555",
    "vase": "43225776544",
    "mushroom": "16899933334",
    "pear": "02334578873",
    "tree": "02425748922",
    "rocket": "02344444678",
    "hourglass": "77642124677",
    "top": "11159986420",
    "banana": "02333333320",
    "cup": "87766411245",
    "key": "35542114141",
    "fish": "03455431356",
    "house": "03697777777",
    "pawn": "34425223466",
    "bulb": "46787543332",
}
_PATTERNS = {  # painted where positive; u, v are the toy's own axes from -1 to 1, f a frequency
    "plain": lambda u, v, f: 0 * u - 1,
    "stripes": lambda u, v, f: np.sin(f * u),
    "checks": lambda u, v, f: np.sin(f * u) * np.sin(f * v),
    "dots": lambda u, v, f: np.cos(f * u) + np.cos(f * v) - 0.7,
    "rings": lambda u, v, f: np.cos(f * np.hypot(u, v)),
    "zigzag": lambda u, v, f: np.sin(f * (v + np.abs(u * 2.4 % 2 - 1) * 0.5)),
    "waves": lambda u, v, f: np.sin(f * v + 1.6 * np.sin(f * u * 0.7)),
    "rays": lambda u, v, f: np.sin(round(f / 2) * np.arctan2(v, u)),
    "patches": lambda u, v, f: np.sin(f * u / 2 + 2 * np.sin(3 * v)) + np.sin(4 * v + 2 * u),
    "halves": lambda u, v, f: v + 0.1 * np.sin(f * u),
    "lattice": lambda u, v, f: np.maximum(np.cos(f * u), np.cos(f * v)) - 0.75,
}
_PALETTES = """e63946 fff1d6 1d3557, ffb703 d62828 023047, 2a9d8f ffe066 e76f51,
 3a86ff ffffff ff006e, 8338ec ffbe0b 06d6a0, fb6f92 ffe5ec 5a189a, 70a83b f6f7d7 bc4b51,
 f77f00 fcefb4 2b2d42, 00b4d8 03045e ffd166, 9d4edd c8f7dc 3c096c, c1121f 669bbc fdf0d5,
 f4a261 3d405b 81b29a, 264653 e9c46a ef476f""".split(",")
_RANGES = {  # an instance is one photograph of a toy: all that differs between two of them
    "x": (-0.05, 0.05),
    "y": (-0.05, 0.05),
    "angle": (-12, 12),
    "scale": (0.82, 0.92),
    "brightness": (0.4, 1.2),
    "light": (0, 360),
    "warmth": (-0.4, 0.4),
    "backdrop": (0, 1),
    "texture": (0.03, 0.22),
    "occlusion": (0.02, 0.07),
    "noise": (0, 0.03),
}
_WALL = ((0.2, 1.0), (0.15, 1.0))  # saturation and value of the backdrop
TOY_FACTORS = tuple(_RANGES)


@functools.lru_cache(maxsize=1024)
def _toy_recipe(class_id: int, seed: int) -> dict[str, Any]:
    """What makes a toy this toy: everything here is the same in all its photographs."""
    rng = np.random.default_rng(seed)  # one shuffle of the three tables for each seed
    shapes, patterns, palettes = (
        rng.permutation(list(table)) for table in ({**_RADII, **_PROFILES}, _PATTERNS, _PALETTES)
    )
    rng = np.random.default_rng([seed, class_id])
    shape, lobes, aspect = shapes[class_id % 23], int(rng.integers(3, 8)), rng.uniform(0.8, 1)
    middle, bend = 0.0, 0.5 if shape == "banana" else rng.uniform(-0.08, 0.08)
    if shape in _RADII:
        x, y = _RADII[shape](lobes) * (_COS * aspect, -_SIN)
    else:
        y, widths = np.linspace(-1, 1, 121), np.array(list(_PROFILES[shape]), float) / 10
        width = np.interp(y, np.linspace(-1, 1, 11), widths * rng.uniform(0.94, 1.06, 11))
        width = np.convolve(np.pad(width, 6, "edge"), np.full(13, aspect / 13), "valid")
        middle = y[24 + width[24:96].argmax()]  # the widest place, not too near an end
        x, y = np.r_[width, -width[::-1]], np.r_[y, y[::-1]]
        x = x + bend * (y**2 - middle**2)
    outline = np.stack([x, y], 1)
    centre = (outline.max(0) + outline.min(0)) / 2
    reach = np.hypot(*(outline - centre).T).max()
    rgb = [
        np.frombuffer(bytes.fromhex(c), np.uint8)[:, None] / np.float32(255)  # (3, 1)
        for c in palettes[class_id % 13].split()
    ]
    return {
        "outline": (outline - centre) / reach,
        "rgb": rgb,
        "middle": ((np.array([0, middle]) - centre) / reach).tolist(),
        "pattern": _PATTERNS[patterns[class_id % 11]],
        "frequency": rng.uniform(7, 12),
        "tilt": rng.choice([0, 0, np.pi / 4, np.pi / 2]),
        "detail": rng.choice(["eyes", "eyes", "hole", "button", "cap"]),
    }


@functools.lru_cache(maxsize=1)
def _grid(n: int) -> np.ndarray:
    """Where the pixels are, from -1 to 1, rightwards and downwards: (2, n, n)."""
    return (np.mgrid[:n, :n][::-1].astype(np.float32) + 0.5) * 2 / n - 1


def render_toy(
    class_id: int, instance_id: int, size: int = 64, seed: int = 0
) -> tuple[np.ndarray, dict[str, float]]:
    """Photograph one toy: returns a uint8 image (size, size, 3) and its factors, a dict."""
    toy, rng = _toy_recipe(class_id, seed), np.random.default_rng([seed, class_id, instance_id + 1])
    f = {name: rng.uniform(*bounds) for name, bounds in _RANGES.items()}
    n = size * max(2, -(-192 // size))  # drawn larger, shrunk at the end: smooth edges
    sun_x, sun_y = math.cos(math.radians(f["light"])), math.sin(math.radians(f["light"]))
    c, s = math.cos(math.radians(f["angle"])), math.sin(math.radians(f["angle"]))
    gx, gy = _grid(n)

    def blurred(picture: Image.Image, share: float) -> np.ndarray:
        picture = picture.filter(ImageFilter.GaussianBlur(share * n))
        return np.asarray(picture, np.float32) / 255

    # The silhouette with its corners rounded, and a height map: the toy is puffed up.
    mask = Image.new("L", (n, n))
    corners = toy["outline"] @ [[c, s], [-s, c]] * f["scale"] + [f["x"], f["y"]]
    ImageDraw.Draw(mask).polygon([tuple(p) for p in ((corners + 1) * n / 2).tolist()], fill=255)
    inside = blurred(mask, 0.012) > 0.5
    dx, dy = (gx[inside] - f["x"]) / f["scale"], (gy[inside] - f["y"]) / f["scale"]
    u, v = c * dx + s * dy, c * dy - s * dx  # the toy's own axes, for its pixels alone

    def spot(right: float, down: float, radius: float) -> np.ndarray:
        return np.hypot(u - toy["middle"][0] - right, v - toy["middle"][1] - down) < radius

    if toy["detail"] == "hole":
        around = ~spot(0, 0, 0.2)
        inside[inside] = around
        u, v = u[around], v[around]
    mask = Image.fromarray(inside.astype(np.uint8) * 255)
    slope_y, slope_x = np.gradient(blurred(mask, 0.035) + blurred(mask, 0.1), 2 / n)
    lit = -(sun_x * slope_x[inside] + sun_y * slope_y[inside])

    # The backdrop: a wallpaper, and on it the soft shadow of the toy.
    paper = list(_PATTERNS.values())[rng.integers(11)](gx + rng.random(), gy, rng.uniform(5, 14))
    wall = colorsys.hsv_to_rgb(f["backdrop"], rng.uniform(*_WALL[0]), rng.uniform(*_WALL[1]))
    shine = 1 + 0.12 * (sun_x * gx + sun_y * gy) + f["texture"] * np.clip(paper * 4, -1, 1)
    shift = round(-0.03 * n * sun_y), round(-0.03 * n * sun_x)
    shine *= 1 - 0.5 * np.roll(blurred(mask, 0.03), shift, (0, 1))
    photo = np.array(wall, np.float32)[:, None, None] * shine  # (3, n, n): NumPy is faster so

    # The toy: pattern and detail, then light and gloss from the slopes, and a dark rim.
    c, s = math.cos(toy["tilt"]), math.sin(toy["tilt"])
    painted = toy["pattern"](c * u + s * v, c * v - s * u, toy["frequency"]) > 0
    paint = np.where(painted, toy["rgb"][1], toy["rgb"][0])  # (3, pixels of the toy)
    if toy["detail"] == "cap":
        paint[:, v < -0.42] = toy["rgb"][2]
    if toy["detail"] == "button":
        paint[:, spot(0, 0, 0.24)] = toy["rgb"][2]
    for side in (-0.17, 0.17) if toy["detail"] == "eyes" else ():
        paint[:, spot(side, 0, 0.15)] = 1
        paint[:, spot(side, 0.03, 0.085)] = 0.08
    rim = 0.35 + 0.65 * np.clip(blurred(mask, 0.012)[inside] * 5 - 2.5, 0, 1)
    paint *= rim * (0.95 + 0.09 * np.clip(lit, -4, 4))
    paint += rim * 0.5 * np.exp(-4 * (lit - 2.2) ** 2)
    photo[:, inside] = paint

    # A rod in front of the toy, in half of the photographs.
    thick, lean, f["occlusion"] = f["occlusion"], rng.uniform(0, math.pi), 0.0
    rod = np.array(colorsys.hsv_to_rgb(rng.random(), 0.55, 0.85), np.float32)
    middle = rng.uniform(-0.5, 0.5)
    if rng.random() < 0.5:
        dx, dy = (gx - f["x"]) / f["scale"], (gy - f["y"]) / f["scale"]
        across = (math.cos(lean) * dx + math.sin(lean) * dy - middle) / thick
        photo *= 1 - 0.4 * np.exp(-3 * np.maximum(np.abs(across) - 1, 0))
        over = np.abs(across) < 1
        photo[:, over] = rod[:, None] * (1.1 - 0.6 * (across[over] - 0.3) ** 2)
        f["occlusion"] = float((over & inside).sum() / inside.sum())

    tint = np.array([1 + f["warmth"], 1, 1 - f["warmth"]], np.float32) * np.float32(f["brightness"])
    levels = (np.clip(photo * tint[:, None, None], 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))).reduce(n // size)
    grain = rng.normal(0, 255 * f["noise"], (size, size, 3))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8), f


def render_toys(
    counts: Sequence[int], size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """`counts[c]` photographs of toy c, for every c: (images, labels, factors).

    images (n, size, size, 3) uint8, labels (n,) int32, factors: name -> (n,) float32, the true
    nuisances of each image. An image depends on (seed, class, instance, size) alone.
    """
    jobs = [(c, i) for c, count in enumerate(counts) for i in range(count)]
    with ThreadPoolExecutor() as pool:
        photos, shots = zip(*pool.map(lambda job: render_toy(job[0], job[1], size, seed), jobs))
    labels = np.array([c for c, _ in jobs], np.int32)
    factors = {name: np.array([f[name] for f in shots], np.float32) for name in TOY_FACTORS}
    return np.stack(photos), labels, factors


def hash_drawing() -> str:
    """Return a hash of how toys are drawn: of one small photograph of each silhouette.

    It stays the same while the images stay the same, whatever else changes in this file.
    """
    images, _, _ = render_toys([1] * len({**_RADII, **_PROFILES}), 16, 0)
    return hashlib.sha256(images.tobytes()).hexdigest()
