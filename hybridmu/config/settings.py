"""The frozen tree of all settings, read from YAML."""

from __future__ import annotations

import difflib
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from hybridmu.config.addresses import (
    SQLITE,
    checked_path,
    database_address,
    is_inside,
    is_url,
    local_path,
    whole_path,
)
from hybridmu.config.data import DataSettings, TaskSettings
from hybridmu.config.deployment import ApiSettings, ClusterSettings, KeySettings, LogSettings, ServingSettings
from hybridmu.config.environment import in_ray_job, secret
from hybridmu.config.feature_settings import FeatureSettings
from hybridmu.config.fides import FidesSettings
from hybridmu.config.policy import AdmissionSettings, EvaluationSettings, PolicySettings
from hybridmu.config.section import Section
from hybridmu.config.token_settings import unfit_tokens
from hybridmu.config.training_settings import (
    CheckpointSettings,
    ComputeSettings,
    LearnerSettings,
    OptimizerSettings,
    PartitionerSettings,
    SisaSettings,
)
from hybridmu.config.webhooks import WebhookSettings, check_names
from hybridmu.config.yaml_document import read_document
from hybridmu.errors import ConfigError
from hybridmu.kinds import (
    AUTO,
    CLASSES_ALONE,
    FALLBACK,
    LEARNER_OF_TASK,
    LEARNERS,
    SEVERAL_TARGETS,
    STRATEGY_OF_LEARNER,
    import_plugins,
)


class Settings(Section):
    """The whole configuration. Build it with `load` or `Settings.parse`.

    Attributes:
        storage_url: Folder of the system, or a prefix of an S3 bucket (docs/storage.md). A relative path counts from
            the current folder. HYBRIDMU_STORAGE_URL comes before it.
        storage_mode: Who may read the system's files: their owner alone, or the group too, or the group may also write.
        plugins: Modules that register kinds of your own, imported before the rest is read (docs/own-kinds.md).
        database_url: SQLAlchemy URL of the ledger; null: an SQLite file in a local storage folder.
            HYBRIDMU_DATABASE_URL comes before it.
        fides: Fides, whose erasure requests come in and are answered (docs/fides.md); null: not connected.
        webhooks: Receivers that are told what becomes of requests: name → settings (docs/webhooks.md).

    Example:
        >>> settings = Settings.parse({"data": {"train": "t.parquet"}, "storage_url": "/tmp/x"})
        >>> settings.sisa.shards
        8
    """

    data: DataSettings
    task: TaskSettings = TaskSettings()
    learner: LearnerSettings = LearnerSettings()
    partitioner: PartitionerSettings = PartitionerSettings()
    features: FeatureSettings = FeatureSettings()
    sisa: SisaSettings = SisaSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: ComputeSettings = ComputeSettings()
    policy: PolicySettings = PolicySettings()
    admission: AdmissionSettings = AdmissionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    cluster: ClusterSettings = ClusterSettings()
    serving: ServingSettings = ServingSettings()
    api: ApiSettings = ApiSettings()
    logs: LogSettings = LogSettings()
    keys: KeySettings = KeySettings()
    fides: FidesSettings | None = None
    webhooks: dict[str, WebhookSettings] = Field(default_factory=dict)
    storage_url: str
    storage_mode: Literal["private", "group-read", "group"] = "private"
    plugins: tuple[str, ...] = ()
    database_url: str | None = None

    def __init__(self, **raw: Any) -> None:
        try:
            super().__init__(**raw)
        except ValidationError as error:
            told = "; ".join(_describe(type(self), item) for item in error.errors())
            raise ConfigError("the configuration is not valid", got=told) from None

    @model_validator(mode="before")
    @classmethod
    def _plugins(cls, raw: Any) -> Any:
        """Return the configuration, once plugins have registered the names that sections look for."""
        register_plugins(raw)
        return raw

    @model_validator(mode="before")
    @classmethod
    def _learner(cls, raw: Any) -> Any:
        """Return the configuration with what its task needs: the learner, and sums that become one model."""
        task = raw.get("task") if isinstance(raw, dict) else None
        name = task.get("name") if isinstance(task, dict) else getattr(task, "name", None)
        if not isinstance(name, str) or name not in LEARNER_OF_TASK:
            return raw
        learner, serving = raw.get("learner") or {"name": LEARNER_OF_TASK[name]}, raw.get("serving", {})
        if isinstance(serving, dict) and "aggregation" not in serving and serving.get("groups", 1) == 1:
            serving = {**serving, "aggregation": "merge"}
        return {**raw, "learner": learner, "serving": serving}

    @field_validator("storage_url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        path = local_path(url)
        if path is None:
            return url
        if not path.name:
            raise ValueError("it is the root of the file system; name a folder of its own")
        checked_path(path.with_name(f"{path.name}-keys"))
        if is_url(url):
            return url
        _refuse_ephemeral("storage_url", url, (Path.home() / url).as_uri())
        return str(path)

    @field_validator("database_url")
    @classmethod
    def _absolute_file(cls, url: str | None) -> str | None:
        if url is None:
            return None
        found = database_address(url)
        if found != url:
            _refuse_ephemeral("database_url", url, f"{SQLITE}{Path.home() / url.removeprefix(SQLITE)}")
        return found

    @field_validator("webhooks")
    @classmethod
    def _named_receivers(cls, receivers: dict[str, WebhookSettings]) -> dict[str, WebhookSettings]:
        check_names(receivers)
        return receivers

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.data.name and not self.data.train:
            raise ValueError("data.train is missing: give a Parquet path or URI, or data.name of a built-in dataset")
        if self.optimizer.name == "adamw" and self.optimizer.momentum:
            raise ValueError("optimizer.momentum belongs to sgd; adamw has fixed betas (0.9, 0.999)")
        if self.optimizer.name == "adamw" and self.optimizer.extrapolation:
            raise ValueError("optimizer.extrapolation belongs to sgd; set it to 0 for adamw")
        needed = LEARNER_OF_TASK.get(self.task.name)
        if needed != self.learner.name and (needed or self.learner.name in LEARNER_OF_TASK.values()):
            raise ValueError(
                f"learner.name is {self.learner.name}, but task {self.task.name} is learned by"
                f" {needed or LEARNERS.default}; leave learner out"
            )
        if needed and (reason := self._unfit_sums()):
            raise ValueError(reason)
        if reason := unfit_tokens(self.task, self.features, self.data, self.compute, self.cluster):
            raise ValueError(reason)
        own = STRATEGY_OF_LEARNER.get(self.learner.name)
        if self.policy.strategy in STRATEGY_OF_LEARNER.values() and self.policy.strategy != own:
            raise ValueError(
                f"policy.strategy: {self.policy.strategy} is for {' and '.join(LEARNER_OF_TASK)}, whose models are sums"
            )
        if "shards" in self.sisa.model_fields_set:  # else there will be as many as there are groups, or more
            self._check_groups()
        named = self.data.train or self.data.target  # else its built-in dataset says what is learned
        if named and (reason := self.unfit_rule()):
            raise ValueError(reason)
        if self.cluster.wide == "fsdp2" and self.optimizer.extrapolation:
            raise ValueError(
                "optimizer.extrapolation moves every process's own parameters, which cluster.wide: fsdp2 divides among"
                " them; use cluster.wide: ddp"
            )
        self._refuse_keys_in_storage()
        return self

    def _unfit_sums(self) -> str | None:
        """Return which setting means nothing where sums over rows are learned, or None."""
        if self.data.target and self.task.name in CLASSES_ALONE:
            return f"task {self.task.name} learns classes (data.label), and data.target names numbers"
        own = STRATEGY_OF_LEARNER[self.learner.name]
        if self.policy.strategy not in {AUTO, FALLBACK, own}:
            return f"policy.strategy: {self.policy.strategy} is for networks; task {self.task.name} has {own}"
        if self.compute != ComputeSettings():
            return f"the section compute is for networks, and task {self.task.name} is none: leave it out"
        return None

    def refuse_too_many_groups(self) -> None:
        """Check that every serving group has a sub-model, once shards that were left out are known.

        Raises:
            ConfigError: One has none.
        """
        try:
            self._check_groups()
        except ValueError as error:
            raise ConfigError("the configuration is not valid", got=str(error)) from None

    def _check_groups(self) -> None:
        if self.serving.groups > self.sisa.shards:
            raise ValueError(f"serving.groups is {self.serving.groups}, but there are {self.sisa.shards} sub-models")

    def unfit_rule(self) -> str | None:
        """Return which setting speaks of classes where numbers are learned, or the other way around; None: none."""
        if len(self.data.targets) > 1 and self.task.name not in SEVERAL_TARGETS:
            return (
                f"data.target names {len(self.data.targets)} columns, and task {self.task.name} learns one number: use"
                f" task: {{name: {' or '.join(sorted(SEVERAL_TARGETS))}}}, or make a system of each and link them"
                " (hybridmu models link)"
            )
        learned, ways = ("numbers", ("mean", "median")) if self.data.target else ("classes", ("mean", "vote"))
        if self.serving.aggregation == "merge":
            if self.task.name not in LEARNER_OF_TASK:
                return f"serving.aggregation: merge is for {' and '.join(LEARNER_OF_TASK)}, whose sub-models are sums"
            if self.serving.groups > 1:
                return "serving.groups spreads sub-models over processes, and serving.aggregation: merge makes one"
        elif self.serving.aggregation not in ways:
            return (
                f"serving.aggregation is {self.serving.aggregation}, but sub-models that answer with {learned} are"
                f" combined by {' or '.join(ways)}"
            )
        if self.data.target and self.policy.class_excess != type(self.policy)().class_excess:
            return "policy.class_excess speaks of classes, and data.target learns numbers: leave the rule out"
        return None

    def _refuse_keys_in_storage(self) -> None:
        """Refuse a key whose file would be in every copy of storage, and go when the system is decommissioned."""  # noqa: DOC501
        storage = local_path(self.storage_url)
        if storage is None:
            return
        places = {"keys.folder": f"file:{self.keys_folder}", "keys.signing": self.keys.signing}
        places |= {"keys.guard": self.keys.guard, "data.partition_key": self.data.partition_key}
        places |= {f"webhooks.{name}.secret": receiver.secret for name, receiver in self.webhooks.items()}
        for name, source in places.items():
            kind, _, path = (source or "").partition(":")
            if kind == "file" and is_inside(whole_path(path), storage):
                raise ValueError(
                    f"{name} is inside storage_url ({path} in {storage}): expected a place outside of it, or env:NAME,"
                    " so that a copy of storage holds no key and decommissioning destroys none. Move the files out,"
                    " with their names and modes, and name the new place"
                )

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL: `database_url`, or SQLite inside a local `storage_url`.

        Raises:
            ConfigError: Storage is remote and no database is named.
        """
        if self.database_url:
            return self.database_url
        folder = local_path(self.storage_url)
        if folder is None:
            raise ConfigError(
                "a remote storage_url can't hold the default SQLite ledger",
                expected="database_url: an SQLAlchemy URL",
                got="database_url: null",
                remedy="set database_url, e.g. sqlite:////var/lib/hybridmu/ledger.sqlite3",
            )
        return f"{SQLITE}{folder / 'ledger.sqlite3'}"

    @property
    def keys_folder(self) -> Path:
        """Return the folder of the key files.

        Raises:
            ConfigError: Storage is remote and no folder is named.
        """
        if self.keys.folder:
            return Path(self.keys.folder)
        storage = local_path(self.storage_url)
        if storage is None:
            raise ConfigError(
                "a remote storage_url has no folder beside it for the keys",
                expected="keys.folder: a local folder, or keys.signing and keys.guard",
                got="keys.folder: null",
                remedy="set keys.folder, e.g. /var/lib/hybridmu-keys, and keep a backup of it apart from storage",
            )
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
            ConfigError: The key's source is missing, empty or unknown.
        """
        source, found = self.data.partition_key, b""
        kind, _, name = source.partition(":")
        if source == "seed":
            found = f"hybridmu/partition/{self.sisa.seed}".encode()
        elif kind == "env":
            found = secret(name) or b""
        elif kind == "file":
            with suppress(OSError):  # a folder above it is closed to us, for one
                path = Path(name).expanduser()
                found = path.read_bytes() if path.is_file() else b""
        if not found.strip():
            raise ConfigError(
                "data.partition_key can't be read, or is empty",
                expected="seed, env:NAME of a variable or file:PATH of a file that holds more than spaces",
                got=source,
                remedy="the key must be the one the storage was trained with",
            )
        return hashlib.blake2b(found, digest_size=32).digest()

    def identity(self) -> dict[str, Any]:
        """Return what makes two storages incompatible: data columns, task, schedule, optimizer, step, key."""
        # A built-in dataset is known by its name; where its files lie differs between machines.
        left_out = {"train", "validation", "test"} if self.data.name else set()
        left_out |= {"test_fraction"}  # the manifest has it, of storages too that are older than this key
        # Keys that older storages don't know.
        left_out |= {name for name in ("lists", "target") if not getattr(self.data, name)}
        kinds = {"learner": self.learner, "partitioner": self.partitioner, "features": self.features}
        # Likewise: only one that is not the default is named.
        others = {
            name: {key: value for key, value in kind.model_dump(mode="json").items() if key == "name" or value}
            for name, kind in kinds.items()
            if kind != type(kind)()
        }
        return {
            "data": self.data.model_dump(mode="json", exclude=left_out),
            "task": self.task.model_dump(mode="json"),
            **others,
            "sisa": self.sisa.model_dump(mode="json", exclude={"min_rows"}),  # of the first reading alone
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
        if strange := next((type(key) for key in raw if not isinstance(key, str)), None):
            raise ConfigError("the configuration has a key that is not text", expected="text", got=strange.__name__)
        return cls(**raw)


def load(path: str | Path) -> Settings:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        Validated settings.

    Raises:
        ConfigError: The file is missing, not YAML, or not valid.
    """
    raw = read_document(path)
    try:
        return Settings.parse(raw)
    except ConfigError as error:
        what = f"{path}: {error.what}"
        raise ConfigError(what, expected=error.expected, got=error.got, remedy=error.remedy) from None


def register_plugins(raw: Any) -> None:
    """Import the plugins that a configuration names, which register kinds; what is no list of names is left alone.

    Args:
        raw: The configuration as plain data, valid or not.

    Raises:
        ConfigError: One can't be imported.
    """
    named = raw.get("plugins") if isinstance(raw, dict) else None
    if isinstance(named, (list, tuple)) and all(isinstance(module, str) for module in named):
        import_plugins(named)


def _refuse_ephemeral(key: str, url: str, absolute: str) -> None:
    if in_ray_job() and not (url.startswith(("/", "~")) or url.startswith((f"{SQLITE}/", f"{SQLITE}~"))):
        raise ValueError(
            f"{key} {url!r} is relative, but inside a Ray job the working directory is an ephemeral copy; "
            f"write an absolute one, such as {absolute}"
        )


def _describe(root: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')}"
    model: Any = root
    for part in item["loc"][:-1]:
        fields = getattr(model, "model_fields", None)  # else a mapping, whose keys are names of any kind
        model = fields[part].annotation if fields else get_args(model)[1]
        if isinstance(model, UnionType):  # a section, or null
            model = next(one for one in get_args(model) if one is not NoneType)
    near = difflib.get_close_matches(str(item["loc"][-1]), list(model.model_fields), n=1, cutoff=0.0)
    return f"unknown key {where!r}; the nearest known one is {near[0]!r}"
