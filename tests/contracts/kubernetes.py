"""The fields of Kubernetes and KubeRay (1.7, `ray.io/v1`) that the manifests use; any other key is refused.

No package ships KubeRay's schemas. Names and types are those of its custom resource definitions and of the Kubernetes
API reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Labels = dict[str, str]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(m|Mi|Gi)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(_Strict):
    name: Name | None = None
    generateName: str | None = None
    labels: Labels = {}


class Selector(_Strict):
    matchLabels: Labels = {}


# ---------------------------------------------------------------------- pods


class SeccompProfile(_Strict):
    type: Literal["RuntimeDefault", "Localhost", "Unconfined"]


class PodSecurity(_Strict):
    runAsNonRoot: bool
    runAsUser: int
    fsGroup: int
    seccompProfile: SeccompProfile


class Capabilities(_Strict):
    drop: list[str]


class ContainerSecurity(_Strict):
    allowPrivilegeEscalation: bool
    readOnlyRootFilesystem: bool = False
    capabilities: Capabilities


class ContainerPort(_Strict):
    name: Name
    containerPort: Port


class Resources(_Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity] = {}


class Variable(_Strict):
    name: str
    value: str


class Mount(_Strict):
    name: Name
    mountPath: str
    readOnly: bool = False


class Container(_Strict):
    name: Name
    image: str
    command: list[str] = []
    env: list[Variable] = []
    ports: list[ContainerPort] = []
    resources: Resources
    securityContext: ContainerSecurity
    volumeMounts: list[Mount] = []


class SecretVolume(_Strict):
    secretName: Name
    defaultMode: int


class EmptyDir(_Strict):
    medium: Literal["", "Memory"] = ""
    sizeLimit: Quantity | None = None


class Volume(_Strict):
    name: Name
    secret: SecretVolume | None = None
    emptyDir: EmptyDir | None = None


class Toleration(_Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSpec(_Strict):
    serviceAccountName: Name = "default"
    automountServiceAccountToken: bool = True
    securityContext: PodSecurity
    nodeSelector: Labels = {}
    tolerations: list[Toleration] = []
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []


class PodTemplate(_Strict):
    metadata: Metadata
    spec: PodSpec


# ---------------------------------------------------------------------- Ray


class AuthOptions(_Strict):
    mode: Literal["disabled", "token"]
    secretName: Name


class SecretKey(_Strict):
    name: Name
    key: str


class ValueFrom(_Strict):
    secretKeyRef: SecretKey


class Credential(_Strict):
    value: str | None = None
    valueFrom: ValueFrom | None = None


class FaultTolerance(_Strict):
    backend: Literal["redis", "rocksdb"] = "redis"
    redisAddress: str
    redisPassword: Credential


class HeadGroup(_Strict):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    enableIngress: bool = False
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(_Strict):
    groupName: Name
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: PodTemplate


class ClusterSpec(_Strict):
    rayVersion: str
    authOptions: AuthOptions
    gcsFaultToleranceOptions: FaultTolerance
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class ServiceSpecOfRay(_Strict):
    excludeHeadPodFromServeSvc: bool = False
    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class JobSpec(_Strict):
    clusterSelector: Labels
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    entrypoint: str
    activeDeadlineSeconds: Annotated[int, Field(gt=0)] | None = None
    backoffLimit: Annotated[int, Field(ge=0)] = 0


# ---------------------------------------------------------------------- what they stand on


class Peer(_Strict):
    podSelector: Selector | None = None
    namespaceSelector: Selector | None = None


class PolicyPort(_Strict):
    protocol: Literal["TCP", "UDP"]
    port: Port


class Ingress(_Strict):
    from_: list[Peer] = Field(alias="from")
    ports: list[PolicyPort] = []


class PolicySpec(_Strict):
    podSelector: Selector
    policyTypes: list[Literal["Ingress", "Egress"]]
    ingress: list[Ingress] = []


class ServicePort(_Strict):
    name: Name
    port: Port
    targetPort: Port


class ServiceSpec(_Strict):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    selector: Labels
    ports: list[ServicePort]


class ClaimSpec(_Strict):
    accessModes: list[Literal["ReadWriteOnce", "ReadWriteMany"]]
    resources: Resources


class Claim(_Strict):
    metadata: Metadata
    spec: ClaimSpec


class StatefulSetSpec(_Strict):
    serviceName: Name
    replicas: int
    selector: Selector
    template: PodTemplate
    volumeClaimTemplates: list[Claim]


class _Object(_Strict):
    metadata: Metadata


class RayCluster(_Object):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    spec: ClusterSpec


class RayService(_Object):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    spec: ServiceSpecOfRay


class RayJob(_Object):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    spec: JobSpec


class NetworkPolicy(_Object):
    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    spec: PolicySpec


class Service(_Object):
    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    spec: ServiceSpec


class StatefulSet(_Object):
    apiVersion: Literal["apps/v1"]
    kind: Literal["StatefulSet"]
    spec: StatefulSetSpec


class ServiceAccount(_Object):
    apiVersion: Literal["v1"]
    kind: Literal["ServiceAccount"]
    automountServiceAccountToken: bool


KINDS: dict[str, type[_Object]] = {
    kind.__name__: kind
    for kind in (RayCluster, RayService, RayJob, NetworkPolicy, Service, StatefulSet, ServiceAccount)
}


def parse(raw: dict[str, Any]) -> Any:
    """Return one manifest as its model.

    Raises:
        KeyError: The kind is not used here.
        pydantic.ValidationError: A key or value that Kubernetes or KubeRay would not take.
    """
    return KINDS[raw["kind"]].model_validate(raw)
