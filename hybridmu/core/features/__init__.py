"""Ways to make numbers of rows: one file each, registered by name."""

from __future__ import annotations

from hybridmu.core.features.feature_source import FeatureSource, RowTransform, TableTransform, opened
from hybridmu.kinds import FEATURES


def register(source: type[FeatureSource]) -> None:
    """Add a feature source.

    Raises:
        ValueError: The name is taken.
    """
    FEATURES.register(source.name, source)


def get(name: str = FEATURES.default) -> FeatureSource:
    """Return a feature source by name; the one of every system that names none by default.

    Raises:
        ValueError: No such source; the message lists the known ones.
    """
    found: FeatureSource = FEATURES.get(name)()
    return found


__all__ = ["FeatureSource", "RowTransform", "TableTransform", "get", "opened", "register"]
