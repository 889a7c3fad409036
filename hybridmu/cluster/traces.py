"""Looking for traces of purged rows in what Ray itself writes: session logs and spilled objects, on every node."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybridmu.core.needles import Needles, spelled
from hybridmu.errors import PurgeError
from hybridmu.runtime.updater import Updater
from hybridmu.types import LookOutcome, ShardJob

_TIMEOUT_SECONDS = 300.0


class ClusterUpdater(Updater):
    """An updater that looks on the machines of its cluster too."""

    def look(self, job: ShardJob) -> LookOutcome:
        """Search storage, then what Ray wrote on every node, for what was purged.

        Args:
            job: As for any updater.

        Returns:
            The files that still hold a needle.
        """
        found = super().look(job)
        searched, traces = traces_on_nodes(job.needles)
        return replace(found, found=found.found + traces, looked=(*found.looked, ("nodes", searched)))


def traces_on_nodes(needles: Collection[bytes]) -> tuple[int, tuple[tuple[str, tuple[bytes, ...]], ...]]:
    """Search Ray's session folders (logs, spilled objects) on all live nodes.

    Args:
        needles: Digests and telling raw ids of purged rows; digests are also searched as hexadecimal text.

    Returns:
        (nodes searched, (file with its node, needles in it) for every file that holds one).

    Raises:
        PurgeError: A node could not be searched.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]] if needles else []
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(sorted(needles))
        for node in alive
    ]
    try:
        per_node = ray.get(found, timeout=_TIMEOUT_SECONDS)
    except RayError as error:
        raise PurgeError(
            "the cluster's nodes could not be searched for purged rows",
            got=str(error).splitlines()[0],
            remedy="it is tried again",
        ) from None
    return len(alive), tuple(
        (f"{file} of node {node}", held) for node, files in zip(alive, per_node, strict=True) for file, held in files
    )


def _look(needles: list[bytes]) -> list[tuple[str, tuple[bytes, ...]]]:
    """Search this node's session folder."""  # noqa: DOC201 - a remote task
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    meaning = {spelling: needle for needle in needles for spelling in spelled([needle])}
    wanted = Needles(meaning)
    found = []
    for file in session.rglob("*"):
        try:
            if not file.is_file() or file.is_socket():
                continue
            with file.open("rb") as stream:
                held = {meaning[spelling] for piece in wanted.in_stream(stream.read) for spelling in piece}
        except OSError:
            continue  # rotated or removed meanwhile
        if held:
            found.append((str(file), tuple(sorted(held))))
    return found
