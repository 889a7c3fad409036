"""Settings of removal: strategies, deadlines, and admission of requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from hybridmu.config.one_of import OneOf
from hybridmu.config.section import Section
from hybridmu.kinds import STRATEGIES, choices


class PolicySettings(Section):
    """Choices of the planner.

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
        verify_share: Share of the certificates for which the touched shards are trained again and compared bit for bit.
        repair: When what an update changed is retrained exactly: `idle`, as soon as no request waits, or `deadline`,
            only when the deadline of one of its requests comes near.
        quality_budget: Predicted forget-loss error a shard may owe before it must be retrained.
        quality_noises: For models whose retraining itself varies: a shard that owes nothing may be updated beyond the
            budget, while nine of ten updates stay within so many times what nine of ten trainings in another order of
            the rows do, and end nearer to the retrain than by doing nothing. Each set of canaries then costs a second
            training; 0: only the budget counts.
        approximate: Which updates `auto` may choose: the fastest one that the quality guard lets through; null: all
            that canary deletions calibrate.
        fast_enough: Updates at least so many times faster than the retrain count as equally fast, and the one of least
            predicted error is chosen; a great number: always the fastest.
        calibrate: Fit α by canary deletions (each set costs about one and a half shard retrains), once version 1 is
            served and nothing else is to do. Where every retrain is light, or faster than any update, none is made.
        calibration_seconds: What the first calibration may take in all, on all workers together; what lacks then is
            measured within `recalibration_share`.
        calibration_shards: How many shards delete canaries of each kind; more of them make α and its error surer.
        calibration_shares: Sizes of the canary deletions, as a share of the shard's rows.
        recalibration_share: What deleting canaries again may cost, once some were revoked, as a share of the seconds
            that training and removals have taken so far; 0: never, and `auto` retrains what it knows no error of.
        class_excess: Retrain when one class loses a share of its rows that is higher than that of all rows by more
            than this, and than chance explains: canaries are of all classes. Of numbers there is no such rule.
        alpha: Step of the subtraction when a forced update meets no calibration; null: 0.3 plain, 0.5 optimised.
        finetune_epochs: Budget of the optimised update, in epochs over the shard's live rows.
        finetune_lr: Its starting rate as a share of the training rate; decays to 0.
        max_attempts: How often a failed shard job is tried.
    """

    strategy: Annotated[str, OneOf(choices)] = "auto"
    workload_threshold: float = Field(0.0, ge=0, le=1)
    time_ratio: float = Field(1.0, gt=0, le=1e6)
    light_seconds: float = Field(1.0, ge=0, le=1e9)
    deadline_seconds: float | None = Field(None, gt=0, le=1e9)
    deadline_margin: float = Field(2.0, ge=1, le=1e9)
    batch_seconds: float = Field(0.0, ge=0, le=1e9)
    batch_keys: int = Field(10_000, ge=1, le=10**9)
    retention_seconds: float = Field(0.0, ge=0, le=1e9)
    quarantine: bool = False
    min_voters: int | None = Field(None, ge=1, le=100_000)
    verify_share: float = Field(0.1, ge=0, le=1)
    repair: Literal["idle", "deadline"] = "idle"
    quality_budget: float = Field(0.1, ge=0, le=1e9)
    quality_noises: float = Field(0.0, ge=0, le=1e6)
    fast_enough: float = Field(8.0, ge=1, le=1e12)
    approximate: Annotated[tuple[Annotated[str, OneOf(STRATEGIES.names)], ...], Field(min_length=1)] | None = None
    calibrate: bool = True
    calibration_seconds: float = Field(600.0, ge=0, le=1e9)
    calibration_shards: int = Field(2, ge=1, le=100_000)
    calibration_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.1)
    recalibration_share: float = Field(0.25, ge=0, le=1e12)
    class_excess: float = Field(0.02, ge=0, le=1)
    alpha: float | None = Field(None, gt=0, le=1000)
    finetune_epochs: float = Field(2.0, gt=0, le=100_000)
    finetune_lr: float = Field(0.3, gt=0, le=1000)
    max_attempts: int = Field(3, ge=1, le=100)

    @field_validator("approximate")
    @classmethod
    def _calibrated(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if wrong := [name for name in names or () if not STRATEGIES.get(name).calibrated]:
            raise ValueError(f"canary deletions don't calibrate {wrong[0]!r}, so that `auto` knows no error of it")
        return names


class EvaluationSettings(Section):
    """Quality of every version, on the test and validation tables.

    Attributes:
        every_version: Measure each version once it is published; false: only `hybridmu evaluate` does.
        rows: Live rows of each table that are asked about at most, drawn by their keyed digests; null: all.
    """

    every_version: bool = True
    rows: int | None = Field(20_000, ge=1, le=10**9)


class AdmissionSettings(Section):
    """Limits on the requests of one caller, and which of them a second person has to approve.

    Attributes:
        keys_per_request: Ids and groups in one request.
        open_requests: Requests of one caller that are not served yet; null: no limit.
        requests_per_minute: Requests of one caller in any 60 seconds; null: no limit.
        approval_rows: A deletion of more rows than this is PROPOSED until another caller approves it, while its
            deadline runs on; 0: every deletion is; null: none.
        approval_groups: Likewise every deletion that names a group.
    """

    keys_per_request: int = Field(100_000, ge=1, le=10_000_000)
    open_requests: int | None = Field(10_000, ge=1, le=10**9)
    requests_per_minute: int | None = Field(None, ge=1, le=10**9)
    approval_rows: int | None = Field(None, ge=0, le=10**12)
    approval_groups: bool = False
