"""Tasks for users: derive your own from these, and name it in the configuration as `package.module:Class`."""

from __future__ import annotations

from hybridmu.core.tasks.augmentation import Augmented, Draws
from hybridmu.core.tasks.base import CrossEntropyTask, Task
from hybridmu.core.tasks.classification import Classification
from hybridmu.core.tasks.networks import Cnn, Linear, Mlp
from hybridmu.core.tasks.pictures import ResNet
from hybridmu.core.tasks.regression import Regression
from hybridmu.core.tasks.regression_tasks import RegressionTask

__all__ = [
    "Augmented",
    "Classification",
    "Cnn",
    "CrossEntropyTask",
    "Draws",
    "Linear",
    "Mlp",
    "Regression",
    "RegressionTask",
    "ResNet",
    "Task",
]
