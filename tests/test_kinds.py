"""Kinds of an operator's own: found by every process, and good for a whole life."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hybridmu.config import Settings
from hybridmu.core import features, learners, partitioners, strategies
from hybridmu.core.kernel.partition import digests, place
from hybridmu.core.strategies import Removal
from hybridmu.errors import ConfigError
from hybridmu.kinds import FALLBACK, FEATURES, LEARNERS, PARTITIONERS, STRATEGIES, Registry, choices
from hybridmu.server.schemas import Keys
from hybridmu.store.keyring import Keyring
from hybridmu.types import RequestState
from hybridmu.verifier.checks import check, check_chain
from tests.scenes.purged_system import make_tables, world

PLUGIN = "tests.scenes.toy_kinds"
TOYS = {
    "plugins": [PLUGIN],
    "learner": {"name": "class-means"},
    "partitioner": {"name": "mirrored"},
    "features": {"name": "squares"},
}
SHAPING = {"learner", "partitioner", "features"}


@pytest.fixture
def registries(monkeypatch):
    """Leave the registries as they were, so that no other test meets a toy."""
    for registry in (STRATEGIES, LEARNERS, PARTITIONERS, FEATURES):
        monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
    yield
    sys.modules.pop(PLUGIN, None)


@pytest.mark.usefixtures("registries")
@pytest.mark.slow
def test_a_whole_life_with_kinds_of_a_plugin(tmp_path):
    ids = make_tables(tmp_path, long_ids=True, groups=0)["train"]
    with world(tmp_path, policy={"verify_share": 1.0, "calibrate": False}, **TOYS) as w:
        assert_made_by_class_means(w)
        assert w.system.site.lineage_static().keys() >= SHAPING
        asked = [ids[3], ids[50]]
        usual = place(digests(w.system.site.lake.key, "id", ids), 3, 1)[0]
        assert w.places(ids) != {shard: [ids[n] for n in np.flatnonzero(usual == shard)] for shard in range(3)}
        shards = set(w.places(asked))
        updated = w.forget(asked, strategy="fade")
        made = {shard["shard"]: shard["strategy"] for shard in w.system.report(updated)["shards"]}
        assert made == dict.fromkeys(shards, "fade")
        served = w.system.registry.version()
        assert {sub.shard for sub in served.shards if not sub.exact} == shards
        w.run()
        exact = w.system.registry.version()
        assert exact.version > served.version
        assert all(sub.exact for sub in exact.shards)
        assert_made_by_class_means(w)
        assert w.state(updated) is RequestState.PURGED
        assert_answers_by_class_means(w)
        w.assert_nothing_left(asked)
        public = [*Keyring(w.system.settings).public_keys().values()]
        every = w.certificates
        found = [*check_chain(every, public).items, *(item for one in every for item in check(one, public).items)]
        assert [item for item in found if not item.ok] == []
        touched = [shard for one in every for shard in one["shards"]]
        stages = {(stage["strategy"], stage["exact"]) for shard in touched for stage in shard["stages"]}
        assert stages == {("fade", False), (FALLBACK, True)}
        verified = {shard["evidence"]["verified"] for shard in touched}
        assert verified == {"yes"}, "trained anew in another process, by the plugin's learner"


def assert_made_by_class_means(w):
    """Compare what is served with means of columns and their squares that the kinds had no part in."""
    site, encoder = w.system.site, w.system.site.lake.manifest.encoder
    for sub in w.system.registry.version().shards:
        gone = {(str(stone.kind), stone.key) for stone in w.system.ledger.tombstones([sub.shard]).get(sub.shard, [])}
        rows = site.lake.rows("train", sub.shard, gone)
        known = dict(zip(map(bytes, rows.ids), rows.x, strict=True))
        table = pq.read_table(w.table)
        names = digests(site.lake.key, "id", table.column(w.config["data"]["id"]).to_pylist())
        live = [(place, known[bytes(name)]) for place, name in enumerate(names) if bytes(name) in known]
        plain = torch.from_numpy(encoder.encode(table.take([place for place, _ in live])))
        assert torch.equal(torch.stack([row for _, row in live]), torch.cat([plain, plain * plain], dim=1))
        means = torch.stack([rows.x[rows.y == label].double().mean(dim=0).float() for label in (0, 1)])
        assert torch.equal(site.blobs.get(sub.blob)["0.weight"], means)


def assert_answers_by_class_means(w):
    """Compare answers to rows given as JSON with the same rows, encoded as a table is."""
    site, some = w.system.site, pq.read_table(w.table).slice(0, 20)
    plain = torch.from_numpy(site.lake.manifest.encoder.encode(some))
    x = torch.cat([plain, plain * plain], dim=1)
    served = w.system.registry.version().shards
    with torch.no_grad():
        logits = torch.stack([site.load_model(sub.shard, sub.blob)(x) for sub in served])
    expected = logits.softmax(dim=2).mean(dim=0)
    said = w.system.predict(some.to_pylist())["predictions"]
    found = torch.tensor([[*each["probabilities"].values()] for each in said])
    torch.testing.assert_close(found, expected)


_ELSEWHERE = """
import pickle, sys
from hybridmu.runtime.workers.context import Site
site = Site(pickle.loads(bytes.fromhex(sys.stdin.read())))
from hybridmu.core import strategies
print(type(site.learner).__name__, type(strategies.get("fade")).__name__, type(site.lake.features).__name__)
"""


@pytest.mark.usefixtures("registries")
@pytest.mark.slow
def test_a_worker_finds_what_a_plugin_registers(tmp_path):
    """Settings reach an actor as Ray sends them: unpickled, not parsed."""
    settings = Settings.parse({"data": {"train": "t.parquet"}, "storage_url": str(tmp_path / "storage"), **TOYS})
    sent = pickle.dumps(settings).hex()
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], input=sent, capture_output=True, text=True, check=True, cwd=here
    )
    assert done.stdout.split() == ["ClassMeans", "Fade", "Squares"]


@pytest.mark.usefixtures("registries")
def test_other_kinds_are_another_storage(tmp_path):
    raw = {"data": {"train": "t.parquet"}, "storage_url": str(tmp_path / "storage")}
    usual, other = Settings.parse(raw), Settings.parse({**raw, **TOYS})
    assert not SHAPING & usual.identity().keys(), "older storages don't know them"
    others = {name: TOYS[name] for name in SHAPING}
    assert other.identity() == {**usual.identity(), **others}


@pytest.mark.usefixtures("registries")
def test_every_door_lists_what_is_registered_now(tmp_path):
    raw = {"data": {"train": "t.parquet"}, "storage_url": str(tmp_path / "storage"), "policy": {"strategy": "fade"}}
    with pytest.raises(ConfigError, match="'auto', 'retrain', 'rewind', 'dpus', 'dpus-optimised'"):
        Settings.parse(raw)
    assert Settings.parse({**raw, "plugins": [PLUGIN]}).policy.strategy == "fade"
    assert "fade" in choices()
    assert Keys.model_json_schema()["properties"]["strategy"]["enum"] == [*choices()]
    assert Keys.model_validate({"ids": [1], "strategy": "fade"}).strategy == "fade"


@pytest.mark.parametrize("name", ["rewind", "retrain"])
def test_auto_chooses_only_among_updates_that_canaries_calibrate(name):
    raw = {"data": {"train": "t.parquet"}, "storage_url": "/tmp/x", "policy": {"approximate": [name]}}
    with pytest.raises(ConfigError, match=f"canary deletions don't calibrate '{name}'"):
        Settings.parse(raw)


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        (["no_such_module_anywhere"], "can't be imported[\\s\\S]*ModuleNotFoundError"),
        ([3], "plugins"),
        ("tests.scenes.toy_kinds", "plugins"),
    ],
)
def test_a_plugin_that_is_none_is_one_sentence(plugins, says):
    with pytest.raises(ConfigError, match=says):
        Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "/tmp/x", "plugins": plugins})


class Mine:
    """Something to register."""


@pytest.mark.parametrize("name", ["", "auto", "Mine", "a" * 17, "ein wort", "1st", "x\x1b[31m"])
def test_a_name_is_one_that_ledger_and_certificates_hold(name):
    with pytest.raises(ValueError, match="can't name a thing"):
        Registry("thing", {}).register(name, Mine)


def test_a_name_is_given_once():
    registry = Registry("thing", {"old": "json:JSONDecoder"})
    registry.register("mine", Mine)
    registry.register("mine", Mine)  # a module that is imported under two names
    for name in ("mine", "old"):
        with pytest.raises(ValueError, match=f"thing '{name}' is registered already"):
            registry.register(name, json.JSONEncoder)
    assert registry.names() == ("old", "mine")
    assert registry.get("old") is json.JSONDecoder
    with pytest.raises(ValueError, match="unknown thing 'new'; known: mine, old"):
        registry.get("new")


@pytest.mark.usefixtures("registries")
def test_of_several_strategies_the_strictest_is_done():
    strategies.register(type("Loud", (Removal,), {"name": "loud", "rank": 1000, "run": Mine, "work": Mine}))
    order = ["retrain", "loud", "rewind", "auto", "dpus-optimised", "dpus-newton", "dpus"]
    for first in range(len(order)):
        assert strategies.strictest(order[: first - 1 : -1] if first else order[::-1]) == order[first]


@pytest.mark.parametrize("claims", [{"exact": True}, {"place": "shard"}])
def test_a_strategy_of_a_plugin_is_an_update(claims):
    with pytest.raises(ValueError, match="strategy 'boast' is no update"):
        strategies.register(type("Boast", (Removal,), {"name": "boast", **claims}))
    assert "boast" not in strategies.names()


def test_a_kind_has_the_methods_of_its_base():
    with pytest.raises(ValueError, match="strategy 'hollow' lacks run, work"):
        strategies.register(type("Hollow", (Removal,), {"name": "hollow"}))


def test_every_strategy_says_what_the_planner_asks():
    for name in strategies.names():
        strategy = strategies.get(name)
        assert isinstance(strategy, Removal)
        assert strategy.name == name
        assert strategy.exact or strategy.place == "updater"
        assert strategy.exact or strategy.learner is None
        assert re.fullmatch("#[0-9a-f]{6}", strategy.colour)
        assert list(strategy.steps) == sorted(strategy.steps)
    assert strategies.get(FALLBACK).exact
    assert strategies.calibrated() == ("dpus-newton", "dpus-optimised", "dpus")
    assert (learners.get().name, partitioners.get().name) == (LEARNERS.default, PARTITIONERS.default)
    assert features.get().name == FEATURES.default


# Where it is the kind of a job, and the worker's method.
JOBS = {"types/jobs.py", "runtime/coordinator/dispatcher.py", "cluster/ray_executor.py"}
# An auditor's package has no registry, and trusts no document's word on which strategies are exact.
AUDITOR = {"verifier/page.py", "verifier/shard_evidence.py"}


@pytest.mark.slow
def test_no_strategy_is_spelled_outside_of_its_file_and_the_registry():
    package = Path(strategies.__file__).parents[2]
    builtin = [name for name in STRATEGIES.names() if STRATEGIES.is_builtin(name)]  # other tests bring others along
    names = "|".join(builtin)
    spelled = re.compile(rf"""["']({names})["']""")
    files = {str(file.relative_to(package)): set(spelled.findall(file.read_text())) for file in package.rglob("*.py")}
    own = {name: set() for name in builtin}
    for file, found in files.items():
        for name in found if file not in {"kinds.py", *JOBS, *AUDITOR} else ():
            own[name].add(file)
    homes = {name: Path(sys.modules[type(strategies.get(name)).__module__].__file__) for name in own}
    assert own == {name: {str(home.relative_to(package))} for name, home in homes.items()}
