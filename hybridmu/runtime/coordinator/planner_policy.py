"""Policy of the planner, as the settings give it."""

from __future__ import annotations

from hybridmu.config import Settings
from hybridmu.core.strategies import calibrated
from hybridmu.planning.planner import Policy


def approximate_of(settings: Settings) -> tuple[str, ...]:
    """Return the updates that `auto` may choose: those that the policy names, or all that canaries calibrate."""
    return settings.policy.approximate or calibrated()


def policy_of(settings: Settings) -> Policy:
    """Return the planner's policy from the settings."""
    policy = settings.policy
    return Policy(
        workload_threshold=policy.workload_threshold,
        time_ratio=policy.time_ratio,
        light_seconds=policy.light_seconds,
        quality_budget=policy.quality_budget,
        quality_noises=policy.quality_noises,
        fast_enough=policy.fast_enough,
        approximate=approximate_of(settings),
        alpha=policy.alpha,
        finetune_epochs=policy.finetune_epochs,
        learner=settings.learner.name,
        optimizer=settings.optimizer.name,
        batch_size=settings.sisa.batch_size,
        class_excess=policy.class_excess,
    )
