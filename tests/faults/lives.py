"""Lives of processes: a node that serves a schedule, and one that looks at the end."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa

import hybridmu
from hybridmu.core.kernel.partition import digest
from hybridmu.errors import CorruptBlobError, StateError
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.layout import LAYOUT, MANIFEST
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger import tables as t
from hybridmu.store.ownership import MARKER
from hybridmu.store.storage.blob_names import blob_file, lineage_file
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check, check_chain
from tests.faults.worlds import Act, second
from tests.support import HANG_SECONDS, rows_of

FINAL = {RequestState.PURGED, RequestState.CANCELLED}
_PATIENCE = HANG_SECONDS
Say = Callable[[dict[str, Any]], None]


def speak(pipe: int) -> Say:
    """Return a function that tells the parent something; it knows what was told even after `kill -9`."""

    def say(words: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(words).encode() + b"\n")

    return say


def live(config: dict[str, Any], acts: Sequence[Act], told: Mapping[str, str], reached: int, say: Say) -> None:
    """Be the node until every request is purged and nothing is owed.

    Args:
        config: The configuration.
        acts: What clients do.
        told: What they were answered in earlier lives: name of the act → request, or state.
        reached: Steps that earlier lives made; what was due by then is asked before the first step.
        say: Tells the parent of every answer, before anything else is done, and of every step.
    """
    with models(config) as systems:
        system = systems[0]
        for each in systems:
            let_time_pass(each.settings.model_dump(mode="json"))
            each.train()
        for other in systems[1:]:
            system.link(other.settings)
        answers = dict(told)
        todo = [act for act in acts if act.name not in answers]
        quiet, end = 0, time.monotonic() + _PATIENCE
        # With nothing to do the coordinator reads one shard a step, looking for damage.
        while quiet <= systems[-1].settings.sisa.shards:
            while todo and todo[0].step <= reached:
                act = todo.pop(0)
                answers[act.name] = _do(systems[act.linked], act, answers)
                say({"name": act.name, "answer": answers[act.name]})
            snapshots = [each.session.coordination.step(0.0) for each in systems]
            reached += 1
            say({"reached": reached})
            quiet = quiet + 1 if not todo and all(map(settled, systems, snapshots)) else 0
            assert time.monotonic() < end, f"does not end: {snapshots}, {system.requests()}, {system.ingests()}"


@contextmanager
def models(config: dict[str, Any]) -> Iterator[list[hybridmu.System]]:
    """Yield the model of a configuration, and the one that is linked with it."""
    with ExitStack() as stack:
        every = [config, second(config)] if Path(second(config)["storage_url"]).exists() else [config]
        if len(every) > 1:
            every[0] = {**config, "keys": every[1]["keys"]}
        yield [stack.enter_context(hybridmu.connect(each, executor="local")) for each in every]


def settled(system: hybridmu.System, snapshot: Snapshot) -> bool:
    """Return whether every request came to its end and no shard owes anything."""
    states = {request.state for request in system.ledger.requests()}
    assert RequestState.FAILED not in states, system.requests()
    at_work = snapshot.jobs_total or snapshot.calibrating or snapshot.purging or snapshot.ingestions
    at_work = at_work or system.linked.forwards.waiting(begun=False)
    return states <= FINAL and not at_work and not system.registry.debts()


def let_time_pass(config: dict[str, Any]) -> None:
    """Let the lease of a killed coordinator run out, and what a killed client left grow old: that saves the wait."""
    for path in Path(config["storage_url"], "incoming").glob("*"):
        os.utime(path, (0, 0))
    url = sa.make_url(hybridmu.Settings.parse(config).database)
    if url.drivername == "sqlite" and not Path(str(url.database)).exists():
        return
    engine = sa.create_engine(url if url.drivername == "sqlite" else url.set(drivername="postgresql+psycopg"))
    with (
        suppress(sa.exc.DatabaseError, UnicodeDecodeError),
        engine.begin() as connection,
    ):  # a damaged one is for the system to notice
        if sa.inspect(connection).has_table("leases"):
            connection.execute(t.leases.update().values(expires_at=0.0))
    engine.dispose()


def look(config: dict[str, Any], acts: Sequence[Act], told: Mapping[str, str]) -> dict[str, Any]:
    """Return what is wrong at the end: lost, done twice, or not as it has to be; and the weights."""
    found: dict[str, Any] = {"lost": [], "doubled": [], "diverged": [], "blobs": {}}
    with models(config) as systems:
        known = [{request.request_id for request in system.ledger.requests()} for system in systems]
        for number, system in enumerate(systems):
            one = _look(system, acts, [act for act in acts if act.linked == number], told)
            for kind in ("lost", "doubled", "diverged"):
                found[kind] += one[kind]
            where = "second/" if number else ""
            found["blobs"] |= {f"{where}{shard}": blob for shard, blob in one["blobs"].items()}
            for row in rows_of(system.database.engine, t.forwards):
                if row.state != "DELIVERED" or row.there not in known[1 - number]:
                    found["lost"].append(f"{row.request_id} is {row.state} in the linked model, as {row.there}")
    return found


def _look(
    system: hybridmu.System, everything: Sequence[Act], acts: Sequence[Act], told: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is wrong in one model, of which `acts` were asked."""
    asked = {act.key: told[act.key] for act in acts if act.verb in {"forget", "correct"}}
    requests = {request.request_id: request for request in system.ledger.requests()}
    documents = Certificates(system.site.storage).all()
    certified = Counter(document["request"]["id"] for document in documents)
    taken_back = [act for act in everything if act.verb == "cancel" and told[act.name] == RequestState.CANCELLED]
    back = {told[act.key] for act in taken_back}
    lost, doubled = [], []
    for key, request_id in asked.items():
        request, wanted = requests.get(request_id), FINAL - {RequestState.CANCELLED}
        wanted = {RequestState.CANCELLED} if request_id in back else wanted
        if request is None or request.state not in wanted:
            lost.append(f"{key}: {request}")
        elif certified[request_id] != (request_id not in back):
            doubled.append(f"{key}: {certified[request_id]} certificates")
    passed_on = {name: request for name, request in requests.items() if request.origin}
    for name, request in passed_on.items():
        if certified[name] != (request.keys > 0):
            doubled.append(f"{name}, passed on: {certified[name]} certificates")
    lost += [f"{new['ingest_id']} is {new['state']}" for new in system.ingests() if new["state"] != "SERVED"]
    repeats = [act for act in acts if act.verb == "repeat"]
    doubled += [f"{act.name} became another request" for act in repeats if told[act.name] != asked[act.key]]
    doubled += [f"{name} was never asked for" for name in requests.keys() - passed_on.keys() - set(asked.values())]
    doubled += _twice(system)
    diverged = [*_rows(system, [act for act in everything if told.get(act.key) not in back], lost)]
    keys = [*Keyring(system.settings).public_keys().values()]
    for document in documents:
        diverged += [f"certificate: {found}" for found in check(document, keys).items if not found.ok]
    diverged += [f"chain: {found}" for found in check_chain(documents, keys).items if not found.ok]
    diverged += _files(system, len(documents))
    forgets = [act for act in everything if act.verb == "forget" and told.get(act.key) not in back]
    diverged += _canaries(system, [row for act in forgets for row in act.ids])
    blobs = {str(sub.shard): sub.blob for sub in system.registry.version().shards}
    return {"lost": lost, "doubled": doubled, "diverged": diverged, "blobs": blobs}


def _do(system: hybridmu.System, act: Act, answers: Mapping[str, str]) -> str:
    tables = Path(system.settings.data.train).parent
    if act.verb == "cancel":
        try:
            return str(system.cancel(answers[act.key])["state"])
        except StateError as error:
            return str(error)
    if act.verb == "hold":
        return str(system.hold("a court")["number"])
    if act.verb == "lift":  # every one: who is killed before he is answered asks again
        for placed in system.holds():
            system.lift(placed["number"])
        return "lifted"
    if act.verb == "ingest":
        return str(system.ingest(tables / "new.parquet", key=act.key)["ingest_id"])
    if act.verb == "correct":
        return str(system.correct(tables / f"corrected-{act.ids[0]}.parquet", key=act.key)["request_id"])
    report = system.forget(ids=act.ids, groups=act.groups, strategy=act.strategy, key=act.key)  # type: ignore[arg-type]
    return str(report["request_id"])


def _canaries(system: hybridmu.System, forgotten: Iterable[int]) -> Iterable[str]:
    """Yield what is wrong with the calibration: a canary that is forgotten, or canaries that lack."""
    canaries = Canaries(system.site, system.ledger, system.measurements, system.registry)
    known = {key for curve in system.measurements.curves() for key in curve.keys}
    if any(digest(system.site.lake.key, "id", row) in known for row in forgotten):
        yield "a forgotten row is a canary"
    if lacking := canaries.lacking():
        yield f"canaries lack: {lacking}"


def _twice(system: hybridmu.System) -> Iterable[str]:
    """Yield what was applied more than once: every new sub-model has removed more than the last, or has new rows."""
    before: dict[int, tuple[Any, ...]] = {}
    engine = system.database.engine
    for row in sorted(rows_of(engine, t.version_shards), key=lambda row: row.version):
        now = (row.exact_upto, row.removed_upto, len(json.loads(row.checkpoints)))
        if row.shard in before and now <= before[row.shard]:
            yield f"version {row.version} has nothing new in shard {row.shard}"
        before[row.shard] = now
    lake = system.site.lake
    stones: Counter[tuple[int, int]] = Counter()
    for row in rows_of(engine, t.tombstones):
        stones[row.shard, row.slice] += row.rows
    for shard, slices in enumerate(lake.manifest.rows["train"]):
        left, _ = lake.counts("train", shard, set())
        for slice_, (ingested, here) in enumerate(zip(slices, left, strict=True), start=1):
            if ingested - here != (counted := stones[shard, slice_]):
                yield f"{ingested - here} row(s) left slice {slice_} of shard {shard}, the tombstones count {counted}"


def _rows(system: hybridmu.System, done: Sequence[Act], lost: list[str]) -> Iterable[str]:
    """Yield which rows are gone or doubled; add those that are still there to what was lost."""
    ids = {number for act in done for number in act.ids if act.verb == "forget"}
    groups = {name for act in done for name in act.groups}
    wanted = {number for act in done for number in act.ids if act.verb == "ingest"}
    for row in pq.read_table(system.settings.data.train).to_pylist():
        wanted |= {row["id"]} if row["id"] not in ids and row.get("person") not in groups else set()
    there = [row for name in _tables(system) for row in pq.read_table(name, columns=["id"])["id"].to_pylist()]
    lost += [f"row {row} is still there" for row in sorted(set(there) - wanted)]
    yield from (f"row {row} is gone" for row in sorted(wanted - set(there)))
    yield from (f"row {row} is there {count} times" for row, count in Counter(there).items() if count > 1)


def _tables(system: hybridmu.System) -> list[str]:
    lake = system.site.lake
    return [
        lake.storage.path(name)
        for shard in range(lake.shards)
        for name in (*lake.files("train", shard), *lake.files("validation", shard))
    ]


def _files(system: hybridmu.System, certificates: int) -> Iterable[str]:
    """Yield files that nothing stands on, and those that are missing or damaged."""
    site, version = system.site, system.registry.version()
    known = {MANIFEST, LAYOUT, MARKER, *(f"certificates/{number:08d}.json" for number in range(1, certificates + 1))}
    known |= {f"ledger.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")} | {
        "journal/state.json",
        "journal/seals.json",
    }
    requests = {request.request_id for request in system.ledger.requests()}
    for name in (file.name for file in site.storage.list("journal")):
        mine = {row["request_id"] for row in json.loads(site.storage.read(name)).get("requests", ())}
        known |= {name} if mine and mine <= requests else set()  # it covers what was begun, each once
        requests -= mine
    known |= {name.removeprefix(f"{site.storage.root}/") for name in _tables(system)}
    known |= {name for part in range(site.lake.shards) for name in site.lake.index_files(part)}
    for sub in version.shards:
        known |= {blob_file(record.blob) for record in sub.checkpoints}
        known |= {lineage_file(sub.shard, record.lineage_key) for record in sub.checkpoints}
        there = {record.blob for record in sub.checkpoints if site.blobs.find(sub.shard, record.lineage_key)}
        for ref in there | ({sub.blob} if sub.blob else set()):
            try:
                site.blobs.get(ref)
            except CorruptBlobError as error:
                yield str(error)
    yield from (f"{file.name} is an orphan" for file in site.storage.list() if file.name not in known)
    yield from (f"{path} is left" for path in system.settings.keys_folder.glob(".*"))
    yield from (f"{path} is left" for path in Path(site.storage.root).glob("*staging*"))
