"""The one frozen settings tree, read from YAML. The only reader of the environment.

Environment variables:
    HYBRIDMU_STORAGE_URL: replaces `storage_url`.
    HYBRIDMU_DATABASE_URL: replaces `database_url`.
    HYBRIDMU_CONFIG: configuration file of `serve run` when none is named.
    HYBRIDMU_FAULT: `POINT:HIT:ACTION`, armed in every process that inherits it; for tests (`hybridmu.faults`).
    HYBRIDMU_DATA: folder of converted built-in datasets (default `~/.cache/hybridmu`).
    Others may be named by `data.partition_key`, `keys.signing` and `keys.guard` as `env:NAME`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hybridmu import faults
from hybridmu.errors import ConfigError
from hybridmu.types import StrategyChoice

Scalar = bool | int | float | str

if _fault := os.environ.get("HYBRIDMU_FAULT"):
    faults.arm_text(_fault)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Frozen):
    """Where the tables are and what their columns mean.

    Attributes:
        name: A built-in dataset; fills every field left out.
        train: Parquet file or folder, path or URI.
        test: The same, held out for evaluation.
        validation: The same; or leave it out and set `validation_fraction`.
        validation_fraction: Share of the groups held out of training by a keyed hash.
        id: Unique key column, integer or string.
        group: Column of the person a row belongs to; null values fall back to the id.
        label: Class column.
        features: Feature columns; all others when left out.
        classes: Class list; inferred once from the first read when left out.
        fills: Column → value that stands in for null (an indicator column is added).
        categories: String column → declared values, one-hot.
        hash_buckets: String column → number of hashed buckets (64 when neither is declared).
        scale: Numeric column → factor (data-independent).
        standardize: Fit mean and deviation on the live rows of each shard's slice 1.
        partition_key: `seed` (derived from the seed: reproducible, not secret), `env:NAME` or `file:PATH`.
    """

    name: str | None = None
    train: str = ""
    test: str | None = None
    validation: str | None = None
    validation_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    id: str = "id"
    group: str | None = None
    label: str = "label"
    features: tuple[str, ...] | None = None
    classes: tuple[int | str, ...] | None = None
    fills: dict[str, Scalar] = {}
    categories: dict[str, tuple[str, ...]] = {}
    hash_buckets: dict[str, int] = {}
    scale: dict[str, float] = {}
    standardize: bool = False
    partition_key: str = "seed"


class TaskSettings(BaseModel):
    """Built-in task name or `package.module:Class`, and the keyword arguments of its constructor."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "mlp"

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return dict(self.model_extra or {})


class SisaSettings(_Frozen):
    """Shards, slices and the schedule.

    Attributes:
        shards: S.
        slices: R.
        epochs: e′, plain-training epochs; slice i gets about 2e′/(R+1) of them, at least one.
        batch_size: B.
        seed: Everything random is derived from it.
    """

    shards: int = Field(8, ge=1)
    slices: int = Field(5, ge=1, le=1000)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1)
    seed: int = 0


class OptimizerSettings(_Frozen):
    """How a slice is trained. State is reset at every slice.

    Attributes:
        name: `sgd`, or `adamw`.
        lr: Rate at the start of a slice.
        momentum: Of sgd.
        weight_decay: L2 (sgd) or decoupled (adamw).
        schedule: `linear` decays to 0 within each slice; `constant`.
        extrapolation: For very large batches, of sgd alone: take each part's gradient (`compute.parts`) so many steps
            ahead of the weights, along that part's last one (extrapolated SGD); 0 is plain SGD.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["linear", "constant"] = "linear"
    extrapolation: float = Field(0.0, ge=0)


class ComputeSettings(_Frozen):
    """How a training step is computed. Each choice gives other bits, always the same ones; checkpoints name it.

    Attributes:
        precision: `bfloat16` multiplies matrices in half the width, which pays on GPUs that have it; weights, losses
            and updates stay float32.
        compile: Compile the step with `torch.compile`, as a CUDA graph on a GPU. Every slice compiles first, for
            up to a minute: for large models and long training only.
        parts: Into how many parts a batch is cut, whose gradients are summed in order. On Ray each part is a process of
            its own with `cluster.cpus_per_shard` and `cluster.gpus_per_shard`, for shards that are too much for one
            device (`cluster.wide` says how); in one process the parts follow each other and give the same bits.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    parts: int = Field(1, ge=1)


class PolicySettings(_Frozen):
    """What the planner may do.

    Attributes:
        strategy: `auto`, or one strategy for every request that names none.
        workload_threshold: τ: retrain when the workload ratio ρ_s is at most this, whatever an update would save.
        time_ratio: κ: retrain when it takes at most κ times the update.
        light_seconds: Retrain when a shard takes at most this long, whatever an update would save.
        deadline_seconds: How long after acceptance a request must be exact and purged, unless it names its own
            deadline; null: no deadline. Whatever a retrain can do in time is retrained.
        deadline_margin: Work starts when the time left is at most this many times its estimate.
        batch_seconds: How long requests are collected before they are fulfilled together; 0: not at all.
        batch_keys: Start earlier when so many ids and groups wait on shards that hang together.
        retention_seconds: How long old versions are kept after a request is exact, before it is purged; never past
            its deadline.
        quarantine: From the acceptance of a deletion until its shards are done, they do not vote: each replica
            withholds them at its next poll, and answers say so.
        min_voters: So many sub-models vote at least, touched ones among them if need be; null: half of the shards.
        verify_share: Share of the certificates for which the touched shards are trained anew and compared bit for bit.
        repair: When what an update changed is retrained exactly: `idle`, as soon as no request waits, or `deadline`,
            only when the deadline of one of its requests comes near.
        quality_budget: Predicted forget-loss error a shard may owe before it must be retrained.
        approximate: Which updates `auto` may choose: the fastest one whose predicted error fits into the budget.
        fast_enough: Updates at least so many times faster than the retrain count as equally fast, and the one of least
            predicted error is chosen; a great number: always the fastest.
        calibrate: Fit α by canary deletions after training (costs a few shard retrains).
        calibration_shards: How many shards delete canaries of each kind; more of them make α and its error surer.
        calibration_shares: Sizes of the canary deletions, as a share of the shard's rows.
        recalibration_share: What deleting canaries again may cost, once some were revoked, as a share of the seconds
            that training and removals have taken so far; 0: never, and `auto` retrains what it knows no error of.
        class_excess: Retrain when one class loses a share of its rows that is higher than that of all rows by more
            than this, and than chance explains: canaries are of all classes.
        alpha: Step of the subtraction when a forced update meets no calibration; null: 0.3 plain, 0.5 optimised.
        finetune_epochs: Budget of the optimised update, in epochs over the shard's live rows.
        finetune_lr: Its starting rate as a share of the training rate; decays to 0.
        max_attempts: How often a failed shard job is tried.
    """

    strategy: StrategyChoice = "auto"
    workload_threshold: float = Field(0.0, ge=0, le=1)
    time_ratio: float = Field(1.0, gt=0)
    light_seconds: float = Field(1.0, ge=0)
    deadline_seconds: float | None = Field(None, gt=0)
    deadline_margin: float = Field(2.0, ge=1)
    batch_seconds: float = Field(0.0, ge=0)
    batch_keys: int = Field(10_000, ge=1)
    retention_seconds: float = Field(0.0, ge=0)
    quarantine: bool = False
    min_voters: int | None = Field(None, ge=1)
    verify_share: float = Field(0.1, ge=0, le=1)
    repair: Literal["idle", "deadline"] = "idle"
    quality_budget: float = Field(0.1, ge=0)
    fast_enough: float = Field(8.0, ge=1)
    approximate: tuple[Literal["dpus", "dpus-optimised", "dpus-newton"], ...] = Field(
        ("dpus-newton", "dpus-optimised", "dpus"), min_length=1
    )
    calibrate: bool = True
    calibration_shards: int = Field(2, ge=1)
    calibration_shares: tuple[float, ...] = (0.01, 0.1)
    recalibration_share: float = Field(0.25, ge=0)
    class_excess: float = Field(0.02, ge=0)
    alpha: float | None = Field(None, gt=0)
    finetune_epochs: float = Field(2.0, gt=0)
    finetune_lr: float = Field(0.3, gt=0)
    max_attempts: int = Field(3, ge=1)


class AdmissionSettings(_Frozen):
    """What one caller may ask.

    Attributes:
        keys_per_request: Ids and groups in one request.
        open_requests: Requests of one caller that are not served yet; null: no limit.
        requests_per_minute: Requests of one caller in any 60 seconds; null: no limit.
    """

    keys_per_request: int = Field(100_000, ge=1)
    open_requests: int | None = Field(10_000, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)


class CheckpointSettings(_Frozen):
    """What checkpoints may take; a deletion retrains from the last one that never saw its rows.

    Attributes:
        budget_bytes: Bytes of all checkpoints of the served version; beyond it those go whose loss costs least. The
            live sub-models among them always stay. Null: all are kept.
    """

    budget_bytes: int | None = Field(None, ge=0)


class ClusterSettings(_Frozen):
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
    cpus_per_shard: float = Field(1, gt=0)
    gpus_per_shard: float = Field(0, ge=0)
    max_parallel: int | None = Field(None, ge=1)
    updaters: int = Field(1, ge=1)
    live_actors: int = Field(16, ge=1)
    labels: dict[str, str] = {}
    job_timeout_seconds: float = Field(86_400, gt=0)
    resource_timeout_seconds: float = Field(300, gt=0)
    wide: Literal["ddp", "fsdp2"] = "ddp"


class ServingSettings(_Frozen):
    """How the ensemble answers.

    Attributes:
        aggregation: `mean` of softmax vectors, or majority `vote`.
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
    """

    aggregation: Literal["mean", "vote"] = "mean"
    max_batch_size: int = Field(64, ge=1)
    batch_wait_ms: float = Field(2.0, ge=0)
    lease_seconds: float = Field(10.0, gt=0)
    poll_seconds: float = Field(0.5, gt=0)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    labels: dict[str, str] = {}
    per_node: int | None = Field(None, ge=1)
    groups: int = Field(1, ge=1)
    authenticate: bool = False


class LogSettings(_Frozen):
    """Log lines of the coordinator, of replicas and of `hybridmu api`.

    Attributes:
        format: `text`, or `json`: one object per line, for collectors.
        level: The least that is logged.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


class ApiSettings(_Frozen):
    """The HTTP interface for requests (`hybridmu api`).

    Attributes:
        host: Address that it listens on.
        port: Its port.
        body_bytes: Longest body that is read.
        requests_per_second: Calls of one token, in the long run; those without a token share one such measure per
            address.
        burst: Calls at once.
        token_seconds: How long a revoked token may still count, here and in the served model.
        workers: Calls that are answered at once.
    """

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=1, le=65535)
    body_bytes: int = Field(4 * 2**20, ge=1024)
    requests_per_second: float = Field(20.0, gt=0)
    burst: int = Field(40, ge=1)
    token_seconds: float = Field(2.0, ge=0)
    workers: int = Field(4, ge=1)


class KeySettings(_Frozen):
    """Where the signing and the guard key are: never inside storage, so that a copy of storage holds no key.

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
        return None if folder is None else str(Path(folder).expanduser().absolute())

    @field_validator("signing", "guard")
    @classmethod
    def _named(cls, source: str | None) -> str | None:
        kind, _, name = (source or "").partition(":")
        if source is not None and (kind not in {"env", "file"} or not name):
            raise ValueError("expected env:NAME or file:PATH")  # what is there instead may be the key itself
        return f"file:{Path(name).expanduser().absolute()}" if kind == "file" else source


class Settings(_Frozen):
    """The whole configuration. Build it with `load` or `Settings.parse`.

    Example:
        >>> settings = Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "/tmp/x"})
        >>> settings.sisa.shards
        8
    """

    data: DataSettings
    task: TaskSettings = TaskSettings()
    sisa: SisaSettings = SisaSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: ComputeSettings = ComputeSettings()
    policy: PolicySettings = PolicySettings()
    admission: AdmissionSettings = AdmissionSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    cluster: ClusterSettings = ClusterSettings()
    serving: ServingSettings = ServingSettings()
    api: ApiSettings = ApiSettings()
    logs: LogSettings = LogSettings()
    keys: KeySettings = KeySettings()
    storage_url: str
    database_url: str | None = None

    @field_validator("storage_url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        if urlparse(url).scheme:
            return url
        path = Path(url).expanduser()
        if not path.is_absolute() and in_ray_job():
            raise ValueError(
                f"storage_url {url!r} is relative, but inside a Ray job the working directory is an ephemeral copy; "
                f"write an absolute one, such as {(Path.home() / path).as_uri()}"
            )
        return str(path.absolute())

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.data.name and not self.data.train:
            raise ValueError("data.train is missing: give a Parquet path or URI, or data.name of a built-in dataset")
        if self.optimizer.name == "adamw" and self.optimizer.momentum:
            raise ValueError("optimizer.momentum belongs to sgd; adamw has fixed betas (0.9, 0.999)")
        if self.optimizer.name == "adamw" and self.optimizer.extrapolation:
            raise ValueError("optimizer.extrapolation belongs to sgd; set it to 0 for adamw")
        if self.serving.groups > self.sisa.shards:
            raise ValueError(f"serving.groups is {self.serving.groups}, but there are {self.sisa.shards} sub-models")
        if self.cluster.wide == "fsdp2" and self.optimizer.extrapolation:
            raise ValueError(
                "optimizer.extrapolation moves every process's own parameters, which cluster.wide: fsdp2 divides among"
                " them; use cluster.wide: ddp"
            )
        return self

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL: `database_url`, or SQLite inside a local `storage_url`.

        Raises:
            ConfigError: Storage is remote and no database is named.
        """
        if self.database_url:
            return self.database_url
        parsed = urlparse(self.storage_url)
        if parsed.scheme not in {"", "file"}:
            raise ConfigError(
                "a remote storage_url can't hold the default SQLite ledger",
                expected="database_url: an SQLAlchemy URL",
                got="database_url: null",
                remedy="set database_url, e.g. sqlite:////var/lib/hybridmu/ledger.sqlite3",
            )
        return f"sqlite:///{Path(parsed.path) / 'ledger.sqlite3'}"

    @property
    def keys_folder(self) -> Path:
        """Return the folder of the key files.

        Raises:
            ConfigError: Storage is remote and no folder is named.
        """
        if self.keys.folder:
            return Path(self.keys.folder)
        parsed = urlparse(self.storage_url)
        if parsed.scheme not in {"", "file"}:
            raise ConfigError(
                "a remote storage_url has no folder beside it for the keys",
                expected="keys.folder: a local folder, or keys.signing and keys.guard",
                got="keys.folder: null",
                remedy="set keys.folder, e.g. /var/lib/hybridmu-keys, and keep a backup of it apart from storage",
            )
        storage = Path(unquote(parsed.path) if parsed.scheme else self.storage_url)
        return storage.with_name(f"{storage.name}-keys")

    @property
    def threads(self) -> int:
        """Return torch threads per shard; part of every checkpoint's lineage."""
        return max(1, int(self.cluster.cpus_per_shard))

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Return where shards train."""
        return "cuda" if self.cluster.gpus_per_shard > 0 else "cpu"

    def partition_key(self) -> bytes:
        """Return the 32-byte key of all id hashes.

        Raises:
            ConfigError: The key's source is missing or unknown.
        """
        source = self.data.partition_key
        kind, _, name = source.partition(":")
        if source == "seed":
            secret = f"hybridmu/partition/{self.sisa.seed}".encode()
        elif kind == "env" and os.environ.get(name):
            secret = os.environ[name].encode()
        elif kind == "file" and Path(name).expanduser().is_file():
            secret = Path(name).expanduser().read_bytes()
        else:
            raise ConfigError(
                "data.partition_key can't be read",
                expected="seed, env:NAME of a set variable, or file:PATH of an existing file",
                got=source,
                remedy="the key must be the one the storage was trained with",
            )
        return hashlib.blake2b(secret, digest_size=32).digest()

    def identity(self) -> dict[str, Any]:
        """Return what makes two storages incompatible: data columns, task, schedule, optimizer, step, key."""
        # A built-in dataset is known by its name; where its files lie differs between machines.
        paths = {"train", "validation", "test"} if self.data.name else set()
        return {
            "data": self.data.model_dump(mode="json", exclude=paths),
            "task": self.task.model_dump(mode="json"),
            "sisa": self.sisa.model_dump(mode="json"),
            "optimizer": self.optimizer.model_dump(mode="json"),
            "compute": self.compute.model_dump(mode="json"),
            "partition_key": hashlib.blake2b(self.partition_key(), digest_size=8).hexdigest(),
        }

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Settings:
        """Validate a mapping.

        Args:
            raw: The configuration as plain data; it is not changed.

        Returns:
            The settings, with environment overrides applied.

        Raises:
            ConfigError: Unknown key (the nearest known one is named), wrong value, or missing key.
        """
        if not isinstance(raw, dict):
            raise ConfigError("the configuration is not a mapping", expected="YAML keys such as data:, storage_url:")
        raw = dict(raw)
        for key in ("storage_url", "database_url"):
            if override := os.environ.get(f"HYBRIDMU_{key.upper()}"):
                raw[key] = override
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(
                "the configuration is not valid", got="; ".join(_describe(cls, item) for item in error.errors())
            ) from None


def in_ray_job() -> bool:
    """Return whether this process is the entrypoint of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def default_config() -> str:
    """Return the configuration file that is used when none is named."""
    return os.environ.get("HYBRIDMU_CONFIG", "examples/mnist5k.yaml")


def secret(variable: str) -> str | None:
    """Return what an environment variable holds that the configuration names as a key's source."""
    return os.environ.get(variable)


def data_home() -> Path:
    """Return the folder that holds converted built-in datasets."""
    return Path(os.environ.get("HYBRIDMU_DATA", "~/.cache/hybridmu")).expanduser()


def load(path: str | Path) -> Settings:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        Validated settings.

    Raises:
        ConfigError: The file is missing, not YAML, or not valid.
    """
    try:
        raw = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"can't read the configuration file {path}", got=str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", got=" ".join(str(error).split())) from None
    return Settings.parse(raw)


def _describe(root: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')}"
    model: Any = root
    for part in item["loc"][:-1]:
        model = model.model_fields[part].annotation
    near = difflib.get_close_matches(str(item["loc"][-1]), list(model.model_fields), n=1, cutoff=0.0)
    return f"unknown key {where!r}; the nearest known one is {near[0]!r}"
