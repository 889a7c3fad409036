"""Parts of tables that are encoded apart: cut alike, in order, a few at a time, and by the same encoders."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch

from hybridmu.config import Settings
from hybridmu.core.features.derived import Derivation
from hybridmu.core.features.encoding_parts import (
    Part,
    derivation_of,
    document_of,
    encoded_part,
    here,
    in_order,
    spread,
)
from hybridmu.errors import DataError, StateError

ODD = "tests.scenes.odd_encoders:Surroundings"


def settings(encoder=ODD, **fills):
    return Settings.parse({
        "data": {"train": "t.parquet", "fills": fills},
        "features": {"text": {"note": encoder}},
        "task": {"name": "lda"},
        "storage_url": "/nowhere",
    })


def derivation(made):
    return Derivation.of(made.features, made.data.fills)


def parts(*texts):
    return [
        Part(pa.table({"note": pa.array(some, pa.string())}), ("note:Surroundings",), 1 + 10 * at, "t.parquet")
        for at, some in enumerate(texts)
    ]


def test_a_part_survives_as_bytes_without_the_rows_around_it():
    whole = pa.table({"note": [f"text {n}" * 100 for n in range(1000)]})
    part = Part(whole.slice(7, 3), ("note:a", "note:b"), 8, "ö.parquet")
    data = part.to_bytes()
    again = Part.from_bytes(data)
    assert (again.names, again.first, again.url) == (part.names, part.first, part.url)
    assert again.table.to_pydict() == part.table.to_pydict()
    assert len(data) < 10_000
    assert again.where(1) == "row 9 of ö.parquet"


def test_parts_are_encoded_each_by_itself_with_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = list(here(derivation(settings()), parts(["a", "bb"], ["ccc"])))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert [table["note:Surroundings"].to_pylist() for table in found] == [[[1, 0, 2, 1], [2, 1, 2, 1]], [[3, 0, 1, 1]]]


def test_a_row_that_can_t_be_encoded_is_named():
    with pytest.raises(DataError, match=r"row 12 of t\.parquet: column 'note' has a null"):
        list(here(derivation(settings()), parts(["a"], ["b", None])))


def test_the_first_parts_are_made_here_and_a_few_start_nothing_else():
    made = derivation(settings())

    def never(_):
        raise AssertionError

    assert len(list(spread(made, parts(["a"], ["b"]), never))) == 2
    seen = []

    def apart(left):
        for part in left:
            seen.append(part.first)
            yield encoded_part(made, part)

    assert len(list(spread(made, parts(*"abcde"), apart))) == 5
    assert seen == [21, 31, 41]


def test_results_come_in_order_while_only_some_are_ahead():
    begun, ended = [], []

    def begin(part):
        begun.append(part.first)
        assert len(begun) - len(ended) <= 3
        return part.first

    found = in_order(parts(*"abcdefgh"), begin, lambda first: ended.append(first) or first, never_dropped, 3)
    assert list(found) == begun == ended == [1 + 10 * at for at in range(8)]


def never_dropped(_):
    raise AssertionError


def test_large_parts_wait_for_each_other(monkeypatch):
    monkeypatch.setattr("hybridmu.core.features.encoding_parts._MOST_BYTES", 1)
    ahead = []
    found = in_order(parts(*"abc"), lambda part: ahead.append(part.first), lambda _: ahead.clear(), never_dropped, 9)
    for _ in found:
        assert len(ahead) <= 1


def test_what_nobody_waits_for_is_dropped():
    dropped = []
    found = in_order(parts(*"abcdef"), lambda part: part.first, lambda first: first, dropped.append, 3)
    assert next(found) == 1
    found.close()
    assert dropped == [11, 21]


def test_another_process_makes_the_same_encoders_or_says_so():
    made = settings({"name": "ngrams", "width": 8}, note="nothing")
    document = document_of(made, derivation(made))
    again = derivation_of(document)
    assert again.digests == derivation(made).digests
    assert [column.fill for column in again] == ["nothing"]
    other = json.loads(document)
    other["digests"]["note:ngrams"] = "0" * 32
    with pytest.raises(StateError, match="'note:ngrams' is another one in a process that encodes"):
        derivation_of(json.dumps(other))
