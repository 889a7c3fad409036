"""Settings of the tables, their columns, and the task that learns from them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, field_validator, model_validator

from hybridmu.config.addresses import local_path, whole_path
from hybridmu.config.section import Scalar, Section, check_options

TEST_FRACTION = 0.1  # of a new storage whose configuration says nothing of test or validation


class DataSettings(Section):
    """Tables and the roles of their columns.

    Attributes:
        name: A built-in dataset; fills every field left out.
        train: File in Parquet, Arrow IPC or CSV, or folder of such files in any depth; path or URI.
        test: The same, held out for evaluation.
        test_fraction: Share of the groups held out as the test table by a keyed hash; 0.1 where nothing is said of test
            or validation. A trained system keeps its own, whatever is left out here.
        validation: The same as `test`; or leave it out and set `validation_fraction`.
        validation_fraction: Share of the groups held out of training by a keyed hash.
        id: Unique key column, integer or string.
        group: Column of the person a row belongs to; null values fall back to the id.
        label: Class column.
        target: Number column, in place of `label`: the system predicts numbers instead of classes (a regression). A
            list of columns: all of them at once, by `task: {name: ridge}`.
        features: Feature columns; all others when left out.
        classes: Class list; inferred once from the first read when left out.
        fills: Column → value that stands in for null (an indicator column is added); `*` is every other column that may
            be null, a number for numbers and truth values, a text for texts.
        categories: String column → declared values, one-hot.
        hash_buckets: String column → number of hashed buckets (64 when neither is declared).
        scale: Numeric column → factor (data-independent).
        lists: List column → how many numbers each list has; as many as the first one when left out.
        standardize: Fit mean and deviation on the live rows of each shard's slice 1.
        partition_key: `seed` (derived from the seed: reproducible, not secret), `env:NAME` or `file:PATH`.
    """

    name: str | None = None
    train: str = ""
    test: str | None = None
    test_fraction: float | None = Field(None, ge=0.0, lt=1.0)
    validation: str | None = None
    validation_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    id: str = "id"
    group: str | None = None
    label: str = "label"
    target: str | tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    classes: tuple[int | str, ...] | None = None
    fills: dict[str, Scalar] = Field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    hash_buckets: dict[str, Annotated[int, Field(ge=1, le=2**20)]] = Field(default_factory=dict)
    scale: dict[str, FiniteFloat] = Field(default_factory=dict)
    lists: dict[str, Annotated[int, Field(ge=1, le=2**20)]] = Field(default_factory=dict)
    standardize: bool = False
    partition_key: str = "seed"

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_path(cls, value: object) -> object:
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f"name one file or one folder, not a {type(value).__name__}; several files go into one folder")

    @field_validator("train", "test", "validation")
    @classmethod
    def _place(cls, url: str | None) -> str | None:
        if url:
            local_path(url)  # checked here, and read where it is used
        return url

    @field_validator("target")
    @classmethod
    def _alone(cls, target: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Return one target by its name alone, so that a list of one is no other system."""
        return target[0] if isinstance(target, tuple) and len(target) == 1 else target

    @model_validator(mode="after")
    def _one_outcome(self) -> DataSettings:
        if self.target is None:
            return self
        if self.label != "label":
            raise ValueError("name data.label (classes) or data.target (numbers), not both")
        if self.classes is not None:
            raise ValueError("data.classes belongs to data.label; numbers of data.target have no list")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the columns of numbers that are learned, in their order; none where classes are."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Return the columns that are learned: that of the classes, or the targets."""
        return self.targets or (self.label,)

    @field_validator("partition_key")
    @classmethod
    def _key_file(cls, source: str) -> str:
        if source.startswith("file:"):
            whole_path(source.removeprefix("file:"))  # as it was written, it is part of a storage's identity
        return source

    @model_validator(mode="after")
    def _one_test_table(self) -> DataSettings:
        if self.test and self.test_fraction:
            raise ValueError("test and test_fraction exclude each other: a table of its own, or a share of the people")
        return self

    @property
    def first_test_fraction(self) -> float:
        """Return the share that a new storage holds out as its test table."""
        if self.test_fraction is not None:
            return self.test_fraction
        said = [getattr(self, name) for name in ("test", "validation", "validation_fraction")]
        is_said = any(said) or "validation_fraction" in self.model_fields_set
        return 0.0 if is_said else TEST_FRACTION


class TaskSettings(Section):
    """What is learned, and by which kind of model; keyword arguments of its constructor stand beside the name.

    Attributes:
        name: A built-in task (`mlp`, `linear`, `cnn`, `resnet`, `lda`, `ridge`, `naive-bayes`, `adapter`), or
            `package.module:Class`.
    """

    model_config = ConfigDict(extra="allow")
    name: str = "mlp"

    @model_validator(mode="after")
    def _plain(self) -> TaskSettings:
        check_options(self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return dict(self.model_extra or {})
