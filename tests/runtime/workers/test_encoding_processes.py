"""Processes that encode rows: the bytes of one process, the first broken row, and nothing left of those that end."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import Settings
from hybridmu.core.features import text_values
from hybridmu.core.features.derived import Derivation
from hybridmu.errors import DataError, StateError
from hybridmu.runtime.workers import encoding_processes
from hybridmu.runtime.workers.encoding_processes import EncodingProcesses
from hybridmu.store.dataset.derived_table import open_source
from tests.support import until

ODD, FATAL = "tests.scenes.odd_encoders:Surroundings", "tests.scenes.odd_encoders:Fatal"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(text_values, "PART", 8)


def raw(folder, texts, encoder=ODD, **overrides):
    columns = {"id": range(len(texts)), "note": pa.array(texts, pa.string())}
    table = pa.table({**columns, "label": ["yes" if n % 3 else "no" for n in range(len(texts))]})
    pq.write_table(table, folder / "t.parquet", row_group_size=21)
    return {
        "data": {"train": str(folder / "t.parquet"), "test_fraction": 0},
        "features": {"text": {"note": encoder}},
        "task": {"name": "lda"},
        "policy": {"retention_seconds": 1e9},
        "storage_url": str(folder / "storage"),
        **overrides,
    }


def opened(folder, texts, encoder=ODD, encode=None):
    settings = Settings.parse(raw(folder, texts, encoder))
    derivation = Derivation.of(settings.features, settings.data.fills)
    source = str(folder / "t.parquet")
    return settings, lambda encode=encode: open_source(settings.data, derivation, source, encode)


def read(table):
    return pa.concat_tables(table.batches(["id", *(name for name in table.names if ":" in name)]))


def texts(rows=100):
    draw = np.random.default_rng(0)
    return ["".join(draw.choice([*"abc "], draw.integers(0, 90))) for _ in range(rows)]


@pytest.mark.parametrize("encoder", [ODD, {"name": "ngrams", "width": 32}])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_features_are_those_of_one_process(tmp_path, encoder, count):
    settings, table = opened(tmp_path, texts(), encoder)
    with closing(EncodingProcesses(settings, count)) as processes:
        assert read(table(processes)).equals(read(table()))
        assert read(table(processes)).equals(read(table())), "for another table they are there"
    assert all(process._process.returncode is not None for process in processes._all)
    assert len(processes._all) == (count if count > 1 else 0)


def test_a_small_table_starts_no_process(tmp_path):
    settings, table = opened(tmp_path, texts(16))
    with closing(EncodingProcesses(settings, 2)) as processes:
        assert read(table(processes)).equals(read(table()))
        assert not processes._all


def test_the_first_broken_row_is_named(tmp_path):
    broken = texts()
    for row in (77, 60, 93):
        broken[row] = None
    settings, table = opened(tmp_path, broken)
    for encode in (None, EncodingProcesses(settings, 2)):
        with pytest.raises(DataError, match=r"row 61 of .*: column 'note' has a null"):
            read(table(encode))
    assert all(process._process.returncode is not None for process in encode._all)


@pytest.mark.parametrize("at", [40, 99])
def test_rows_of_a_process_that_ended_are_encoded_by_another(tmp_path, at):
    some = texts()
    some[at] = "die"
    encoder = {"name": FATAL, "once": str(tmp_path / "once"), "alive": os.getpid()}
    settings, table = opened(tmp_path, some, encoder)
    with closing(EncodingProcesses(settings, 2)) as processes:
        assert read(table(processes)).equals(read(table()))
    assert (tmp_path / "once").exists()


def test_processes_that_are_killed_are_replaced(tmp_path):
    settings, table = opened(tmp_path, texts(200))
    with closing(EncodingProcesses(settings, 2)) as processes:
        batches = table(processes).batches(["id", "note:Surroundings"])
        found = [next(batches) for _ in range(3)]
        for process in processes._all:
            os.kill(process._process.pid, signal.SIGKILL)
        assert pa.concat_tables([*found, *batches]).equals(read(table()))


def test_what_is_interrupted_leaves_no_process(tmp_path):
    settings, table = opened(tmp_path, texts(200))
    processes = EncodingProcesses(settings, 2)
    batches = table(processes).batches(["id", "note:Surroundings"])
    for _ in range(4):
        next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt)
    until(lambda: all(process._process.poll() is not None for process in processes._all))


def test_a_training_whose_encoder_ends_every_process_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding_processes, "cores", lambda: 2)
    some = texts()
    some[70] = "die"
    encoder = {"name": FATAL, "alive": os.getpid()}
    config = raw(tmp_path, some, encoder)
    with hybridmu.connect(config, executor="local") as system:
        with pytest.raises(StateError, match="exit code 3, twice with the same rows"):
            system.train()
        assert not [path for path in (tmp_path / "storage").rglob("*") if path.suffix == ".parquet"]
        monkeypatch.setattr(encoding_processes, "cores", lambda: 1)
        system.train()
        assert system.verify()["bitwise_equal"] is True


def test_systems_of_one_and_of_several_processes_have_the_same_rows(tmp_path, monkeypatch):
    found = []
    for count in (1, 2):
        monkeypatch.setattr(encoding_processes, "cores", lambda count=count: count)
        folder = tmp_path / str(count)
        folder.mkdir()
        with hybridmu.connect(raw(folder, texts()), executor="local") as system:
            system.train()
            more = pa.table({"id": range(500, 560), "note": texts(60), "label": ["yes"] * 60})
            pq.write_table(more, folder / "more.parquet")
            system.ingest(str(folder / "more.parquet"), wait=True)
            tables = system.session.lake.shard("train", 0)
            (rows,) = tables.rows(np.arange(len(tables.outline)))
            found.append((rows.x.numpy().tobytes(), rows.content.tobytes()))
    assert found[0] == found[1]
