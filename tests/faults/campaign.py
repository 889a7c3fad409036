"""A campaign of seeded kills: each ends a process at a fault point, others go on, and the end is compared.

The functions with JSON-able arguments run in forks of a warm process (`yard`); `Campaign` hands them out.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import hybridmu
from hybridmu import faults
from hybridmu.store.storage.blob_names import blob_file
from tests.faults.lives import live, look, speak
from tests.faults.worlds import WORLDS, Act, World, config, make_tables, schedule, second
from tests.faults.yard import Yard, fork
from tests.support import HANG_SECONDS

_KILLED = -9
_SECONDS = HANG_SECONDS
_MORE = 0.25  # how often the process that goes on is killed as well, and the next, …

Kill = tuple[str, int]  # fault point, which hit


# ---------------------------------------------------------------------- in forks of a warm process


def prepare(folder: str) -> None:
    """Make the tables, and train the systems that lives start from."""
    for name, world in WORLDS.items():
        if world.trained:
            prepare_world(Path(folder), name)


def prepare_world(root: Path, name: str) -> None:
    """Make the tables, and train one of the systems that lives start from."""
    make_tables(root)
    must(fork(lambda _: _train(root, name, WORLDS[name]), _SECONDS))


def _train(root: Path, name: str, world: World) -> None:
    raw = config(root, root / "trained" / name, world)
    if world.linked:
        with hybridmu.connect(second(raw), executor="local") as system:
            system.train()
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        if world.damaged:
            for sub in system.registry.version().shards[:2]:
                damage(Path(system.site.storage.path(blob_file(sub.checkpoints[-1 - sub.shard].blob))))


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def undisturbed(folder: str, world: str, seed: int) -> dict[str, Any]:
    """Return how often each fault point is reached when nothing goes wrong, and the weights at the end."""
    return _play(Path(folder), world, seed, (), None)


def disturbed(folder: str, world: str, seed: int, kills: Sequence[Kill], blobs: Mapping[str, str]) -> dict[str, Any]:
    """Play a schedule whose processes are killed one after the other; return the deaths and what is wrong then."""
    return _play(Path(folder), world, seed, kills, blobs)


def _play(root: Path, name: str, seed: int, kills: Sequence[Kill], blobs: Mapping[str, str] | None) -> dict[str, Any]:
    world = WORLDS[name]
    acts = schedule(world, seed)
    place = root / "runs" / f"{name}-{seed}-{'-'.join(f'{point}.{hit}' for point, hit in kills) or 'undisturbed'}"
    storage = place / "storage"
    place.mkdir(parents=True)
    if world.trained:
        shutil.copytree(root / "trained" / name, storage)
        if world.linked:
            shutil.copytree(root / "trained" / f"{name}-second", place / "storage-second")
    raw = config(root, storage, world)
    told: dict[str, str] = {}
    counts: dict[str, int] = {}
    reached, deaths, left = 0, [], list(kills)
    while True:
        armed = left.pop(0) if left else None
        code, said = fork(partial(_live, raw, acts, told, reached, armed), _SECONDS)
        for words in map(json.loads, filter(None, said.splitlines())):
            told |= {words["name"]: words["answer"]} if "name" in words else {}
            reached = words.get("reached", reached)
            counts = words.get("counts", counts)
        if code == _KILLED and armed:
            deaths.append(armed)
            continue
        if code == 0:
            break
        return {"deaths": deaths, "lost": [], "doubled": [], "diverged": [f"ended with {code}: {words.get('error')}"]}
    found: dict[str, Any] = must(fork(lambda pipe: speak(pipe)(look(raw, acts, told)), _SECONDS))
    if blobs is not None:
        wrong = [shard for shard, blob in blobs.items() if found["blobs"].get(shard) != blob]
        found["diverged"] += [f"other weights in shard {shard}" for shard in wrong]
    if not any(found[kind] for kind in ("lost", "doubled", "diverged")):
        shutil.rmtree(place)  # what went wrong is left to be looked at
    return {**found, "deaths": deaths, "counts": counts}


def _live(
    raw: dict[str, Any], acts: Sequence[Act], told: Mapping[str, str], reached: int, armed: Kill | None, pipe: int
) -> None:
    counts: Counter[str] = Counter()
    if armed:
        faults.arm(*armed)
    else:
        faults.observe(lambda name: counts.update([name]))
    say = speak(pipe)
    live(raw, acts, told, reached, say)
    say({"counts": counts})


def must(ended: tuple[int, bytes]) -> Any:
    """Return what a fork said, which must have ended well."""
    code, said = ended
    assert code == 0, said.decode()
    return json.loads(said) if said else None


# ---------------------------------------------------------------------- handing out


@dataclass(frozen=True)
class Run:
    """One schedule with the kills that were planned for it, and how it ended."""

    world: str
    seed: int
    kills: tuple[Kill, ...]
    deaths: tuple[Kill, ...]
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    diverged: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """Return everything that is not as it has to be."""
        return (*self.lost, *self.doubled, *self.diverged)


class Campaign:
    """Kills over all fault points in turn, drawn from a seed.

    Args:
        folder: Empty; for tables, trained systems and runs.
        seed: Everything is drawn from it.
        schedules: Different schedules per world.
        workers: Warm processes.
    """

    def __init__(self, folder: Path, seed: int = 0, schedules: int = 2, workers: int = 2) -> None:
        self.folder, self.workers = folder, workers
        self._draw = random.Random(seed)
        self._stories = [(world, self._draw.randrange(10**6)) for world in WORLDS for _ in range(schedules)]
        self.calm: dict[tuple[str, int], dict[str, Any]] = {}

    def run(self, kills: int) -> Iterator[Run]:
        """Yield runs as they end, until so many processes were killed.

        Args:
            kills: Deaths; the last run may bring some more.
        """
        with ExitStack() as stack, ThreadPoolExecutor(self.workers) as pool:
            yards: SimpleQueue[Yard] = SimpleQueue()
            for _ in range(self.workers):
                yards.put(stack.enter_context(closing(Yard())))

            def call(function: str, **args: Any) -> Any:
                yard = yards.get()
                try:
                    return yard.call(f"tests.faults.campaign:{function}", 5 * _SECONDS, folder=str(self.folder), **args)
                finally:
                    yards.put(yard)

            call("prepare")
            calm = [pool.submit(call, "undisturbed", world=world, seed=seed) for world, seed in self._stories]
            for story, ended in zip(self._stories, calm, strict=True):
                self.calm[story] = found = ended.result()
                yield Run(*story, (), (), *(tuple(found[kind]) for kind in ("lost", "doubled", "diverged")))
            yield from self._disturb(kills, lambda **args: pool.submit(call, "disturbed", **args))

    def _disturb(self, kills: int, submit: Callable[..., Future[Any]]) -> Iterator[Run]:
        deaths, runs, plans = 0, 0, self._plans(faults.POINTS)
        spared = {point for found in self.calm.values() for point, count in found["counts"].items() if count}
        flying: dict[Future[Any], tuple[str, int, tuple[Kill, ...]]] = {}
        while deaths < kills or flying or (spared and runs < 2 * kills):
            while len(flying) < 2 * self.workers and deaths + len(flying) < kills:
                runs += self._start(next(plans), submit, flying)
            if not flying:  # which points a life comes by depends on the time too: some kills did not strike
                runs += self._start(next(self._plans(sorted(spared))), submit, flying)
            for ended in wait(flying, return_when=FIRST_COMPLETED).done:
                found, plan = ended.result(), flying.pop(ended)
                died = tuple((point, hit) for point, hit in found["deaths"])
                deaths += len(died)
                spared -= {point for point, _ in died}
                yield Run(*plan, died, *(tuple(found[kind]) for kind in ("lost", "doubled", "diverged")))

    def _start(self, plan: tuple[str, int, tuple[Kill, ...]], submit: Callable[..., Future[Any]], flying: Any) -> int:
        world, seed, armed = plan
        flying[submit(world=world, seed=seed, kills=armed, blobs=self.calm[world, seed]["blobs"])] = plan
        return 1

    def _plans(self, points: Sequence[str]) -> Iterator[tuple[str, int, tuple[Kill, ...]]]:
        """Yield what to kill: every one of these fault points in turn, in some schedule that reaches it."""
        seen: set[object] = set()
        while True:
            for point in points:
                stories = [story for story, found in self.calm.items() if found["counts"].get(point)]
                if not stories:
                    continue
                story = self._draw.choice(stories)
                counts = self.calm[story]["counts"]
                kills = [(point, self._draw.randint(1, counts[point]))]
                while self._draw.random() < _MORE:
                    more = self._draw.choice(sorted(counts))
                    kills.append((more, self._draw.randint(1, 1 + counts[more] // 2)))
                plan = (*story, tuple(kills))
                if plan not in seen:
                    seen.add(plan)
                    yield plan
