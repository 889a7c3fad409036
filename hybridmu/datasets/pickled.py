"""Reading the arrays of a pickled table that others wrote, without running anything that the file names."""

from __future__ import annotations

import codecs
import pickle
from typing import Any, ClassVar

import numpy as np

from hybridmu.errors import DataError


class Inert:
    """Stands in for a class of another library: keeps the state that was stored, and does nothing.

    Attributes:
        state: What the object had stored of itself.
    """

    state: Any

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class TablesOnly(pickle.Unpickler):  # noqa: S301  only the constructors below can be named
    """Reads tables of arrays as `Inert` objects; of the code that a file may name, only numpy's constructors run."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
        ("copy_reg", "_reconstructor"): Inert,
        ("__builtin__", "object"): object,
        ("__builtin__", "slice"): slice,
        ("pandas.core.frame", "DataFrame"): Inert,
        ("pandas.core.indexes.base", "Index"): Inert,
        ("pandas.core.indexes.base", "_new_Index"): Inert,
        ("pandas.core.indexes.range", "RangeIndex"): Inert,
        ("pandas.core.internals.managers", "BlockManager"): Inert,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for.

        Raises:
            DataError: It is not one that a table of arrays needs.
        """
        if (module, name) not in self._KNOWN:
            raise DataError(f"the file names {module}.{name}", expected="arrays and tables only")
        return self._KNOWN[module, name]
