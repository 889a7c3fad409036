"""Tables with a log of their own (Delta, Iceberg, Hudi): refused, since rows that are deleted there would train on."""

from __future__ import annotations

import pytest

from hybridmu.errors import DataError
from tests.source_tables import refused
from tests.support import local_system, table, write

LOGS = {
    "delta": ["_delta_log/00000000000000000000.json"],
    "iceberg": ["metadata/v1.metadata.json"],
    "iceberg of pyiceberg": ["metadata/00000-9c12d441.metadata.json"],
    "iceberg compressed": ["metadata/00001-9c12d441.gz.metadata.json"],
    "iceberg of hadoop": ["metadata/version-hint.text"],
    "hudi": [".hoodie/hoodie.properties"],
    "unfinished write": ["_temporary/0/part-0.parquet"],
}


@pytest.mark.parametrize("where", ["folder", "above", "below", "file", "link"])
@pytest.mark.parametrize("kind", LOGS)
def test_a_table_with_a_log_of_its_own_is_refused(tmp_path, kind, where):
    root = tmp_path / "t"
    write(root / "data" / "day=1", table(20), "part-0.parquet")
    for name in LOGS[kind]:
        path = (tmp_path if where == "above" else root / "data" if where == "below" else root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "link").symlink_to(root / "data" / "day=1")
    place = {"file": root / "data" / "day=1" / "part-0.parquet", "link": tmp_path / "link"}.get(where, root)
    message = refused(tmp_path, train=str(place))
    assert f"{place} is part of a" in message
    assert "export" in message


def test_every_verb_refuses_it(tmp_path):
    write(tmp_path, table(60))
    write(tmp_path / "delta", table(20, start=100), "part-0.parquet")
    (tmp_path / "delta" / "_delta_log").mkdir()
    for split in ("train", "validation", "test"):
        data = {"train": str(tmp_path / "train.parquet"), split: str(tmp_path / "delta")}
        assert "Delta" in refused(tmp_path, **data)
    with local_system(tmp_path) as system:
        system.train()
        for verb in (system.ingest, system.correct):
            with pytest.raises(DataError, match="a Delta table"):
                verb(tmp_path / "delta")


def test_a_hudi_partition_is_known_by_its_mark(tmp_path):
    write(tmp_path / "t", table(20))
    (tmp_path / "t" / ".hoodie_partition_metadata").write_text("")
    assert "a Hudi table" in refused(tmp_path, train=str(tmp_path / "t"))


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("link", ["a file", "a folder", "a folder above", "another link"])
def test_a_link_into_a_table_with_a_log_of_its_own_is_refused(tmp_path, kind, link):
    write(tmp_path / "logged" / "data" / "day=1", table(20, start=20), "p.parquet")
    for name in LOGS[kind]:
        path = tmp_path / "logged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    plain, inside = tmp_path / "plain", tmp_path / "logged" / "data" / "day=1"
    write(plain, table(20))
    if link == "a file":
        (plain / "x.parquet").symlink_to("../logged/data/day=1/p.parquet")
    elif link == "a folder":
        (plain / "x").symlink_to(inside)
    elif link == "a folder above":
        (tmp_path / "there").symlink_to(tmp_path / "logged")
        (plain / "x").symlink_to("../there/data/day=1")
    else:  # what lies in that table is itself a link out of it
        (inside / "p.parquet").rename(tmp_path / "elsewhere.parquet")
        (inside / "p.parquet").symlink_to(tmp_path / "elsewhere.parquet")
        (plain / "x.parquet").symlink_to(inside / "p.parquet")
    message = refused(tmp_path, train=str(plain))
    assert f"{plain} is part of a" in message
    assert "export" in message
