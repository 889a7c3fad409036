"""Settings of the deployment: cluster, served model, interface, logs, keys."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from pydantic import Field, field_validator

from hybridmu.config.addresses import whole_path
from hybridmu.config.section import Section

_HOST = re.compile(r"(\*\.)?[0-9A-Za-z_.-]+|[0-9A-Fa-f:.]+")


class ClusterSettings(Section):
    """The Ray cluster.

    Attributes:
        address: Ray address; null starts a local Ray (inside a Ray job: that job's cluster).
        cpus_per_shard: CPUs a shard actor holds while it trains; also its torch threads (at least 1).
        gpus_per_shard: GPUs a shard actor holds; with more than 0 it trains on CUDA.
        max_parallel: Upper bound on shards trained at once; null: what the cluster has.
        updaters: Central actors for approximate updates.
        live_actors: Shard actors kept alive; more shards than this are storage until they are needed.
        labels: Ray node label → value that shards and updaters need, as `value`, `!value`, `in(a, b)` or `!in(a, b)`:
            `{"ray.io/accelerator-type": "in(A100, H100)", "ray.io/market-type": "!spot"}`.
        job_timeout_seconds: A shard job that takes longer has failed.
        resource_timeout_seconds: How long to wait for CPUs or GPUs that others hold.
        wide: How the processes of one shard (`compute.parts`) share it: `ddp` holds all of the sub-model in each;
            `fsdp2` divides parameters, gradients and optimizer state among them, for sub-models too large for one
            device. The bits are the same.
    """

    address: str | None = None
    cpus_per_shard: float = Field(1, gt=0, le=1024)
    gpus_per_shard: float = Field(0, ge=0, le=1024)
    max_parallel: int | None = Field(None, ge=1, le=100_000)
    updaters: int = Field(1, ge=1, le=10_000)
    live_actors: int = Field(16, ge=1, le=100_000)
    labels: dict[str, str] = Field(default_factory=dict)
    job_timeout_seconds: float = Field(86_400, gt=0, le=1e9)
    resource_timeout_seconds: float = Field(300, gt=0, le=1e9)
    wide: Literal["ddp", "fsdp2"] = "ddp"


class ServingSettings(Section):
    """The ensemble's replicas and their answers.

    Attributes:
        aggregation: Of classes, `mean` of softmax vectors or majority `vote`; of numbers (`data.target`), `mean` or
            `median`. Of closed-form tasks also `merge`: one model of all shards' sums.
        max_batch_size: Rows per prediction batch.
        batch_wait_ms: How long a batch waits for more rows.
        lease_seconds: A replica that can't reach the ledger for this long stops answering.
        poll_seconds: How often a replica looks for a new version.
        host: Address that the demo's HTTP proxy binds.
        port: Its port.
        labels: Ray node label → value that replicas need, as for `cluster.labels`.
        per_node: How many replicas one node may have, so that its end does not end them all; null: any number, spread
            as well as Ray can.
        groups: Over how many processes the sub-models of one replica are spread, where they are too many for one.
        authenticate: Answer those alone who have a token with the scope `predict` (docs/api.md).
        body_bytes: Longest body of a call that is read.
        request_rows: Rows that one call may have.
    """

    aggregation: Literal["mean", "vote", "median", "merge"] = "mean"
    max_batch_size: int = Field(64, ge=1, le=1_000_000)
    batch_wait_ms: float = Field(2.0, ge=0, le=60_000)
    lease_seconds: float = Field(10.0, gt=0, le=1e6)
    poll_seconds: float = Field(0.5, ge=0.001, le=1e6)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    labels: dict[str, str] = Field(default_factory=dict)
    per_node: int | None = Field(None, ge=1, le=10_000)
    groups: int = Field(1, ge=1, le=10_000)
    authenticate: bool = False
    body_bytes: int = Field(16 * 2**20, ge=1024)
    request_rows: int = Field(10_000, ge=1)


class LogSettings(Section):
    """Log lines of the coordinator, of replicas and of `hybridmu api`.

    Attributes:
        format: `text`, or `json`: one object per line, for collectors.
        level: The least that is logged.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


class ApiSettings(Section):
    """The HTTP interface for requests (`hybridmu api`).

    Attributes:
        host: Address that it listens on.
        port: Its port.
        hosts: Names that callers may call it by (the header Host): `api.example.org`, `*.example.org`, or `*` for any;
            none: this machine's loopback names and `host`.
        trusted_proxies: Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
        body_bytes: Longest body that is read.
        requests_per_second: Calls of one token, in the long run; those without a token share one such measure per
            address.
        burst: Calls at once.
        token_seconds: How long a revoked token may still count, here and in the served model.
        workers: Calls that are answered at once, those with ids apart.
        key_workers: Plans that are made at once, and deletions that are accepted at once; one caller has at most all
            but one of them. Long ones (16 KiB of ids and more) wait for each other, one of each kind after the other.
        waiting: Calls of one caller that may wait for a worker.
        connections: Open connections; where there are more, the one that is waited for the longest is closed.
        header_seconds: How long a call may take to send its headers.
        body_seconds: How long it may take to send its body.
        reply_seconds: How long a caller may leave an answer unread.
        idle_seconds: How long a connection without a call is kept.
        console_seconds: How long a session of the console lasts.
        console_idle_seconds: It ends earlier when nobody asked for a page for so long.
    """

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=1, le=65535)
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    body_bytes: int = Field(4 * 2**20, ge=1024, le=2**30)
    requests_per_second: float = Field(20.0, gt=0, le=1e6)
    burst: int = Field(40, ge=1, le=1_000_000)
    token_seconds: float = Field(2.0, ge=0, le=86_400)
    workers: int = Field(4, ge=1, le=256)
    key_workers: int = Field(2, ge=1, le=256)
    waiting: int = Field(40, ge=1, le=10_000)
    connections: int = Field(512, ge=1, le=100_000)
    header_seconds: float = Field(10.0, gt=0, le=86_400)
    body_seconds: float = Field(30.0, gt=0, le=86_400)
    reply_seconds: float = Field(30.0, gt=0, le=86_400)
    idle_seconds: float = Field(15.0, gt=0, le=86_400)
    console_seconds: float = Field(8 * 3600.0, gt=0, le=1e9)
    console_idle_seconds: float = Field(1800.0, gt=0, le=1e9)

    @field_validator("hosts")
    @classmethod
    def _names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host != "*" and not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not a host name: expected a name or address without a port, or *.NAME")
        return hosts

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"expected addresses or networks: {error}") from None
        return proxies


class KeySettings(Section):
    """Places of the signing and the guard key: never inside storage, so that a copy of storage holds no key.

    `Settings` refuses a place inside it.

    Attributes:
        folder: Local folder of the key files; null: beside a local storage folder, as `<storage>-keys`.
        signing: Ed25519 key that signs certificates, instead of a file in the folder: `env:NAME` or `file:PATH`
            (PEM, or 64 hex digits).
        guard: Key of the HMACs of forgotten ids: `env:NAME` or `file:PATH` (64 hex digits a line, the newest last).
    """

    folder: str | None = None
    signing: str | None = None
    guard: str | None = None

    @field_validator("folder")
    @classmethod
    def _whole(cls, folder: str | None) -> str | None:
        return None if folder is None else str(whole_path(folder))

    @field_validator("signing", "guard")
    @classmethod
    def _named(cls, source: str | None) -> str | None:
        kind, _, name = (source or "").partition(":")
        if source is not None and (kind not in {"env", "file"} or not name):
            raise ValueError("expected env:NAME or file:PATH")  # what is there instead may be the key itself
        return f"file:{whole_path(name)}" if kind == "file" else source
