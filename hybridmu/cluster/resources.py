"""Resources of the cluster: start or join Ray, and check that the settings fit."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from hybridmu.cluster.actors import NAMESPACE
from hybridmu.cluster.local_ray import start_local
from hybridmu.config import Settings, in_ray_job
from hybridmu.config.addresses import local_path
from hybridmu.errors import ResourceError
from hybridmu.planning.planner import Pools


def ensure_ray(settings: Settings) -> bool:
    """Join the configured cluster, or start a local one that ends with this process.

    Args:
        settings: `cluster.address`.

    Returns:
        Whether this call started or joined Ray (false: it was there already).

    Raises:
        ResourceError: The cluster can't be reached, or a local one did not start.
    """
    if ray.is_initialized():
        return False
    address = settings.cluster.address or ("auto" if in_ray_job() else None)
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
    if settings.logs.format == "json":  # the workers' files, which collectors read on every node
        common["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level=settings.logs.level.upper())
    try:
        if address is None:
            # A proxy of Serve that is slow to start beside other work is not dead.
            os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
            start_local(num_cpus=os.cpu_count(), include_dashboard=False, **common)
            _close_token()
        else:
            ray.init(address=address, **common)
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at {address}",
            got=str(error).split("\n")[0],
            remedy="start one with `ray start --head`, or set cluster.address: null",
        ) from None
    return True


def _close_token() -> None:
    """Let only its owner read the token that Ray made: its holder may run code on every cluster that knows it."""
    with suppress(OSError):  # there is none where RAY_AUTH_MODE says so; one that is not ours is not ours to change
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def workers_path(settings: Settings) -> list[str] | None:
    """Return the folders, before its own, where a worker looks for modules; None where this process can't know.

    Ray hands on the script's folder and the current one, and nothing else that a process added to its `sys.path`.

    Args:
        settings: `cluster.address`.
    """
    if ray.is_initialized() or settings.cluster.address or in_ray_job():
        return None
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    return [*([script] if script in sys.path else []), os.getcwd()]


def nodes(labels: Mapping[str, str] | None = None) -> dict[str, dict[str, float]]:
    """Return node id → resources of every node that is alive.

    Args:
        labels: Only nodes whose labels fit (`cluster.labels`).
    """
    return {
        node["NodeID"]: dict(node["Resources"])
        for node in ray.nodes()
        if node["Alive"] and fits(node.get("Labels", {}), labels or {})
    }


def fits(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether a node's labels are the wanted ones, in the syntax of Ray's own label selectors.

    Args:
        labels: Of the node.
        wanted: Label → `value`, `!value`, `in(a, b)` or `!in(a, b)`.

    Example:
        >>> fits({"ray.io/accelerator-type": "A100"}, {"ray.io/accelerator-type": "in(A100, H100)"})
        True
        >>> fits({}, {"ray.io/market-type": "!spot"})  # a label that is not there is not that value
        True
    """
    for name, text in wanted.items():
        without = text.removeprefix("!")
        listed = without.removeprefix("in(").removesuffix(")") if without.startswith("in(") else without
        if (labels.get(name) in {value.strip() for value in listed.split(",")}) == text.startswith("!"):
            return False
    return True


def slots(settings: Settings, found: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Return node id → how many shard jobs fit it at once; nodes without room, such as a head with no CPU, are absent.

    Args:
        settings: What one shard holds.
        found: From `nodes()`. Totals over the cluster would not do: a job can't be spread over nodes.
    """
    needs = _needs(settings)
    fits = {
        node: min(math.floor(have.get(name, 0.0) / each + 1e-9) for name, each in needs.items())
        for node, have in found.items()
    }
    return {node: count for node, count in fits.items() if count}


def pools(settings: Settings, found: Mapping[str, Mapping[str, float]]) -> Pools:
    """Return how many retrains and updates fit the cluster at once.

    Args:
        settings: What one shard holds.
        found: From `nodes()`.

    Returns:
        At least one of each.

    Raises:
        ResourceError: Not even one shard fits; the missing resource is named.
    """
    cluster, needs = settings.cluster, _needs(settings)
    total = sum(slots(settings, found).values())
    if not total:
        largest = {name: max([0.0, *(have.get(name, 0.0) for have in found.values())]) for name in needs}
        short = [name for name, each in needs.items() if largest[name] < each] or list(needs)
        raise ResourceError(
            f"the cluster is too small: one shard needs {_listed(needs, short)} on one node" + _where(settings),
            expected=f"a node with {_listed(needs, needs)}",
            got=f"{len(found)} node(s), at most {_listed(largest, needs)} on one",
            remedy=f"lower {' or '.join(f'cluster.{name.lower()}s_per_shard' for name in short)}, or add nodes",
        )
    parts = settings.compute.parts
    if total < parts:
        raise ResourceError(
            f"the cluster is too small: a shard is trained by {parts} processes",
            expected=f"room for {parts} times {_listed(needs, needs)}" + _where(settings),
            got=f"room for {total}",
            remedy="lower compute.parts before the first training, or add nodes",
        )
    updaters = min(cluster.updaters, total)
    workers = max(1, total - updaters) if cluster.gpus_per_shard else total  # updaters hold a GPU each
    workers = max(1, workers // parts)
    return Pools(min(workers, cluster.max_parallel or workers), updaters)


def refuse_ledger_in_a_file(settings: Settings, found: Mapping[str, Mapping[str, float]]) -> None:
    """Check that a cluster of several nodes has a ledger that all of them can reach.

    SQLite's locks and its write-ahead log work between processes of one machine. Over a network file system a replica
    on another node would read an old state of the ledger, confirm a version it does not serve, or damage the file.

    Args:
        settings: Where the ledger is.
        found: From `nodes()`.

    Raises:
        ResourceError: There is more than one node, and the ledger is an SQLite file.
    """
    if len(found) > 1 and settings.database.startswith("sqlite"):
        raise ResourceError(
            "the ledger is an SQLite file, which serves one machine, but the cluster has several nodes",
            expected="a ledger that every node can reach",
            got=f"{len(found)} nodes",
            remedy="set database_url: postgresql://USER@HOST/DATABASE, and a storage_url that every node sees; "
            "docs/operations.md says how",
        )


def local_storage_warning(settings: Settings, found: Mapping[str, Mapping[str, float]]) -> str | None:
    """Return what to heed when several nodes work on storage with a local path, or None.

    It is no error: the path may be a shared mount. Where it is not, workers on other nodes find no rows and fail.
    """
    if len(found) < 2 or local_path(settings.storage_url) is None:
        return None
    return (
        f"the cluster has {len(found)} nodes and storage_url is the path {settings.storage_url}: "
        "it must be a mount that all nodes share"
    )


def _where(settings: Settings) -> str:
    """Return which nodes count, for an error."""
    wanted = settings.cluster.labels
    return f" with the labels {', '.join(f'{name}={value}' for name, value in wanted.items())}" if wanted else ""


def _needs(settings: Settings) -> dict[str, float]:
    cluster = settings.cluster
    return {"CPU": cluster.cpus_per_shard} | ({"GPU": cluster.gpus_per_shard} if cluster.gpus_per_shard else {})


def _listed(amounts: Mapping[str, float], names: Iterable[str]) -> str:
    return " and ".join(f"{amounts[name]:g} {name}" for name in names)
