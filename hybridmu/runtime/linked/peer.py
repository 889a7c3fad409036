"""A model over the same people, reached from another one: what is asked of its ledger and tables.

No transaction spans two models. What one of them tells the other may be told again after a crash, and is the same then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

from hybridmu.config import Settings
from hybridmu.config.addresses import local_path
from hybridmu.core.strategies import unavailable
from hybridmu.errors import ConfigError, HybridMUError, StateError
from hybridmu.kinds import choices
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.dataset.waiting_keys import waiting_among
from hybridmu.store.keyring import Keyring
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.engine.opening import database_url
from hybridmu.store.ledger.forwards import Parcel
from hybridmu.store.ledger.idempotency import RepeatKey, seal
from hybridmu.store.ledger.linked_systems import Link
from hybridmu.store.storage.file_modes import modes_of
from hybridmu.store.storage.storage import Storage
from hybridmu.types import ForgetRequest, KeySet, NamedKey, Origin, ResolvedKey

_MOMENTS = ("applied", "served", "exact", "purged")


class Peer:
    """One model, as the others see it.

    Args:
        settings: Its configuration, as it was linked; environment variables don't replace anything in it.

    Raises:
        StateError: Nothing was trained there.
        DatabaseError: Its ledger can't be reached.
    """

    def __init__(self, settings: Settings) -> None:
        self.database = Database.open(settings.database)
        self.settings = settings = self.database.identity.complete(settings)
        self.ledger, self.links, self.registry = self.database.ledger, self.database.links, self.database.registry
        self.keyring, self.ingestions = Keyring(settings), self.database.ingestions
        self.guard = self.database.guard(self.keyring)
        self.lake = Lake(settings, Storage(settings.storage_url, modes_of(settings.storage_mode)))
        self.lake.compare_with(self.database.seals.known)
        self.system, self.name = self.database.identity.system(), name_of(settings)

    @property
    def over(self) -> bool:
        """Return whether it was decommissioned, to the end: nothing is left there that could be forgotten."""
        return self.database.decommission.finished()

    @property
    def trained(self) -> bool:
        """Return whether it has rows and answers."""
        return self.lake.exists and self.registry.served() is not None

    def check(self) -> None:
        """Check that it can take a request.

        Raises:
            StateError: It was decommissioned, has not been trained yet, or a key is lost there.
        """
        self.database.identity.bind(self.settings.identity(), create=False)
        if not self.trained:
            raise StateError(f"model {self.name} is not trained yet", remedy="it gets its requests when it is")
        self.lake.refresh()

    def take(self, parcel: Parcel, origin: Origin) -> str:
        """Accept a request that another model passes on; told again, it is the same request.

        Rows that carry its keys are revoked, and the guard learns all of them.

        Args:
            parcel: What to forget.
            origin: Who passes it on.

        Returns:
            The request here.

        Raises:
            StateError: Rows of a key are on their way in, or a guard key is missing; it has to be told again.
            WouldEmptyError: No training row would be left here.
        """
        if parcel.there is not None:
            self.ledger.hasten(parcel.there, parcel.deadline_at)
            return parcel.there
        if unknown := {key.mac_key for key in parcel.keys if key.mac} - set(self.keyring.guard_keys()):
            raise StateError(
                f"model {self.name} lacks a guard key",
                expected=f"key(s) {', '.join(sorted(unknown))}",
                remedy="linked models use the same guard keys; give it this one as well (docs/models.md)",
            )
        looked_at = self.ingestions.stamp()
        self.lake.refresh()
        found, absent = Lookup(self.lake).find_named(parcel.keys)
        if waiting_among(self.lake, KeySet.of(absent), self.ingestions.waiting()):
            raise StateError(f"rows of it are on their way into model {self.name}", remedy="it is told again later")
        # Of a random name there is no other payload; and it is told again when its rows are purged here long since.
        repeat = seal(self.guard.seals, f"link:{origin.system}", origin.request_id, None)
        return self._accept(found, absent, parcel.keys, origin, parcel, repeat, looked_at).request_id

    def learn(self, keys: list[NamedKey], origin: Origin) -> None:
        """Let the guard learn what another model forgot before the two were linked."""
        if keys:
            self._accept([], keys, keys, origin, None, None, None)

    def forget_covered(self, named: KeySet, origin: Origin) -> str | None:
        """Forget live rows that the guard knows, or that these keys name.

        Args:
            named: Keys that another model has not purged yet.
            origin: That model.

        Returns:
            The request; None when there are no such rows.

        Raises:
            StateError: Rows are on their way in, past the guard perhaps.
        """
        if self.ingestions.unfinished():
            raise StateError(
                f"rows are on their way into model {self.name}",
                remedy="repeat the command when `hybridmu ingests list` shows none as RECEIVED",
            )
        looked_at = self.ingestions.stamp()
        self.lake.refresh()
        tombstones = self.ledger.tombstones()
        revoked = {shard: KeySet.of(stones) for shard, stones in tombstones.items()}
        keys = self.guard.covered(self.lake, revoked)
        keys |= {NamedKey(kind, key, b"", "") for kind, key in named - KeySet.of(keys)}
        found, _ = Lookup(self.lake).find_named(keys)
        live = KeySet.of(key for key, _ in self.ledger.assess(found).fresh)
        found = [key for key in found if (key.kind, key.key) in live]
        if not found:
            return None
        return self._accept(found, [], keys, origin, None, None, looked_at).request_id

    def known(self, keys: KeySet) -> int:
        """Return how many of these keys have a row here."""
        self.check()
        found, _ = Lookup(self.lake).find_named(NamedKey(kind, key, b"", "") for kind, key in keys)
        return len(KeySet.of(found))

    def report(self, request_id: str, received_at: float) -> dict[str, Any]:
        """Return how far a request is here, as JSON-able data.

        Args:
            request_id: The request here.
            received_at: When it was accepted by the model that it was asked of: seconds count from then.
        """
        request = self.ledger.request(request_id)
        moments = {name: getattr(request, f"{name}_at") for name in _MOMENTS}
        return {
            "request_id": request.request_id,
            "state": str(request.state),
            **{f"seconds_to_{name}": at - received_at if at else None for name, at in moments.items()},
            "certificate": request.certificate,
            "reason": request.reason,
        }

    def _accept(
        self,
        found: list[ResolvedKey],
        absent: list[NamedKey],
        named: Iterable[NamedKey],
        origin: Origin,
        parcel: Parcel | None,
        repeat: RepeatKey | None,
        looked_at: int | None,
    ) -> ForgetRequest:
        strategy = parcel.strategy if parcel else "auto"
        known = strategy in choices()  # the other model may be of another release
        if not known or unavailable(strategy, self.settings.optimizer.name):
            strategy = "auto"  # what was asked of another optimizer can't run here
        return self.ledger.accept(
            found,
            absent=absent,
            origin=origin,
            strategy=strategy,
            caller=f"model {origin.name}",
            repeat=repeat,
            training_rows=self.lake.manifest.training_rows if found else None,
            looked_at=looked_at,
            listed={key.mac: key.listed for key in named if key.listed},
        )


@contextmanager
def opened(settings: Settings) -> Iterator[Peer]:
    """Open a model for a moment: its database may be restored from a backup while we live, and is then another file.

    Args:
        settings: Its configuration.

    Yields:
        The model.
    """
    peer = Peer(settings)
    try:
        yield peer
    finally:
        peer.database.close()


@contextmanager
def at(link: Link) -> Iterator[Peer]:
    """Open the model that a link leads to, for a moment.

    Args:
        link: The link.

    Yields:
        The model.

    Raises:
        StateError: Another system is there now.
    """
    with opened(Settings.model_validate(link.settings)) as peer:
        if peer.system != link.system:
            raise StateError(
                f"model {link.name} is not where it was",
                expected=f"system {link.system}",
                got=f"system {peer.system}",
                remedy="link it again, or retire it",
            )
        yield peer


def name_of(settings: Settings) -> str:
    """Return a model's name for people: the last part of its storage's path."""
    folder = local_path(settings.storage_url)
    path = urlparse(settings.storage_url).path if folder is None else str(folder)
    return path.rstrip("/").rpartition("/")[2][:64] or "model"


def plain(settings: Settings) -> dict[str, Any]:
    """Return a configuration as other models keep it.

    Raises:
        ConfigError: It holds a password.
    """
    url = database_url(settings.database)
    remote = local_path(settings.storage_url) is None
    if url.password or (remote and urlparse(settings.storage_url).password):
        raise ConfigError(
            "a configuration with a password inside can't be kept by other models",
            expected="addresses without a password",
            got=f"{'database_url' if url.password else 'storage_url'} with one",
            remedy="give it in PGPASSWORD or ~/.pgpass (S3: AWS's own variables or files), and leave it out there",
        )
    return settings.model_dump(mode="json")


def unreachable(error: Exception) -> str:
    """Return in one line why a model could not be asked or told something."""
    what = str(error) if isinstance(error, HybridMUError) else f"{type(error).__name__}: {error}"
    return " ".join(what.split())[:500]
