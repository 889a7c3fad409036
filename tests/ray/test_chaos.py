"""Twenty processes of a cluster are killed while requests come in; nothing is lost or done twice, no bit differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ray.chaos import VICTIMS, Death, RayChaos

KILLS = 20


@pytest.mark.slow  # with the other kill campaign
@pytest.mark.usefixtures("cluster")
def test_twenty_kills_while_requests_come_in(tmp_path: Path) -> None:
    deaths: list[Death] = []
    chaos = RayChaos(tmp_path, seed=0)
    found = chaos.run(KILLS, deaths.append)
    assert len(deaths) == KILLS
    assert {prefix for prefix in VICTIMS for death in deaths if death.name.startswith(prefix)} == set(VICTIMS)
    assert len(chaos.told) >= 3
    assert [words for kind in ("lost", "doubled", "diverged") for words in found[kind]] == []
