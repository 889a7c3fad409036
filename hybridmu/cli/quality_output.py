"""Quality of a version in words, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridmu.core.metrics import METRICS

_UNMEASURED = "not measured (no row is held out, or it could not be evaluated)"
_SHARES = {"accuracy", "balanced_accuracy"}
_SHOWN = ("accuracy", "log_loss")


def quality_line(quality: Mapping[str, Any] | None) -> str:
    """Return the quality of a version in one line: accuracy and log loss per table, and the sub-models' range.

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
            for metric in _SHOWN
        )
        + f" on {after[name]['rows']:,} {name} rows"
        for name in tables
    )


def figure(metric: str, value: float | None) -> str:
    """Return a metric's figure: shares in percent, others with three decimals.

    Example:
        >>> figure("accuracy", 0.931), figure("log_loss", 0.2314), figure("auc", None)
        ('93.1 %', '0.231', 'undefined')
    """
    if value is None:
        return "undefined"
    return f"{100 * value:.1f} %" if metric in _SHARES else f"{value:.3f}"


def _table(name: str, found: Mapping[str, Any]) -> str:
    said = [f"{METRICS[metric].words} {figure(metric, found['ensemble'].get(metric))}" for metric in _SHOWN]
    alone = [sub["accuracy"] for sub in found["sub_models"] if sub.get("accuracy") is not None]
    line = f"{', '.join(said)} on {found['rows']:,} {name} rows"
    if len(alone) < 2:
        return line
    return f"{line} (single sub-models {figure('accuracy', min(alone))} to {figure('accuracy', max(alone))})"
