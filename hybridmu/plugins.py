"""Kinds for operators: derive strategies, learners, partitioners and feature sources from these, register them, and
name their modules in `plugins` of the configuration.
"""

from __future__ import annotations

from hybridmu.core.features import FeatureSource, RowTransform, TableTransform
from hybridmu.core.features import register as register_feature_source
from hybridmu.core.features.columns import Columns
from hybridmu.core.features.value_encoders import ImageEncoder, TextEncoder
from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.model import SubModel, state_of
from hybridmu.core.kernel.partition import place
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.core.learners import Fit, Fitted, Learner
from hybridmu.core.learners import register as register_learner
from hybridmu.core.learners.target_scale import scaled
from hybridmu.core.learners.workload import count as sliced_workload
from hybridmu.core.partitioners import Partitioner
from hybridmu.core.partitioners import register as register_partitioner
from hybridmu.core.strategies import Context, Extent, Removal, Result, Work
from hybridmu.core.strategies import register as register_strategy

__all__ = [
    "Columns",
    "Context",
    "Encoder",
    "Extent",
    "FeatureSource",
    "Fit",
    "Fitted",
    "ImageEncoder",
    "Learner",
    "Partitioner",
    "Removal",
    "Result",
    "RowTransform",
    "SubModel",
    "TableTransform",
    "TextEncoder",
    "Work",
    "gradients_of",
    "place",
    "register_feature_source",
    "register_learner",
    "register_partitioner",
    "register_strategy",
    "scaled",
    "sliced_workload",
    "state_of",
]
