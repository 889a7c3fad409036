"""cluster.yaml, and its like for own machines, are what Ray's own schema accepts, and keep their doors closed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PROJECT = Path(__file__).parents[2]


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / name).read_text())
    return found


@pytest.fixture
def raw() -> dict[str, Any]:
    return read("cluster.yaml")


@pytest.fixture
def own() -> dict[str, Any]:
    return read("jobs/cluster-onprem.yaml")


def accepted(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration as `ray up` completes it, after Ray validated it."""
    from ray.autoscaler._private.util import prepare_config, validate_config  # late: no other test here needs Ray

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(raw))
    validate_config(prepared)
    return prepared


def commands(config: dict[str, Any]) -> list[str]:
    """Return every shell command that a node runs."""
    found = [line for name, lines in config.items() if name.endswith("_commands") for line in lines]
    for kind in config["available_node_types"].values():
        found += [line for name, lines in kind.items() if name.endswith("_commands") for line in lines]
    return found


def test_ray_accepts_it(raw: dict[str, Any]) -> None:
    prepared = accepted(raw)
    assert prepared["max_workers"] >= raw["available_node_types"]["gpu"]["max_workers"]
    assert raw["available_node_types"]["gpu"]["min_workers"] >= 1


@pytest.mark.parametrize(
    ("where", "key"),
    [((), "max_worker"), (("available_node_types", "gpu"), "min_worker"), (("docker",), "imagee"), (("auth",), "user")],
    ids=lambda part: str(part),
)
def test_a_misspelt_key_is_refused(raw: dict[str, Any], where: tuple[str, ...], key: str) -> None:
    section = raw
    for name in where:
        section = section[name]
    section[key] = 1
    with pytest.raises(jsonschema.ValidationError, match=key):
        accepted(raw)


def test_more_workers_than_the_cluster_may_have_are_refused(raw: dict[str, Any]) -> None:
    raw["available_node_types"]["gpu"]["min_workers"] = raw["max_workers"] + 1
    with pytest.raises(ValueError, match="max_workers"):
        accepted(raw)


def test_nothing_listens_to_the_world(raw: dict[str, Any]) -> None:
    prepared = accepted(raw)
    assert "0.0.0.0" not in yaml.safe_dump(prepared)
    (start,) = [line for line in prepared["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    # Left out, Ray's defaults would open the dashboard: the assertion above can fail.
    del raw["head_start_ray_commands"]
    assert "0.0.0.0" in yaml.safe_dump(accepted(raw))


def test_every_node_asks_for_the_token(raw: dict[str, Any]) -> None:
    prepared = accepted(raw)
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert not any("RAY_AUTH" in command for command in commands(prepared)), "nothing overrides it"
    assert prepared["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_head_does_no_work_and_workers_have_gpus(raw: dict[str, Any]) -> None:
    types = accepted(raw)["available_node_types"]
    head = types.pop(raw["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0" in raw["head_start_ray_commands"][-1]
    assert types
    for kind in types.values():
        assert kind["resources"]["GPU"] >= 1
        assert kind["min_workers"] <= kind["max_workers"] <= raw["max_workers"]


def test_only_the_project_is_copied_and_installed(raw: dict[str, Any]) -> None:
    sources = {source for source in raw["file_mounts"].values() if source.startswith("./")}
    assert sources == {
        *("./hybridmu", "./serve", "./jobs", "./examples"),
        *("./pyproject.toml", "./constraints.txt", "./README.md"),
    }
    assert any("pip install" in command and "~/hybridmu" in command for command in raw["setup_commands"])
    for line in (raw["head_start_ray_commands"][-1], raw["worker_start_ray_commands"][-1]):
        assert line.startswith("cd ~/hybridmu && ray start")


def test_the_image_has_the_pinned_ray(raw: dict[str, Any]) -> None:
    pins = (PROJECT / "constraints.txt").read_text().splitlines()
    (ray_pin,) = [pin.removeprefix("ray==") for pin in pins if pin.startswith("ray==")]
    assert raw["docker"]["image"].startswith(f"rayproject/ray:{ray_pin}-py3")


def test_ray_accepts_own_machines(own: dict[str, Any]) -> None:
    prepared = accepted(own)
    machines = len(own["provider"]["worker_ips"])
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == prepared["max_workers"] == machines
    own["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        accepted(own)


def test_own_machines_differ_only_in_what_starts_them(raw: dict[str, Any], own: dict[str, Any]) -> None:
    for key in ("docker", "file_mounts", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert own[key] == raw[key], key
    assert "0.0.0.0" not in yaml.safe_dump(accepted(own))
