"""The manifests for KubeRay: known keys alone, references that meet, and no door open that need not be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.contracts import kubernetes
from tests.contracts.test_serve_config import schema, unknown_keys

PROJECT = Path(__file__).parents[2]
FILES = ("jobs/kuberay.yaml", "jobs/raycluster.yaml", "jobs/rayjob.yaml", "serve/rayservice.yaml")


def manifests(*names: str) -> list[dict[str, Any]]:
    return [found for name in names for found in yaml.safe_load_all((PROJECT / name).read_text())]


RAW = manifests(*FILES)
PARSED = {(raw["kind"], raw["metadata"].get("name", raw["metadata"].get("generateName"))): raw for raw in RAW}


def parsed(kind: str) -> list[Any]:
    return [kubernetes.parse(raw) for raw in RAW if raw["kind"] == kind]


def clusters() -> list[kubernetes.ClusterSpec]:
    return [one.spec for one in parsed("RayCluster")] + [one.spec.rayClusterConfig for one in parsed("RayService")]


def pods() -> list[kubernetes.PodTemplate]:
    ray = [group.template for spec in clusters() for group in (spec.headGroupSpec, *spec.workerGroupSpecs)]
    return ray + [one.spec.template for one in parsed("StatefulSet")]


def paths(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every mapping inside a manifest is, apart from free-form ones."""
    free = {"matchLabels", "labels", "selector", "nodeSelector", "rayStartParams", "requests", "limits"}
    if isinstance(value, dict) and not (where and where[-1] in free | {"clusterSelector"}):
        yield where
        for key, item in value.items():
            yield from paths(item, (*where, key))
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from paths(item, (*where, number))


@pytest.mark.parametrize("name", PARSED, ids="-".join)
def test_every_key_is_known_and_any_other_is_refused(name: tuple[str, str]) -> None:
    raw = PARSED[name]
    kubernetes.parse(raw)
    places = [place for place in paths(raw) if not (name[0] == "Service" and place == ("spec", "selector"))]
    for place in places:
        spoiled = copy.deepcopy(raw)
        section = spoiled
        for step in place:
            section = section[step]
        section["replica"] = 1
        with pytest.raises(ValidationError, match="replica"):
            kubernetes.parse(spoiled)


def test_serve_knows_every_key_of_the_service() -> None:
    (service,) = parsed("RayService")
    config = yaml.safe_load(service.spec.serveConfigV2)
    assert unknown_keys(schema(), config) == []
    schema().model_validate(config)
    here = yaml.safe_load((PROJECT / "serve/config.yaml").read_text())["applications"][0]
    mine = config["applications"][0]
    assert {**mine, "args": 0, "deployments": 0} == {**here, "args": 0, "deployments": 0}
    assert "version" not in service.spec.serveConfigV2


def test_every_cluster_asks_for_the_token_and_outlives_its_head() -> None:
    pins = (PROJECT / "constraints.txt").read_text().splitlines()
    for spec in clusters():
        assert f"ray=={spec.rayVersion}" in pins
        assert spec.authOptions.mode == "token"
        store = spec.gcsFaultToleranceOptions
        host, port = store.redisAddress.split(":")
        (service,) = [one for one in parsed("Service") if one.metadata.name == host]
        assert [str(each.port) for each in service.spec.ports] == [port]
        assert store.redisPassword.value is None
    image = (PROJECT / "jobs/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{clusters()[0].rayVersion}-py3" in image


def test_nothing_is_exposed_and_the_dashboard_is_for_the_operator_alone() -> None:
    for spec in clusters():
        assert (spec.headGroupSpec.serviceType, spec.headGroupSpec.enableIngress) == ("ClusterIP", False)
        assert spec.headGroupSpec.rayStartParams["num-cpus"] == "0"
    assert all(service.spec.type == "ClusterIP" for service in parsed("Service"))
    policies = parsed("NetworkPolicy")
    (closed,) = [policy for policy in policies if not policy.spec.podSelector.matchLabels]
    assert (closed.spec.policyTypes, closed.spec.ingress) == (["Ingress"], [])
    outside: dict[int, list[kubernetes.Labels]] = {}
    for rule in (rule for policy in policies for rule in policy.spec.ingress):
        assert rule.from_, "an empty list lets everybody in"
        for peer in rule.from_:
            assert peer.podSelector or peer.namespaceSelector
            if peer.namespaceSelector:
                assert peer.namespaceSelector.matchLabels
                assert rule.ports, "no ports are all ports"
                for port in rule.ports:
                    outside.setdefault(port.port, []).append(peer.namespaceSelector.matchLabels)
    operator = {"kubernetes.io/metadata.name": "kuberay-system"}
    assert outside == {8265: [operator], 8000: [operator, {"hybridmu.io/gateway": "true"}]}
    # Whoever is selected by a policy, or named in one, exists.
    named = [policy.spec.podSelector.matchLabels for policy in policies]
    named += [p.podSelector.matchLabels for policy in policies for r in policy.spec.ingress for p in r.from_
              if p.podSelector]  # fmt: skip
    for labels in filter(None, named):
        assert any(labels.items() <= pod.metadata.labels.items() for pod in pods())


def test_pods_have_no_more_rights_than_they_need() -> None:
    accounts = {one.metadata.name for one in parsed("ServiceAccount")} | {"default"}
    for pod in pods():
        assert pod.spec.serviceAccountName in accounts
        assert not pod.spec.automountServiceAccountToken
        assert pod.spec.securityContext.runAsNonRoot
        mounted = {mount.name for container in pod.spec.containers for mount in container.volumeMounts}
        claims = {claim.metadata.name for one in parsed("StatefulSet") for claim in one.spec.volumeClaimTemplates}
        assert {volume.name for volume in pod.spec.volumes} <= mounted <= {v.name for v in pod.spec.volumes} | claims
        for container in pod.spec.containers:
            assert not container.securityContext.allowPrivilegeEscalation
            assert container.securityContext.capabilities.drop == ["ALL"]
            assert not any("PASSWORD" in each.name or "TOKEN" in each.name for each in container.env)
            assert container.image.rpartition(":")[2] not in {"", "latest"}


def test_jobs_run_what_there_is_on_a_cluster_that_there_is() -> None:
    names = {one.metadata.name for one in parsed("RayCluster")}
    for job in parsed("RayJob"):
        assert set(job.spec.clusterSelector) == {"ray.io/cluster"}
        assert job.spec.clusterSelector["ray.io/cluster"] in names
        script = job.spec.entrypoint.split()[1]
        assert (PROJECT / script.removeprefix("/home/ray/hybridmu/")).is_file()
        assert job.spec.backoffLimit == 0, "KubeRay refuses it together with a cluster that is there"


def test_the_image_holds_what_cluster_yaml_copies() -> None:
    sources = yaml.safe_load((PROJECT / "cluster.yaml").read_text())["file_mounts"].values()
    copied = (PROJECT / "jobs/Dockerfile").read_text()
    for source in (source.removeprefix("./") for source in sources if source.startswith("./")):
        assert any(source in line.split() for line in copied.splitlines() if line.startswith("COPY")), source
