"""HybridMU: distributed machine unlearning on Ray."""

from hybridmu.config import Settings, load
from hybridmu.errors import HybridMUError
from hybridmu.system import System, connect
from hybridmu.task import Task
from hybridmu.types import ForgetRequest, ModelVersion, Plan

__all__ = ["ForgetRequest", "HybridMUError", "ModelVersion", "Plan", "Settings", "System", "Task", "connect", "load"]
