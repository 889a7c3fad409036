"""Frozen values that cross a process border. No behaviour beyond derived properties.

Slices are numbered 1..R as in the literature; a tuple indexed by slice holds slice i at position i − 1.
"""

from hybridmu.types.calibration import (
    Calibration,
    CalibrationBucket,
    CalibrationCell,
    CalibrationCurve,
    CalibrationEstimate,
    CalibrationOutcome,
    CanaryControls,
    RetrainNoise,
)
from hybridmu.types.jobs import (
    AuditOutcome,
    JobResult,
    LookOutcome,
    Proof,
    ProofOutcome,
    PurgeOutcome,
    ShardFailure,
    ShardJob,
    ShardOutcome,
)
from hybridmu.types.names import UPDATES, Errand, KeyKind, StrategyChoice, StrategyName
from hybridmu.types.plans import CostObservation, Plan, ShardPlan, ShardStats
from hybridmu.types.requests import (
    ForgetRequest,
    ForwardState,
    Ingestion,
    IngestState,
    NamedKey,
    Origin,
    RequestNeed,
    RequestState,
    ResolvedKey,
    RowKey,
    Tombstone,
    Touched,
)
from hybridmu.types.versions import ModelVersion, PastSubModel, SliceRecord, SubModel

__all__ = [
    "UPDATES",
    "AuditOutcome",
    "Calibration",
    "CalibrationBucket",
    "CalibrationCell",
    "CalibrationCurve",
    "CalibrationEstimate",
    "CalibrationOutcome",
    "CanaryControls",
    "CostObservation",
    "Errand",
    "ForgetRequest",
    "ForwardState",
    "IngestState",
    "Ingestion",
    "JobResult",
    "KeyKind",
    "LookOutcome",
    "ModelVersion",
    "NamedKey",
    "Origin",
    "PastSubModel",
    "Plan",
    "Proof",
    "ProofOutcome",
    "PurgeOutcome",
    "RequestNeed",
    "RequestState",
    "ResolvedKey",
    "RetrainNoise",
    "RowKey",
    "ShardFailure",
    "ShardJob",
    "ShardOutcome",
    "ShardPlan",
    "ShardStats",
    "SliceRecord",
    "StrategyChoice",
    "StrategyName",
    "SubModel",
    "Tombstone",
    "Touched",
]
