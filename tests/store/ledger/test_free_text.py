"""Ids that are words: callers, reasons, folders, categories and our own schema keep no purge from ending."""

from __future__ import annotations

import getpass
import json
import re
import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.proof.byte_search import Needles
from hybridmu.errors import PurgeError
from hybridmu.runtime.purge.own_files import advice, own_text
from hybridmu.runtime.purge.storage_scan import Look
from hybridmu.store.dataset.layout import MANIFEST
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ledger.purge import free_text
from hybridmu.store.ledger.purge.database_scrub import clean
from hybridmu.store.ledger.purge.free_text import REDACTED, redacted
from hybridmu.store.storage.sealed_json import sealed
from hybridmu.types import RequestState
from tests.support import local_system, replaced, table, write

PERSON = "household-4711"
SMALL = {"shards": 2, "slices": 2, "epochs": 2}


def system_of(folder, name=PERSON, **overrides):
    """Return a system in which rows of three people are called so."""
    made = table(60, groups=9, ids="str")
    people = [name if person == "p3" else person for person in made["person"].to_pylist()]
    write(folder, replaced(made, "person", pa.array(people)))
    data = {"group": "person", **overrides.pop("data", {})}
    made = local_system(folder, sisa=SMALL, data=data, policy={"verify_share": 0.0}, **overrides)
    made.train()
    return made


@pytest.mark.slow
def test_a_request_by_a_caller_of_that_name(tmp_path):
    with system_of(tmp_path) as system:
        name = system.forget(groups=[PERSON], caller=PERSON)["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(name).state is RequestState.PURGED
        assert system.ledger.request(name).caller == PERSON, "a caller finds his requests"


def held(system):
    number = system.hold(f"court order {PERSON}", system.forget(groups=[PERSON])["request_id"], caller=PERSON)["number"]
    system.lift(number)


def named_by_a_token(system):
    system.database.tokens.create(PERSON, ["forget"])
    system.forget(groups=[PERSON])


def readmitted(system):
    row = next(row for row in ("r0", "r1", "r2") if system.plan(ids=[row]).shards)
    system.forget(ids=[row], wait=True)
    system.run(until_idle=True)
    system.readmit(ids=[row], reason=f"asked by {PERSON}")
    system.forget(groups=[PERSON])


def cancelled(system):
    system.pause(f"because of {PERSON}")
    system.cancel(system.forget(groups=[PERSON])["request_id"], PERSON)
    system.resume()
    system.forget(groups=[PERSON])


@pytest.mark.parametrize("life", [held, named_by_a_token, readmitted, cancelled], ids=lambda life: life.__name__)
@pytest.mark.sampled
def test_what_people_wrote_is_kept_without_the_name(tmp_path, life):
    with system_of(tmp_path) as system:
        life(system)
        system.run(until_idle=True)
        states = {request["state"] for request in system.requests()}
        assert states <= {"PURGED", "CANCELLED"}, [request["reason"] for request in system.requests()]
        with system.database.engine.connect() as connection:
            said = [text for column in free_text.FREE for text in connection.scalars(sa.select(column)) if text]
        assert not any(PERSON in text for text in said)
        if life is not named_by_a_token:
            assert any(REDACTED in text for text in said)


@pytest.mark.parametrize("word", ["requests", "tombstones", "manifest", "caller", "hybridmu", "journal/", "0004_seals"])
@pytest.mark.sampled
def test_a_group_that_is_a_word_of_ours(tmp_path, word):
    with system_of(tmp_path, word) as system:
        name = system.forget(groups=[word])["request_id"]
        system.run(until_idle=True)
        request = system.ledger.request(name)
        assert (request.state, request.reason) == (RequestState.PURGED, None)


def test_a_group_that_is_a_folder_of_the_configuration(tmp_path):
    folder = tmp_path / PERSON
    folder.mkdir()
    with system_of(folder) as system:
        name = system.forget(groups=[PERSON])["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(name).state is RequestState.PURGED


@pytest.mark.slow
def test_a_group_that_is_a_declared_category_or_a_class(tmp_path):
    made = table(60, groups=9, ids="str")
    people = pa.array([f"household-{person}" for person in made["person"].to_pylist()])
    known = sorted(set(people.to_pylist()))
    made = replaced(replaced(made, "person", people), "label", people).append_column("city", people)
    write(tmp_path, made)
    data = {"group": "person", "categories": {"city": known}}
    with local_system(tmp_path, sisa=SMALL, data=data, policy={"verify_share": 0.0}) as system:
        system.train()
        name = system.forget(groups=[known[2]])["request_id"]
        system.run(until_idle=True)
        request = system.ledger.request(name)
        assert (request.state, request.reason) == (RequestState.PURGED, None)
        assert known[2] in system.site.lake.manifest.encoder.classes, "declared, and as it was"


def test_the_login_is_the_default_caller_of_commands(tmp_path):
    with system_of(tmp_path, f"{getpass.getuser()}-at-home") as system:
        name = system.forget(groups=[f"{getpass.getuser()}-at-home"], caller=f"{getpass.getuser()}-at-home")
        system.run(until_idle=True)
        assert system.ledger.request(name["request_id"]).state is RequestState.PURGED


# ---------------------------------------------------------------------- the database


def test_every_column_of_free_text_is_redacted_and_the_rest_stays(ledger, engine):
    controls = Controls(engine)
    controls.hold(None, f"court order {PERSON}", PERSON)
    controls.pause(f"because of {PERSON} and Jürgen-Öztürk", "ops")
    looked = clean(engine, [PERSON.encode(), "Jürgen-Öztürk".encode()], lambda: None)
    assert looked["needles"] == 2
    [hold] = controls.holds()
    assert (hold.reason, hold.caller) == ("court order [gone]", PERSON)
    assert controls.paused().reason == "because of [gone] and [gone]"


def test_every_other_column_is_searched(ledger, engine):
    """A column that nobody declared holds row data, be it of a later release."""
    known = {(column.table.name, column.name) for column in free_text.FREE}
    searched = {
        (made.name, column.name)
        for made in t.metadata.sorted_tables
        for column in made.columns
        if isinstance(column.type, (sa.String, sa.LargeBinary))
        and not free_text.is_declared(made.name, column.name)
        and not free_text.is_ours(made.name, column.name)
    }
    assert searched - known == {
        *(("guard", "listed"), ("approvals", "document"), ("replies", "token")),
        *(("meta", "value"), ("named", "mac"), ("claims", "document"), ("idempotency", "key")),
        *(("idempotency", "payload"), ("tombstones", "key"), ("guard", "mac"), ("outbox", "document")),
        *(("tokens", "digest"), ("console_sessions", "digest"), ("readmissions", "mac"), ("surveys", "document")),
        ("curves", "digests"),
    }


def test_a_table_of_somebody_else_is_searched_and_named(ledger, engine):
    if engine.dialect.name != "sqlite":
        pytest.skip("a server may hold other databases' tables")
    for statement in (
        f"CREATE TABLE notes AS SELECT '{PERSON}' AS said",
        "CREATE TABLE notes AS SELECT x'ff' || CAST('" + PERSON + "' AS BLOB) AS said",
        f'CREATE TABLE "of {PERSON}" (x)',
        f'CREATE TABLE notes ("{PERSON}")',
    ):
        with closing(sqlite3.connect(engine.url.database)) as other, other:
            other.execute(statement)
        with pytest.raises(PurgeError, match=r"table (notes|of .*) still holds a purged key"):
            clean(engine, [PERSON.encode()], lambda: None)
        with closing(sqlite3.connect(engine.url.database)) as other, other:
            other.execute(re.sub(r"CREATE TABLE (\"[^\"]*\"|\w+).*", r"DROP TABLE \1", statement))
    clean(engine, [PERSON.encode()], lambda: None)


def test_a_digest_is_no_word_wherever_it_stands(ledger, engine):
    digest = bytes(range(16))
    with engine.begin() as connection:
        connection.execute(t.seals.insert().values(name=f"lake/{digest.hex()}", seal="x"))
    with pytest.raises(PurgeError, match="table seals still holds a purged key in name"):
        clean(engine, [digest], lambda: None)


texts = st.text(alphabet="ab[]gone-é ", min_size=8, max_size=12)


@given(texts, st.lists(texts, min_size=1, max_size=4), st.integers(0, 3))
def test_nothing_that_is_searched_for_stays_in_a_text(around, names, repeat):
    needles = Needles([name.encode() for name in names])
    said = around + around.join(names) + names[0] * repeat
    kept = redacted(said, needles)
    assert needles.in_(kept.encode()) == set()
    assert (kept == said) == (needles.in_(said.encode()) == set())


# ---------------------------------------------------------------------- storage


@pytest.fixture
def lake(tmp_path):
    with system_of(tmp_path) as system:
        system.forget(groups=["p1"], wait=True)
        yield system.site.lake


def searched(lake, needles):
    """Return file → needles; the ledger that lies in storage is searched elsewhere."""
    return Look(lake, needles, lake.storage.path("ledger.sqlite3")).run()[0]


def entry_of(lake) -> str:
    return next(info.name for info in lake.storage.list("journal") if len(info.name) > 40)


def test_words_of_our_own_files_are_no_hit_and_digests_are(lake):
    words = {b"requests", b"tombstones", b"encoder", b"generations", b"manifest", b"shard-00000"}
    assert searched(lake, words) == {}
    name = entry_of(lake)
    document = json.loads(lake.storage.read(name))
    digest = bytes.fromhex(document["tombstones"][0]["key"]["hex"])
    assert searched(lake, {*words, digest}) == {name: frozenset({digest})}


def test_what_is_not_exactly_ours_is_searched_in_full(lake):
    name = entry_of(lake)
    document = json.loads(lake.storage.read(name))
    document.pop("seal")
    whole = lake.storage.read(MANIFEST)
    for file, data in (
        (name, sealed({**document, "note": PERSON})),
        (name, sealed({**document, "requests": [{**document["requests"][0], "note": PERSON}]})),
        (name, PERSON.encode()),
        (name, json.dumps({"note": PERSON}).encode()),
        (MANIFEST.replace("manifest", "manifest-of-today"), whole + PERSON.encode()),
        ("lake/layout", PERSON.encode()),
        ("journal/notes.json", sealed({"note": PERSON})),
    ):
        before = lake.storage.read(file) if lake.storage.exists(file) else None
        lake.storage.write(file, data)
        assert set(searched(lake, {PERSON.encode()})) == {file}
        if before is None:
            lake.storage.delete(file)
        else:
            lake.storage.write(file, before)


def test_nobody_is_told_to_delete_a_file_of_ours(lake):
    assert own_text("exports/x.csv", bytes) is None
    assert advice("exports/x.csv") == "delete it, or move it elsewhere"
    assert "Ray's" in advice("/tmp/ray/session/logs/raylet.out of node 1")
    names = [info.name for info in lake.storage.list() if not info.name.startswith(("blobs", "lake/g", "ledger"))]
    assert {MANIFEST, "hybridmu.json", "lake/layout", "journal/state.json"} < set(names)
    for name in names:
        assert "don't delete it" in advice(name), name


def test_a_reason_never_reaches_the_journal_and_an_older_one_leaves_it(tmp_path):
    with system_of(tmp_path) as system:
        name = system.forget(groups=["p1"], wait=False)["request_id"]
        with system.database.engine.begin() as connection:
            mine = t.requests.c.request_id == name
            connection.execute(t.requests.update().where(mine).values(reason=f"not yet: {PERSON}"))
        lake, journal = system.site.lake, system.database.journal(system.site.storage)
        journal.keep([name])
        document = json.loads(lake.storage.read(entry_of(lake)))
        assert [row["reason"] for row in document["requests"]] == [None]
        document["requests"][0]["reason"] = f"not yet: {PERSON}"
        document.pop("seal")
        lake.storage.write(entry_of(lake), sealed(document))
        assert set(searched(lake, {PERSON.encode()})) >= {entry_of(lake)}
        journal.scrub((), ())
        assert PERSON.encode() not in lake.storage.read(entry_of(lake))
