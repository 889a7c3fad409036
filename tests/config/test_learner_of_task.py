"""The learner follows from the task, and another one is refused."""

from __future__ import annotations

import pytest

from hybridmu.config import Settings
from hybridmu.config.data import TaskSettings
from hybridmu.errors import ConfigError
from hybridmu.kinds import ENCODER_OF_TASK, LEARNER_OF_TASK, LEARNERS, TASKS

RAW = {"data": {"train": "t.csv"}, "storage_url": "/tmp/x"}


@pytest.mark.parametrize("name", TASKS.names())
def test_it_follows_from_the_task(name):
    more = {"task": {"name": name}}
    if encoder := ENCODER_OF_TASK.get(name):
        more["task"] |= {"backbone": "folder", "length": 8}
        more["features"] = {"text": {"note": {"name": encoder, "folder": "folder", "length": 8}}}
    found = Settings.parse({**RAW, **more})
    assert found.learner.name == LEARNER_OF_TASK.get(name, LEARNERS.default)
    assert Settings.model_validate(found.model_dump(mode="json")) == found
    named = found.identity().get("learner")
    assert named == ({"name": found.learner.name} if name in LEARNER_OF_TASK else None)


@pytest.mark.parametrize(
    ("task", "learner", "says"),
    [
        ("lda", "sliced_sgd", "task lda is learned by additive; leave learner out"),
        ("mlp", "additive", "task mlp is learned by sliced_sgd; leave learner out"),
        ("network:Net", "additive", "task network:Net is learned by sliced_sgd"),
    ],
)
def test_another_one_is_refused(task, learner, says):
    with pytest.raises(ConfigError, match=says):
        Settings.parse({**RAW, "task": {"name": task}, "learner": {"name": learner}})


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        ({}, "merge"),
        ({"aggregation": "vote"}, "vote"),
        ({"groups": 1}, "merge"),
        ({"groups": 2}, "mean"),
        ({"port": 1}, "merge"),
    ],
)
def test_sums_become_one_model_unless_something_else_is_said(serving, expected):
    raw = {**RAW, "task": {"name": "lda"}, "sisa": {"shards": 3}, "serving": serving}
    assert Settings.parse(raw).serving.aggregation == expected
    if not serving:
        del raw["serving"]
        assert Settings.parse(raw).serving.aggregation == expected


@pytest.mark.parametrize(
    ("task", "serving", "says"),
    [
        ("mlp", {"aggregation": "merge"}, "merge is for lda and ridge"),
        ("lda", {"aggregation": "median"}, "combined by mean or vote"),
        ("lda", {"aggregation": "merge", "groups": 2}, "serving.groups spreads"),
    ],
)
def test_what_can_not_be_merged_is_refused(task, serving, says):
    with pytest.raises(ConfigError, match=says):
        Settings.parse({**RAW, "task": {"name": task}, "sisa": {"shards": 3}, "serving": serving})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"train": "t.csv", "target": "x"}}, "learns classes"),
        ({"policy": {"strategy": "dpus"}}, "policy.strategy: dpus is for networks"),
        ({"compute": {"parts": 2}}, "the section compute is for networks"),
        ({"task": {"name": "mlp"}, "policy": {"strategy": "subtract"}}, "subtract is for lda and ridge"),
    ],
)
def test_what_does_not_go_with_sums_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        Settings.parse({**RAW, "task": {"name": "lda"}, **change})


def test_sections_may_be_objects():
    found = Settings(**{**RAW, "task": TaskSettings(name="lda")})
    assert (found.learner.name, found.serving.aggregation) == ("additive", "merge")
    assert Settings.parse({**RAW, "task": {"name": "lda"}, "learner": {}}).learner.name == "additive"


def test_it_may_be_said():
    raw = {**RAW, "task": {"name": "ridge"}, "learner": {"name": "additive"}}
    assert Settings.parse(raw).learner.name == "additive"
