"""Estimators for scikit-learn that forget: `HybridClassifier` and `HybridRegressor`; see docs/scikit-learn.md."""

from __future__ import annotations

from hybridmu.estimator.classifier import HybridClassifier
from hybridmu.estimator.regressor import HybridRegressor

__all__ = ["HybridClassifier", "HybridRegressor"]
