"""A configuration without options: what is chosen for it, and that a trained system keeps what it has."""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import Settings
from hybridmu.errors import ConfigError, DatabaseError, DataError, HybridMUError, StateError, StorageMismatchError
from hybridmu.runtime.audit.replay import Verdict, replay
from hybridmu.serving.replica import Replica
from hybridmu.serving.submodel_group import SubModelGroup
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.ledger.engine.opening import connect
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.system.chosen_settings import chosen, facts_of
from hybridmu.system.training_runs import TrainingRuns
from tests import support


@pytest.fixture
def bare(tmp_path):
    """A configuration that names a table and a storage, and nothing else."""
    support.make_table(tmp_path / "train.parquet", 300)
    return {"data": {"train": str(tmp_path / "train.parquet")}, "storage_url": str(tmp_path / "storage")}


def opened(raw):
    return hybridmu.connect(raw, executor="local")


def weights(system):
    return [sub.blob for sub in system.registry.version().shards]


def test_no_option_is_needed_and_what_was_chosen_is_told_and_kept(bare):
    with opened(bare) as system:
        trained = system.train()
        assert trained["settings"]["optimizer"] == "adamw"
        assert trained["settings"]["shards"] == trained["shards"] == 1
        assert {"sisa.shards", "optimizer.name", "data.standardize", "task.hidden"} <= set(trained["left_out"])
        used, before = system.settings, weights(system)
    with opened(bare) as again:
        assert again.settings == used
        assert again.train()["already_trained"]
        assert weights(again) == before
        assert again.forget(ids=[7], wait=True)["state"] == "SERVED"
        assert again.verify()["exact_claims_hold"]


def test_more_rows_that_come_later_change_nothing_of_it(bare, tmp_path):
    with opened(bare) as system:
        system.train()
        used = system.settings
    support.make_table(tmp_path / "train.parquet", 9_000)  # the source is not read again
    with opened(bare) as again:
        assert again.settings == used


def test_an_older_system_keeps_its_meaning_whatever_is_left_out_later(bare):
    """Its ledger has every value that meant something before there was a choice."""
    old = {**bare, "sisa": {"shards": 3, "slices": 2, "epochs": 2}, "optimizer": {"name": "sgd", "lr": 0.05}}
    with opened(old) as system:
        system.train()
        before = weights(system)
    for said in (old, {**old, "optimizer": {"lr": 0.05}}, {**bare, "sisa": {"shards": 3}}, bare):
        with opened(said) as again:
            assert (again.settings.sisa.shards, again.settings.optimizer.lr) == (3, 0.05)
            assert again.train()["already_trained"]
            assert weights(again) == before
    with opened({**bare, "sisa": {"shards": 4}}) as other, pytest.raises(StorageMismatchError, match="shards"):
        other.status()


def test_a_configuration_with_an_optimizer_trains_as_it_always_did(bare, tmp_path):
    said = {**bare, "optimizer": {"name": "sgd", "lr": 0.1}}
    whole = {
        "sisa": {"shards": 8, "slices": 5, "epochs": 10, "batch_size": 64},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "linear"},
        "data": {**bare["data"], "standardize": False, "scale": {}},
        "task": {"name": "mlp"},
    }
    with opened(said) as one, opened({**whole, "storage_url": str(tmp_path / "other")}) as other:
        one.train()
        other.train()
        assert weights(one) == weights(other)


def test_a_handful_of_rows_per_shard_is_refused_before_anything_is_stored(bare, tmp_path):
    support.make_table(tmp_path / "train.parquet", 116)
    with opened({**bare, "sisa": {"shards": 8}}) as system:
        with pytest.raises(DataError, match="8 shard") as caught:
            system.train()
        assert "at most 6" in str(caught.value)
        assert not system.session.lake.exists
        assert not [*(tmp_path / "storage").glob("lake/**/*.parquet")]
    with opened({**bare, "sisa": {"shards": 6}}) as system:
        assert system.train()["shards"] == 6
    with opened({**bare, "sisa": {"shards": 8, "min_rows": 1}, "storage_url": str(tmp_path / "second")}) as system:
        assert system.train()["shards"] == 8


def test_what_an_attempt_chose_that_read_nothing_in_is_chosen_again(bare, tmp_path):
    broken(tmp_path)
    with opened(bare) as system, pytest.raises(DataError):
        system.train()
    support.make_table(tmp_path / "train.parquet", 6_000)
    with opened(bare) as system:
        assert system.settings.sisa.shards == 1  # of the attempt
        assert system.train()["shards"] == 2


def test_a_session_that_was_open_before_sees_what_another_one_chose(bare):
    with opened(bare) as early:
        early.settings  # noqa: B018 - asked before there is an answer
        early.session.lake.exists  # noqa: B018
        with opened(bare) as system:
            system.train()
            used = system.settings
        assert early.settings == used
        assert early.status()["version"] == 1
        assert early.predict([{f"x{n}": 0.0 for n in range(4)}])["version"] == 1


def test_a_replica_answers_for_a_configuration_without_options(bare):
    with opened(bare) as system:
        system.train()
        used = system.settings
    replica = Replica(Settings.parse(bare), "r")
    try:
        assert replica.settings == used
        assert replica.refresh() == 1
    finally:
        replica.close()


def test_linked_models_and_successors_need_no_options(bare, tmp_path):
    keys = {"keys": {"folder": str(tmp_path / "keys")}}
    other = {**bare, **keys, "storage_url": str(tmp_path / "other")}
    third = {**bare, **keys, "storage_url": str(tmp_path / "third"), "sisa": {"shards": 2}}
    with opened({**bare, **keys}) as system:
        system.train()
        with opened(other) as second:
            second.train()
        assert len(system.link(Settings.parse(other))) == 2
        system.reshard(Settings.parse(third))
        with opened(third) as successor:
            assert successor.settings.sisa.shards == 2
            mine, theirs = system.settings, successor.settings
            assert theirs.sisa.model_copy(update={"shards": mine.sisa.shards}) == mine.sisa
            assert (theirs.optimizer, theirs.task, theirs.data) == (mine.optimizer, mine.task, mine.data)


def test_people_are_counted_not_their_rows(tmp_path):
    support.make_table(tmp_path / "train.parquet", 400, groups=9, null_groups=30)
    settings = Settings.parse({
        "data": {"train": str(tmp_path / "train.parquet"), "group": "person", "test_fraction": 0},
        "storage_url": str(tmp_path / "storage"),
    })
    found = facts_of(settings)
    assert (found.rows, found.owners) == (400, 39)


def test_bytes_in_lists_are_pixels(tmp_path):
    rng = np.random.default_rng(0)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(0, 256, 400, dtype=np.uint8)), 4)
    columns = {"id": range(100), "label": [n % 2 for n in range(100)], "picture": pixels}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    raw = {"data": {"train": str(tmp_path / "train.parquet")}, "storage_url": str(tmp_path / "storage")}
    with opened(raw) as system:
        used = system.train()["settings"]
        assert (used["scale"], used["standardize"]) == ({"picture": 1 / 255}, False)
    stored = json.loads(json.dumps(system.settings.identity()))
    assert stored["data"]["scale"] == {"picture": 1 / 255}


def test_digits_are_learned_without_an_option(tmp_path):
    """Three points more than with the defaults of the first release, on one seed."""
    with opened({"data": {"name": "digits"}, "storage_url": str(tmp_path / "storage")}) as system:
        found = system.train()["quality"]["test"]["ensemble"]["accuracy"]
    assert found > 0.96


def test_tables_of_an_older_release_are_brought_up_to_date_first(bare, tmp_path):
    with opened(bare) as system:
        system.train()
        used = system.settings
    with closing(sqlite3.connect(tmp_path / "storage" / "ledger.sqlite3")) as older, older:
        for table in ("evaluations", "webhook_receivers", "webhook_events", "overdue", "approvals", "replies"):
            older.execute(f"DROP TABLE {table}")
        older.execute("ALTER TABLE guard DROP COLUMN listed")
        older.execute("UPDATE alembic_version SET version_num = '0004'")
    with opened(bare) as again:
        with pytest.raises(StateError, match="older release"):
            again.status()
        assert again.train()["already_trained"]
        assert again.settings == used
        assert again.status()["version"] == 1


def broken(folder, rows=40):
    """Write a table that no training takes in."""
    made = support.table(rows)
    pq.write_table(
        support.replaced(made, "x0", pa.array([float("nan")] * rows, pa.float32())), folder / "train.parquet"
    )


def test_who_looked_between_a_failed_attempt_and_the_next_sees_what_that_one_trained(bare, tmp_path):
    broken(tmp_path)
    with opened(bare) as failed, opened(bare) as looked:
        with pytest.raises(DataError):
            failed.train()
        with suppress(HybridMUError):
            looked.forget(ids=[0])
        support.make_table(tmp_path / "train.parquet", 6_000)
        with opened(bare) as system:
            assert system.train()["shards"] == 2
        for each in (failed, looked):
            assert each.settings.sisa.shards == 2
            assert each.forget(ids=[0, 2, 5, 7], wait=True)["state"] == "SERVED"


def test_a_training_that_was_overtaken_leaves_no_rows(bare, tmp_path):
    """Two first trainings at once, over a table that grew in between."""
    with opened(bare) as slow:
        session = slow.session
        slow._part(TrainingRuns)._claim_storage()
        site = session.site
        support.make_table(tmp_path / "train.parquet", 6_000)
        with opened(bare) as fast:
            fast._part(TrainingRuns)._claim_storage()  # and ends there
            with pytest.raises(StorageMismatchError, match="shards"):
                ingest(site.lake, session.guard, Recorder(site.lake, session.database).begin)
            assert not fast.session.lake.exists
            assert fast.train()["shards"] == 2


def test_an_optimizer_is_inherited_whole_or_not_at_all(bare, tmp_path):
    keys = {"keys": {"folder": str(tmp_path / "keys")}}
    first = {**bare, **keys, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "sisa": {"shards": 2}}
    second = {**bare, **keys, "storage_url": str(tmp_path / "second"), "optimizer": {"name": "adamw"}}
    third = {**bare, **keys, "storage_url": str(tmp_path / "third"), "optimizer": {"name": "sgd"}}
    with opened(first) as system:
        system.train()
        system.reshard(Settings.parse(second))
        assert [model.get("undelivered", 0) for model in system.models()] == [0, 0]
    with opened(second) as system:
        found = system.settings.optimizer
        assert (found.name, found.lr, found.momentum) == ("adamw", 0.004, 0.0)
        assert system.settings.sisa.shards == 2
        assert system.verify()["bitwise_equal"]
        system.reshard(Settings.parse(third))
    with opened(third) as system:
        found = system.settings.optimizer
        assert (found.name, found.lr, found.weight_decay) == ("sgd", 0.1, 0.0)


def test_more_groups_than_trained_sub_models_are_refused_before_anything_is_linked(bare, tmp_path):
    keys = {"keys": {"folder": str(tmp_path / "keys")}}
    with opened({**bare, **keys}) as system:
        system.train()
        with opened({**bare, **keys, "serving": {"groups": 3}}) as other, pytest.raises(ConfigError, match="groups"):
            other.status()
        second = {**bare, **keys, "serving": {"groups": 2}, "storage_url": str(tmp_path / "second")}
        with pytest.raises(ConfigError, match="groups"):
            system.reshard(Settings.parse(second))
        assert len(system.models()) == 1


def test_groups_of_sub_models_are_of_what_was_trained(bare):
    raw = {**bare, "serving": {"groups": 12}}
    with opened(raw) as system:
        assert system.train()["shards"] == 12
    held = [SubModelGroup(Settings.parse(raw), group, f"g{group}") for group in range(12)]
    try:
        assert sorted(shard for group in held for shard in group.shards) == list(range(12))
    finally:
        for group in held:
            group.close()


def test_a_certificate_is_replayed_by_the_same_configuration(bare):
    with opened({**bare, "policy": {"retention_seconds": 0}}) as system:
        system.train()
        system.forget(ids=[7], wait=True)
        system.run(until_idle=True)
    (path,) = Path(bare["storage_url"]).glob("certificates/*.json")
    assert replay(Settings.parse(bare), json.loads(path.read_text())).verdict is Verdict.CONFIRMED


@pytest.mark.parametrize("data", [{"group": "nope"}, {"features": ["x0", "nope"]}])
def test_a_column_that_is_not_there_is_named(bare, data):
    raw = {**bare, "data": {**bare["data"], **data}}
    with opened(raw) as system, pytest.raises(DataError, match=r"not in the table|is missing"):
        system.train()


def test_a_ledger_out_of_reach_is_told_as_that(bare, monkeypatch):
    with opened(bare) as system:
        system.train()

    def unreachable(url):
        raise DatabaseError("the database can't be reached")

    monkeypatch.setattr("hybridmu.system.session.has_tables", unreachable)
    with opened(bare) as system, pytest.raises(DatabaseError, match="reached"):
        system.status()


def test_a_policy_that_needs_sgd_gets_it(bare):
    with opened({**bare, "policy": {"strategy": "dpus-newton", "calibrate": False}}) as system:
        assert system.train()["settings"]["optimizer"] == "sgd"


def test_a_decommissioned_system_says_so_whatever_became_of_its_table(bare, tmp_path):
    with opened(bare) as system:
        system.train()
    with opened(bare) as system:
        system.decommission(reason="over")
    (tmp_path / "train.parquet").unlink()
    with opened(bare) as system, pytest.raises(StateError, match="decommissioned"):
        system.train()


def test_suggestions_begin_with_the_systems_own_way(bare):
    with opened({**bare, "optimizer": {"lr": 0.05}, "sisa": {"shards": 3, "slices": 2}}) as system:
        system.train()
    with opened({**bare, "sisa": {"shards": 3}}) as system:
        found = system.suggest(seconds=0.01)
        assert [offer["name"] for offer in found["offers"]] == ["S3-R2"]
        assert any(name.endswith("-adamw") for name in found["untried"])


def test_a_coordinator_that_began_before_the_ledger_was_claimed_goes_on(bare):
    """What is left out is the same as before, so nothing that works with it is dropped."""
    with opened({**bare, "optimizer": {"lr": 0.05}, "sisa": {"shards": 2}}) as system:
        connect(system.settings.database, create=True).dispose()
        driver = system.session.coordination.acquire()
        driver.begin_training()
        assert system.settings.optimizer.name == "sgd"
        assert system.session.coordination.driver is driver


def test_columns_of_sums_are_scaled_by_their_largest_number(tmp_path):
    size = pa.array([1.0, -7.5, None, 3.0, float("nan"), float("inf")])
    columns = {
        "id": range(6),
        "size": size,
        "count": pa.array([0, 900, 3, -1000, 5, 6], pa.int32()),
        "coded": pa.array([1, 2, 3, 1, 2, 3]).dictionary_encode(),
        "pixels": pa.array([[0, 255]] * 6, pa.list_(pa.uint8(), 2)),
        "signal": pa.array([[0.5, -3.0]] * 6, pa.list_(pa.float64())),
        "word": list("abcabc"),
        "label": list("xyxyxy"),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    raw = {"data": {"train": str(tmp_path / "t.parquet"), "fills": {"size": 0}, "hash_buckets": {"word": 4}}}
    settings = Settings.parse({**raw, "task": {"name": "lda"}, "storage_url": str(tmp_path / "s")})
    found = chosen(settings)
    expected = {"size": 2.0**-3, "count": 2.0**-10, "coded": 2.0**-2, "pixels": 1 / 255, "signal": 2.0**-2}
    assert found.data.scale == expected
    assert (found.sisa.shards, found.sisa.slices) == (1, 1)


@pytest.fixture
def far(tmp_path):
    """A table whose one column is far from 0, for a task of sums."""
    x = np.random.default_rng(0).normal(500, 100, 400)
    columns = {"id": range(400), "x": x, "z": x % 1, "label": np.where(x > 500, "high", "low")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    return {
        "data": {"train": str(tmp_path / "t.parquet")},
        "task": {"name": "lda"},
        "storage_url": str(tmp_path / "s"),
    }


def test_an_optimizer_has_no_say_in_sums(far):
    with hybridmu.connect({**far, "optimizer": {"name": "adamw"}}, executor="local") as system:
        trained = system.train()
        assert trained["warnings"] == []
        assert system.settings.data.scale == {"x": 2.0**-10, "z": 1.0}
        assert trained["quality"]["test"]["ensemble"]["accuracy"] > 0.9
    with hybridmu.connect({**far, "optimizer": {"name": "adamw"}}, executor="local") as again:
        assert again.train()["already_trained"] is True


def test_columns_that_are_clipped_are_warned_of(far):
    far["data"]["scale"] = {"z": 0.25}
    with hybridmu.connect(far, executor="local") as system:
        [warning] = system.train()["warnings"]
        assert "column 'x' reaches" in warning
        assert "set its data.scale to 0.000977" in warning
        assert system.train()["warnings"] == []
