"""Tensors from a PyTorch file, read without running any code that the file may hold.

A pickle can name any function and have it called. The reader here admits the four names that
tensors need, and refuses every other one.
"""

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

import numpy as np


class _Tensor(NamedTuple):
    """The arguments of the function that would make a tensor, kept in its place."""

    storage: tuple[str, np.dtype]  # its name and dtype
    offset: int  # of the first number in the storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers, not bytes
    requires_grad: bool
    hooks: OrderedDict


ADMITTED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for an admitted name; refuse any other."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}: it is not read")
        return ADMITTED[module, name]

    def persistent_load(self, description: Any) -> tuple[str, np.dtype]:
        """Return name and dtype of a storage, whose numbers come later in the file."""
        _, dtype, name, _, _, _ = description  # "storage", type, name, device, length, view
        return name, dtype


def read_tensors(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read a PyTorch file of the format before version 1.6, without PyTorch.

    Parameters
    ----------
    file : open for reading bytes. It holds five pickles (a magic number, the version, the sizes of
        types, the tensors, the names of the storages) and then the numbers of each storage.

    Returns
    -------
    name of the tensor -> array.

    Raises
    ------
    pickle.UnpicklingError : for a name that is none of the four of a tensor.
    ValueError : if a tensor reaches beyond its storage.
    """
    for _ in range(3):  # magic number, version, sizes of types
        _Reader(file).load()
    tensors: dict[str, _Tensor] = _Reader(file).load()
    dtypes, numbers = dict(tensor.storage for tensor in tensors.values()), {}
    for name in _Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        numbers[name] = file.read(count * dtypes[name].itemsize)

    def as_array(tensor: _Tensor) -> np.ndarray:
        name, dtype = tensor.storage
        strides = [step * dtype.itemsize for step in tensor.strides]
        start = tensor.offset * dtype.itemsize
        return np.ndarray(tensor.shape, dtype, numbers[name], start, strides)

    return {name: as_array(tensor) for name, tensor in tensors.items()}
