"""The study: strategies and baselines against each other on real data, one CSV row per measurement.

    python benchmarks/run_study.py run --grid headline --out docs/study/headline.csv  # goes on where it was interrupted
    python benchmarks/run_study.py audits --out docs/study/audits.csv    # shadow models: KLoM, U-LiRA, ToW
    python benchmarks/run_study.py batches --out docs/study/batches.csv  # plain and extrapolated SGD at large B
    python benchmarks/run_study.py tables                                # of docs/
    python benchmarks/run_study.py plots                                 # docs/study/*.svg; --figure NAME for one

`run` prints how long it will take, then measures what the file lacks. Systems are kept in `--folder` and shared by all
mixes and strategies. On Ray, `--workers` jobs run at once; `--local` runs them in this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from benchmarks.study import audits, batches, pages, plots, records
from benchmarks.study.estimate import expected_hours
from benchmarks.study.grid import GRIDS, Grid
from benchmarks.study.pool import LocalPool, Pool, RayPool
from benchmarks.study.runner import missing, run

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure what a CSV file lacks")
    runs.add_argument("--grid", choices=sorted(GRIDS), required=True)
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--folder", type=Path, default=Path.home() / "hybridmu-runs" / "study")
    runs.add_argument("--setups", help="only these, as dataset/model, comma-separated")
    runs.add_argument("--mixes", help="only these, comma-separated")
    runs.add_argument("--strategies", help="only these, comma-separated")
    runs.add_argument("--seeds", type=int, help="only the first so many")
    runs.add_argument("--workers", type=int, default=2, help="jobs at once on Ray")
    runs.add_argument("--address", help="Ray address; a local Ray by default")
    runs.add_argument("--local", action="store_true", help="without Ray, one job at a time")
    runs.add_argument("--estimate", action="store_true", help="print the expected hours and stop")
    shadows = commands.add_parser("audits", help="make the shadow models that a CSV file lacks")
    shadows.add_argument("--out", type=Path, required=True)
    shadows.add_argument("--folder", type=Path, default=Path.home() / "hybridmu-runs" / "study")
    shadows.add_argument("--models", type=int, default=100, help="of each kind; a larger number later adds to them")
    shadows.add_argument("--mixes", default=",".join(audits.MIXES), help="comma-separated")
    shadows.add_argument("--workers", type=int, default=2, help="processes")
    large = commands.add_parser("batches", help="compare plain and extrapolated SGD on large batches")
    large.add_argument("--out", type=Path, required=True)
    large.add_argument("--folder", type=Path, default=Path.home() / "hybridmu-runs" / "study")
    large.add_argument("--setups", default=",".join(batches.BATCHES), help="as dataset/model, comma-separated")
    large.add_argument("--seeds", type=int, default=5, help="after the one that chooses the rates")
    commands.add_parser("tables", help="write the tables of docs/")
    drawn = commands.add_parser("plots", help="draw the figures")
    drawn.add_argument("--figure", choices=sorted(plots.FIGURES))
    given = parser.parse_args()
    if given.command == "run":
        _run(given)
    elif given.command == "audits":
        _audit(given)
    elif given.command == "batches":
        for name in given.setups.split(","):
            batches.measure(name, given.out, given.folder, given.seeds, _say)
    elif given.command == "tables":
        for page in (DOCS.parent / name for name in pages.PAGES):
            page.write_text(pages.fill(page.read_text(), DOCS / "study"))
    else:
        for name in [given.figure] if given.figure else sorted(plots.FIGURES):
            (DOCS / "study" / f"{name}.svg").write_text(plots.FIGURES[name](DOCS / "study"))


def _run(given: argparse.Namespace) -> None:
    grid = _narrowed(GRIDS[given.grid], given)
    cells = missing(grid, {record.key for record in records.read(given.out)})
    if not cells:
        print("nothing is missing")
        return
    pool: Pool = LocalPool() if given.local else RayPool(given.workers, given.address)
    try:
        hours = expected_hours(cells, given.folder, pool, grid.repeats)
        print(f"{len(cells)} deletions to measure, about {hours:.2f} hours on {pool.workers} worker(s)", flush=True)
        if given.estimate:
            return
        started = time.monotonic()
        for number, _ in enumerate(run(cells, given.folder, pool, given.out, _say, grid.repeats), start=1):
            _say(f"{number} of {len(cells)} after {(time.monotonic() - started) / 3600:.2f} hours")
    finally:
        pool.close()


def _audit(given: argparse.Namespace) -> None:
    known = {record.key for record in audits.read(given.out)}
    found, seconds = audits.tasks(audits.AUDITED, given.mixes.split(","), given.models, known, given.folder)
    minutes = audits.expected_minutes(seconds, given.workers)
    _say(f"{len(found)} numbers to make, about {minutes:.1f} minutes on {given.workers} process(es)")
    for _ in audits.run(found, given.workers, given.out, _say):
        pass


def _narrowed(grid: Grid, given: argparse.Namespace) -> Grid:
    if given.setups:
        wanted = given.setups.split(",")
        grid = replace(grid, setups=tuple(setup for setup in grid.setups if setup.name in wanted))
    if given.mixes:
        grid = replace(grid, mixes=tuple(given.mixes.split(",")))
    if given.strategies:
        grid = replace(grid, contenders=tuple(given.strategies.split(",")))
    return replace(grid, seeds=grid.seeds[: given.seeds])


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
