"""A strategy against always retraining and against the oracle, over the seeds of one deletion. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.study.records import Record

# The goals: times faster than always retraining, points of accuracy, multiples of the oracle's own noise.
FASTER, POINTS, NOISES = 8.0, 0.5, 2.0


@dataclass(frozen=True)
class Comparison:
    """How one strategy did, per seed.

    Attributes:
        wall: Times faster than the retrain of the same run, by the clock.
        processor: The same by processor time.
        device: The same by device-seconds: what jobs took by the clock, added up.
        repaired: The same, with the exact retrains that are still owed.
        points: Test accuracy minus the oracle's, in points.
        gaps: Forget-loss gaps.
        noise: Root mean square over seeds of the forget-loss difference between two oracles.
        remembered: Root mean square of the gap of doing nothing; None where that was not measured.
    """

    wall: tuple[float, ...]
    processor: tuple[float, ...]
    device: tuple[float, ...]
    repaired: tuple[float, ...]
    points: tuple[float, ...]
    gaps: tuple[float, ...]
    noise: float
    remembered: float | None

    @property
    def off(self) -> float:
        """Return the root mean square gap in noises: of single deletions, so that signs don't cancel over seeds."""
        return rms(self.gaps) / self.noise if self.noise else math.inf

    @property
    def inside(self) -> int:
        """Return in how many seeds the gap is within the goal."""
        return sum(abs(gap) <= NOISES * self.noise for gap in self.gaps)

    @property
    def telling(self) -> bool:
        """Return whether the goal of the gap says anything: doing nothing misses it."""
        return self.remembered is None or self.remembered > NOISES * self.noise

    @property
    def missed(self) -> list[str]:
        """Return which goals are missed: speed and accuracy in the mean over seeds, the gap of single deletions.

        Example:
            >>> slow, near = (9.0, 7.0), (0.01, -0.01)
            >>> Comparison(slow, slow, slow, slow, (-0.1, -0.2), near, 0.004, 0.2).missed
            ['time', 'gap']
        """
        found = []
        if min(map(geometric_mean, (self.wall, self.processor))) < FASTER:
            found.append("time")
        if statistics.mean(self.points) < -POINTS:
            found.append("accuracy")
        if self.off > NOISES:
            found.append("gap")
        return found

    @property
    def verdict(self) -> str:
        """Return what is missed, in words."""
        says = f"misses {', '.join(self.missed)}" if self.missed else "**met**"
        return says if self.telling or self.off > NOISES else f"{says}; the gap says nothing: so does doing nothing"


def compare(group: Collection[Record], strategy: str) -> Comparison | None:
    """Compare a strategy with the exact retrain of the same deletions.

    Args:
        group: All that was measured of one request mix on one system.
        strategy: Contender.

    Returns:
        The comparison over the seeds that both were measured on; None where there is none.

    Raises:
        ValueError: The two were measured by different commits, so that seconds can't be compared.
    """
    exact = {record.seed: record for record in group if record.strategy == "sisa"}
    mine = [record for record in group if record.strategy == strategy and record.seed in exact]
    if not mine:
        return None
    apart = [record for record in mine if record.commit != exact[record.seed].commit]
    if apart:
        raise ValueError(
            f"{apart[0].key} was measured by commit {apart[0].commit}, the retrain that it is compared with by "
            f"{exact[apart[0].seed].commit}: take the rows of this deletion out of the file and measure it again"
        )

    def faster(cost: Callable[[Record], float]) -> tuple[float, ...]:
        return tuple(cost(exact[record.seed]) / cost(record) if cost(record) else math.inf for record in mine)

    nothing = [record.gap for record in group if record.strategy == "nothing"]
    return Comparison(
        faster(lambda r: r.wall_seconds),
        faster(lambda r: r.cpu_seconds),
        faster(lambda r: r.device_seconds),
        faster(lambda r: r.device_seconds + (r.repair_seconds if strategy != "sisa" else 0.0)),
        tuple(100 * (record.accuracy - record.oracle_accuracy) for record in mine),
        tuple(record.gap for record in mine),
        noise_of(group),
        rms(nothing) if nothing else None,
    )


def noise_of(group: Iterable[Record]) -> float:
    """Return the root mean square over seeds of the forget-loss difference between two oracles."""
    return rms(list({record.seed: record.noise_gap for record in group}.values()))


def rms(values: Sequence[float]) -> float:
    """Return the root mean square.

    Example:
        >>> rms([3.0, -3.0])
        3.0
    """
    return math.sqrt(statistics.mean(value * value for value in values))


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean; infinite where something is free."""
    return statistics.geometric_mean(ratios) if all(map(math.isfinite, ratios)) else math.inf
