"""A certificate is trained anew and ends as confirmed, refuted, superseded, or not replayable here."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.core.proof.certificate import sign
from hybridmu.errors import RequestError
from hybridmu.runtime.audit import replay as replays
from hybridmu.runtime.audit.replay import Verdict, replay
from hybridmu.runtime.workers.context import Site
from hybridmu.store.keyring import Keyring
from tests.scenes.purged_system import World


@pytest.fixture
def warm(monkeypatch):
    """Train in this process what the oracle trains in fresh ones, of which one test is enough."""

    def train(settings, gone, shards, processes, watch=None, seals=None):
        from hybridmu.core.kernel.model import state_of
        from hybridmu.core.kernel.training import train_slice

        site, states = Site(settings), {}
        for shard, generations in shards.items():
            recipe = site.recipe_for(shard, generations)
            live = site.lake.rows("train", shard, gone[shard], generations=generations)
            model = site.fresh_model(shard)
            for slice_ in range(1, len(recipe.epochs) + 1) if len(live) else ():
                train_slice(model, live, slice_, recipe, site.task, shard)
            states[shard] = state_of(model) if len(live) else None
        return states, 0.5

    monkeypatch.setattr(replays, "train_from_scratch", train)


def certified(w: World, *ids) -> dict:
    name = w.forget(ids)
    w.run()
    return w.assert_certified(name)[0]


def rows_of_shard(w: World, shard: int) -> list:
    return w.places(range(3, 60 * 7 + 3, 7))[shard]


def test_a_fresh_process_confirms(small):
    document = certified(small, rows_of_shard(small, 0)[0])
    found = replay(small.system.settings, document)
    assert (found.verdict, found.by) == (Verdict.CONFIRMED, None)
    assert [(s.shard, s.verdict) for s in found.shards] == [(0, Verdict.CONFIRMED)]


@pytest.mark.slow
def test_it_is_superseded_once_other_rows_were_purged(small, warm):
    w = small
    mine, other = rows_of_shard(w, 0), rows_of_shard(w, 1)
    first = certified(w, mine[0], other[0])
    apart = certified(w, rows_of_shard(w, 2)[0])
    w.forget([mine[1]])  # not purged yet: what the first one speaks of can still be trained
    assert replay(w.system.settings, first).verdict is Verdict.CONFIRMED
    w.run()
    later = w.certificates[-1]
    found = replay(w.system.settings, first)
    assert (found.verdict, found.by) == (Verdict.SUPERSEDED, later["number"])
    assert [s.verdict for s in found.shards] == [Verdict.SUPERSEDED, Verdict.CONFIRMED]
    for document in (apart, later):
        assert replay(w.system.settings, document).verdict is Verdict.CONFIRMED


@pytest.mark.slow
def test_an_emptied_shard_is_confirmed(small, warm):
    document = certified(small, *rows_of_shard(small, 0))
    assert document["shards"][0]["after"]["weights"] is None
    assert replay(small.system.settings, document).verdict is Verdict.CONFIRMED


def test_another_machine_can_not_tell(small, warm, monkeypatch):
    document = certified(small, rows_of_shard(small, 0)[0])
    monkeypatch.setattr(Site, "head", lambda *_, **__: "ab" * 24)
    found = replay(small.system.settings, document)
    assert found.verdict is Verdict.ELSEWHERE
    assert "other code, libraries, CPU" in found.detail


def test_other_weights_refute(small, monkeypatch):
    document = certified(small, rows_of_shard(small, 0)[0])
    site = small.system.site
    monkeypatch.setattr(replays, "train_from_scratch", lambda *_, **__: ({0: site.fresh_model(0).state_dict()}, 0.1))
    found = replay(small.system.settings, document)
    assert found.verdict is Verdict.REFUTED
    assert "not the same" in found.detail


def test_rows_that_changed_unsaid_refute(small, warm):
    w = small
    document = certified(w, rows_of_shard(w, 0)[0])
    name = w.forget([rows_of_shard(w, 0)[1]], wait=False)
    with closing(sqlite3.connect(w.storage / "ledger.sqlite3")) as database, database:
        database.execute("update tombstones set seq = 1000 where request_id = ?", (name,))
        database.execute("update version_shards set exact_upto = 2000 where shard = 0 and version = 2")
    found = replay(w.system.settings, document)
    assert found.verdict is Verdict.REFUTED
    assert "no later certificate says why" in found.detail


def test_a_certificate_that_is_not_in_the_chain_is_refuted(small, warm):
    document = certified(small, rows_of_shard(small, 0)[0])
    key = Keyring(small.system.settings).signing_key()
    forged = sign({**document, "times": document["times"], "purge": {"rows": 99}}, key)
    assert "another certificate 1" in replay(small.system.settings, forged).detail
    unknown = sign({**document, "number": 7}, key)
    found = replay(small.system.settings, unknown)
    assert (found.verdict, found.detail) == (Verdict.REFUTED, "the chain of this system has no certificate 7")
    with pytest.raises(RequestError, match="of another system"):
        replay(small.system.settings, {**document, "system": "another"})


@pytest.mark.slow
def test_the_weightiest_verdict_is_the_one(small):
    confirmed = replays.ShardReplay(0, Verdict.CONFIRMED, "yes")
    elsewhere, refuted = replace(confirmed, verdict=Verdict.ELSEWHERE), replace(confirmed, verdict=Verdict.REFUTED)
    superseded = [replace(confirmed, shard=n, verdict=Verdict.SUPERSEDED, by=n) for n in (4, 9)]
    assert replays._summed_up([confirmed]).verdict is Verdict.CONFIRMED
    assert replays._summed_up([confirmed, elsewhere]).verdict is Verdict.ELSEWHERE
    found = replays._summed_up([*superseded, elsewhere, confirmed])
    assert (found.verdict, found.by) == (Verdict.SUPERSEDED, 9)
    assert replays._summed_up([*superseded, refuted, elsewhere]).verdict is Verdict.REFUTED


def test_the_command(small, warm, tmp_path, monkeypatch):
    w = small
    document = certified(w, rows_of_shard(w, 0)[0])
    file, config = w.storage / "certificates" / "00000001.json", tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(w.config))
    w.system.close()

    def run(*more: str):
        found = CliRunner().invoke(app, ["certificate", "verify", str(file), "--json", *more])
        return found.exit_code, json.loads(found.stdout)

    code, result = run("--replay", "-c", str(config))
    assert (code, result["ok"], result["trusted_key_given"], result["replay"]["verdict"]) == (
        0,
        True,
        True,
        "confirmed",
    )
    shown = CliRunner().invoke(app, ["certificate", "verify", str(file), "--replay", "-c", str(config)])
    assert "Replay: confirmed. every shard was trained again, with the same bits." in shown.stdout
    assert run()[1]["replay"] is None
    code, result = run("--replay")
    assert (code, result["error"]) == (2, "ConfigError")
    with monkeypatch.context() as patched:
        patched.setattr(Site, "head", lambda *_, **__: "ab" * 24)
        assert run("--replay", "-c", str(config))[0] == 4
    with monkeypatch.context() as patched:
        patched.setattr(replays, "_has_rows", lambda *_, **__: False)
        assert run("--replay", "-c", str(config))[0] == 1
        patched.setattr(replays, "_superseded", lambda *_, **__: replays.ShardReplay(0, Verdict.SUPERSEDED, "later", 2))
        code, result = run("--replay", "-c", str(config))
        assert (code, result["replay"]["by"]) == (3, 2)
    changed = {**document, "purge": {}}
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed))
    code, result = run("--replay", "-c", str(config))
    assert (code, result["ok"], result["replay"]) == (1, False, None)


def test_weights_are_known_by_their_bytes(small):
    blob = small.system.registry.version().shards[0].blob
    file = small.storage / "blobs" / "shard-00000" / f"{blob.partition('/')[2]}.safetensors"
    assert isinstance(file, Path)
    state = safetensors.torch.load_file(file)
    assert replays.weights_hash(state) == blob.partition("/")[2]
