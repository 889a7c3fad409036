"""Last steps of deletions: exact repairs, purge, look, and certificates that are checked and shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybridmu.demo.screen import Phases
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.layout import stored_name
from hybridmu.system.system import System
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check, check_chain
from hybridmu.verifier.page import page
from hybridmu.verifier.plain_data import canonical
from hybridmu.verifier.verdict import judge

_PURGE_SECONDS = 120.0
_MOMENTS = ("applied", "served", "exact", "purged")


def repair(system: System, phases: Phases) -> float:
    """Make exact what updates changed.

    Args:
        system: The system.
        phases: The demo's bar.

    Returns:
        The seconds that it took.
    """
    phases.begin("retraining exactly what the update changed")
    started = time.perf_counter()
    system.run(until_idle=True, watch=phases.watch_jobs)
    return time.perf_counter() - started


def purge(
    system: System, phases: Phases, requests: Sequence[str], ids: Collection[object], before: int
) -> dict[str, Any]:
    """Follow the coordinator until every request is PURGED.

    The tables are also read from outside, before and after, for rows of the forgotten ids: a count that does not rest
    on what the purge says of itself.

    Args:
        system: The system; nothing holds its rows back.
        phases: The demo's bar.
        requests: All requests.
        ids: What they named.
        before: Rows of these ids that files had before anything was forgotten, from `rows_left`.

    Returns:
        What went, what was searched, how many rows are left, and why a request is not PURGED.
    """
    phases.begin("purging, looking, signing")
    patience = time.monotonic() + _PURGE_SECONDS
    while (done := _purged(system, requests)) < len(requests) and time.monotonic() < patience:
        phases.count(done, len(requests))
        system.run(until_idle=True)
    # Requests that were purged together share what was counted.
    batches = {document["times"]["issued_at"]: document["purge"] for document in _documents(system)}.values()
    waiting = [request for request in map(system.ledger.request, requests) if request.state is not RequestState.PURGED]
    return {
        **{what: sum(batch[what] for batch in batches) for what in ("rows", "tables", "files")},
        "looks": [batch["looked"] for batch in batches],
        "rows_before": before,
        "rows_after": rows_left(system, ids),
        "not_purged": [request.reason or "not purged yet" for request in waiting],
    }


def certificates(system: System, phases: Phases, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Check every certificate as `hybridmu certificate verify --chain` does.

    Args:
        system: The system; its public keys are the trusted ones.
        phases: The demo's bar.
        names: Request → what the demo calls it.

    Returns:
        One entry per certificate: how many of its claims hold, and whether the chain up to it does.
    """
    phases.begin("checking the certificates")
    trusted = [*system.keyring.public_keys().values()]
    documents = _documents(system)
    found = []
    for number, document in enumerate(documents, start=1):
        claims = check(document, trusted).items
        phases.count(number, len(documents))
        times = document["times"]
        found.append({
            "number": document["number"],
            "request_id": document["request"]["id"],
            "name": names.get(document["request"]["id"], "?"),
            "removal": _removal(document),
            "proofs": sum(len(shard["proofs"]) for shard in document["shards"]),
            "checks": len(claims),
            "checks_held": sum(claim.ok for claim in claims),
            "chain": check_chain(documents[:number], trusted).ok,
            "broken": [claim.claim for claim in claims if not claim.ok],
            "deadline_kept": times["deadline_kept"],
            **{f"seconds_to_{moment}": times[f"seconds_to_{moment}"] for moment in _MOMENTS},
        })
    return found


def certificate_page(system: System, phases: Phases, request_id: str) -> str | None:
    """Return the certificate of a request as a page for people; None where there is none.

    Args:
        system: The system; its public keys are the trusted ones.
        phases: The demo's bar.
        request_id: The request.
    """
    phases.begin("writing the certificate for people")
    document = next((found for found in _documents(system) if found["request"]["id"] == request_id), None)
    if document is None:
        return None
    trusted = [*system.keyring.public_keys().values()]
    return page(judge(f"certificate {document['number']}", canonical(document), trusted))


def rows_left(system: System, ids: Collection[object]) -> int:
    """Return how many rows of these ids Parquet files under storage have, by opening every one.

    Args:
        system: The system; its storage is local.
        ids: Row ids.
    """
    storage, name = system.site.storage, stored_name(system.settings.data.id)
    wanted, count = pa.array(list(ids)), 0
    for file in storage.list():
        if not file.name.endswith(".parquet"):
            continue
        table = pq.read_table(storage.path(file.name))
        if name in table.column_names:
            count += pc.sum(pc.is_in(table[name], value_set=wanted.cast(table[name].type))).as_py() or 0
    return count


def _documents(system: System) -> list[dict[str, Any]]:
    return Certificates(system.site.storage).all()


def _purged(system: System, requests: Sequence[str]) -> int:
    return sum(system.ledger.request(name).state is RequestState.PURGED for name in requests)


def _removal(document: Mapping[str, Any]) -> str:
    """Return what the shards went through, as in `7 dpus-optimised -> retrain, 1 retrain`."""
    ways = Counter(" -> ".join(stage["strategy"] for stage in shard["stages"]) for shard in document["shards"])
    return ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
