"""Looking for traces of purged rows in what Ray itself writes: session logs and spilled objects, on every node."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybridmu.cluster.resources import nodes
from hybridmu.core.needles import search

_TIMEOUT_SECONDS = 300.0
_CHUNK = 1 << 26


def traces_on_nodes(needles: Collection[bytes]) -> list[str]:
    """Return the files of Ray's session folders (logs, spilled objects) on all live nodes that hold a needle.

    Args:
        needles: Digests and telling raw ids of purged rows; digests are also searched as hexadecimal text.

    Returns:
        Paths, each with its node; empty when nothing was found.
    """
    if not needles:
        return []
    wanted = sorted({*needles, *(needle.hex().encode() for needle in needles if len(needle) == 16)})
    look = ray.remote(num_cpus=0)(_look)
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(wanted)
        for node in nodes()
    ]
    return [path for paths in ray.get(found, timeout=_TIMEOUT_SECONDS) for path in paths]


def _look(needles: list[bytes]) -> list[str]:
    """Search this node's session folder."""  # noqa: DOC201 - a remote task
    context = ray.get_runtime_context()
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    found = []
    for file in session.rglob("*"):
        try:
            if not file.is_file() or file.is_socket():
                continue
            with file.open("rb") as stream:
                tail = b""
                while chunk := stream.read(_CHUNK):
                    if search(tail + chunk, needles):
                        found.append(f"{context.get_node_id()}:{file}")
                        break
                    tail = chunk[-64:]
        except OSError:
            continue  # rotated or removed meanwhile
    return found
