"""A pickled table gives its arrays, and nothing else that it names."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from hybridmu.datasets.catalog import _windows
from hybridmu.datasets.pickled import Inert, TablesOnly
from hybridmu.errors import DataError


class _Command:
    def __reduce__(self):
        return os.system, ("touch here",)


def test_no_code_that_a_file_names_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"posix\.system"):
        TablesOnly(io.BytesIO(pickle.dumps({"a": _Command()}))).load()
    assert not list(tmp_path.iterdir())


def test_arrays_come_back_and_foreign_classes_are_inert():
    # As Python 2 wrote it: an array, and a table of another library that keeps it in its state.
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
    array += b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x05\\x06'\ntb"
    table = (
        b"ccopy_reg\n_reconstructor\n(cpandas.core.frame\nDataFrame\nc__builtin__\nobject\nNtR(dS'_data'\n"
        + array
        + b"sb."
    )
    found = TablesOnly(io.BytesIO(table), encoding="latin1").load()
    assert isinstance(found, Inert)
    assert found.state["_data"].tolist() == [5, 6]


def test_windows_stay_within_one_activity():
    labels = np.array([1] * 200 + [7] * 300 + [2] * 128 + [3] * 127)
    signals = np.arange(6 * len(labels), dtype=float).reshape(6, -1)
    found = _windows(signals, labels)
    assert [label for label, _ in found] == [1, 1, 2]
    first = found[1][1].reshape(128, 6)
    assert np.array_equal(first, signals[:, 64:192].T)
