"""Jobs run on a cluster where one is there, and in this process where none is."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

import hybridmu
from hybridmu.errors import ConfigError
from hybridmu.system.executor_choice import choose
from tests.support import make_table, settings_dict


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Let no cluster of this machine be found."""
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if "ray" in sys.modules:  # tests before this one may have joined a cluster
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)


def settings(tmp_path, **cluster):
    return hybridmu.Settings.parse(settings_dict(tmp_path, cluster=cluster))


def note(tmp_path, address):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"{address}\n")


def test_without_a_cluster_it_is_this_process(tmp_path):
    given = settings(tmp_path)
    assert choose(given, "auto") == (given, "local")


def test_who_says_where_is_obeyed(tmp_path):
    given = settings(tmp_path, address="ray://elsewhere:10001")
    assert choose(given, "local") == (given, "local")
    assert choose(settings(tmp_path), "ray")[1] == "ray"


@pytest.mark.parametrize("cluster", [{"address": "ray://elsewhere:10001"}, {"gpus_per_shard": 1}])
def test_a_configuration_that_needs_a_cluster_gets_one(tmp_path, cluster):
    assert choose(settings(tmp_path, **cluster), "auto")[1] == "ray"


def test_a_job_runs_on_its_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert choose(settings(tmp_path), "auto")[1] == "ray"


def test_who_has_joined_a_cluster_works_on_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert choose(settings(tmp_path), "auto")[1] == "ray"


def test_an_address_in_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found, where = choose(settings(tmp_path), "auto")
    assert (found.cluster.address, where) == ("10.0.0.1:6379", "ray")


def test_a_cluster_that_answers_is_joined(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        note(tmp_path, address)
        found, where = choose(settings(tmp_path), "auto")
    assert (found.cluster.address, where) == (address, "ray")


@pytest.mark.parametrize("left", ["127.0.0.1:1", "127.0.0.1:no", "", "nowhere.invalid:6379", "127.0.0.1:99999999"])
def test_what_a_dead_cluster_left_behind_is_passed_over(tmp_path, left):
    note(tmp_path, left)
    assert choose(settings(tmp_path), "auto")[1] == "local"


def test_a_system_needs_no_ceremony(tmp_path):
    make_table(tmp_path / "train.parquet", 60)
    with hybridmu.connect(settings_dict(tmp_path)) as system:
        assert system.executor == "local"
        assert system.train()["version"] == 1
        assert system.forget(ids=[3], wait=True)["state"] == "SERVED"


def test_another_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="auto, ray, or local"):
        hybridmu.connect(settings_dict(tmp_path), executor="loca")
