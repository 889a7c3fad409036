"""Announcements of a new version to Serve's replicas; a missed one costs a poll interval, nothing else."""

from __future__ import annotations

from ray.exceptions import RayError

APPLICATION = "hybridmu"
_WAIT_SECONDS = 5.0


def announce(version: int) -> None:
    """Broadcast `refresh` to every replica that is routable now, and wait shortly for their answers."""
    try:
        from ray import serve  # a second of imports that a cluster without Serve does not pay
        from ray.serve.exceptions import RayServeException
    except ModuleNotFoundError:
        return  # the extra `serve` is not installed here: where it is, replicas poll

    try:
        serve.get_app_handle(APPLICATION).broadcast("refresh", version=version).results(timeout_s=_WAIT_SECONDS)
    except (RayServeException, RayError, TimeoutError):
        return  # not deployed under this name, or busy: replicas poll
