"""Kills of processes of small systems, and a look whether anything was lost.

    python benchmarks/chaos.py --kills 1000 [--ray]

Without Ray, forked processes are killed at the fault points of docs/faults.md, in turn, each at a seeded hit; with
`--ray`, actors of a cluster of this machine while requests come in. What is wrong is printed; the last line is the sum.
It needs the checkout that it lies in, with its tests.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

_KINDS = ("lost", "doubled", "diverged")
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def local(kills: int, seed: int, workers: int, folder: Path) -> tuple[Counter[str], dict[str, list[str]]]:
    """Return fault point → deaths, and what went wrong, after killing so many forked processes."""
    from tests.faults.campaign import Campaign

    deaths: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    progress = _Progress(kills)
    for run in Campaign(folder, seed, schedules=max(2, kills // 100), workers=workers).run(kills):
        deaths.update(point for point, _ in run.deaths)
        story = f"{run.world} {run.seed} {' then '.join(f'{point} {hit}' for point, hit in run.kills)}".strip()
        for kind in _KINDS:
            wrong[kind] += [f"{story}: {words}" for words in getattr(run, kind)]
        progress.show(sum(deaths.values()), wrong)
    return deaths, wrong


def on_ray(kills: int, seed: int, folder: Path) -> tuple[Counter[str], dict[str, list[str]]]:
    """Return kind of actor → deaths, and what went wrong, after killing so many actors, some per system."""
    os.environ.update(_RAY)
    from tests.ray.chaos import RayChaos
    from tests.ray.support import small_cluster

    deaths: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    progress = _Progress(kills)
    with small_cluster():
        while (left := kills - sum(deaths.values())) > 0:
            number = sum(deaths.values())
            place = folder / str(number)
            place.mkdir()
            chaos = RayChaos(place, seed + number)
            found = chaos.run(min(left, 20), lambda death: deaths.update([death.name.partition("-")[0]]))
            for kind in _KINDS:
                wrong[kind] += [f"after {number} kills: {words}" for words in found[kind]]
            progress.show(sum(deaths.values()), wrong)
    return deaths, wrong


class _Progress:
    """A line on standard error every few seconds."""

    def __init__(self, kills: int) -> None:
        self._kills, self._started, self._next = kills, time.monotonic(), 0.0

    def show(self, done: int, wrong: dict[str, list[str]]) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 5
            bad = sum(map(len, wrong.values()))
            print(
                f"{done}/{self._kills} kills in {now - self._started:.0f} s, {bad} wrong", file=sys.stderr, flush=True
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description="Kill processes, and look whether anything was lost.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that fork, without --ray")
    parser.add_argument("--ray", action="store_true", help="kill actors of a Ray cluster of this machine")
    parser.add_argument("--json", action="store_true", help="print one document")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hybridmu-chaos-") as name:
        folder = Path(name)
        if chosen.ray:
            deaths, wrong = on_ray(chosen.kills, chosen.seed, folder)
        else:
            deaths, wrong = local(chosen.kills, chosen.seed, chosen.workers, folder)
    counts = {kind: len(wrong[kind]) for kind in _KINDS}
    if chosen.json:
        document: dict[str, Any] = {**counts, "kills": sum(deaths.values()), "seconds": time.monotonic() - started}
        print(json.dumps({**document, "deaths": deaths, "wrong": wrong}))
    else:
        for kind in _KINDS:
            for words in wrong[kind]:
                print(f"{kind}: {words}")
        print(f"{sum(deaths.values())} kills at {len(deaths)} places in {time.monotonic() - started:.0f} s")
        print(", ".join(f"{kind} {counts[kind]}" for kind in _KINDS))
    return int(any(counts.values()))


if __name__ == "__main__":
    sys.exit(main())
