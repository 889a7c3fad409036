"""Deaths of worker processes in words: Ray's own text is for those who write Ray, thirty lines of it."""

from __future__ import annotations

import re

from ray.exceptions import GetTimeoutError, RayActorError, RayError

from hybridmu.errors import ResourceError
from hybridmu.types import Job

_EXIT = re.compile(r"Worker exit type: (\w+)(?:.*?Worker exit detail: ([^.\n]+))?", re.DOTALL)
_ANSWER = "its answer did not come"
_MEMORY = "the node ran out of memory, and Ray ended the process"


def lost(error: RayError, job: Job) -> ResourceError:
    """Return an error that says what became of a job's process.

    Args:
        error: Ray's.
        job: What the process worked on.
    """
    return ResourceError(
        f"the process that worked on shard {job.shard} ended before its job was done",
        got=_reason(error),
        remedy="the job is tried again, and nothing is lost. If it ends again: more memory per node or more shards "
        "where memory ran out, and otherwise Ray's logs on that node (`worker-*.err`)",
    )


def _reason(error: RayError) -> str:
    text = str(error)
    if isinstance(error, GetTimeoutError):
        return _ANSWER
    if re.search(r"\bOOM\b|out of memory|low on memory", text.partition("There are some potential root causes")[0]):
        return _MEMORY
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"it could not start: {_last_line(text)}"
    if found := _EXIT.search(text):
        kind, detail = found.groups()
        return f"{kind}: {detail.strip()}" if detail else kind
    return _last_line(text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray does not say why"
