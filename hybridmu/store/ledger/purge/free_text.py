"""Free text in the ledger: columns that hold more than row data, and the redaction of what people wrote.

An id or group may be a word that stands in the ledger for another reason: a caller's name, a folder of the
configuration, a word of our own. Those columns are named here; every other column is row data, also one of a later
release or of somebody else, and must not hold what was purged in any form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.core.proof.byte_search import Needles
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.engine.transactions import reader


def _names(columns: Iterable[sa.Column[object]]) -> frozenset[tuple[str, str]]:
    return frozenset((column.table.name, column.name) for column in columns)


# Shorter than any text that is searched for, so that none is found in it.
REDACTED = "[gone]"
# Reasons, in the words of an operator or of an error: a purge takes the names of purged rows out of them.
FREE = (
    *(t.requests.c.reason, t.forwards.c.reason, t.holds.c.reason, t.guard_losses.c.reason, t.readmissions.c.reason),
    *(t.ingestions.c.reason, t.evidence.c.refused),
)
# Names that an operator gave to callers, models and machines, and the configuration: not searched.
_DECLARED = _names({
    *(t.requests.c.caller, t.requests.c.origin, t.tokens.c.caller, t.guard_losses.c.caller, t.readmissions.c.caller),
    *(t.ingestions.c.caller, t.holds.c.caller, t.links.c.name, t.links.c.settings, t.replicas.c.replica_id),
    *(t.leases.c.name, t.leases.c.holder, t.webhook_receivers.c.name, t.webhook_events.c.receiver),
    t.approvals.c.approved_by,
})
# Words, file names, hashes and figures that this program makes: searched for digests, which are no words.
_OURS = _names({
    *(t.meta.c.key, t.requests.c.request_id, t.requests.c.state, t.requests.c.strategy),
    *(t.reliances.c.request_id, t.reliances.c.earlier, t.named.c.request_id, t.claims.c.request_id),
    *(t.idempotency.c.key_id, t.idempotency.c.request_id, t.tombstones.c.request_id, t.tombstones.c.kind),
    *(t.replies.c.name, t.replies.c.request_id, t.replies.c.path, t.replies.c.problem),
    *(t.approvals.c.request_id, t.needs.c.request_id, t.rounds.c.request_id, t.rounds.c.round_id),
    *(t.guard.c.kind, t.guard.c.key_id, t.guard.c.request_id, t.links.c.system),
    *(t.forwards.c.request_id, t.forwards.c.system, t.forwards.c.state, t.forwards.c.there, t.outbox.c.request_id),
    *(t.tokens.c.token_id, t.tokens.c.scopes, t.console_sessions.c.token_id, t.guard_losses.c.key_id),
    *(t.readmissions.c.request_id, t.ingestions.c.ingest_id, t.ingestions.c.state, t.ingestions.c.source),
    *(t.ingestions.c.after_request, t.seals.c.name, t.seals.c.seal, t.seals.c.next),
    *(t.evidence.c.request_id, t.evidence.c.document, t.surveys.c.request_id, t.holds.c.request_id),
    *(t.version_shards.c.blob, t.version_shards.c.checkpoints, t.version_shards.c.strategy, t.version_shards.c.head),
    *(t.replicas.c.role, t.outcomes.c.round_id, t.outcomes.c.strategy, t.outcomes.c.rule, t.outcomes.c.reasons),
    *(t.curves.c.updates, t.curves.c.controls, t.costs.c.strategy, t.evaluations.c.document),
    *(t.webhook_receivers.c.events, t.webhook_events.c.request_id, t.webhook_events.c.event),
    *(t.webhook_events.c.message_id, t.webhook_events.c.document, t.webhook_events.c.problem, t.overdue.c.request_id),
})
LIBRARIES = frozenset({"alembic_version", "sqlite_sequence", "sqlite_stat1", "sqlite_stat4"})  # keep the tables
_FACTS = frozenset({"system", "predecessor", "changes", "certificates", "purge", "calibrating", "first calibration"})
_DAMAGE = "damaged/"
_IDENTITY = "identity"
_SAID = ("pause", "decommissioned")  # JSON with a reason


def is_declared(table: str, column: str, key: str = "") -> bool:
    """Return whether a column holds what an operator declared, which is not searched.

    Args:
        table: Its table's name.
        column: Its name.
        key: Of a fact of the ledger (`meta`), whose value it is.
    """
    if (table, column) == ("meta", "value"):
        return key in {_IDENTITY, *_SAID}
    return (table, column) in _DECLARED


def is_ours(table: str, column: str, key: str = "") -> bool:
    """Return whether a column holds words of this program alone, as in `is_declared`."""
    if (table, column) == ("meta", "value"):
        return key in _FACTS or key.startswith(_DAMAGE)
    return table in LIBRARIES or (table, column) in _OURS


def redact(engine: Engine, needles: Needles, beat: Callable[[], None]) -> int:
    """Take what must not be found any more out of what people wrote.

    Args:
        engine: From `opening.connect`.
        needles: What is searched for.
        beat: Called between pieces of work.

    Returns:
        How many texts were changed.
    """
    changes: list[sa.Update] = []
    with reader(engine).connect() as connection:
        for column in FREE:
            table = column.table
            assert isinstance(table, sa.Table)
            keys = list(table.primary_key.columns)
            query = sa.select(*keys, column.label("said")).where(column.is_not(None))
            for rows in connection.execution_options(yield_per=10_000).execute(query).partitions():
                beat()
                if needles.in_("\0".join(row.said for row in rows).encode()):
                    changes += _changed(column, keys, rows, needles)
        changes += _changed_facts(connection, needles)
    if changes:
        with engine.begin() as writer:
            for change in changes:
                writer.execute(change)
    return len(changes)


def redacted(text: str, needles: Needles) -> str:
    """Return a text without what is searched for.

    Example:
        >>> redacted("asked by customer-4711", Needles([b"customer-4711"]))
        'asked by [gone]'
    """
    data = text.encode(errors="surrogatepass")
    found = needles.in_(data)
    for needle in sorted(found, key=len, reverse=True):
        data = data.replace(needle, REDACTED.encode())
    # What stood around it may make another one: then nothing of the text is kept.
    return REDACTED if needles.in_(data) else data.decode(errors="replace") if found else text


def _changed(
    column: sa.Column[str], keys: list[sa.Column[Any]], rows: Iterable[Any], needles: Needles
) -> list[sa.Update]:
    """Return what rewrites the texts that hold one, each as long as nobody else changed it."""
    assert isinstance(column.table, sa.Table)
    found = []
    for row in rows:
        if (kept := redacted(row.said, needles)) != row.said:
            same = sa.and_(column == row.said, *(key == value for key, value in zip(keys, row[:-1], strict=True)))
            found.append(column.table.update().where(same).values({column.name: kept}))
    return found


def _changed_facts(connection: Connection, needles: Needles) -> list[sa.Update]:
    found = []
    for row in connection.execute(t.meta.select().where(t.meta.c.key.in_(_SAID))):
        said = json.loads(row.value)
        kept = {**said, "reason": redacted(said["reason"], needles)}
        if kept != said:
            same = (t.meta.c.key == row.key) & (t.meta.c.value == row.value)
            found.append(t.meta.update().where(same).values(value=json.dumps(kept)))
    return found
