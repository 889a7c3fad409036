"""Systems that learn numbers, on Ray: the bits of one process, and values over HTTP, gRPC and spread sub-models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
import yaml
from ray import serve
from ray.serve.config import gRPCOptions

import hybridmu
from hybridmu.serving import grpc_calls
from serve.app import build
from tests import support as tables
from tests.ray import support

GRPC = support.free_port()
ROWS = [{f"x{i}": (row - 2) * (i % 3 - 1.0) for i in range(8)} for row in range(5)]


@pytest.fixture(scope="module")
def raw(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration whose table has a price, the sum of three columns."""
    folder = tmp_path_factory.mktemp("numbers")
    rows = tables.table(300, features=8).drop_columns(["label"])
    price = [
        1e5 + 1e4 * (a - b + c / 2) for a, b, c in zip(*(rows[f"x{i}"].to_pylist() for i in range(3)), strict=True)
    ]
    tables.write(folder, rows.append_column("price", pa.array(price)))
    made = support.config(folder, sisa={"shards": 3, "slices": 2}, data={"target": "price"})
    leases = {"poll_seconds": 0.2, "lease_seconds": 10.0}
    return {**made, "serving": {"groups": 2, "aggregation": "median", "authenticate": True, **leases}}


@pytest.fixture(scope="module")
def system(raw: dict[str, Any]) -> Iterator[hybridmu.System]:
    """Trained by shard actors."""
    (Path(raw["storage_url"]).parent / "config.yaml").write_text(yaml.safe_dump(raw))
    with hybridmu.connect(raw) as opened:
        opened.train()
        yield opened


def test_actors_train_update_and_forget_with_the_bits_of_one_process(
    raw: dict[str, Any], system: hybridmu.System
) -> None:
    with hybridmu.connect({**raw, "storage_url": f"{raw['storage_url']}-alone"}, executor="local") as alone:
        alone.train()
        assert support.blobs(system) == support.blobs(alone)
        for strategy, shard in (("retrain", 0), ("dpus", 1), ("retrain", 1)):
            number = support.ids_in(alone, shard)[0]
            for each in (alone, system):
                each.forget(ids=[number], strategy=strategy, wait=True)
            assert support.blobs(system) == support.blobs(alone)
    assert system.verify()["bitwise_equal"] is True


def test_values_are_the_same_offline_over_http_and_over_grpc_from_spread_sub_models(
    raw: dict[str, Any], system: hybridmu.System
) -> None:
    port = support.free_port()
    calls = gRPCOptions(port=GRPC, grpc_servicer_functions=[f"{grpc_calls.__name__}.add_EnsembleServicer_to_server"])
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, grpc_options=calls)
    try:
        config = Path(raw["storage_url"]).parent / "config.yaml"
        serve.run(build({"config": str(config)}), name="numbers", route_prefix="/")
        offline = system.predict(ROWS)
        token, _ = system.database.tokens.create("app", ["predict"])
        url, headers = f"http://127.0.0.1:{port}/v1/predict", {"Authorization": f"Bearer {token}"}
        over_http = httpx.post(url, headers=headers, json={"rows": ROWS}).raise_for_status().json()
        with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:
            over_grpc = grpc_calls.call(channel, {"rows": ROWS}, token, "numbers")
        assert over_grpc == over_http
        assert over_http["version"] == offline["version"]
        for ours, theirs in zip(over_http["predictions"], offline["predictions"], strict=True):
            assert ours["value"] == pytest.approx(theirs["value"], rel=1e-6)
            assert ours["interval"] == pytest.approx(theirs["interval"], rel=1e-6)
            assert ours["interval"][0] <= ours["value"] <= ours["interval"][1]
    finally:
        serve.shutdown()
