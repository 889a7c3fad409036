"""One campaign of kills for all its tests, and a warm process for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.campaign import Campaign, Run
from tests.faults.yard import Yard

KILLS = 180


@dataclass(frozen=True)
class Ended:
    """What a campaign gave.

    Attributes:
        runs: Every run, undisturbed ones included.
        reached: Fault point → how often undisturbed runs reached it.
    """

    runs: tuple[Run, ...]
    reached: Counter[str]


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Kills over all fault points, two at a time."""
    played = Campaign(tmp_path_factory.mktemp("campaign"))
    runs = tuple(played.run(KILLS))
    reached: Counter[str] = Counter()
    for found in played.calm.values():
        reached.update(found["counts"])
    return Ended(runs, reached)


@pytest.fixture(scope="session")
def yard() -> Iterator[Yard]:
    """A warm process that forks."""
    started = Yard()
    yield started
    started.close()
