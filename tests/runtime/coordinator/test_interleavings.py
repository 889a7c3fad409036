"""Whatever order requests, cancellations, steps, pauses and restarts come in, the end is right bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybridmu
from hybridmu.errors import StateError
from hybridmu.types import RequestState
from tests.scenes.small_system import scene
from tests.system.test_exactness import assert_equal_to_reference

ROWS = 24
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("forget"),
            st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=4, unique=True),
            st.sampled_from(["auto", "dpus", "retrain"]),
            st.sampled_from(["a", "b"]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("step"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["pause", "resume", "restart"])),
    ),
    min_size=4,
    max_size=16,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, dict, Path, list[int]]:
    folder = tmp_path_factory.mktemp("template")
    with scene(folder, rows=ROWS, shards=2, slices=2) as it:
        ids = sorted(row for rows in it.rows.values() for row in rows)
    return folder / "storage", it.config, it.table, ids


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_live_rows_are_what_the_model_was_trained_on(template, tmp_path, steps):
    storage, config, table, ids = template
    folder = tmp_path / "storage"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(storage, folder)
    config = {**config, "storage_url": str(folder)}
    promised: dict[str, set[int]] = {}  # request → the rows of every call that was answered with it

    def gone() -> set[int]:
        return set().union(*promised.values())

    with hybridmu.connect(config, executor="local") as system:
        for name, *rest in steps:
            if name == "forget":
                rows, strategy, caller = [ids[n] for n in rest[0]], rest[1], rest[2]
                if len(gone() | set(rows)) == ROWS:
                    continue  # nothing would be left
                request = system.forget(ids=rows, strategy=strategy, caller=caller)["request_id"]
                promised.setdefault(request, set()).update(rows)
                assert system.ledger.request(request).caller == caller
            elif name == "cancel" and promised:
                request = list(promised)[rest[0] % len(promised)]
                try:
                    system.cancel(request)
                except StateError:
                    continue
                del promised[request]
            elif name == "step":
                for _ in range(rest[0]):
                    system.session.coordination.acquire().step(0.0)
            elif name == "pause":
                system.pause("a test")
            elif name == "resume":
                system.resume()
            else:
                system.close()
            counted = sum(sum(rows[:2]) for shard in system.ledger.counts().values() for rows in shard.values())
            assert counted == len(gone()), "rows are counted once, whoever revoked them"
        system.resume()
        system.run(until_idle=True)
        found = {request.request_id: request for request in system.ledger.requests()}
        assert set(promised) == {name for name, r in found.items() if r.state is not RequestState.CANCELLED}
        for name in promised:
            assert (found[name].state, found[name].version_exact is None) == (RequestState.SERVED, False)
        assert_equal_to_reference(system, config, table, list(gone()))
        assert system.status()["debts"] == []
