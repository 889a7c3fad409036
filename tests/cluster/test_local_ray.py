"""A local Ray that is late is started again, and told of when it never comes; other errors are not hidden."""

from __future__ import annotations

import pytest
import ray

from hybridmu.cluster.local_ray import start_local
from hybridmu.errors import ResourceError

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.mark.parametrize("late", [0, 1, 2])
def test_it_is_started_again(monkeypatch, late):
    """Ray's own limit can't be reached on purpose, so what it raises then is raised in its place."""
    asked = []

    def init(**options):
        asked.append(options)
        if len(asked) <= late:
            raise Exception(LATE)

    monkeypatch.setattr(ray, "init", init)
    start_local(num_cpus=2)
    assert asked == [{"address": "local", "num_cpus": 2}] * (late + 1)


def test_one_that_never_comes_is_told(monkeypatch):
    def init(**_):
        raise Exception(LATE)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError, match="3 times") as told:
        start_local()
    assert "--local" in told.value.remedy


def test_other_errors_are_not_tried_again(monkeypatch):
    asked = []

    def init(**_):
        asked.append(1)
        raise ValueError("num_cpus is wrong")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match="num_cpus"):
        start_local()
    assert len(asked) == 1
