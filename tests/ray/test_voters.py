"""Sub-models that other processes hold, without Ray: one version per answer, and nothing old is left once SERVED."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

import hybridmu
from hybridmu.cluster.group_deployments import ask
from hybridmu.config import Settings
from hybridmu.errors import ConfigError, DataError, StateError
from hybridmu.serving.replica import Replica
from hybridmu.serving.submodel_group import BehindError, SubModelGroup, members, spread
from hybridmu.types import RequestState
from tests.ray import support
from tests.ray.test_replica import state, step_until_applied
from tests.support import HANG_SECONDS

GROUPS, SHARDS = 2, 3
ROWS = [{f"x{i}": (row - 2) * (i % 3 - 1.0) for i in range(8)} for row in range(5)]


@pytest.fixture
def system(tmp_path: Path) -> Any:
    serving = {"lease_seconds": 60.0, "groups": GROUPS}
    raw = support.config(tmp_path, sisa={"shards": SHARDS, "slices": 2}, serving=serving)
    with hybridmu.connect(raw, executor="local") as opened:
        opened.train()
        yield opened


class World:
    """Every group in two processes, of which either may be asked, and one replica."""

    def __init__(self, system: hybridmu.System) -> None:
        self.groups = [[SubModelGroup(system.settings, g, f"voters-{g}-{n}") for n in range(2)] for g in range(GROUPS)]
        self.asked = 0
        self.replica = self.front(system, "front")

    def front(self, system: hybridmu.System, name: str) -> Replica:
        return Replica(system.settings, name, load=partial(spread, ask=self.ask))

    def ask(self, version: int, x: Any) -> list[Any]:
        self.asked += 1
        return [group[self.asked % 2].logits(version, x) for group in self.groups]

    def refresh(self) -> None:
        for group in self.groups:
            for one in group:
                one.refresh()

    def answer(self) -> dict[str, Any]:
        with self.replica.answering():
            (answer,) = self.replica.ensemble.answers([ROWS])
        assert isinstance(answer, dict)
        return answer


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["version"] == theirs["version"]
    for mine, other in zip(ours["predictions"], theirs["predictions"], strict=True):
        assert mine["label"] == other["label"]
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


@given(st.integers(1, 9), st.integers(1, 30))
def test_groups_hold_every_shard_once_and_evenly(groups: int, shards: int) -> None:
    found = [list(members(group, groups, shards)) for group in range(groups)]
    assert sorted(shard for group in found for shard in group) == list(range(shards))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_more_groups_than_sub_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving.groups is 3"):
        Settings.parse(support.config(tmp_path, sisa={"shards": 2, "slices": 2}, serving={"groups": 3}))


def test_answers_are_those_of_one_process_and_no_process_holds_all(system: hybridmu.System) -> None:
    world = World(system)
    same(world.answer(), system.predict(ROWS))
    assert all(model is None for _, model in world.replica.ensemble.models.values())
    assert [set(group[0].held[1].models) for group in world.groups] == [{0, 2}, {1}]
    assert not world.replica.ensemble.quick(1), "asking others is nothing for the event loop"
    # A vote without one shard is counted where the answer is made.
    withheld = world.replica.ensemble.withholding(frozenset({1}))
    x = withheld.encode(ROWS)
    left = [world.groups[0][0].held[1].logits(x), world.groups[0][1].held[1].logits(x)]
    assert torch.equal(left[0], left[1])
    np.testing.assert_allclose(withheld.probabilities(x), left[0].softmax(dim=-1).mean(dim=0).numpy(), atol=1e-6)


def test_served_waits_until_voters_let_the_old_version_go(system: hybridmu.System) -> None:
    world = World(system)
    before = world.answer()
    request = step_until_applied(system, 3)
    world.refresh()
    assert all(set(one.held) == {1, 2} for group in world.groups for one in group), "a replica still asks for it"
    same(world.answer(), before)
    changed = [shard for shard in range(SHARDS) if _blob(world, 1, shard) != _blob(world, 2, shard)]
    assert len(changed) == 1, "the others are shared"
    assert state(system, request) is RequestState.APPLIED

    world.replica.refresh()
    assert world.answer()["version"] == 2
    assert state(system, request) is RequestState.APPLIED, "weights that saw the row are in the voters' memory"
    world.refresh()
    assert all(set(one.held) == {2} for group in world.groups for one in group)
    assert state(system, request) is RequestState.SERVED
    same(world.answer(), system.predict(ROWS))
    assert world.groups[0][0].logits(2, np.zeros((1, 8), np.float32)) is not None
    with pytest.raises(BehindError):
        spread(system.site, system.registry.version(1), None, lambda version, x: [None] * GROUPS)


def _blob(world: World, version: int, shard: int) -> str:
    return world.groups[shard % GROUPS][0].held[version].models[shard][0]


def test_a_replica_that_starts_between_two_versions_is_not_left_alone(system: hybridmu.System) -> None:
    """SubModelGroup load what they are asked for, also an older version, as long as its weights are there."""
    world = World(system)
    request = step_until_applied(system, 3)
    late = SubModelGroup(system.settings, 0, "late")  # starts on version 2 while the replica answers with 1
    assert set(late.held) == {2}
    votes = late.logits(1, np.zeros((1, 8), np.float32))
    assert votes is not None
    assert votes[0] == (0, 2)
    assert set(late.held) == {1, 2}
    assert system.replicas.live()["late"] == 1, "the ledger knows before the answer is there"
    assert late.poll_seconds < system.settings.serving.poll_seconds, "it looks soon whether that can go again"
    assert late.logits(99, np.zeros((1, 8), np.float32)) is None
    world.replica.refresh()
    world.refresh()
    assert state(system, request) is RequestState.APPLIED, "the late one is on the list with version 1"
    late.refresh()
    assert state(system, request) is RequestState.SERVED


def test_voters_that_lost_the_ledger_are_not_waited_for_and_do_not_answer(
    system: hybridmu.System, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(system)
    alone = world.groups[0][0]
    request = step_until_applied(system, 3)
    world.replica.refresh()
    monkeypatch.setattr(alone, "_renewed", float("-inf"))
    with pytest.raises(StateError, match="lost touch"):
        alone.logits(1, np.zeros((1, 8), np.float32))
    system.replicas.register(alone.replica_id, 1, -1.0, role="votes")  # expired in the ledger too
    for group in world.groups:
        for one in group:
            if one is not alone:
                one.refresh()
    assert state(system, request) is RequestState.SERVED


def test_rows_that_a_sub_model_fails_at_are_refused_to_their_caller_alone(
    system: hybridmu.System, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(system)
    for voters in world.groups[1]:
        plain = voters.held[1].logits

        def picky(x: Any, plain: Any = plain) -> Any:
            return plain(x) if (x[:, 0] < 5).all() else {}["a user's model may raise anything"]

        monkeypatch.setattr(voters.held[1], "logits", picky)
    bad = [{**ROWS[0], "x0": 9.0}]
    before, refused, after = world.replica.ensemble.answers([ROWS[:2], bad, ROWS[2:]])
    assert isinstance(refused, DataError)
    assert "can't answer these rows" in str(refused)
    assert [before, after] == [world.replica.ensemble.answers([rows])[0] for rows in (ROWS[:2], ROWS[2:])]


def test_a_refusal_comes_through_ray_as_it_was_said() -> None:
    said = DataError("a sub-model can't answer these rows", got="KeyError")
    brought = RayTaskError("logits", "Traceback of the other process", said).as_instanceof_cause()
    group = MagicMock()  # a handle is Serve's own, and has no sub-models that fail
    group.logits.remote.return_value.result.side_effect = brought
    with pytest.raises(DataError) as refused:
        ask([group], 1, None)
    assert (type(refused.value), str(refused.value)) == (DataError, str(said))


def test_voters_follow_by_themselves_and_leave(system: hybridmu.System) -> None:
    world = World(system)
    stop = Event()
    threads = [Thread(target=one.follow, args=(stop,)) for group in world.groups for one in group]
    threads.append(Thread(target=world.replica.follow, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        for number in (3, 4, 5):
            report = system.forget(ids=[number], strategy="retrain", wait=True)
            assert world.answer()["version"] == report["version_after"]
            assert all(min(one.held) == report["version_after"] for group in world.groups for one in group)
    finally:
        stop.set()
        for thread in threads:
            thread.join(HANG_SECONDS)
    for group in world.groups:
        for one in group:
            one.close()
    assert set(system.replicas.live()) == {"front"}
