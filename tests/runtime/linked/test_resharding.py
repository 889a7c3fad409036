"""A successor equals a model that was trained on the final table in the first place, bit for bit."""

from __future__ import annotations

from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridmu import faults
from hybridmu.config import Settings
from hybridmu.errors import StateError
from hybridmu.store.certificates import Certificates
from hybridmu.store.keyring import Keyring
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check
from tests import reference_certificate
from tests.scenes.linked_models import family
from tests.system.test_exactness import write_table

SHAPE = (4, 3)


@pytest.fixture(autouse=True)
def _no_faults():
    yield
    faults.observe(None)


def settings(models, name="new", shape=SHAPE, **overrides):
    return Settings.parse(models.config(name, shape, **overrides))


def final_table(models, tmp_path, *paths):
    """Write what a source without the forgotten rows would be by now, in another order of rows."""
    tables = [pq.read_table(path) for path in paths]
    rows = pa.concat_tables(tables).to_pylist()
    live = models.live("first")
    kept = {row["id"]: row for row in rows if row["id"] in live}  # of a corrected row, the later one
    assert kept.keys() == live
    path = tmp_path / "final.parquet"
    pq.write_table(pa.Table.from_pylist(sorted(kept.values(), key=lambda row: str(row["id"])), tables[0].schema), path)
    return path


def weights(system):
    return [sub.blob for sub in system.registry.version().shards]


@pytest.mark.parametrize("groups", [0, 5])
@pytest.mark.sampled
def test_a_successor_is_what_training_on_the_final_table_gives(tmp_path, groups):
    with family(tmp_path, "first", groups=groups, rows=60) as (models, ids):
        old = models["first"]
        old.forget(ids=ids[:3], wait=True, strategy="retrain")
        old.run(until_idle=True)  # purged
        new_rows, corrected = tmp_path / "new.parquet", tmp_path / "corrected.parquet"
        write_table(new_rows, 12, string_ids=False, groups=groups, seed=7, start=500)
        old.ingest(new_rows, slices=2, epochs=1, wait=True)
        write_table(corrected, 2, string_ids=False, groups=groups, seed=8, start=10)
        old.correct(corrected, wait=True)
        old.run(until_idle=True)
        old.forget(ids=[ids[20]], groups=["u1"] if groups else [], wait=True)  # not purged
        waiting = old.forget(ids=[ids[30]])["request_id"]  # nobody began it
        late: list[str] = []
        faults.arm("ingest.cleared", 1, lambda: late.append(old.forget(ids=[ids[31], ids[32]])["request_id"]))
        result = old.reshard(settings(models))
        new = models.open("new")
        assert result["version"] == 1
        assert result["predecessor"]["name"] == "first"
        models.run()
        assert {old.ledger.request(name).state for name in [waiting, *late]} == {RequestState.PURGED}
        assert models.live("new") == models.live("first")
        assert not {ids[20], *ids[30:33]} & models.live("new")
        final = final_table(models, tmp_path, models.table, new_rows, corrected)
        models.config("fresh", SHAPE, table=final)
        fresh = models.open("fresh")
        fresh.train()
        assert weights(new) == weights(fresh)
        assert all(weights(new))
        assert new.verify()["bitwise_equal"]
        assert new.site.lake.manifest.generations[0].slices == new.site.lake.manifest.slices == 3


@pytest.mark.slow
def test_its_lineage_is_in_status_and_certificates(tmp_path):
    with family(tmp_path, "first") as (models, ids):
        old = models["first"]
        old.forget(ids=[ids[0]], wait=True, strategy="retrain")
        rows = len(models.live("first"))
        old.reshard(settings(models))
        new = models.open("new")
        past = new.site.lake.manifest.ancestry
        assert (past.system, past.version, past.tombstones, past.rows) == (old.database.identity.system(), 2, 1, rows)
        assert past.generations == (40,)
        stones = {shard: {(x.kind, x.key) for x in found} for shard, found in old.ledger.tombstones().items()}
        counts = [old.site.lake.counts("train", shard, stones.get(shard, set()))[0] for shard in range(3)]
        assert [tuple(n for n, _ in shard) for shard in past.shards] == counts
        for sub, shard in zip(old.registry.version().shards, past.shards, strict=True):
            assert len(shard) == len(sub.checkpoints)
        assert new.status()["predecessor"] == {"name": "first", "version": 2, "root": past.root}
        assert new.models()[0]["predecessor"] == "first"
        new.forget(ids=[ids[1]])
        models.run()
        (document,) = Certificates(new.site.storage).all()
        assert document["predecessor"] == {
            "system": past.system,
            "version": 2,
            "tombstones": 1,
            "rows": rows,
            "root": past.root,
        }
        assert check(document, [*Keyring(new.settings).public_keys().values()]).ok
        reference_certificate.check(document)
        models["first"].close()
        (done,) = new.retire("first", reason="resharded")
        assert done["certificates_kept"] == 2
        new.forget(ids=[ids[2]])
        new.run(until_idle=True)
        assert set(models.states("new")) == {RequestState.PURGED}


@pytest.mark.parametrize("split_name", ["validation", "test"])
def test_held_out_rows_stay_held_out(tmp_path, split_name):
    split = {"data": {f"{split_name}_fraction": 0.3}}
    with family(tmp_path) as (models, _):
        models.add("first", **split)
        old = models["first"]
        test = old.site.lake
        held = {row for shard in range(3) for row in _ids(test, split_name, shard)}
        assert held
        old.forget(ids=sorted(held)[:1], wait=True)
        old.reshard(settings(models, **split))
        new = models.open("new").site.lake
        assert {row for shard in range(4) for row in _ids(new, split_name, shard)} == held - {sorted(held)[0]}
        assert new.manifest.encoder == test.manifest.encoder


def _ids(lake, split, shard):
    return [x for name in lake.files(split, shard) for x in pq.read_table(lake.storage.path(name))["id"].to_pylist()]


@pytest.mark.slow
def test_many_generations_become_one(tmp_path):
    with family(tmp_path, "first") as (models, _):
        old = models["first"]
        for number in range(3):
            path = tmp_path / f"{number}.parquet"
            write_table(path, 4, string_ids=False, groups=0, seed=number, start=100 * (number + 1))
            old.ingest(path, wait=True)
        assert len(old.site.lake.manifest.generations) == 4
        old.reshard(settings(models, shape=(3, 2)))
        manifest = models.open("new").site.lake.manifest
        assert len(manifest.generations) == 1
        assert manifest.ancestry.generations == (40, 4, 4, 4)
        assert models.live("new") == models.live("first")


@pytest.mark.parametrize(
    ("point", "hit"),
    [
        ("link.half", 1),
        ("ingest.manifest", 1),
        ("link.brought", 2),
        ("forward.accepted", 1),
    ],
)
@pytest.mark.sampled
def test_after_a_crash_the_same_command_goes_on(tmp_path, point, hit):
    def die() -> None:
        raise KeyboardInterrupt

    with family(tmp_path, "first") as (models, ids), ExitStack() as stack:
        models.add("second")
        models["first"].link(models["second"].settings)
        stack.callback(faults.observe, None)
        models["first"].forget(ids=[ids[0]], wait=True)
        wanted = settings(models)
        requests = [models["second"].forget(ids=[ids[1]])["request_id"]]
        models["second"].close()
        if point == "forward.accepted":
            faults.arm("ingest.cleared", 1, lambda: models["first"].forget(ids=[ids[2]], wait=True) and arm())

            def arm() -> None:
                faults.arm(point, hit, die)

        else:
            faults.arm(point, hit, die)
        with pytest.raises(KeyboardInterrupt):
            models["first"].reshard(wanted)
        faults.observe(None)
        models["first"].close()
        if point in {"link.half", "ingest.manifest"}:
            with pytest.raises(StateError, match="resharding is incomplete"):
                models.open("new").train()
        requests.append(models["second"].forget(ids=[ids[3]], wait=True)["request_id"])
        models["second"].close()
        result = models["first"].reshard(wanted)
        assert [m["name"] for m in result["models"]] == ["first", "second", "new"]
        models.open("new")
        models.run()
        gone = [ids[0], ids[1], ids[3], *([ids[2]] if point == "forward.accepted" else [])]
        for name in ("first", "second", "new"):
            models.check(name, gone)
            assert set(models.states(name)) == {RequestState.PURGED}
        assert all(m["settled_at"] for m in models["new"].models()[1:])


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"data": {"features": ["a", "b"]}}, "data.features"),
        ({"keys": {"folder": "other"}}, "other guard keys"),
        ({"sisa": {"seed": 6}}, "another partition key"),
    ],
)
def test_a_successor_reads_the_same_data(tmp_path, overrides, why):
    if "keys" in overrides:
        overrides = {"keys": {"folder": str(tmp_path / "other")}}
    with family(tmp_path, "first") as (models, _), pytest.raises(StateError, match=why):
        models["first"].reshard(settings(models, **overrides))


def test_rows_on_their_way_in_are_waited_for(tmp_path):
    with family(tmp_path, "first") as (models, _):
        path = tmp_path / "new.parquet"
        write_table(path, 4, string_ids=False, groups=0, start=100)
        models["first"].ingest(path)
        with pytest.raises(StateError, match="missing in its successor"):
            models["first"].reshard(settings(models))
        models["first"].run(until_idle=True)
        models["first"].reshard(settings(models))
        models.open("new")
        assert models.live("new") == models.live("first")


def test_a_storage_with_another_model_is_left_alone(tmp_path):
    with family(tmp_path, "first", "second") as (models, _):
        with pytest.raises(StateError, match="another model in the successor's storage"):
            models["first"].reshard(models["second"].settings)
        with pytest.raises(StateError, match="another model in the successor's storage"):
            models["first"].reshard(models["first"].settings)
