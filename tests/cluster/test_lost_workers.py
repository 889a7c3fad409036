"""Deaths of worker processes, in words that an operator can act on."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayActorError

from hybridmu.cluster.lost_workers import lost
from hybridmu.types import ProveJob

JOB = ProveJob(job_id="j", shard=3, generations=1, tombstones=(), history=(), needs=())
KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: _ShardActor
\tactor_id: 1f0c
\tpid: 4242
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process \
is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) ..."""
STARTED = """The actor died because of an error raised in its creation task, ray::_ShardActor.__init__()
  File "hybridmu/cluster/actors.py", line 40, in __init__
ConfigError: task.name is wrong"""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RayActorError(error_msg=KILLED), "SYSTEM_ERROR: Worker unexpectedly exits with a connection error code 2"),
        (
            RayActorError(error_msg=STARTED, actor_init_failed=True),
            "it could not start: ConfigError: task.name is wrong",
        ),
        (
            OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node"),
            "out of memory",
        ),
        (GetTimeoutError("Get timed out: some object(s) not ready."), "its answer did not come"),
        (ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (RayActorError(error_msg=""), "Ray does not say why"),
    ],
)
def test_it_says_which_shard_why_and_what_to_do(error, says):
    found = lost(error, JOB)
    assert "shard 3" in found.what
    assert says in found.got
    assert "\n" not in found.got
    assert "tried again" in found.remedy
