"""Values that a configuration may leave out: a trained system keeps its own, a new one gets what suits its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridmu.config.section import Section
from hybridmu.config.settings import Settings
from hybridmu.kinds import LEARNER_OF_TASK

# Section → keys. What stands in the sections as a default is what these keys meant where nothing was said of them
# before there was a choice; no training begins with it unsaid.
OPEN: Mapping[str, tuple[str, ...]] = {
    "data": ("standardize", "scale"),
    "task": ("hidden",),
    "sisa": ("shards", "slices", "epochs", "batch_size"),
    "optimizer": ("name", "lr", "momentum", "weight_decay", "schedule"),
}
_OF_SUMS = ("target_scale",)  # of a task, where numbers are learned by sums


def left_out(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return what a configuration says nothing of, of all that a training may choose.

    Args:
        settings: The configuration.

    Returns:
        Section → keys, in a fixed order; sections without one are not there.

    Example:
        >>> settings = Settings.parse({"data": {"train": "t.csv"}, "sisa": {"shards": 2}, "storage_url": "/tmp/x"})
        >>> left_out(settings)["sisa"]
        ('slices', 'epochs', 'batch_size')
    """
    sums_of_numbers = settings.data.target is not None and settings.task.name in LEARNER_OF_TASK
    keys_of = {**OPEN, "task": _OF_SUMS} if sums_of_numbers else OPEN
    unsaid = {
        name: tuple(key for key in keys if key not in _section(settings, name).model_fields_set)
        for name, keys in keys_of.items()
    }
    return {name: keys for name, keys in unsaid.items() if keys}


def completed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return a configuration that says what was left out; what it says already stays.

    Args:
        settings: The configuration.
        values: Section → key → value, as `Settings.identity` and `Settings.model_dump` have them; others are ignored.

    Example:
        >>> settings = Settings.parse({"data": {"train": "t.csv"}, "sisa": {"shards": 2}, "storage_url": "/tmp/x"})
        >>> found = completed(settings, {"sisa": {"shards": 8, "slices": 3}}).sisa
        >>> found.shards, found.slices
        (2, 3)
    """
    sections = {}
    for name, keys in left_out(settings).items():
        known = values.get(name, {})
        if name == "task" and known.get("name", settings.task.name) != settings.task.name:
            continue  # options of another one
        said = {key: known[key] for key in keys if key in known}
        if said:
            sections[name] = _section(settings, name).model_copy(update=said)
    return settings.model_copy(update=sections)


def _section(settings: Settings, name: str) -> Section:
    found: Section = getattr(settings, name)
    return found
