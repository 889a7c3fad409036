"""Wishes that the cluster can't fulfil are refused at once; GPUs are held by the actors that train, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hybridmu
from hybridmu.cluster.resources import fits, local_storage_warning, pools, refuse_ledger_in_a_file, slots
from hybridmu.config import Settings
from hybridmu.errors import ResourceError
from hybridmu.planning.planner import Pools
from tests.ray import support
from tests.support import HANG_SECONDS


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("asked", "missing"), [({"cpus_per_shard": 64}, "64 CPU"), ({"gpus_per_shard": 1}, "1 GPU")], ids=["cpu", "gpu"]
)
def test_a_cluster_that_is_too_small_is_refused_at_once(tmp_path: Path, asked: dict[str, float], missing: str) -> None:
    with hybridmu.connect(support.config(tmp_path, cluster=asked)) as system:
        with pytest.raises(ResourceError, match=f"one shard needs {missing}") as refused:
            system.train()
        assert refused.value.remedy.startswith(f"lower cluster.{next(iter(asked))}")
        assert system.registry.served() is None


def settings(tmp_path: Path, **cluster: float) -> Settings:
    return Settings.parse(support.config(tmp_path, cluster=cluster))


def test_a_shard_must_fit_one_node_not_the_sum_of_all(tmp_path: Path) -> None:
    two = {"head": {"CPU": 0.0}, "a": {"CPU": 4.0, "GPU": 1.0}, "b": {"CPU": 4.0}}
    assert slots(settings(tmp_path, cpus_per_shard=3), two) == {"a": 1, "b": 1}
    assert pools(settings(tmp_path, cpus_per_shard=1), two) == Pools(8, 1)
    assert pools(settings(tmp_path, cpus_per_shard=1, max_parallel=3), two) == Pools(3, 1)
    assert slots(settings(tmp_path, cpus_per_shard=0.1), {"a": {"CPU": 1.0}}) == {"a": 10}
    with pytest.raises(ResourceError, match="6 CPU on one node"):
        pools(settings(tmp_path, cpus_per_shard=6), two)
    with pytest.raises(ResourceError, match="2 GPU on one node"):
        pools(settings(tmp_path, gpus_per_shard=2), two)


@pytest.mark.parametrize(
    ("wanted", "fitting"),
    [
        ({}, {"a", "b", "c"}),
        ({"gpu": "A100"}, {"a"}),
        ({"gpu": "in(A100, H100)"}, {"a", "b"}),
        ({"gpu": "!A100"}, {"b", "c"}),
        ({"gpu": "!in(A100,H100)"}, {"c"}),
        ({"gpu": "in(A100, H100)", "market": "!spot"}, {"a"}),
        ({"zone": "z"}, set()),
    ],
)
def test_labels_choose_nodes_as_selectors_of_ray_do(wanted: dict[str, str], fitting: set[str]) -> None:
    labels = {"a": {"gpu": "A100"}, "b": {"gpu": "H100", "market": "spot"}, "c": {"market": "spot"}}
    assert {name for name, own in labels.items() if fits(own, wanted)} == fitting


@pytest.mark.usefixtures("cluster")
def test_labels_that_no_node_has_are_refused_at_once(tmp_path: Path) -> None:
    with hybridmu.connect(support.config(tmp_path, cluster={"labels": {"gpu": "A100"}})) as system:
        with pytest.raises(ResourceError, match="with the labels gpu=A100"):
            system.train()
        assert system.registry.served() is None


def test_a_ledger_in_a_file_serves_one_node(tmp_path: Path) -> None:
    one, two = {"head": {"CPU": 2.0}}, {"head": {"CPU": 2.0}, "a": {"CPU": 4.0}}
    refuse_ledger_in_a_file(settings(tmp_path), one)
    with pytest.raises(ResourceError, match="2 nodes") as refused:
        refuse_ledger_in_a_file(settings(tmp_path), two)
    assert "database_url" in refused.value.remedy
    shared = settings(tmp_path).model_copy(update={"database_url": "postgresql://db/ledger"})
    refuse_ledger_in_a_file(shared, two)
    assert local_storage_warning(shared, one) is None
    assert "all nodes share" in str(local_storage_warning(shared, two))
    in_a_bucket = shared.model_copy(update={"storage_url": "s3://bucket/prefix"})
    assert local_storage_warning(in_a_bucket, two) is None


@pytest.mark.parametrize(
    ("gpus", "expected"), [(1, Pools(1, 1)), (2, Pools(1, 1)), (4, Pools(3, 1))], ids=["one", "two", "four"]
)
def test_updaters_take_their_gpus_from_the_shards(tmp_path: Path, gpus: int, expected: Pools) -> None:
    node = {"a": {"CPU": 16.0, "GPU": float(gpus)}}
    assert pools(settings(tmp_path, gpus_per_shard=1), node) == expected


@pytest.mark.slow
def test_gpus_are_held_by_the_actors_that_train(tmp_path: Path) -> None:
    support.config(tmp_path)
    with support.short_tmp() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.ray.gpu_script", str(tmp_path), folder],
            cwd=support.PROJECT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["fleet", "shards", "updater", "cpu"]


@pytest.mark.slow
def test_no_address_means_a_cluster_of_its_own_also_where_another_one_was_once(tmp_path: Path) -> None:
    script = (
        "import sys, ray; from hybridmu.cluster.resources import ensure_ray; from hybridmu.config import load;"
        "print(ensure_ray(load(sys.argv[1])), len(ray.nodes()), ray.cluster_resources()['CPU'] > 0)"
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(support.config(tmp_path)))
    with support.short_tmp() as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:9\n")
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "config.yaml")],
            cwd=support.PROJECT,
            env=os.environ | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    assert done.stdout.split() == ["True", "1", "True"], done.stderr
