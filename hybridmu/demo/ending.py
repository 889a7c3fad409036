"""Last steps of deletions: exact repairs, purge, look, certificates, and what anyone can check of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybridmu.demo.screen import Phases
from hybridmu.runtime.audit.replay import Verdict, replay
from hybridmu.store.certificates import Certificates
from hybridmu.store.dataset.layout import stored_name
from hybridmu.system.system import System
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check, check_chain

_PURGE_SECONDS = 120.0
_MOMENTS = ("applied", "served", "exact", "purged")


def repair(system: System, phases: Phases, approximate: int) -> dict[str, Any]:
    """Make exact what updates changed, and prove every shard against a training from scratch.

    Args:
        system: The system.
        phases: The demo's bar.
        approximate: How many shards were updated approximately.

    Returns:
        How many shards are exact now, and whether all of them equal the oracle bit for bit.
    """
    phases.begin("retraining exactly what updates changed")
    system.run(until_idle=True, watch=phases.watch_jobs)
    phases.begin("proving every shard against a training from scratch")
    proof = system.verify(watch=phases.count)
    return {
        "approximate": approximate,
        "exact": proof["exact_shards"],
        "shards": len(proof["shards"]),
        "proven": proof["bitwise_equal"] and not proof["approximate_shards"],
        "accuracy": proof["accuracy"],
        "oracle_accuracy": proof["oracle_accuracy"],
    }


def purge(
    system: System, phases: Phases, requests: Sequence[str], hold: int, keys: Mapping[str, Collection[object]]
) -> dict[str, Any]:
    """Lift the hold and follow the coordinator until every request is PURGED.

    The tables are also read from outside, before and after, for rows of the forgotten ids and groups: a count that
    does not rest on what the purge says of itself.

    Args:
        system: The system.
        phases: The demo's bar.
        requests: All requests.
        hold: The legal hold that kept their rows.
        keys: `ids` and `groups` that were forgotten.

    Returns:
        What went, what was searched, how many rows are left, and why a request is not PURGED.
    """
    phases.begin("purging, looking, signing")
    before = rows_left(system, **keys)
    system.lift(hold)
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
        "rows_after": rows_left(system, **keys),
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


def replayed(system: System, phases: Phases, request_id: str) -> dict[str, Any] | None:
    """Train what the certificate of one request says anew, as `hybridmu certificate verify --replay` does.

    Args:
        system: The system.
        phases: The demo's bar.
        request_id: The newest request: later ones would have taken more rows from its shards.

    Returns:
        The verdict; None without a certificate.
    """
    phases.begin("replaying the newest certificate")
    document = next((found for found in _documents(system) if found["request"]["id"] == request_id), None)
    if document is None:
        return None
    ended = replay(system.settings, document)
    return {
        "number": document["number"],
        "verdict": str(ended.verdict),
        "confirmed": ended.verdict is Verdict.CONFIRMED,
        "detail": ended.detail,
    }


def rows_left(system: System, ids: Collection[object], groups: Collection[object]) -> int:
    """Return how many rows of these ids and groups Parquet files under storage have, by opening every one.

    Args:
        system: The system; its storage is local.
        ids: Row ids.
        groups: Groups.
    """
    storage, data = system.site.storage, system.settings.data
    wanted = [(stored_name(data.id), pa.array(list(ids)))]
    wanted += [(stored_name(data.group), pa.array(list(groups)))] if data.group else []
    count = 0
    for file in storage.list():
        if not file.name.endswith(".parquet"):
            continue
        table = pq.read_table(storage.path(file.name))
        held = [
            pc.is_in(table[name], value_set=values.cast(table[name].type))
            for name, values in wanted
            if name in table.column_names and len(values)
        ]
        if held:
            count += pc.sum(reduce(pc.or_, held)).as_py() or 0
    return count


def _documents(system: System) -> list[dict[str, Any]]:
    return Certificates(system.site.storage).all()


def _purged(system: System, requests: Sequence[str]) -> int:
    return sum(system.ledger.request(name).state is RequestState.PURGED for name in requests)


def _removal(document: Mapping[str, Any]) -> str:
    """Return what the shards went through, as in `7 dpus-optimised -> retrain, 1 retrain`."""
    ways = Counter(" -> ".join(stage["strategy"] for stage in shard["stages"]) for shard in document["shards"])
    return ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
