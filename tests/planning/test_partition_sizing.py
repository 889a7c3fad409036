"""Too few people for the slices: said at once, with a partition that suits them."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core import partitioners
from hybridmu.core.kernel.partition import digests, place
from hybridmu.planning.partition_sizing import empty_slices, fitting

KEY = b"k" * 16


def owners(count: int):
    return digests(KEY, "group", range(count))


def counts(people, shards: int, slices: int) -> list[list[int]]:
    shard, slice_ = place(people, shards, slices)
    table = np.zeros((shards, slices), dtype=int)
    np.add.at(table, (shard, slice_ - 1), 1)
    return table.tolist()


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 8))
def test_what_is_suggested_leaves_none_empty_and_is_the_finest_but_for_the_hopeless(people, shards, slices):
    found = fitting(partitioners.get(), owners(people), shards, slices)
    assert found[0] <= shards
    assert found[1] <= slices
    assert empty_slices(counts(owners(people), *found)) == 0
    finer = [(s, r) for s in range(1, shards + 1) for r in range(1, slices + 1) if s * r > found[0] * found[1]]
    fills = [pair for pair in finer if empty_slices(counts(owners(people), *pair)) == 0]
    for s, r in fills:
        assert s * r * (1 - 1 / (s * r)) ** people > 3.0, "only what nobody would bet on was passed over"


def test_a_partition_that_is_full_is_what_is_suggested():
    assert fitting(partitioners.get(), owners(500), 8, 5) == (8, 5)


def test_many_shards_and_few_people_are_decided_at_once():
    assert np.prod(fitting(partitioners.get(), owners(3_000), 1_000, 20)) < 1_000


def partition(shards: int, slices: int) -> dict[str, object]:
    return {"shards": shards, "slices": slices, "epochs": 2, "batch_size": 16, "seed": 0}


def test_training_says_that_people_are_too_few_and_what_would_suit_them(local_system, make_table, tmp_path):
    make_table(200, groups=12)
    grouped = {"train": str(tmp_path / "train.parquet"), "group": "person"}
    crowded = local_system(data=grouped, sisa=partition(4, 5))
    (warning,) = crowded.train()["warnings"]
    assert "of 20 slices have no row: 12 values of data.group (person)" in warning
    assert crowded.train()["warnings"] == [warning], "and again when it is asked again"
    shards, slices = map(int, re.search(r"shards: (\d+), slices: (\d+)", warning).groups())

    settled = local_system(data=grouped, sisa=partition(shards, slices), storage_url=str(tmp_path / "another"))
    assert settled.train()["warnings"] == []
    rows = settled.site.lake.manifest.rows["train"]
    assert (len(rows), empty_slices(rows)) == (shards, 0)


def test_enough_ids_are_nothing_to_warn_of(local_system, make_table, tmp_path):
    make_table(200)
    system = local_system(sisa=partition(4, 5))
    assert system.train()["warnings"] == [], "two hundred ids fill twenty slices"
