"""Quality of a version in words, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridmu.core.metrics import METRICS, figure, name_of, shown, targets_of
from hybridmu.types.text import visible

_UNMEASURED = "not measured (no row is held out, or it could not be evaluated)"


def quality_line(quality: Mapping[str, Any] | None) -> str:
    """Return the quality of a version in one line: two metrics per table, and the sub-models' range of the first.

    Where several numbers are learned, the first metric is their mean, and each number's own is said too.

    Args:
        quality: As `status --json` shows it; None when it was not measured.
    """
    tables = {} if quality is None else {name: found for name, found in quality.items() if name != "version"}
    return "; ".join(_table(name, found) for name, found in tables.items()) or _UNMEASURED


def change_line(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str | None:
    """Return what a deletion changed: `accuracy 93.1 % -> 92.8 %, …` per table; None when either is not known."""
    if before is None or after is None:
        return None
    tables = [name for name in after if name != "version" and name in before]
    return "; ".join(
        ", ".join(
            f"{METRICS[metric].words} {figure(metric, before[name]['ensemble'].get(metric))} -> "
            f"{figure(metric, after[name]['ensemble'].get(metric))}"
            for metric in shown(after[name]["ensemble"])
        )
        + f" on {after[name]['rows']:,} {name} rows"
        for name in tables
    )


def _table(name: str, found: Mapping[str, Any]) -> str:
    names = shown(found["ensemble"])
    said = [f"{METRICS[metric].words} {figure(metric, found['ensemble'].get(metric))}" for metric in names]
    if targets := targets_of(found["ensemble"]):
        each = [f"{visible(name)} {figure(names[0], found['ensemble'][name_of(names[0], name)])}" for name in targets]
        said[0] += f" on average ({', '.join(each)})"
    alone = [sub[names[0]] for sub in found["sub_models"] if sub.get(names[0]) is not None]
    line = f"{', '.join(said)} on {found['rows']:,} {name} rows"
    if len(alone) < 2:
        return line
    return f"{line} (single sub-models {figure(names[0], min(alone))} to {figure(names[0], max(alone))})"
