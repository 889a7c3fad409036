"""Webhooks of a whole system: from a request to its purge, with a receiver that behaves and with one that does not."""

from __future__ import annotations

import json
import threading
import time

import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.core.proof.byte_search import spelled
from hybridmu.errors import ConfigError, StateError
from hybridmu.types import RequestState
from tests.scenes.webhook_receiver import SECRET, is_signed, receiver
from tests.store.ledger.test_journal import back_up, restore
from tests.support import HANG_SECONDS, local_system, make_table, settings_dict

LIFE = {"accepted", "applied", "exact", "served", "purged"}
GROUP = "p3"
SMALL = {"shards": 2, "slices": 2, "epochs": 2}


@pytest.fixture
def there(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiver() as made:
        yield made


def options(url, **more):
    webhooks = {"crm": {"url": url, "secret": "env:HOOK_SECRET", **more}}
    return {"sisa": SMALL, "data": {"group": "person"}, "policy": {"verify_share": 0.0}, "webhooks": webhooks}


def system_of(folder, url, **more):
    make_table(folder / "train.parquet", 60, groups=9, ids="str")
    made = local_system(folder, **options(url, **more))
    made.train()
    return made


def test_a_life_is_told_to_its_end_and_names_nobody(there, tmp_path):
    with system_of(tmp_path, there.url) as system:
        # Long names, as the search of a purge looks for them, and their digests as the ledger has them.
        request = system.forget(groups=[GROUP], ids=["r1"], caller="privacy-desk")["request_id"]
        stones = [stone.key for shard in system.ledger.tombstones().values() for stone in shard]
        system.run(until_idle=True)
        assert system.ledger.request(request).state is RequestState.PURGED, "nor is anybody named in the outbox"
        assert {what for _, what in there.told} == LIFE
        assert {got.data["request_id"] for got in there.received} == {request}
        assert all(is_signed(got, SECRET, time.time(), HANG_SECONDS) for got in there.received)
        last = there.received[-1].data
        assert (last["event"], last["certificate"]) == ("purged", {"available": True, "number": 1})
        assert last["caller"] == "privacy-desk"
        assert stones
        for got in there.received:
            sent = json.dumps(dict(got.headers)).encode() + got.body
            values = {str(value) for value in got.data.values()}
            assert not values & {GROUP, "r1"}
            assert [text for key in stones for text in spelled([key]) if text in sent] == []
            known = {"system", "request_id", "caller", "event", "sequence", "state", "version", "version_exact"}
            known |= {"certificate", "received_at", "deadline_at", "applied_at", "served_at", "exact_at", "purged_at"}
            assert got.data.keys() == known
        assert system.webhooks()["receivers"][0]["waiting"] == 0
        assert system.status()["webhooks"] == [{"receiver": "crm", "waiting": 0, "dead": 0}]


def test_a_receiver_that_hangs_holds_up_nothing(there, tmp_path):
    hangs = threading.Event()
    there.answers = lambda _: lambda handler: hangs.wait(HANG_SECONDS)
    with system_of(tmp_path, there.url, timeout_seconds=1) as system:
        request = system.forget(groups=[GROUP])["request_id"]
        system.run(until_idle=True)
        assert system.ledger.request(request).state is RequestState.PURGED
        (counts,) = system.webhooks()["receivers"]
        assert (counts["waiting"], counts["problem"]) == (5, "no answer in time")
        hangs.set()
        there.answers = lambda _: 204
        there.received.clear()
        assert system.retry_webhooks("crm") == 1
        while system.webhooks()["receivers"][0]["waiting"]:
            system.send_webhooks(once=True)
        assert {what for _, what in there.told} == LIFE


def test_an_interrupted_coordinator_leaves_no_sender_behind(there, tmp_path):
    with system_of(tmp_path, there.url) as system:

        def interrupt(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            system.run(watch=interrupt)
        assert system.database.webhooks.lease.holder() is None
        assert [one.name for one in threading.enumerate() if one.name.startswith("webhooks")] == []
        system.database.webhooks.lease.acquire("another", 3600)
        with pytest.raises(StateError, match="somebody else sends"):
            system.send_webhooks(once=True)


def test_what_is_wrong_with_a_receiver_is_told_before_anything_runs(there, tmp_path, monkeypatch):
    with system_of(tmp_path, there.url) as system:
        assert [one["acknowledged"] for one in system.test_webhooks()] == [True]
        (got,) = there.received
        assert (json.loads(got.body)["type"], is_signed(got, SECRET, time.time())) == ("test", True)
        with pytest.raises(ConfigError, match="no receiver"):
            system.test_webhooks("nobody")
        monkeypatch.delenv("HOOK_SECRET")
        for verb in (system.run, system.test_webhooks, system.send_webhooks):
            with pytest.raises(ConfigError, match=r"webhooks\.crm\.secret"):
                verb()
    with local_system(tmp_path, **{**options(there.url), "webhooks": {}}) as system:
        for verb in (system.test_webhooks, system.send_webhooks):
            with pytest.raises(ConfigError, match="nobody to send to"):
                verb()


@pytest.mark.slow
def test_a_restored_ledger_tells_what_it_does_not_know_it_told(there, tmp_path):
    with system_of(tmp_path, there.url) as system:
        request = system.forget(groups=[GROUP])["request_id"]
        back_up(system, tmp_path / "backup")
        other = system.forget(ids=["r1"])["request_id"]
        system.run(until_idle=True)
    there.received.clear()
    restore({"storage_url": str(tmp_path / "storage")}, tmp_path / "backup")
    with local_system(tmp_path, **options(there.url)) as system:
        system.replay()
        system.send_webhooks(once=True)
        for name in (request, other):
            assert system.ledger.request(name).state is RequestState.PURGED
            assert [what for asked, what in there.told if asked == name] == ["accepted", "purged"]


def test_the_commands(there, tmp_path):
    with system_of(tmp_path, there.url, give_up_hours=1e-7) as system:
        request = system.forget(groups=[GROUP])["request_id"]
        system.forget(ids=["r1"])
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings_dict(tmp_path, **options(there.url, give_up_hours=1e-7))))

    def run(*command, code=0):
        done = CliRunner().invoke(app, ["webhooks", *command, "-c", str(config)])
        assert done.exit_code == code, done.output
        return done.stdout

    def document(*command, code=0):
        return json.loads(run(*command, "--json", code=code))

    (before,) = document("list")["receivers"]
    assert (before["waiting"], before["dead"], before["host"]) == (2, 0, "127.0.0.1")
    there.answers = lambda _: 503
    (tried,) = document("test", code=1)
    assert (tried["acknowledged"], tried["problem"]) == (False, "HTTP 503")
    while document("list")["dead"] == []:  # the second try comes some seconds after the first
        document("send", "--once")
    assert "given up" in run("list")
    assert document("retry", "--receiver", "crm")["retried"] >= 1
    assert document("drop", "crm", "--request", request) == {"dropped": 1}
    there.answers = lambda _: 200
    document("send", "--once")
    assert document("list")["receivers"][0]["waiting"] == 0
    assert "nobody" in document("drop", "nobody", code=2)["what"]
    assert there.url not in run("list"), "what follows the host may be a secret"
