"""Webhooks beside a coordinator in its Ray actor: a life is told in order, also when the actor is killed in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hybridmu
from hybridmu.errors import StateError
from hybridmu.types import RequestState
from tests.ray import support
from tests.scenes.webhook_receiver import SECRET, Receiver, is_signed, receiver
from tests.support import HANG_SECONDS

pytestmark = pytest.mark.usefixtures("cluster")
LIFE = {"accepted", "applied", "exact", "served", "purged"}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiver() as made:
        yield made


@pytest.fixture
def raw(there: Receiver, tmp_path: Path) -> dict[str, Any]:
    """A system that was trained here, and whose coordinator runs on Ray from now on."""
    made = support.config(
        tmp_path,
        sisa={"shards": 2, "slices": 2, "epochs": 2},
        policy={"strategy": "retrain", "verify_share": 0.0, "retention_seconds": 0.0},
        webhooks={"crm": {"url": there.url, "secret": "env:HOOK_SECRET"}},
    )
    with hybridmu.connect(made, executor="local") as system:
        system.train()
    return made


def told(there: Receiver, request: str) -> list[str]:
    """Return the events of a request in the order in which they came first."""
    return list(dict.fromkeys(event for name, event in there.told if name == request))


def test_a_life_is_told_to_its_end(there: Receiver, raw: dict[str, Any]) -> None:
    with hybridmu.connect(raw, executor="ray") as system:
        request = system.forget(ids=[3], caller="privacy-desk")["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(request).state is RequestState.PURGED
        events = told(there, request)
        assert set(events) == LIFE
        assert (events[0], events[-1]) == ("accepted", "purged")
        assert all(is_signed(got, SECRET, time.time(), HANG_SECONDS) for got in there.received)
        assert system.webhooks()["receivers"][0]["waiting"] == 0


@pytest.mark.slow
def test_a_coordinator_that_is_killed_loses_no_event(there: Receiver, raw: dict[str, Any]) -> None:
    there.answers = lambda _: 503
    with hybridmu.connect(raw, executor="ray") as system:
        request = system.forget(ids=[3])["request_id"]

        def kill(_: object) -> None:
            for actor in support.actors("coordinator-"):
                ray.kill(actor)

        with pytest.raises(StateError, match="coordinator died"):
            system.run(watch=kill)
        assert system.database.webhooks.lease.holder() is None, "the sender ended with the command"
    there.answers = lambda _: 204
    there.received.clear()
    with hybridmu.connect(raw, executor="ray") as system:
        system.retry_webhooks()
        system.run(until_idle=True)
        assert system.ledger.request(request).state is RequestState.PURGED
        while system.webhooks()["receivers"][0]["waiting"]:
            system.send_webhooks(once=True)
        events = told(there, request)
        assert set(events) == LIFE
        assert (events[0], events[-1]) == ("accepted", "purged")
        places = [got.data["sequence"] for got in there.received]
        assert places == sorted(places), "in order"
