"""Scalability, measured beside what the simulator predicts; resumable, one CSV row per point.

    python jobs/scale.py run [--experiments strong,weak,rate,nodes] [--seeds 3]   # docs/study/scale.csv
    python jobs/scale.py limits                                                   # docs/study/limits.csv
    python jobs/scale.py foresee                                                  # docs/study/foreseen.csv
    python jobs/scale.py plots                                                    # docs/images/scale.svg

* strong: one request that touches all of 8 shards, on 1 to 8 workers; weak: 4 shards per worker; rate: a Poisson
  stream of single rows; nodes: as strong, over raylets of one CPU each (`--database-url`: a PostgreSQL for all).
* `compute` trains on this machine's cores, so it ends where they do. `waiting` waits 30 ms in every step, as a host
  waits for its GPU: it shows what coordination costs with more workers than cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from benchmarks.study import csvfile, foreseen, limits, scaletables, scaling
from benchmarks.study.limits import Limit
from benchmarks.study.scaling import Point, Wanted

DOCS = Path(__file__).resolve().parents[1] / "docs"
_CPUS = 16


def grid(experiments: list[str], seeds: int) -> list[Wanted]:
    """Return the points of some experiments, the quick ones first."""
    found = []
    for seed in range(seeds):
        for workers in (1, 2, 4, 8):
            found.append(Wanted("strong", "waiting", 8, workers, 8, seed))
            found.append(Wanted("weak", "waiting", 4 * min(workers, 4), min(workers, 4), 4 * min(workers, 4), seed))
        for workers in (1, 2):
            found.append(Wanted("strong", "compute", 8, workers, 8, seed))
            found.append(Wanted("weak", "compute", 4 * workers, workers, 4 * workers, seed))
        found += [Wanted("rate", "waiting", 8, workers, rate, seed) for workers, rate in ((1, 0.5), (2, 1.0), (4, 2.0))]
        found += [Wanted("nodes", "waiting", 8, nodes, 8, seed, nodes) for nodes in (1, 2, 4)]
    return [one for one in dict.fromkeys(found) if one.experiment in experiments]


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure the points that the file lacks")
    runs.add_argument("--out", type=Path, default=DOCS / "study" / "scale.csv")
    runs.add_argument("--experiments", default="strong,weak,rate", help="comma-separated; `nodes` besides")
    runs.add_argument("--seeds", type=int, default=3)
    runs.add_argument("--database-url", help="PostgreSQL that all nodes reach; a point makes a database there")
    bounds = commands.add_parser("limits", help="time single steps at growing sizes")
    bounds.add_argument("--out", type=Path, default=DOCS / "study" / "limits.csv")
    bounds.add_argument("--shards", default="10,100,1000,10000")
    bounds.add_argument("--ids", default="100000,1000000,10000000")
    commands.add_parser("foresee", help="simulate up to 1,024 workers")
    commands.add_parser("plots", help="draw docs/images/scale.svg")
    given = parser.parse_args()
    if given.command == "run":
        _run(given)
    elif given.command == "limits":
        _limits(given)
    elif given.command == "foresee":
        out = DOCS / "study" / "foreseen.csv"
        out.unlink(missing_ok=True)
        csvfile.append(out, foreseen.foresee(), foreseen.Foreseen)
    else:
        (DOCS / "images" / "scale.svg").write_text(scaletables.draw(DOCS / "study"))


def _run(given: argparse.Namespace) -> None:
    known = {point.key for point in csvfile.read(given.out, Point)}
    wanted = [one for one in grid(given.experiments.split(","), given.seeds) if one.key not in known]
    if any(one.experiment == "nodes" for one in wanted) and not given.database_url:
        raise SystemExit("several nodes need a ledger that all of them reach: add --database-url postgresql://…")
    print(f"{len(wanted)} points to measure, about {len(wanted) * 0.8:.0f} minutes", flush=True)
    for number, one in enumerate(wanted, start=1):
        server = given.database_url if one.experiment == "nodes" else None
        with (
            tempfile.TemporaryDirectory() as folder,
            scaling.database(server) as database,
            scaling.cluster(_CPUS, one.nodes if server else 0),
        ):
            point = scaling.measure(one, Path(folder), database)
        csvfile.append(given.out, [point], Point)
        says = f"{point.measured:.3g} s, predicted {point.predicted:.3g} s"
        print(f"{number} of {len(wanted)}: {' '.join(one.key)}: {says}", flush=True)


def _limits(given: argparse.Namespace) -> None:
    known = {limit.key for limit in csvfile.read(given.out, Limit)}

    def keep(limit: Limit) -> None:
        if limit.key not in known:
            csvfile.append(given.out, [limit], Limit)
            print(f"{limit.step}: S={limit.shards:,} ids={limit.ids:,}: {limit.seconds:.4g} s", flush=True)

    for shards in map(int, given.shards.split(",")):
        if ("count what is revoked", str(shards), str(shards)) not in known:
            for limit in (*limits.planner(shards), *limits.ledger(shards)):
                keep(limit)
    for ids in map(int, given.ids.split(",")):
        if ("accept 10,000 ids", "16", str(ids)) not in known:
            with tempfile.TemporaryDirectory() as folder:
                for limit in limits.known_ids(ids, Path(folder)):
                    keep(limit)


if __name__ == "__main__":
    main()
