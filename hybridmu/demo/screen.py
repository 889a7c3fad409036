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

from hybridmu.report.demo_page import accuracies, afterwards, headline, lines, looked
from hybridmu.report.measured_times import duration
from hybridmu.report.terminal import Description
from hybridmu.runtime.coordinator.snapshot import Snapshot

_PHASES = 24
_WIDTH, _LABEL, _MOST_LETTERS = 140, 14, 90


class Phases:
    """Current part of the demo on one progress bar, and the seconds of each part.

    Args:
        progress: The bar.
    """

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._model = ""
        self._progress, self._task = progress, progress.add_task("", total=_PHASES)
        self._name, self._started = "", time.perf_counter()

    def of(self, model: str) -> None:
        """Say of which model the next parts are; of none where it is empty."""
        self._model = f"{model}: " if model else ""

    def begin(self, name: str) -> None:
        """End the part before, and begin one; a part of the same name goes on."""
        name = f"{self._model}{name}"
        if name != self._name:
            self.end()
            self._name, self._started = name, time.perf_counter()
            self._progress.update(self._task, description=name)

    def count(self, done: int, total: int | None = None) -> None:
        """Say how far this part is."""
        far = f"{done:,}" if total is None else f"{done}/{total}"
        self._progress.update(self._task, description=f"{self._name}, {far}")

    def end(self) -> None:
        """End the part before."""
        if self._name:
            self.seconds[self._name] = time.perf_counter() - self._started
            self._name = ""
            self._progress.advance(self._task)

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

    def say(label: str, text: str) -> None:
        console.print(f"{label:{_LABEL}}{text}", soft_wrap=True)

    console.print(headline(report), soft_wrap=True)
    console.print(_table(report))
    sums, network = report["sums"], report["network"]
    person, answers, served = sums["person"], sums["answers"], sums["serving"]
    stars = f"{person['rating']} of 5 stars for {person['department']}"
    say("the person", f"aged {person['age']}, {stars}: {_review(person)}")
    if answers:
        say("the answer", f"over HTTP: {afterwards(answers[0])}")
    failed = "none failed" if not served["failures"] else f"{served['failures']:,} FAILED"
    say("served", f"{served['answers']:,} answers meanwhile, {failed}, by versions {_numbers(served['versions'])}")
    say("accuracy", accuracies(report))
    for name, part in (("sums", sums), ("network", network)):
        purged = part["purge"]
        left = f"rows of these people in the tables: {purged['rows_before']} -> {purged['rows_after']}"
        say("purged", f"{name}: {left}; {looked(purged)}")
        for reason in purged["not_purged"]:
            say("NOT PURGED", reason.removeprefix("not purged: "))
    held = [entry for part in (sums, network) for entry in part["certificates"]]
    checks, holding = (sum(entry[which] for entry in held) for which in ("checks", "checks_held"))
    chains = "every chain holds" if all(entry["chain"] for entry in held) else "A CHAIN IS BROKEN"
    say("certificates", f"{len(held)}, {holding:,} of {checks:,} checks hold, {chains}")
    say("took", f"{duration(report['seconds'])} in all")
    console.print()
    say("open", f"{output / 'report.html'} (the whole story), {output / 'certificate.html'} (to hand to the person)")
    if report["check"]:
        say("check", report["check"])
    say("next", "hybridmu init TABLE writes a configuration for your own table; docs/tutorial.md goes on from there")


def _table(report: dict[str, Any]) -> Table:
    heads, rows = lines(report)
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    return table


def _review(person: dict[str, Any]) -> str:
    text = person["review"]
    return f'"{text}"' if len(text) <= _MOST_LETTERS else f'"{text[:_MOST_LETTERS].rstrip()} …"'


def _numbers(versions: list[int]) -> str:
    return ", ".join(map(str, versions))
