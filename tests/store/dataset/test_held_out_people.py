"""A share of the people of the training table as the test table, where the configuration names none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hybridmu
from hybridmu.config import DataSettings, Settings
from hybridmu.core.kernel.partition import held_out
from hybridmu.errors import ConfigError, StorageMismatchError
from hybridmu.store.dataset.held_out_people import held_out_for_test
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.layout import MANIFEST, Manifest
from hybridmu.store.storage.storage import Storage
from tests.support import lake_rows, local_system, make_table, open_lake, settings_dict, table, write

NONE = {"test_fraction": None}


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 0.1),
        ({"test_fraction": 0.3}, 0.3),
        ({"test_fraction": 0}, 0.0),
        ({"test": "t"}, 0.0),
        ({"validation": "v"}, 0.0),
        ({"validation_fraction": 0.2}, 0.0),
        ({"validation_fraction": 0.0}, 0.0),
        ({"validation_fraction": 0.2, "test_fraction": 0.1}, 0.1),
    ],
)
def test_the_share_of_a_new_storage(given, share):
    assert DataSettings(train="t", **given).first_test_fraction == share


def test_a_test_table_and_a_share_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="exclude each other"):
        Settings.parse(settings_dict(tmp_path, data={"test": "t", "test_fraction": 0.2}))


def test_the_hash_is_another_one_than_that_of_validation():
    keys = np.random.default_rng(0).integers(0, 256, (4000, 16), dtype=np.uint8)
    test, validation = held_out_for_test(keys, 0.2), held_out(keys, 0.2)
    assert abs(test.mean() - 0.2) < 0.03
    assert abs((test & validation).mean() - 0.04) < 0.02
    assert not held_out_for_test(keys, 0.0).any()
    assert (held_out_for_test(keys, 0.3) | ~held_out_for_test(keys, 0.1)).all()


@pytest.mark.parametrize("more", [{}, {"validation_fraction": 0.3, "test_fraction": 0.3}])
def test_people_are_held_out_whole(tmp_path, more):
    made = make_table(tmp_path / "train.parquet", 300, groups=40, null_groups=30)
    lake = open_lake(tmp_path, data={**NONE, "group": "person", **more})
    splits = {split: lake_rows(lake, split) for split in lake.manifest.rows}
    assert set(splits) == {"train", "test"} | ({"validation"} if more else set())
    assert sorted(row["id"] for rows in splits.values() for row in rows) == sorted(made["id"].to_pylist())
    assert all(splits.values())
    people = [{row["person"] or row["id"] for row in rows} for rows in splits.values()]
    assert sum(map(len, people)) == len(set.union(*people))
    assert len(splits["test"]) == sum(map(sum, lake.manifest.rows["test"]))


def test_the_manifest_keeps_the_share_and_an_older_one_has_none(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    shared = open_lake(tmp_path, data=NONE, storage_url=str(tmp_path / "shared"))
    assert Manifest.from_bytes(shared.manifest.to_bytes()).test_fraction == 0.1
    older = open_lake(tmp_path)
    assert b"test_fraction" not in older.storage.read(MANIFEST)
    again = Lake(Settings.parse(settings_dict(tmp_path, data=NONE)), older.storage)
    assert again.manifest == older.manifest == replace(again.manifest, test_fraction=0.0)


@pytest.mark.parametrize("share", [0, 0.1, 0.2])
def test_another_share_than_that_of_the_storage_is_refused(tmp_path, share):
    make_table(tmp_path / "train.parquet", 60)
    storage = open_lake(tmp_path, data=NONE).storage
    lake = Lake(Settings.parse(settings_dict(tmp_path, data={"test_fraction": share})), Storage(storage.url))
    if share == 0.1:
        assert lake.manifest.test_fraction == 0.1
        return
    with pytest.raises(StorageMismatchError, match="another share"):
        _ = lake.manifest


def test_new_and_corrected_rows_go_by_the_storage_and_not_by_the_configuration(tmp_path):
    """A storage trained without a test table never gets one; one with a share holds out the same people again."""
    made = make_table(tmp_path / "train.parquet", 120, groups=12)
    new = table(120, groups=12, start=1000, seed=5)
    write(tmp_path, new, "new.parquet")
    for share, later in ((0, None), (0.3, None)):
        storage = {"storage_url": str(tmp_path / f"storage-{share}")}
        with local_system(tmp_path, data={"group": "person", "test_fraction": share}, **storage) as system:
            system.train()
        raw = settings_dict(tmp_path, data={"group": "person", "test_fraction": later}, **storage)
        with hybridmu.connect(raw, executor="local") as system:
            assert system.train()["already_trained"]
            system.ingest(tmp_path / "new.parquet", wait=True)
            lake = system.site.lake
            lake.refresh()
            people = {split: {row["person"] for row in lake_rows(lake, split)} for split in lake.manifest.rows}
            assert ("test" in people) == (share > 0)
            if not share:
                continue
            assert people["test"]
            assert not people["test"] & people["train"]
            held = next(row for row in made.to_pylist() if row["person"] in people["test"])
            write(tmp_path, made.filter([held["id"] == one for one in made["id"].to_pylist()]), "corrected.parquet")
            report = system.correct(tmp_path / "corrected.parquet")  # of the table that the share was taken of
            assert report["keys"] == 1
