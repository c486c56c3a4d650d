"""Tensors from a PyTorch file, read without running any code that it may hold."""

import pickle
from collections import OrderedDict
from typing import NamedTuple

import numpy as np


class _Tensor(NamedTuple):
    """What the file says of a tensor, in place of the function that would make one."""

    storage: tuple  # name, dtype
    offset: int
    shape: tuple
    strides: tuple
    requires_grad: bool
    hooks: OrderedDict


ADMITTED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Reader(pickle.Unpickler):
    """Admits the four names that tensors need: a pickle that asks for more could run anything."""

    def find_class(self, module, name):
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}: it is not read")
        return ADMITTED[module, name]

    def persistent_load(self, about):
        _, dtype, name, _, _, _ = about  # "storage", type, name, device, length, view
        return name, dtype


def read_tensors(file):
    """{name: array} of a PyTorch file of the format before 1.6, without PyTorch.

    file: open for reading bytes; five pickles, then the numbers of each storage. Raises
    pickle.UnpicklingError for a name that is none of the four of a tensor, ValueError where a
    tensor leaves its storage. Notebook 03, "The model of this run".
    """
    for _ in range(3):  # a magic number, the version, sizes of types
        _Reader(file).load()
    tensors = _Reader(file).load()
    types, numbers = dict(tensor.storage for tensor in tensors.values()), {}
    for name in _Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        numbers[name] = file.read(count * types[name].itemsize)

    def array(tensor):
        name, dtype = tensor.storage
        strides = [step * dtype.itemsize for step in tensor.strides]
        place = tensor.offset * dtype.itemsize
        return np.ndarray(tensor.shape, dtype, numbers[name], place, strides)

    return {name: array(tensor) for name, tensor in tensors.items()}
