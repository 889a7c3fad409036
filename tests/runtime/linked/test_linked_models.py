"""One deletion reaches every model over the same people, once, whatever breaks in between."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
from hybridmu import faults
from hybridmu.errors import ConfigError, HybridMUError, StateError, UnknownKeysError
from hybridmu.runtime.linked.forwarder import after_failure
from hybridmu.runtime.linked.peer import plain
from hybridmu.store.certificates import Certificates
from hybridmu.store.ledger import tables as t
from hybridmu.types import RequestState
from tests.scenes.linked_models import Family, family
from tests.store.ledger.test_journal import back_up
from tests.support import rows_of
from tests.system.test_exactness import write_table


class Crash(Exception):
    pass


def crash_at(point: str, hit: int = 1) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    faults.arm(point, hit, die)


@pytest.fixture(autouse=True)
def _no_faults():
    yield
    faults.observe(None)


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request):
    """Databases of two models, of both kinds."""
    if request.param == "sqlite":
        yield {}
        return
    server = request.getfixturevalue("postgresql")
    with ExitStack() as stack:
        yield {name: stack.enter_context(server.database()) for name in ("first", "second")}


@pytest.fixture
def pair(tmp_path):
    with family(tmp_path, "first", "second") as (models, ids):
        models["first"].link(models["second"].settings)
        yield models, ids


def forwards(system):
    return {row.request_id: (row.state, row.there) for row in rows_of(system.database.engine, t.forwards)}


# ---------------------------------------------------------------------- one deletion, all models


def test_a_deletion_in_one_model_is_one_in_all(tmp_path, urls):
    with family(tmp_path, "first", "second", databases=urls) as (models, ids):
        listed = models["first"].link(models["second"].settings)
        assert [(m["name"], m["this"], m["state"]) for m in listed] == [
            ("first", True, "active"),
            ("second", False, "active"),
        ]
        assert listed[1]["settled_at"]
        gone = [ids[3], ids[17], ids[20]]
        deadline = 3600.0
        report = models["first"].forget(ids=gone, key="k", wait=True, deadline_seconds=deadline)
        assert report["state"] == "SERVED"
        (there,) = report["models"]
        assert (there["name"], there["state"]) == ("second", "RECEIVED")
        assert rows_of(models["first"].database.engine, t.outbox) == []
        models.run()
        report = models["first"].report(report["request_id"])
        (there,) = report["models"]
        assert (report["state"], there["state"], there["certificate"]) == ("PURGED", "PURGED", 1)
        assert there["seconds_to_purged"] > there["seconds_to_applied"] > 0
        for name in ("first", "second"):
            models.check(name, gone)
            (document,) = Certificates(models[name].site.storage).all()
            assert len(document["keys"]) == 3
            assert models.live(name) == set(ids) - set(gone)
        (request,) = models["second"].ledger.requests()
        assert (request.caller, request.keys, request.deadline_at) == ("model first", 3, report["deadline_at"])
        assert request.origin == f"{models['first'].database.identity.system()}:{report['request_id']}"
        assert models["second"].report(there["request_id"])["models"] == [], "it is not passed on again"


@pytest.mark.slow
def test_people_are_forgotten_in_all(tmp_path):
    with family(tmp_path, "first", "second", groups=5) as (models, ids):
        models["second"].link(models["first"].settings)
        models["second"].forget(groups=["u1"], ids=[ids[0]])
        models["first"].forget(groups=["u2"])
        models.run()
        for name in ("first", "second"):
            models.check(name, [ids[0]], ["u1", "u2"])
        assert models.live("first") == models.live("second")


def test_it_can_be_taken_back_until_it_is_passed_on(pair):
    models, ids = pair
    request = models["first"].forget(ids=[ids[1]])["request_id"]
    (there,) = models["first"].report(request)["models"]
    assert (there["state"], there["request_id"]) == ("WAITING", None)
    assert models["first"].cancel(request)["models"] == []
    assert rows_of(models["first"].database.engine, t.outbox) == []
    models.run()
    assert models["second"].ledger.requests() == []
    request = models["first"].forget(ids=[ids[2]], wait=True)
    (there,) = request["models"]
    with pytest.raises(StateError, match="a linked model passed it on"):
        models["second"].cancel(there["request_id"])


@pytest.mark.slow
def test_what_a_model_has_no_row_of_is_kept_out_of_it(tmp_path):
    with family(tmp_path, "first") as (models, ids):
        part = tmp_path / "part.parquet"
        pq.write_table(pq.read_table(models.table).slice(0, 30), part)
        models.add("second", table=part)
        models["first"].link(models["second"].settings)
        report = models["first"].forget(ids=[ids[35]], wait=True)
        (there,) = report["models"]
        assert (there["state"], there["reason"]) == ("PURGED", "it has no row here")
        models.run()
        assert models.states("first") == models.states("second") == [RequestState.PURGED]
        assert Certificates(models["second"].site.storage).all() == []
        late = tmp_path / "late.parquet"
        pq.write_table(pq.read_table(models.table).slice(30), late)
        came = models["second"].ingest(late, wait=True)
        assert (came["rows"], came["skipped"]) == (9, 1)
        assert models.live("second") == set(ids) - {ids[35]}
        assert models["second"].forget(ids=[ids[35]])["state"] == "PURGED", "it is known there"


@pytest.mark.slow
def test_an_id_of_another_model_is_named_by_it(tmp_path):
    with family(tmp_path, "first") as (models, ids):
        part = tmp_path / "part.parquet"
        pq.write_table(pq.read_table(models.table).slice(0, 30), part)
        models.add("second", table=part)
        models["first"].link(models["second"].settings)
        with pytest.raises(UnknownKeysError, match="1 of them in model first: ask it there"):
            models["second"].forget(ids=[ids[33], 999])
        with pytest.raises(UnknownKeysError, match="correct the list") as found:
            models["second"].forget(ids=[999])
        assert "model" not in found.value.remedy
        report = models["second"].forget(ids=[ids[33], ids[4], 999], ignore_unknown=True, wait=True)
        assert (report["keys"], report["ignored_unknown"]) == (1, 2)
        models.run()
        models.check("first", [ids[33], ids[4]])
        (document,) = Certificates(models["second"].site.storage).all()
        assert len(document["keys"]) == 1, "it says nothing of what it did not have"


def test_an_earlier_deadline_reaches_a_model_that_has_the_request(pair):
    models, ids = pair
    first = models["first"].forget(ids=[ids[1]], deadline_seconds=9000, wait=True)
    (before,) = models["second"].ledger.requests()
    models["first"].forget(ids=[ids[1]], deadline_seconds=900)
    earlier = models["first"].ledger.request(first["request_id"]).deadline_at
    assert earlier < before.deadline_at
    models["first"].session.coordination.step(0.0)
    (after,) = models["second"].ledger.requests()
    assert (after.request_id, after.deadline_at) == (before.request_id, earlier)
    assert forwards(models["first"]) == {first["request_id"]: ("DELIVERED", after.request_id)}


@pytest.mark.slow
def test_a_correction_stays_where_it_was_made(pair, tmp_path):
    models, ids = pair
    path = tmp_path / "corrected.parquet"
    write_table(path, 1, string_ids=False, groups=0, seed=9, start=5)
    models["first"].correct(path, wait=True)
    models.run()
    assert models["second"].ledger.requests() == []
    assert models.live("first") == models.live("second") == set(ids)
    assert models["second"].correct(path, wait=True)["ingestion"]["state"] == "SERVED"


# ---------------------------------------------------------------------- what breaks in between


@pytest.mark.parametrize("point", ["forward.accepted", "forward.commit", "accept.committed"])
@pytest.mark.sampled
def test_a_crash_between_two_ledgers_doubles_nothing(tmp_path, point):
    with family(tmp_path, "first", "second") as (models, ids):
        models["first"].link(models["second"].settings)
        request = models["first"].forget(ids=[ids[7]])["request_id"]
        crash_at(point)
        with pytest.raises(KeyboardInterrupt):
            models["first"].wait(request)
        faults.observe(None)
        models["first"]._driver = None  # it is gone with its process
        with models["first"].database.engine.begin() as connection:
            connection.execute(t.leases.update().values(expires_at=0.0))
        models.run()
        assert models.states("first") == models.states("second") == [RequestState.PURGED]
        assert forwards(models["first"]) == {request: ("DELIVERED", models["second"].ledger.requests()[0].request_id)}
        for name in ("first", "second"):
            models.check(name, [ids[7]])
            assert len(Certificates(models[name].site.storage).all()) == 1


@pytest.mark.slow
def test_a_model_out_of_reach_is_told_when_it_is_back(pair):
    models, ids = pair
    models["second"].close()
    ledger = models.folder / "second" / "ledger.sqlite3"
    ledger.rename(ledger.with_suffix(".away"))
    report = models["first"].forget(ids=[ids[7]], wait=True)
    (there,) = report["models"]
    assert (there["state"], there["request_id"]) == ("WAITING", None)
    assert "nothing was trained here" in there["reason"]
    models["first"].run(until_idle=True)
    found = models["first"].ledger.request(report["request_id"])
    assert found.state is RequestState.SERVED
    assert found.reason.startswith("not purged: model second has not got it yet")
    assert models["first"].models()[1]["state"] == "unknown"
    ledger.with_suffix(".away").rename(ledger)
    models["first"].close()
    models["first"].run(until_idle=True)
    models["first"].close()
    models.run()
    assert models.states("first") == models.states("second") == [RequestState.PURGED]
    report = models["first"].report(report["request_id"])
    assert (report["reason"], report["models"][0]["state"]) == (None, "PURGED")


def test_pauses_after_failures_grow_and_end():
    pause, waits = None, []
    for _ in range(9):
        pause = after_failure(pause, 100.0)
        waits.append(pause.until - 100.0)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.slow
def test_what_would_leave_a_model_empty_keeps_the_request_open(tmp_path):
    with family(tmp_path, "first") as (models, ids):
        part = tmp_path / "part.parquet"
        pq.write_table(pq.read_table(models.table).slice(0, 2), part)
        models.add("second", table=part)
        models["first"].link(models["second"].settings)
        report = models["first"].forget(ids=ids[:2], wait=True)
        assert "no row to train on" in report["models"][0]["reason"]
        other = models["first"].forget(ids=[ids[9]], wait=True)
        assert other["models"][0]["state"] == "PURGED", "others are not held up by it"
        models["first"].run(until_idle=True)
        assert models.states("first") == [RequestState.SERVED, RequestState.PURGED]
        models["second"].close()
        (done,) = models["first"].retire("second", reason="it would be empty")
        assert done["files_deleted"] > 0
        models["first"].close()
        models["first"].run(until_idle=True)
        assert models.states("first") == [RequestState.PURGED, RequestState.PURGED]
        assert models["first"].report(report["request_id"])["models"][0]["state"] == "retired"


CRASHES = ["forward.accepted", "forward.commit", "take.committed"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("forget"), st.integers(0, 1), st.lists(st.integers(0, 23), min_size=1, max_size=3)),
        st.tuples(st.just("step"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(
            st.just("crash"),
            st.integers(0, 1),
            st.sampled_from(["forward.accepted", "forward.commit", "take.committed"]),
        ),
        st.tuples(st.just("restart"), st.integers(0, 1)),
    ),
    min_size=3,
    max_size=12,
)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=STEPS, after=STEPS)
@pytest.mark.slow
def test_whatever_comes_in_whatever_order_both_forget_the_same(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("run")
    try:
        with family(folder, "first", "second", rows=24) as (models, ids):
            gone: dict[str, set] = {}
            play(models, ids, before, gone)
            models["first"].link(models["second"].settings)
            assert_nothing_forgotten_is_live(models)
            play(models, ids, after, gone)
            models.run()
            wanted = set().union(*gone.values())
            for name in ("first", "second"):
                assert set(models.states(name)) <= {RequestState.PURGED, RequestState.CANCELLED}
                assert models.live(name) == set(ids) - wanted
                models.check(name, wanted)
                certified = [one["request"]["id"] for one in Certificates(models[name].site.storage).all()]
                assert len(certified) == len(set(certified))
    finally:
        faults.observe(None)
        shutil.rmtree(folder)


def play(models: Family, ids: list, steps, gone: dict[str, set]) -> None:
    """Do these steps; `gone` maps requests to what they forget."""
    names = ["first", "second"]
    for verb, which, *rest in steps:
        system = models[names[which]]
        if verb == "forget":
            rows = {ids[n] for n in rest[0]}
            if len(set().union(*gone.values()) | rows) > 15:
                continue
            request = system.forget(ids=rows)["request_id"]
            gone.setdefault(request, set()).update(rows)
        elif verb == "cancel" and gone:
            request = list(gone)[rest[0] % len(gone)]
            try:
                system.cancel(request)
            except StateError:
                continue
            del gone[request]
        elif verb == "step":
            for _ in range(rest[0]):
                system.session.coordination.step(0.0)
            system.close()
        elif verb == "crash":
            crash_at(rest[0])
            try:
                for _ in range(3):
                    system.session.coordination.step(0.0)
            except KeyboardInterrupt:
                pass
            faults.observe(None)
            system.close()
        elif verb == "restart":
            system.close()


def assert_nothing_forgotten_is_live(models: Family) -> None:
    for name, other in (("first", "second"), ("second", "first")):
        states = {r.request_id: r.state for r in models[other].ledger.requests()}
        live = models.live(name)
        entries = rows_of(models[other].database.engine, t.guard)
        macs = {row.mac for row in entries if states[row.request_id] != "RECEIVED"}
        alive = {models[name].keyring.mac("id", row)[1] for row in live}
        assert not alive & macs


# ---------------------------------------------------------------------- linking


@pytest.mark.parametrize(
    ("urls", "state"),
    [("sqlite", "RECEIVED"), ("sqlite", "SERVED"), ("sqlite", "PURGED"), ("postgresql", "PURGED")],
    indirect=["urls"],
)
@pytest.mark.sampled
def test_linking_brings_what_was_forgotten_before(tmp_path, urls, state):
    with family(tmp_path, "first", "second", databases=urls) as (models, ids):
        there, here = [ids[3], ids[4]], [ids[4], ids[30]]
        for name, rows in (("first", there), ("second", here)):
            request = models[name].forget(ids=rows, strategy="retrain", wait=state != "RECEIVED")["request_id"]
            if state == "PURGED":
                models[name].run(until_idle=True)
            assert models[name].ledger.request(request).state == state
            models[name].close()
        models["first"].link(models["second"].settings)
        assert_nothing_forgotten_is_live(models)
        assert models.live("first") == models.live("second") == set(ids) - {*there, *here}
        before = [models[name].requests() for name in ("first", "second")]
        models["second"].link(models["first"].settings)
        assert [models[name].requests() for name in ("first", "second")] == before, "repeated, it changes nothing"
        models.run()
        for name in ("first", "second"):
            models.check(name, {*there, *here})
            assert set(models.states(name)) == {RequestState.PURGED}
            for document in Certificates(models[name].site.storage).all():
                assert document["keys"]


@pytest.mark.slow
def test_a_third_model_joins_all_others(pair):
    models, ids = pair
    models["first"].forget(ids=[ids[0]])
    models.run()
    models.add("third")
    listed = models["third"].link(models["first"].settings)
    assert [m["name"] for m in listed] == ["third", "first", "second"]
    assert [m["name"] for m in models["second"].models()] == ["second", "first", "third"]
    assert models.live("third") == set(ids) - {ids[0]}
    models["third"].forget(ids=[ids[1]])
    models["second"].forget(ids=[ids[2]])
    models.run()
    models.run()
    for name in models.systems:
        models.check(name, ids[:3])
        assert set(models.states(name)) == {RequestState.PURGED}


@pytest.mark.parametrize("point", ["link.half", "link.brought", "accept.committed"])
@pytest.mark.sampled
def test_a_link_that_was_broken_off_is_finished_by_repeating_it(tmp_path, point):
    with family(tmp_path, "first", "second") as (models, ids):
        for number, name in enumerate(models.systems):
            models[name].forget(ids=[ids[number]], wait=True)
            models[name].run(until_idle=True)
            models[name].close()
        crash_at(point)
        with pytest.raises(KeyboardInterrupt):
            models["first"].link(models["second"].settings)
        faults.observe(None)
        models["second"].forget(ids=[ids[9]], wait=True)
        models["second"].close()
        if point != "link.brought":
            known = models["first"].models()[1:] or [{"settled_at": None}]
            assert known[0]["settled_at"] is None
        models["first"].link(models["second"].settings)
        models.run()
        for name in ("first", "second"):
            models.check(name, [*ids[:2], ids[9]])
            assert set(models.states(name)) == {RequestState.PURGED}


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"data": {"group": "user"}}, "other id or group columns"),
        ({"sisa": {"seed": 6}}, "another partition key"),
        ({"keys": {"folder": "elsewhere"}}, "other guard keys"),
    ],
)
@pytest.mark.sampled
def test_models_that_know_people_by_other_keys_are_not_linked(tmp_path, overrides, why):
    with family(tmp_path, "first", groups=3) as (models, _):
        if "keys" in overrides:
            overrides = {"keys": {"folder": str(tmp_path / "elsewhere")}}
        models.configs["second"] = models.config("second", (2, 2))
        models.config("second", (2, 2), **{"data": {"group": None, "features": ["a", "b", "c"]}, **overrides})
        models.config("first", (3, 2))
        if "data" not in overrides:
            models.configs["second"]["data"]["group"] = "user"
        else:
            models.configs["second"]["data"]["group"] = None
        models.open("second").train()
        models["second"].keyring.stamp()
        with pytest.raises(StateError, match=why) as error:
            models["first"].link(models["second"].settings)
        assert error.value.remedy
        assert [len(models[name].models()) for name in models.systems] == [1, 1]


def test_a_link_with_itself_or_an_untrained_model_is_refused(tmp_path):
    with family(tmp_path, "first") as (models, _):
        with pytest.raises(StateError, match="with itself"):
            models["first"].link(models["first"].settings)
        models.config("second", (2, 2))
        with pytest.raises(StateError, match="nothing was trained"):
            models["first"].link(models.open("second").settings)


def test_a_password_is_not_given_to_other_models(tmp_path, postgresql):
    with postgresql.database() as url, family(tmp_path, "first", databases={"first": url}) as (models, _):
        models.add("second")
        with_password = url.replace("@", ":secret@", 1) if "@" in url else url.replace("://", "://u:secret@", 1)
        settings = hybridmu.Settings.parse({**models.configs["first"], "database_url": with_password})
        with pytest.raises(ConfigError, match="password") as error:
            plain(settings)
        assert "secret" not in str(error.value)
        assert "PGPASSWORD" in error.value.remedy


# ---------------------------------------------------------------------- retiring


@pytest.mark.slow
def test_a_retired_model_is_gone_and_the_others_go_on(pair):
    models, ids = pair
    models["second"].forget(ids=[ids[1]])  # nobody began it yet
    gone = models["first"].forget(ids=[ids[0]], wait=True)["request_id"]
    models["second"].run(until_idle=True)
    models["second"].forget(ids=[ids[2]])
    models["second"].close()
    (done,) = models["first"].retire("second", reason="superseded", caller="someone")
    assert (done["name"], done["certificates_kept"]) == ("second", 2)
    assert models["first"].models()[1]["state"] == "retired"
    later = models["first"].forget(ids=[ids[5]], wait=True)
    assert later["models"] == []
    models["first"].run(until_idle=True)
    models.check("first", [*ids[:3], ids[5]])
    assert models["first"].report(gone)["models"][0]["state"] == "retired"
    with pytest.raises(StateError, match="there is no linked model 'second'"):
        models["first"].retire("second", reason="again")
    with pytest.raises(StateError, match="decommissioned"):
        models.open("second").status()


def test_a_retirement_that_was_broken_off_is_finished(pair):
    models, ids = pair
    models["second"].close()
    crash_at("link.commit")
    with pytest.raises(KeyboardInterrupt):
        models["first"].retire("second", reason="over")
    faults.observe(None)
    report = models["first"].forget(ids=[ids[0]], wait=True)
    assert report["models"][0]["state"] == "retired", "it finds out by itself that there is nobody left to tell"
    assert models["first"].models()[1]["state"] == "retired"


@pytest.mark.slow
def test_a_model_is_not_retired_with_requests_that_nobody_else_has(pair):
    models, ids = pair
    models.add("third")
    models["first"].link(models["third"].settings)
    models["third"].close()
    ledger = models.folder / "third" / "ledger.sqlite3"
    ledger.rename(ledger.with_suffix(".away"))
    models["second"].forget(ids=[ids[0]], wait=True)
    models["second"].close()
    for end in (lambda: models["first"].retire("second", reason="over"), lambda: models["second"].decommission("over")):
        with pytest.raises(StateError, match="have not got all requests"):
            end()
    models["second"].hold("a court asked")
    with pytest.raises(StateError, match="legal hold"):
        models["first"].retire("second", reason="over")
    models["second"].lift(1)
    assert models["second"].status()["version"] == 2
    (done,) = models["second"].retire("third", reason="its disk is gone", lost=True)
    assert done["files_deleted"] == 0
    models["second"].run(until_idle=True)
    assert models.states("second") == [RequestState.PURGED]
    models["second"].close()
    models["first"].retire("second", reason="over")


# ---------------------------------------------------------------------- restores and readmissions


@pytest.mark.slow
def test_after_a_restore_linking_again_brings_everything(pair, tmp_path):
    models, ids = pair
    back_up(models["first"], tmp_path / "backup")
    models["first"].forget(ids=[ids[0]])
    models["second"].forget(ids=[ids[1]])
    models["first"].forget(ids=[ids[2]])
    models.run()
    lost = models["second"].forget(ids=[ids[3]], wait=True)  # the first has it, and forgets that it has
    assert lost["models"][0]["state"] == "RECEIVED"
    models["first"].close()
    models["second"].close()
    ledger = models.folder / "first" / "ledger.sqlite3"
    for suffix in ("-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    ledger.unlink()
    shutil.copy(tmp_path / "backup", ledger)
    system = models.open("first")
    with pytest.raises(StateError, match="older than its storage"):
        system.run(until_idle=True)
    assert system.replay()["unsettled"] == []
    models["first"].link(models["second"].settings)
    assert_nothing_forgotten_is_live(models)
    models.run()
    for name in ("first", "second"):
        models.check(name, ids[:4])
        assert set(models.states(name)) == {RequestState.PURGED}


@pytest.mark.slow
def test_what_a_model_let_back_in_stays_when_they_are_linked_again(pair, tmp_path):
    models, ids = pair
    models["first"].forget(ids=[ids[0]])
    models.run()
    models["first"].readmit(ids=[ids[0]], reason="they asked")
    path = tmp_path / "back.parquet"
    pq.write_table(pq.read_table(models.table).slice(0, 1), path)
    models["first"].ingest(path, wait=True)
    models["first"].link(models["second"].settings)
    assert ids[0] in models.live("first")
    assert ids[0] not in models.live("second")
    models["second"].close()
    with pytest.raises(HybridMUError):
        models["second"].forget(ids=[99999])
    models["first"].forget(ids=[ids[0]], wait=True)
    assert models.live("first") == set(ids) - {ids[0]}
