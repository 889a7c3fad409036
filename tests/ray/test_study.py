"""The study on actors measures the same models as in one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.study import records
from benchmarks.study.grid import SETUPS, Grid
from benchmarks.study.pool import LocalPool, RayPool
from benchmarks.study.runner import missing, run

pytestmark = pytest.mark.usefixtures("cluster")


def test_actors_measure_the_same_models(tmp_path):
    setup = replace(SETUPS["digits/mlp"], shards=3, slices=2, epochs=1)
    grid = Grid((setup,), ("share:0.1",), ("sisa", "dpus-newton", "nothing"), (0,))
    found = {}
    for name, pool in (("local", LocalPool()), ("ray", RayPool(2))):
        list(run(missing(grid, set()), tmp_path / name, pool, tmp_path / f"{name}.csv", lambda _: None))
        pool.close()
        found[name] = records.read(tmp_path / f"{name}.csv")
    for here, there in zip(found["local"], found["ray"], strict=True):
        assert (there.workers, there.strategy) == (2, here.strategy)
        assert (there.forget_loss, there.accuracy, there.bitwise) == (here.forget_loss, here.accuracy, here.bitwise)
