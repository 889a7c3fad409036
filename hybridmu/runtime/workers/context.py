"""Everything that a worker needs to work on shards, made from the settings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from hybridmu.code_digest import code_digest
from hybridmu.config import Settings
from hybridmu.core import learners
from hybridmu.core.features import FeatureSource
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Across, Recipe
from hybridmu.core.learners import Learner
from hybridmu.core.partitioners import Partitioner
from hybridmu.core.proof.lineage import head
from hybridmu.core.proof.training_environment import environment
from hybridmu.core.strategies import Context
from hybridmu.core.strategies.requirements import unfit_updates
from hybridmu.core.tasks.adapter_task import AdapterTask
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError
from hybridmu.kinds import FEATURES, LEARNERS, PARTITIONERS, import_plugins
from hybridmu.store.dataset.feature_types import FeatureTypes
from hybridmu.store.dataset.lake import Lake
from hybridmu.store.storage.blobs import Blobs
from hybridmu.store.storage.file_modes import modes_of
from hybridmu.store.storage.storage import Storage
from hybridmu.types import Job, StrategyName
from hybridmu.user_code import contained, told

# Named as such in the environment part of a lineage key.
_LIBRARIES = {"torch", "numpy"}


class Site:
    """Storage, lake, task and recipe of one system, in one process.

    Args:
        settings: The configuration.
        lake: The tables, where this process has opened them already.
    """

    def __init__(self, settings: Settings, lake: Lake | None = None) -> None:
        import_plugins(settings.plugins)  # settings that come from another process were checked there
        self.settings = settings
        self.lake = lake or Lake(settings, Storage(settings.storage_url, modes_of(settings.storage_mode)))
        self.storage = self.lake.storage
        self.blobs = Blobs(self.storage)
        self.feature_types = FeatureTypes(self.lake)
        if reason := settings.unfit_rule():  # not known before a built-in dataset has said what is learned
            raise ConfigError("the configuration is not valid", got=reason)
        self.task = make_task(settings.task.name, settings.task.options, targets=settings.data.targets)
        self.judgement = judgement_of(self.task)
        self.learner = learners.get(settings.learner.name)
        # Of what is imported now, not of what lies on disk later.
        self._code = code_digest(self.task)
        self._other_code = {name: code_digest(kind) for name, kind in self._others().items()}

    @property
    def device(self) -> str:
        """Return `cpu` or `cuda`; only workers that hold a GPU get `cuda`."""
        return self.settings.device

    def expect(self, job: Job) -> None:
        """See the generations that a job is about, and compare what is read for it with what the ledger recorded.

        Args:
            job: Brings the seals along: a worker has no ledger.
        """
        if job.seals is not None:
            known = {name: frozenset(seals) for name, seals in job.seals}
            self.lake.compare_with(lambda names: {name: known[name] for name in names if name in known})
        self.lake.refresh()
        self.lake.see(job.generations)

    def configure_torch(self) -> None:
        """Fix what changes bits: thread count and deterministic kernels, for this process."""
        configure_torch(self.settings)

    def lineage_static(self, versions: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the part of every lineage key that is the same for all shards and slices.

        Args:
            versions: Package → version to assume in place of the installed one.
        """
        settings = self.settings
        manifest = self.lake.manifest
        found = environment(self.device, settings.threads)
        code = code_digest(self.task, versions) if versions else self._code
        assumed = {name: version for name, version in (versions or {}).items() if name in _LIBRARIES}
        return {
            "environment": {} if self.learner.portable else found | assumed,
            "task": {"name": settings.task.name, "options": settings.task.options, "code": code},
            **({"backbone": self.task.backbone_digest} if isinstance(self.task, AdapterTask) else {}),
            "encoder": manifest.encoder.to_json(),
            **({"encoders": dict(manifest.encoders)} if manifest.encoders else {}),
            "standardize": settings.data.standardize,
            "shards": settings.sisa.shards,
            "partition": settings.identity()["partition_key"],
            **{
                name: {"name": kind.name, "code": code_digest(kind, versions) if versions else self._other_code[name]}
                for name, kind in self._others().items()
            },
        }

    def _others(self) -> dict[str, Learner | Partitioner | FeatureSource]:
        """Return the kinds that are not the default ones, whose code is the kernel's; an edited one starts over."""
        others: dict[str, Learner | Partitioner | FeatureSource] = {}
        if self.learner.name != LEARNERS.default:
            others["learner"] = self.learner
        if self.lake.partitioner.name != PARTITIONERS.default:
            others["partitioner"] = self.lake.partitioner
        if self.lake.features.name != FEATURES.default:
            others["features"] = self.lake.features
        return others

    def head(self, shard: int, versions: Mapping[str, str] | None = None) -> str:
        """Return the hash of what shapes a shard's bits besides its rows, as this process would make them.

        Args:
            shard: Shard number.
            versions: Package → version to assume in place of the installed one.
        """
        return head(self.lineage_static(versions), self.recipe_for(shard), shard)

    def made_alike(self, shard: int, made: str | None) -> bool:
        """Return whether a retrain would find a shard's checkpoints again: same code, libraries and machine.

        Args:
            shard: Shard number.
            made: The head of the run that left them.
        """
        return self.device != "cpu" or made == self.head(shard)  # a process without the GPU can't tell

    def recipe_for(self, shard: int, generations: int | None = None) -> Recipe:
        """Return the hyper-parameters of a shard, with the epochs of its slices.

        Args:
            shard: Shard number.
            generations: Of the first so many generations of rows; of all that were seen by default.
        """
        manifest = self.lake.manifest
        return recipe_of(self.settings, manifest.epochs_of(shard, generations), manifest.initial_slices)

    def strategy_context(
        self,
        shard: int,
        live: Rows,
        revoked: Rows | None = None,
        *,
        generations: int | None = None,
        checkpoint: Callable[[int], State | None] = lambda _: None,
        save: Callable[[int, State, int], None] = lambda *_: None,
        current: State | None = None,
        held_out: Rows | None = None,
        alpha: float = 0.0,
        across: Across | None = None,
    ) -> Context:
        """Return a shard as a strategy meets it, with this system's task, hyper-parameters and policy.

        Args:
            shard: Shard number.
            live: Rows that stay.
            revoked: Rows whose influence goes; none by default.
            generations: Of the first so many generations of rows; of all that were seen by default.
            checkpoint: Slice → state of the trajectory; by default there is none.
            save: Called after every exactly trained slice.
            current: State that is live now.
            held_out: Validation rows of the shard.
            alpha: Step of the subtraction.
            across: Opens a model for training by several processes.
        """
        policy = self.settings.policy
        return Context(
            shard=shard,
            task=self.task,
            recipe=self.recipe_for(shard, generations),
            live=live,
            revoked=live.take(np.zeros(0, np.int64)) if revoked is None else revoked,
            fresh_model=lambda: self.fresh_model(shard),
            checkpoint=checkpoint,
            save=save,
            current=current,
            held_out=held_out,
            alpha=alpha,
            finetune_epochs=policy.finetune_epochs,
            finetune_rate=policy.finetune_lr * self.settings.optimizer.lr,
            across=across,
            learner=self.learner,
        )

    def fresh_model(self, shard: int, seed: int | None = None) -> SubModel:
        """Return the untrained sub-model of a shard on the training device.

        Args:
            shard: Shard number.
            seed: Draws its weights; the system's own by default.
        """
        return self._untrained(shard, seed).to(self.device)

    def check_backbone(self) -> None:
        """Check that what sub-models adapt, if they do, is what the stored rows came in with.

        Raises:
            StateError: It is another one.
            ConfigError: It can't be had.
            MissingExtraError: The same, for want of a package.
        """
        if isinstance(self.task, AdapterTask):
            _ = self.lake.encoding  # the digest of the tokens' encoder is one of the backbone too

    def unfit_updates(self) -> dict[StrategyName, str]:
        """Return which updates the task's model does not allow, and why."""
        return unfit_updates(self._untrained(0), self.task, self._features)

    @property
    def width(self) -> int:
        """Return how many numbers a sub-model answers with per row."""
        return self.judgement.width(len(self.lake.manifest.encoder.classes))

    @property
    def _features(self) -> int:
        return self.lake.features.width(self.lake.manifest.encoder)

    def _untrained(self, shard: int, seed: int | None = None) -> SubModel:
        self.check_backbone()
        return self.learner.initial(
            self.task,
            features=self._features,
            classes=self.judgement.outputs(len(self.lake.manifest.encoder.classes)),
            standardize=self.settings.data.standardize,
            seed=self.settings.sisa.seed if seed is None else seed,
            shard=shard,
        )

    def load_model(self, shard: int, blob: str, device: str = "cpu") -> SubModel:
        """Return a sub-model with stored weights, in evaluation mode.

        Raises:
            ConfigError: The task makes no model, or another one than when it was trained.
            StateError: What sub-models adapt is not what they were trained with.
        """
        self.check_backbone()
        state = self.blobs.get(blob)
        try:
            with contained():
                model = self.fresh_model(shard).to(device)
                model.load_state_dict(state)
                return model.eval()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"task {self.settings.task.name} makes no model that its stored weights fit",
                got=told(error),
                remedy="its code, and the files and environment variables that it reads, must be as at training",
            ) from error


def configure_torch(settings: Settings) -> None:
    """Fix what changes bits in this process: thread count and deterministic kernels."""
    torch.set_num_threads(settings.threads)
    # The same switch as use_deterministic_algorithms(True), which would import the compiler: a second per process.
    torch.set_deterministic_debug_mode("error")
    # The flag above would also fill every new tensor with NaN, which costs time and guards nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def recipe_of(settings: Settings, epochs: tuple[int, ...], initial_slices: int | None = None) -> Recipe:
    """Return the hyper-parameters that settings give.

    Args:
        settings: The configuration.
        epochs: Of every slice.
        initial_slices: Slices of the first training; None: all.
    """
    sisa, optimizer = settings.sisa, settings.optimizer
    return Recipe(
        epochs=epochs,
        batch_size=sisa.batch_size,
        seed=sisa.seed,
        optimizer=optimizer.name,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        schedule=optimizer.schedule,
        initial_slices=initial_slices,
        precision=settings.compute.precision,
        compiled=settings.compute.compile,
        parts=settings.compute.parts,
        extrapolation=optimizer.extrapolation,
    )
