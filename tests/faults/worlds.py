"""Small systems, and seeded schedules of what is asked of them while they are killed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from tests import support

ROWS, PEOPLE = 60, 15
NEW = 12  # rows that come in later
_HELD_STEPS = 20
APART = 5  # rows without a person: a request for one of them overlaps with no other


@dataclass(frozen=True)
class Act:
    """One thing that a client does.

    Attributes:
        step: Steps of the coordinator before it, over all lives.
        verb: `repeat` and `cancel` are about the request of the same key; `ingest` and `correct` bring rows; `hold` and
            `lift` are about all purges.
        key: Idempotency key.
        ids: Row ids that are forgotten, brought or corrected.
        groups: Groups.
        strategy: As in `forget`.
        linked: Whether it is asked of the second of two linked models.
    """

    step: int
    verb: Literal["forget", "repeat", "cancel", "ingest", "correct", "hold", "lift"]
    key: str
    ids: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    strategy: str = "auto"
    linked: bool = False

    @property
    def name(self) -> str:
        """Return what its answer is kept under."""
        return f"{self.key} {self.verb}" if self.verb in {"repeat", "cancel"} else self.key


@dataclass(frozen=True)
class World:
    """A configuration that trains in milliseconds.

    Attributes:
        grouped: Whether rows belong to people.
        trained: Whether a life starts from a trained system; else its first read and training are killed as well.
        grows: What brings rows meanwhile. One of them alone: two generations have the order in which they were made,
            and that is part of what the weights are a function of.
        damaged: Whether a life starts with a served sub-model and a checkpoint whose bytes are changed.
        held: Whether nothing may be purged for some steps, which requests then wait for, and say so.
        linked: Whether a second model over the same table is linked with it in every life.
        overrides: Of `support.settings_dict`.
        strategies: What requests ask for.
    """

    grouped: bool = False
    trained: bool = True
    grows: Literal["ingest", "correct", ""] = ""
    damaged: bool = False
    held: bool = False
    linked: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    strategies: tuple[str, ...] = ("auto",)


_TINY = {"shards": 2, "slices": 2, "epochs": 2, "batch_size": 8, "seed": 0}
_RETRAIN: dict[str, Any] = {"strategy": "retrain", "calibrate": False, "verify_share": 0.0}
WORLDS = {
    "plain": World(overrides={"sisa": _TINY, "policy": _RETRAIN}),
    "people": World(
        grouped=True,
        held=True,
        overrides={
            "data": {"group": "person", "validation_fraction": 0.2},
            "sisa": {**_TINY, "shards": 3, "slices": 3},
            "policy": {"calibrate": False, "verify_share": 0.0},
        },
        strategies=("auto", "dpus", "dpus-optimised"),
    ),
    "lean": World(
        overrides={"sisa": {**_TINY, "slices": 3}, "policy": _RETRAIN, "checkpoints": {"budget_bytes": 3000}}
    ),
    "young": World(
        trained=False,
        overrides={
            "sisa": _TINY,
            "policy": {
                "calibrate": True,
                "light_seconds": 0.0,
                "time_ratio": 1e-9,
                "calibration_shards": 1,
                "calibration_shares": [0.5],  # so many canaries that some are revoked
                "recalibration_share": 1e9,
                "verify_share": 0.0,
            },
        },
    ),
    "growing": World(grows="ingest", overrides={"sisa": _TINY, "policy": _RETRAIN}),
    "corrected": World(grows="correct", overrides={"sisa": _TINY, "policy": _RETRAIN}),
    "damaged": World(damaged=True, overrides={"sisa": {**_TINY, "slices": 3}, "policy": _RETRAIN}),
    "linked": World(linked=True, overrides={"sisa": _TINY, "policy": _RETRAIN}),
}


def config(tables: Path, storage: Path, world: World, **overrides: Any) -> dict[str, Any]:
    """Return the configuration of a world, with its table in one folder and its storage in another."""
    name = "people.parquet" if world.grouped else "rows.parquet"
    data = {"train": str(tables / name), "features": [f"x{i}" for i in range(4)], "classes": [0, 1, 2]}
    raw = support.settings_dict(tables, data=data, storage_url=str(storage))
    for section, values in [*world.overrides.items(), *overrides.items()]:
        raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
    return raw


def second(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the model that is linked with another one: other shards, the same keys."""
    storage = raw["storage_url"]
    sisa = {**raw["sisa"], "shards": raw["sisa"]["shards"] + 1}
    return {**raw, "storage_url": f"{storage}-second", "sisa": sisa, "keys": {"folder": f"{storage}-keys"}}


def make_tables(tables: Path) -> None:
    """Write the tables of all worlds."""
    support.make_table(tables / "rows.parquet", ROWS)
    support.make_table(tables / "people.parquet", ROWS, groups=PEOPLE, null_groups=APART)
    support.make_table(tables / "new.parquet", NEW, start=ROWS, seed=1)
    other = support.table(ROWS, seed=2)
    for number in range(APART, ROWS):
        pq.write_table(other.slice(number, 1), tables / f"corrected-{number}.parquet")


def schedule(world: World, seed: int) -> tuple[Act, ...]:
    """Return what clients do: requests that overlap in their shards, repeats, and one that is taken back."""
    draw = random.Random(seed)
    ids = draw.sample(range(APART, ROWS), 12)
    people = [f"p{n}" for n in draw.sample(range(PEOPLE), 2)]
    acts = []
    for number in range(draw.randint(4, 5)):
        step = draw.choice((0, 0, 1, 2, 3, 6))
        mine = tuple(ids.pop() for _ in range(draw.randint(1, 2)))
        groups = (people.pop(),) if world.grouped and people and draw.random() < 0.6 else ()
        linked = world.linked and draw.random() < 0.5
        acts.append(Act(step, "forget", f"k{number}", mine, groups, draw.choice(world.strategies), linked))
    if world.grows:
        rows = tuple(range(ROWS, ROWS + NEW)) if world.grows == "ingest" else (ids.pop(),)
        acts.append(Act(draw.choice((0, 1, 3)), world.grows, "rows", rows))
    if world.held:
        acts += [Act(0, "hold", "hold"), Act(_HELD_STEPS, "lift", "lift")]
    repeated = draw.choice([act for act in acts if act.verb == "forget"])
    acts.append(replace(repeated, step=repeated.step + draw.randint(0, 4), verb="repeat"))
    taken_back = Act(draw.choice((0, 2)), "forget", "back", (draw.randrange(APART),))
    acts += [taken_back, replace(taken_back, verb="cancel")]
    return tuple(sorted(acts, key=lambda act: act.step))  # stable: a repeat comes after what it repeats
