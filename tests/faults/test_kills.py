"""Whatever is killed between any two writes: nothing acknowledged is lost, nothing is done twice, no bit differs."""

from __future__ import annotations

import pytest

from hybridmu import faults
from tests.faults.conftest import KILLS, Ended
from tests.support import HANG_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * HANG_SECONDS)]  # the first one waits for all


def test_an_ordinary_life_reaches_every_fault_point(campaign: Ended) -> None:
    assert set(campaign.reached) == set(faults.POINTS)


def test_an_undisturbed_life_ends_well(campaign: Ended) -> None:
    calm = [run for run in campaign.runs if not run.kills]
    assert len(calm) >= 10
    assert [run for run in calm if run.wrong] == []


@pytest.mark.parametrize("point", faults.POINTS)
def test_after_a_kill_at(point: str, campaign: Ended) -> None:
    runs = [run for run in campaign.runs if point in {name for name, _ in run.deaths}]
    assert runs, "nobody died there"
    assert [run for run in runs if run.wrong] == []


def test_that_were_enough(campaign: Ended) -> None:
    deaths = [kill for run in campaign.runs for kill in run.deaths]
    assert len(deaths) >= KILLS >= 160
    assert sum(len(run.deaths) > 1 for run in campaign.runs) >= 10, "those that go on are killed as well"
