"""Resolution of ids and groups: which rows they name, which were purged before, and which are unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybridmu.core.kernel.partition import digest
from hybridmu.errors import RequestError, StateError, UnknownKeysError, too_many_keys, would_empty
from hybridmu.store.dataset.key_lookup import Lookup, Mac, RawKey
from hybridmu.store.dataset.waiting_keys import waiting_among, waiting_keys
from hybridmu.system.session import Session
from hybridmu.types import KeyKind, KeySet, NamedKey, ResolvedKey, Tombstone
from hybridmu.types.text import spellings


class KeyResolution:
    """Resolution of the ids and groups that callers name.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def refuse_many(self, ids: Sequence[object], groups: Sequence[object]) -> None:
        """Refuse a request that names more ids and groups than one may.

        Args:
            ids: Row ids.
            groups: Groups.

        Raises:
            AdmissionError: It does.
        """  # noqa: DOC501 - a function makes the error
        most = self._session.settings.admission.keys_per_request
        if (count := len(ids) + len(groups)) > most:
            raise too_many_keys(count, most)

    def resolve(
        self, ids: Iterable[object], groups: Iterable[object], ignore_unknown: bool, mac: Mac | None = None
    ) -> tuple[list[ResolvedKey], list[bytes], list[RawKey]]:
        """Return (keys with rows in the lake, HMACs of keys that were purged before, unknown keys).

        Raises:
            RequestError: Nothing is asked.
            UnknownKeysError: A key is unknown, and may not be or none is known.
            StateError: Rows of a key are on their way in.
        """
        session = self._session
        kinds: list[tuple[KeyKind, object]] = [*(("id", x) for x in ids), *(("group", x) for x in groups)]
        if not kinds:
            raise RequestError("the request is empty", expected="at least one id or group")
        found, missing = Lookup(session.lake, mac).find(kinds)
        covered = session.guard.covers(missing)
        purged = [mac for macs in covered for mac in macs]
        missing = [key for key, macs in zip(missing, covered, strict=True) if not macs]
        if missing and (coming := waiting_keys(session.lake, missing, session.ingestions.waiting())):
            raise StateError(
                f"rows of {len(coming)} of these ids and groups are still being ingested; nothing was changed",
                expected="ids and groups of rows in the system",
                got=", ".join(key.text for key in coming[:10]),
                remedy="repeat the request when `hybridmu ingests list` shows their ingestion as APPLIED",
            )
        self._refuse_near(missing)
        if (missing and not ignore_unknown) or not (found or purged):
            key = session.lake.key
            elsewhere = session.linked.elsewhere(KeySet((x.kind, digest(key, x.kind, x.value)) for x in missing))
            raise UnknownKeysError([x.text for x in missing], any_known=bool(found or purged), elsewhere=elsewhere)
        return found, purged, missing

    def macs(self, ids: Sequence[object], groups: Sequence[object]) -> list[frozenset[bytes]]:
        """Return the guard's HMACs of each id and group, by all guard keys."""
        session = self._session
        lookup, found = Lookup(session.lake), []
        asked: tuple[tuple[KeyKind, Sequence[object]], ...] = (("id", ids), ("group", groups))
        for kind, raw in asked:
            values = list(dict.fromkeys(lookup.typed(kind, value) for value in raw))
            made = session.keyring.macs(kind, values)
            # One entry for each, also before the first guard key is made: how many there are is remembered.
            found += [frozenset(macs[place] for macs in made.values()) for place in range(len(values))]
        return found

    def listed(self, ids: Sequence[object], groups: Sequence[object]) -> dict[bytes, bytes]:
        """Return the guard's HMACs of ids and groups, each with its digest for exclusion manifests, by all keys."""
        session = self._session
        lookup = Lookup(session.lake)
        found: dict[bytes, bytes] = {}
        asked: tuple[tuple[KeyKind, Sequence[object]], ...] = (("id", ids), ("group", groups))
        for kind, raw in asked:
            found |= session.keyring.exclusions(kind, [lookup.typed(kind, value) for value in raw])
        return found

    def again(self, named: Sequence[NamedKey]) -> tuple[list[ResolvedKey], list[NamedKey]]:
        """Return (keys with rows now, keys without) of what was resolved before.

        Args:
            named: Keys; one without a digest was purged since.

        Raises:
            StateError: Rows of one are on their way in.
        """
        session = self._session
        found, absent = Lookup(session.lake).find_named(key for key in named if key.key)
        if waiting_among(session.lake, KeySet.of(absent), session.ingestions.waiting()):
            raise StateError(
                "rows of what the request names are still being ingested; nothing was changed",
                remedy="approve it when `hybridmu ingests list` shows their ingestion as APPLIED",
            )
        return found, [*absent, *(key for key in named if not key.key)]

    def named(self, unknown: Sequence[RawKey], mac: Mac) -> list[NamedKey]:
        """Return how linked models know ids and groups that have no row here; none where no model is linked."""
        session = self._session
        if not unknown or not session.linked.links.live():
            return []
        made = [(x.kind, digest(session.lake.key, x.kind, x.value), *mac(x.kind, x.value)) for x in unknown]
        return [NamedKey(kind, key, mac_, mac_key) for kind, key, mac_key, mac_ in made]

    def _refuse_near(self, missing: Sequence[RawKey]) -> None:
        """Refuse unknown keys that are known in another spelling: one of both is a slip, and a person would be missed.

        Raises:
            RequestError: There are some.
        """
        near = [(key.kind, spelling) for key in missing for spelling in spellings(key.text)]
        if near and Lookup(self._session.lake).find(near)[0]:
            raise RequestError(
                "some of these ids and groups are unknown as they are written, but known in another spelling",
                expected="each as it is in the table",
                got="spaces or quotes around a key, a byte order mark, or letters composed in another way",
                remedy="correct the list; nothing was changed",
            )

    def refuse_empty(self, fresh: Sequence[tuple[ResolvedKey, int]]) -> None:
        """Refuse a request that would leave nothing to train on.

        Args:
            fresh: The keys that are not revoked yet, and the training rows of each.

        Raises:
            WouldEmptyError: It would.
        """  # noqa: DOC501 - a function makes the error
        session = self._session
        revoked = sum(sum(slice_[:2]) for shard in session.ledger.counts().values() for slice_ in shard.values())
        if fresh and session.lake.manifest.training_rows - revoked <= sum(rows for _, rows in fresh):
            raise would_empty()

    def warnings(self, fresh: Sequence[ResolvedKey]) -> list[str]:
        """Return what the caller should know of rows that stay: those with the content of a row to be revoked.

        Args:
            fresh: The keys that are not revoked yet.
        """
        session = self._session
        if not fresh:
            return []
        revoked: dict[int, list[Tombstone | ResolvedKey]] = {s: [*x] for s, x in session.ledger.tombstones().items()}
        for key in fresh:
            revoked.setdefault(key.shard, []).append(key)
        twins = session.lake.twins(fresh, {shard: KeySet.of(keys) for shard, keys in revoked.items()})
        if not twins:
            return []
        return [
            f"{twins} live row(s) have the same features and label as a row to be revoked; they stay, "
            "and the model may still know that content"
        ]
