"""The durable log of requests and tombstones.

`accept` commits a request, its tombstones and its guard entries in one transaction; nothing acknowledged is lost.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from hybridmu.errors import (
    ConflictError,
    RequestError,
    StateError,
    would_empty,
)
from hybridmu.planning.approval import ApprovalRule
from hybridmu.store.ledger import tables as t
from hybridmu.store.ledger.accept.accept import (
    Call,
    Limits,
    being_forgotten,
    commit,
    file_approved,
    known_macs,
    propose,
)
from hybridmu.store.ledger.accept.proposal import decide, named, size
from hybridmu.store.ledger.accept.reliance import hasten, relied_on, take_up
from hybridmu.store.ledger.accept.withdrawal import take_back
from hybridmu.store.ledger.engine.transactions import parts, reader, transaction
from hybridmu.store.ledger.idempotency import RepeatKey, remember, repeated
from hybridmu.store.ledger.ingestions import stamp
from hybridmu.store.ledger.request_rows import to_request
from hybridmu.store.ledger.tombstones import Assessment, assess_keys, by_key, to_tombstone
from hybridmu.store.ledger.watermarks import revoked_rows
from hybridmu.store.ledger.webhook_outbox import tell
from hybridmu.types import (
    ForgetRequest,
    Ingestion,
    NamedKey,
    Origin,
    RequestState,
    ResolvedKey,
    StrategyChoice,
    Tombstone,
)


class Ledger:
    """Requests and tombstones.

    Args:
        engine: From `opening.connect`.
    """

    def __init__(self, engine: Engine) -> None:
        self._write, self._read = engine, reader(engine)
        self._revoked = (0, 0)  # training rows revoked up to a tombstone number

    # ------------------------------------------------------------------ accepting

    def accept(
        self,
        keys: Sequence[ResolvedKey],
        *,
        purged: Sequence[bytes] = (),
        strategy: StrategyChoice = "auto",
        caller: str = "",
        limits: Limits | None = None,
        repeat: RepeatKey | None = None,
        deadline_seconds: float | None = None,
        ignored_unknown: int = 0,
        training_rows: int | None = None,
        ingestion: Ingestion | None = None,
        copy_seal: str | None = None,
        absent: Sequence[NamedKey] = (),
        origin: Origin | None = None,
        looked_at: int | None = None,
        listed: Mapping[bytes, bytes] | None = None,
        approval: ApprovalRule | None = None,
    ) -> ForgetRequest:
        """Commit a request with its tombstones and guard entries; durable when this returns.

        Args:
            keys: What to revoke; keys whose rows were all revoked in the meantime are counted, not revoked again.
            purged: HMACs of keys of the call whose rows were purged before.
            strategy: What the caller asks for.
            caller: Who asks.
            limits: What this caller may ask.
            repeat: The idempotency key: the same one returns the same request.
            deadline_seconds: Counted from now.
            ignored_unknown: Keys of the call that do not exist and were ignored.
            training_rows: Rows of the training table, revoked ones included; None: not to be checked.
            ingestion: Corrected rows that come in once these are purged: their guard entries are lifted then.
            copy_seal: What their copy in storage holds.
            absent: Keys of the call that no row here carries, but perhaps one in a linked model: they must not come in.
            origin: The linked model that passes the request on; a request that is asked here is passed on to others.
            looked_at: `Ingestions.stamp` before rows were looked for; None: not to be checked.
            listed: HMAC → digest for exclusion manifests, of what the call names.
            approval: Which requests are PROPOSED only, and revoke nothing until another caller approves them.

        Returns:
            The new request; or the caller's earlier one, for a repeated idempotency key or when it asks for all of this
            already. One whose rows are all purged before, or that touches none here, is PURGED at once.

        Raises:
            ConflictError: The idempotency key came with another payload before, or its request was cancelled.
            RequestError: There is nothing to revoke, a row to be corrected is revoked already, or a name is too long.
            AdmissionError: The caller's limits are reached.
            WouldEmptyError: No training row would be left.
            StateError: Rows came in since they were looked for, or a guard key is lost.
        """  # noqa: DOC501 - functions make and raise some
        if len(caller) > 80:  # SQLite would take it, PostgreSQL would not
            raise RequestError("the caller's name is too long", expected="at most 80 characters", got=str(len(caller)))
        now = time.time()
        deadline = origin.deadline_at if origin else now + deadline_seconds if deadline_seconds is not None else None
        with transaction(self._write, "accept") as connection:
            if earlier := self._repeat(connection, repeat):
                return earlier
            if looked_at is not None and stamp(connection) != looked_at:
                raise StateError("rows came in while they were looked for", remedy="try again; nothing was changed")
            known = known_macs(connection, [key.mac for key in absent])
            call = Call(
                keys=keys,
                purged=tuple(dict.fromkeys([*purged, *sorted(known)])),
                absent=[key for key in absent if key.mac not in known],
                strategy=strategy,
                caller=caller,
                limits=limits,
                deadline=deadline,
                ignored_unknown=ignored_unknown,
                ingestion=ingestion,
                copy_seal=copy_seal,
                origin=origin,
                at=now,
                listed=listed or {},
            )
            found = assess_keys(connection, keys)
            if ingestion is not None and found.known:
                raise being_forgotten(found)
            if training_rows is not None and found.fresh:
                self._refuse_empty(connection, found, training_rows)
            waits = approval is not None and approval.wanted(*size(found.fresh))
            name = propose(connection, call, found) if waits else commit(connection, call, found)
            request = self._request(connection, t.requests.c.request_id == name)
            over = request.state is RequestState.PURGED
            remember(connection, repeat, request.request_id, unknown=ignored_unknown, over=over)
            return request

    def _refuse_empty(self, connection: Connection, found: Assessment, training_rows: int) -> None:
        """Refuse to revoke the last training row.

        What was summed up before is kept, since a request must not cost a pass over all tombstones. Cancelled ones
        are still in that sum, so only a fresh one refuses.

        Raises:
            would_empty: No row would be left.
        """
        going = sum(rows for _, rows in found.fresh)
        for start, known in (self._revoked, (0, 0)):
            seq, rows = t.tombstones.c.seq, t.tombstones.c.rows
            row = connection.execute(sa.select(sa.func.max(seq), sa.func.sum(rows)).where(seq > start)).one()
            self._revoked = (int(row[0] or start), known + int(row[1] or 0))
            if self._revoked[1] + going < training_rows:
                return
        raise would_empty()

    def assess(self, keys: Sequence[ResolvedKey]) -> Assessment:
        """Return what keys would revoke now; changes nothing."""
        with self._read.begin() as connection:
            return assess_keys(connection, keys)

    def find_repeat(self, repeat: RepeatKey | None) -> ForgetRequest | None:
        """Return the request that an idempotency key already names.

        Raises:
            ConflictError: It came with another payload, or its request was cancelled.
            StateError: A guard key is lost, and with it whether the key was used.
        """
        with self._read.begin() as connection:
            return self._repeat(connection, repeat)

    def hasten(self, request_id: str, deadline_at: float | None) -> None:
        """Let an earlier deadline hold for a request that is not purged yet."""
        if deadline_at is not None:
            with self._write.begin() as connection:
                hasten(connection, request_id, deadline_at)

    def approve(
        self,
        request_id: str,
        approver: str,
        keys: Sequence[ResolvedKey],
        *,
        absent: Sequence[NamedKey] = (),
        training_rows: int | None = None,
        looked_at: int | None = None,
    ) -> ForgetRequest:
        """Commit what was proposed, with its tombstones and guard entries; durable when this returns.

        Args:
            request_id: The proposal.
            approver: Who approves it: not who proposed it.
            keys: What it names, where that has rows now.
            absent: What it names that has no row any more.
            training_rows: As in `accept`.
            looked_at: As in `accept`.

        Returns:
            The request; as it is, where somebody approved it before.

        Raises:
            RequestError: Its own caller, or nobody, approves it.
            WouldEmptyError: No training row would be left.
            StateError: It is not PROPOSED, or rows came in since they were looked for.
        """
        with transaction(self._write, "approve") as connection:
            mine = t.requests.c.request_id == request_id
            request, proposed = self._request(connection, mine), named(connection, request_id)
            _refuse_approver(request, approver)
            if request.state is not RequestState.PROPOSED or proposed is None:
                by = t.approvals.c.approved_by
                query = sa.select(by).where((t.approvals.c.request_id == request_id) & by.is_not(None))
                if connection.scalar(query) is not None and request.state is not RequestState.CANCELLED:
                    return request
                raise StateError(
                    f"request {request_id} does not wait for an approval",
                    expected="state PROPOSED",
                    got=str(request.state),
                )
            if looked_at is not None and stamp(connection) != looked_at:
                raise StateError("rows came in while they were looked for", remedy="try again; nothing was changed")
            known = known_macs(connection, [key.mac for key in absent])
            call = Call(
                keys=keys,
                purged=tuple(dict.fromkeys([*proposed.purged, *sorted(known)])),
                absent=[key for key in absent if key.mac not in known],
                strategy=request.strategy,
                caller=request.caller,
                limits=None,
                deadline=request.deadline_at,
                ignored_unknown=request.ignored_unknown,
                ingestion=None,
                copy_seal=None,
                origin=None,
                at=request.received_at,
                listed={key.mac: key.listed for key in proposed.keys if key.listed},
            )
            found = assess_keys(connection, keys)
            if training_rows is not None and found.fresh:
                self._refuse_empty(connection, found, training_rows)
            file_approved(connection, call, found, request_id)
            decide(connection, request_id, approver, time.time())
            return self._request(connection, mine)

    def cancel(self, request_id: str, caller: str = "") -> ForgetRequest:
        """Take back a request that nobody began to fulfil; its tombstones and guard entries are lifted with it.

        What other requests ask for as well is theirs from then on, and stays forgotten.

        Args:
            request_id: The request.
            caller: Who takes it back, for the log.

        Returns:
            The request, CANCELLED.

        Raises:
            StateError: It is past RECEIVED, or a linked model passed it on.
        """
        open_ = (RequestState.PROPOSED, RequestState.RECEIVED)
        with transaction(self._write, "cancel") as connection:
            mine = t.requests.c.request_id == request_id
            request = self._request(connection, mine)
            if request.state is RequestState.CANCELLED:
                return request
            if request.state not in open_:
                raise StateError(
                    f"request {request_id} can't be cancelled any more",
                    expected="state RECEIVED, or PROPOSED",
                    got=str(request.state),
                    remedy="what was removed can be brought back by `readmit` and `ingest` only",
                )
            if request.origin is not None:
                raise StateError(
                    f"request {request_id} can't be cancelled: a linked model passed it on, and it is begun there",
                    remedy="let it be fulfilled",
                )
            take_back(connection, request_id)
            if request.state is RequestState.PROPOSED:
                decide(connection, request_id)
            reason = f"cancelled by {caller}" if caller else "cancelled"
            connection.execute(t.requests.update().where(mine).values(state=RequestState.CANCELLED, reason=reason))
            tell(connection, [request_id], "cancelled")
            return self._request(connection, mine)

    def retry(self, request_id: str, strategy: StrategyChoice) -> ForgetRequest:
        """Take a failed request up again; its tombstones were kept.

        Args:
            request_id: The request.
            strategy: How it is to be fulfilled now.

        Returns:
            The request, PLANNED.

        Raises:
            StateError: It did not fail.
        """
        with self._write.begin() as connection:
            mine = t.requests.c.request_id == request_id
            if (state := self._request(connection, mine).state) is not RequestState.FAILED:
                raise StateError(f"request {request_id} did not fail", expected="state FAILED", got=str(state))
            earlier = relied_on(connection, [request_id]).get(request_id, [])
            take_up(connection, [request_id, *earlier], request_id, strategy)
            return self._request(connection, mine)

    # ------------------------------------------------------------------ reading

    def request(self, request_id: str) -> ForgetRequest:
        """Return one request.

        Raises:
            StateError: There is none of that name.
        """
        with self._read.begin() as connection:
            return self._request(connection, t.requests.c.request_id == request_id)

    def requests(self, states: Iterable[RequestState] = (), caller: str | None = None) -> list[ForgetRequest]:
        """Return requests in commit order, all or those in the given states and of one caller."""
        query = t.requests.select().order_by(t.requests.c.seq)
        wanted = list(states)
        if wanted:
            query = query.where(t.requests.c.state.in_(wanted))
        if caller is not None:
            query = query.where(t.requests.c.caller == caller)
        with self._read.begin() as connection:
            return [to_request(row) for row in connection.execute(query)]

    def relies_on(self, request_id: str) -> dict[str, int | None]:
        """Return the requests that revoked rows of a request before it → the number of their certificate, if any.

        It is for who may see all callers' requests: what they name is another caller's.
        """
        earlier = sa.select(t.requests.c.request_id, t.requests.c.certificate)
        earlier = earlier.join(t.reliances, t.reliances.c.earlier == t.requests.c.request_id)
        earlier = earlier.where(t.reliances.c.request_id == request_id).order_by(t.requests.c.seq)
        with self._read.begin() as connection:
            return {row.request_id: row.certificate for row in connection.execute(earlier)}

    def newest(self) -> int:
        """Return the number of the newest request, 0 without one: cheap enough to be asked all the time."""
        with self._read.begin() as connection:
            return int(connection.scalar(sa.select(sa.func.max(t.requests.c.seq))) or 0)

    def tombstones(self, shards: Iterable[int] | None = None) -> dict[int, list[Tombstone]]:
        """Return shard → its tombstones in commit order, without purged ones, whose rows are gone from every file."""
        query = t.tombstones.select().where(t.tombstones.c.key.is_not(None)).order_by(t.tombstones.c.seq)
        if shards is not None:
            query = query.where(t.tombstones.c.shard.in_(sorted(set(shards))))
        found: dict[int, list[Tombstone]] = {}
        with self._read.begin() as connection:
            for row in connection.execute(query):
                found.setdefault(row.shard, []).append(to_tombstone(row))
        return found

    def shards_of(self, request_ids: Sequence[str]) -> dict[str, dict[int, int]]:
        """Return request → shard → the tombstone number up to which it waits for that shard's removals."""
        found: dict[str, dict[int, int]] = {request_id: {} for request_id in request_ids}
        with self._read.begin() as connection:
            for part in parts(list(request_ids)):
                for row in connection.execute(t.needs.select().where(t.needs.c.request_id.in_(part))):
                    found[row.request_id][row.shard] = row.upto
        return found

    def counts(self, shards: Collection[int] | None = None) -> dict[int, dict[int, tuple[int, int, int]]]:
        """Count revoked training rows against the newest sub-model of each shard, purged tombstones included.

        Args:
            shards: Which shards; all by default.

        Returns:
            Shard → slice → training rows (out of the last exact run, revoked since, of these not removed at all).
        """
        with self._read.begin() as connection:
            return revoked_rows(connection, shards)

    def revoked(self, digests: Iterable[bytes]) -> set[bytes]:
        """Return which of these key digests have a tombstone."""
        with self._read.begin() as connection:
            return {bytes(row.key) for row in by_key(connection, sorted(set(digests)))}

    # ------------------------------------------------------------------ helpers

    def _request(self, connection: Connection, where: Any) -> ForgetRequest:
        row = connection.execute(t.requests.select().where(where)).first()
        if row is None:
            raise StateError("there is no such request", remedy="list them with `hybridmu requests list`")
        return to_request(row)

    def _repeat(self, connection: Connection, repeat: RepeatKey | None) -> ForgetRequest | None:
        name = repeated(connection, repeat)
        if name is None:
            return None
        request = self._request(connection, t.requests.c.request_id == name)
        if request.state is RequestState.CANCELLED:
            raise ConflictError(
                f"this idempotency key belongs to request {request.request_id}, which was cancelled",
                remedy="use a new key to ask again",
            )
        return request


def _refuse_approver(request: ForgetRequest, approver: str) -> None:
    """Refuse an approval by nobody, or by who proposed the request.

    Raises:
        RequestError: It is one.
    """
    if not approver:
        raise RequestError("an approval names who approves", expected="the name of a caller")
    if approver == request.caller:
        raise RequestError(
            f"request {request.request_id} has to be approved by somebody else",
            expected="another caller than the one who asked for it",
            got=approver,
        )
