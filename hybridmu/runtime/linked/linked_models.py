"""Linked models: others over the same people, and how far a request is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from hybridmu.config import Settings
from hybridmu.errors import HybridMUError, StateError
from hybridmu.runtime.linked.forwarder import Forwarder
from hybridmu.runtime.linked.linking import bring, link
from hybridmu.runtime.linked.peer import Peer, at, opened, unreachable
from hybridmu.runtime.linked.retirement import end_links, retire
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.linked_systems import Link
from hybridmu.types import ForwardState, KeySet


class Models:
    """The models that are linked with one.

    Args:
        settings: The one's configuration.
        database: Its database.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.links, self.forwards = settings, database.links, database.forwards
        self._database = database

    def all(self) -> list[dict[str, Any]]:
        """Return every model that is or was linked, this one first, as JSON-able data read live."""
        waiting = self.forwards.waiting(begun=False)
        with opened(self.settings) as own:
            found = [{"this": True, **_standing(own)}]
        for known in self.links.all():
            mine = [forward for forward in waiting if forward.system == known.system]
            entry: dict[str, Any] = {"this": False, "name": known.name, "system": known.system}
            entry |= {"linked_at": known.linked_at, "settled_at": known.settled_at, "retired_at": known.retired_at}
            entry |= {"undelivered": len(mine), "reason": next((f.reason for f in mine if f.reason), None)}
            if known.retired_at is not None:
                found.append({**entry, "state": "retired"})
                continue
            try:
                with at(known) as other:
                    found.append({**_standing(other), **entry})
            except (HybridMUError, OSError) as error:
                found.append({**entry, "state": "unknown", "reason": unreachable(error)})
        return found

    def link(self, settings: Settings) -> None:
        """Link another model, and all that it is linked with.

        Args:
            settings: Its configuration.

        Raises:
            StateError: It is not trained, or they can't be linked.
        """
        with opened(self.settings) as own, opened(settings) as other:
            if not own.trained or not other.trained:
                raise StateError(
                    "a model is not trained yet", remedy="train it, or make it from this one with `hybridmu reshard`"
                )
            link(own, other)

    def settle(self) -> list[str]:
        """Bring to all linked models what was forgotten here, and here what was forgotten there.

        Returns:
            Names of the models that could not be reached.
        """
        missed = []
        for known in self.links.live():
            try:
                with opened(self.settings) as own, at(known) as other:
                    bring(own, other)
                    bring(other, own)
            except (HybridMUError, OSError):
                missed.append(known.name)
        return missed

    def retire(self, names: Sequence[str], reason: str, caller: str, *, lost: bool) -> list[dict[str, Any]]:
        """End models: they are decommissioned, and no request is passed on to them any more.

        Args:
            names: Names or systems.
            reason: Why, for the log.
            caller: Who.
            lost: They are out of reach for good: only their links end, and nothing of theirs is deleted.

        Returns:
            One report per model.

        Raises:
            StateError: There is no such model, or it can't be ended now.
        """
        done: list[dict[str, Any]] = []
        for known in [self._named(name) for name in names]:
            with ExitStack() as stack:
                others = [stack.enter_context(opened(self.settings))]
                for other in self.links.live():
                    if other.system != known.system:
                        with suppress(HybridMUError, OSError):  # it finds out when it has a request for that model
                            others.append(stack.enter_context(at(other)))
                if lost:
                    end_links(known.system, others, f"given up, though out of reach: {reason}")
                    done.append({"name": known.name, "files_deleted": 0, "certificates_kept": 0})
                else:
                    model = stack.enter_context(at(known))
                    done.append({"name": known.name, **retire(model, others, reason, caller)})
        return done

    def deliver(self) -> int:
        """Return how many requests linked models got now that had waited for them."""
        forwarder, delivered = Forwarder(self.settings, self._database), 0
        while count := forwarder.step(patient=False):
            delivered += count
        return delivered

    def report(self, request_id: str, received_at: float) -> list[dict[str, Any]]:
        """Return how far a request is in every model that it is passed on to, read live.

        Args:
            request_id: The request here.
            received_at: When it was accepted here: seconds count from then.
        """
        forwards = self.forwards.of_request(request_id)
        links = {known.system: known for known in self.links.all()} if forwards else {}
        found = []
        for forward in forwards:
            known = links[forward.system]
            entry: dict[str, Any] = {"name": known.name, "request_id": forward.there}
            if forward.state is not ForwardState.DELIVERED:
                state = "retired" if forward.state is ForwardState.RETIRED else str(forward.state)
                found.append({**entry, "state": state, "reason": forward.reason})
                continue
            if known.retired_at is not None:
                found.append({**entry, "state": "retired", "reason": "that model is retired"})
                continue
            try:
                assert forward.there is not None
                with at(known) as other:
                    found.append({**entry, **other.report(forward.there, received_at)})
            except (HybridMUError, OSError) as error:
                found.append({**entry, "state": "unknown", "reason": unreachable(error)})
        return found

    def elsewhere(self, keys: KeySet) -> dict[str, int]:
        """Return model → how many of these keys have rows there; models out of reach are left out."""
        found = {}
        for known in self.links.live():
            with suppress(HybridMUError, OSError), at(known) as other:
                found[known.name] = other.known(keys)
        return {name: count for name, count in found.items() if count}

    def _named(self, name: str) -> Link:
        links = self.links.live()
        for known in links:
            if name in {known.name, known.system}:
                return known
        raise StateError(
            f"there is no linked model {name!r}",
            expected=f"one of {', '.join(known.name for known in links) or 'none; this model is linked with no other'}",
            remedy="see `hybridmu models list`; a model ends itself with `hybridmu decommission`",
        )


def _standing(model: Peer) -> dict[str, Any]:
    """Return where a model stands."""
    sisa, served = model.settings.sisa, model.registry.served()
    state = "decommissioned" if model.over else "active" if model.trained else "not trained yet"
    found = {"name": model.name, "system": model.system, "state": state, "version": served}
    past = model.lake.manifest.ancestry if model.lake.exists else None
    found |= {"shards": sisa.shards, "slices": sisa.slices, "storage_url": model.settings.storage_url}
    return {**found, "predecessor": past.name if past else None}
