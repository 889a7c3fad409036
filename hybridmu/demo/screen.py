"""Screen of the demo while it runs, and at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.table import Table

from hybridmu.report.terminal import Description
from hybridmu.runtime.coordinator.snapshot import Snapshot

_PHASES = 20
_WIDTH = 140


class Phases:
    """Current part of the demo on one progress bar, and the seconds of each part.

    Args:
        progress: The bar.
    """

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress, self._task = progress, progress.add_task("", total=_PHASES)
        self._name, self._started = "", time.perf_counter()

    def begin(self, name: str) -> None:
        """End the part before, and begin one; a part of the same name goes on."""
        if name != self._name:
            self.end()
            self._name, self._started = name, time.perf_counter()
            self._progress.update(self._task, description=name)

    def count(self, done: int, total: int) -> None:
        """Say how far this part is."""
        self._progress.update(self._task, description=f"{self._name} {done}/{total}")

    def end(self) -> None:
        """End the part before."""
        if self._name:
            self.seconds[self._name] = time.perf_counter() - self._started
            self._name = ""
            self._progress.advance(self._task)

    def watch_training(self, snapshot: Snapshot) -> None:
        """Follow a training: its first step comes when Ray is there."""
        if snapshot.calibrating:
            self.begin("calibrating the approximate update")
        elif snapshot.jobs_total:
            self.begin("training")
            self.count(snapshot.jobs_done, snapshot.jobs_total)

    def watch_jobs(self, snapshot: Snapshot) -> None:
        """Follow retrains and updates."""
        if snapshot.jobs_total:
            self.count(snapshot.jobs_done, snapshot.jobs_total)


@contextmanager
def phases(console: Console) -> Iterator[Phases]:
    """Show a bar while the demo runs.

    Args:
        console: Where.

    Yields:
        What the demo tells its parts to.
    """
    columns = (SpinnerColumn(), BarColumn(), Description(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        found = Phases(progress)
        yield found
        found.end()


def show(console: Console, report: dict[str, Any], output: Path) -> None:
    """Print the report.

    Args:
        console: Where.
        report: From `run_demo`.
        output: The folder of `report.html`.
    """
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)  # a log has no margin

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    console.print(_deletions(report))
    served, repaired, purged = report["serving"], report["repairs"], report["purge"]
    say(
        f"serving: {served['answers']} HTTP answers during the last deletion, the repairs and the purge, "
        f"{served['failures']} failed, versions {', '.join(map(str, served['versions']))}"
    )
    says = "all bit for bit what training from scratch gives" if repaired["proven"] else "NOT ALL EQUAL TO THE ORACLE"
    say(
        f"repairs: {repaired['approximate']} shard(s) had been updated approximately; now {repaired['exact']} of "
        f"{repaired['shards']} are exact, {says}"
    )
    say(
        f"purge: {purged['rows']} rows rewritten out of {purged['tables']} tables, {purged['files']} checkpoints and "
        f"old versions deleted; rows of forgotten ids and users in the tables: {purged['rows_before']} -> "
        f"{purged['rows_after']}"
    )
    # What is found keeps its request from being purged, while others of the batch go on.
    ended = "not all of them are gone" if purged["not_purged"] else "0 found"
    for look in purged["looks"]:
        searched = look["storage"]
        nodes = f" and Ray's folders on {searched['nodes']} node(s)" if "nodes" in searched else ""
        say(
            f"look: {searched['files']} other files ({_kilobytes(searched)}), the database "
            f"({_kilobytes(look['database'])}){nodes} searched for {searched['needles']} digests, {ended}"
        )
    for reason in purged["not_purged"]:
        say(f"NOT PURGED: {reason.removeprefix('not purged: ')}")
    console.print(_certificates(report))
    replay = report["replay"]
    if replay:
        say(f"replay of certificate {replay['number']}: {replay['verdict']}; {replay['detail']}")
    say(f"{report['seconds']:.0f} s in all; report: {output / 'report.html'}")
    if report["certificates"]:
        say(f"check them yourself: {report['check']}")


def _deletions(report: dict[str, Any]) -> Table:
    table = Table("deletion", "rows", "strategies", "est. s", "meas. s", "applied s", "accuracy", "proof")
    for d in report["deletions"]:
        seconds = [f"{d[name]:.2f}" for name in ("estimated_seconds", "measured_seconds", "seconds_to_applied")]
        accuracy = f"{d['accuracy_before']:.4f} -> {d['accuracy_after']:.4f}"
        table.add_row(d["name"], str(d["rows"]), d["strategies"], *seconds, accuracy, d["proof"])
    return table


def _certificates(report: dict[str, Any]) -> Table:
    table = Table(
        "certificate", "deletion", "removal", "Merkle proofs", "checks", "chain", "exact s", "purged s", "in time"
    )
    for c in report["certificates"]:
        table.add_row(
            str(c["number"]),
            c["name"],
            c["removal"],
            str(c["proofs"]),
            f"{c['checks_held']}/{c['checks']} hold",
            "holds" if c["chain"] else "BROKEN",
            f"{c['seconds_to_exact']:.1f}",
            f"{c['seconds_to_purged']:.1f}",
            {None: "-", True: "yes", False: "NO"}[c["deadline_kept"]],
        )
    return table


def _kilobytes(searched: dict[str, int]) -> str:
    return f"{searched['bytes'] / 1000:.0f} kB"
