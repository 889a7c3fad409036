"""Several numbers of a row on Ray: the bits of one process, and the names of the targets over HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from ray import serve
from ray.serve.config import gRPCOptions

import hybridmu
from hybridmu.serving import grpc_calls
from serve.app import build
from tests.ray import support
from tests.system.test_sums_of_targets import TARGETS, config, made

GRPC = support.free_port()


def test_shards_of_actors_answer_with_the_names_of_the_targets(cluster: None, tmp_path: Path) -> None:
    pq.write_table(made(), tmp_path / "a.parquet")
    leases = {"authenticate": True, "poll_seconds": 0.2, "lease_seconds": 10.0}
    raw: dict[str, Any] = config(tmp_path / "s", tmp_path / "a.parquet", 2, serving=leases)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    alone_raw = {**raw, "storage_url": str(tmp_path / "alone")}
    with hybridmu.connect(raw, executor="ray") as system, hybridmu.connect(alone_raw, executor="local") as alone:
        for each in (system, alone):
            each.train()
            each.forget(ids=[3, 17], groups=["person-7"], strategy="subtract", wait=True)
        assert support.blobs(system) == support.blobs(alone)
        rows = made(5, seed=3).to_pylist()
        port = support.free_port()
        calls = gRPCOptions(
            port=GRPC, grpc_servicer_functions=[f"{grpc_calls.__name__}.add_EnsembleServicer_to_server"]
        )
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, grpc_options=calls)
        try:
            serve.run(build({"config": str(tmp_path / "config.yaml")}), name="targets", route_prefix="/")
            offline = system.predict(rows)
            token, _ = system.database.tokens.create("app", ["predict"])
            url, headers = f"http://127.0.0.1:{port}/v1/predict", {"Authorization": f"Bearer {token}"}
            over_http = httpx.post(url, headers=headers, json={"rows": rows}).raise_for_status().json()
            with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:
                over_grpc = grpc_calls.call(channel, {"rows": rows}, token, "targets")
        finally:
            serve.shutdown()
    assert over_grpc == over_http
    for ours, theirs in zip(over_http["predictions"], offline["predictions"], strict=True):
        assert [*ours["values"]] == TARGETS
        assert ours["values"] == pytest.approx(theirs["values"], rel=1e-6)
        assert ours["intervals"].keys() == {*TARGETS}
