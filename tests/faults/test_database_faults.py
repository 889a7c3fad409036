"""PostgreSQL drops its connections, or is started anew, at fault points of a whole life: errors or retries, no more."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hybridmu import faults
from hybridmu.errors import DatabaseError
from tests.faults.lives import live, look
from tests.faults.worlds import WORLDS, config, make_tables, schedule
from tests.postgres import Server


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        "hybridmu.runtime.coordinator.purge_schedule._RETRY_SECONDS", 0.05
    )  # a purge that broke off is begun again
    yield
    faults.observe(None)


def suffer(folder: Path, url: str, seed: int, harm: Callable[[], None], times: int) -> tuple[int, int, dict[str, Any]]:
    """Live from the first training on; return how often harm was done, how often it was felt, and the end."""
    make_tables(folder)
    world = WORLDS["young"]
    raw = config(folder, folder / "storage", world, database_url=url)
    acts, told, reached = schedule(world, seed), {}, 0
    draw = random.Random(seed)
    left, felt, wait = times, 0, draw.randint(1, 6)

    def listen(words: dict[str, Any]) -> None:
        nonlocal reached
        told.update({words["name"]: words["answer"]} if "name" in words else {})
        reached = words.get("reached", reached)

    def strike(name: str) -> None:
        nonlocal wait, left
        wait -= name.endswith(".commit")  # in the middle of a transaction
        if wait == 0 and left:
            left, wait = left - 1, draw.randint(1, 6)
            harm()

    while True:
        faults.observe(strike)
        try:
            live(raw, acts, told, reached, listen)
        except DatabaseError:
            felt += 1
            continue
        faults.observe(None)
        return times - left, felt, look(raw, acts, told)


def wrong(found: dict[str, Any]) -> list[str]:
    return [words for kind in ("lost", "doubled", "diverged") for words in found[kind]]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.slow
def test_connections_that_are_cut_cost_nothing_but_time(tmp_path: Path, postgresql: Server, seed: int) -> None:
    with postgresql.database("template0") as url:
        mine = f"datname = '{sa.make_url(url).database}'"
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"
        done, felt, found = suffer(tmp_path, url, seed, lambda: postgresql.execute(cut), 20)
    assert done >= 8
    assert felt >= 3
    assert wrong(found) == []


@pytest.mark.slow
def test_a_server_that_is_started_anew_costs_nothing_but_time(tmp_path: Path, postgresql: Server) -> None:
    def restart() -> None:
        postgresql.stop(at_once=True)
        postgresql.start()

    with postgresql.database("template0") as url:
        done, felt, found = suffer(tmp_path, url, 1, restart, 3)
    assert done == 3
    assert felt >= 1
    assert wrong(found) == []
