"""Lanes: what is worked on for one caller keeps no other one waiting, and what waits is bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest

from hybridmu.errors import AdmissionError
from hybridmu.server.worker_lanes import Lane
from tests.server.test_app import ROWS, Company

_HANG = 60


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Iterator[Company]:
    made = Company(tmp_path_factory.mktemp("lanes"), waiting=3)
    yield made
    made.close()


async def until(true) -> None:
    async with asyncio.timeout(_HANG):
        while not true():
            await asyncio.sleep(0.005)


def test_a_caller_has_all_workers_but_one_and_callers_take_turns():
    async def play() -> None:
        lane, stop, begun = Lane("test", [object(), object()], 10), threading.Event(), []

        def slow(_: object) -> None:
            begun.append("greedy")
            assert stop.wait(_HANG)

        greedy = [asyncio.ensure_future(lane.run_call("greedy", slow)) for _ in range(4)]
        await until(lambda: begun)
        for _ in range(5):  # the second worker is for others
            assert await asyncio.wait_for(lane.run_call("other", lambda _: 7), _HANG) == 7
        assert begun == ["greedy"]
        stop.set()
        await asyncio.gather(*greedy)
        assert begun == ["greedy"] * 4

    asyncio.run(play())


def test_what_waits_is_bounded_and_a_caller_that_left_is_not_worked_for():
    async def play() -> None:
        lane, stop, begun = Lane("test", [object()], 2), threading.Event(), []
        first = asyncio.ensure_future(lane.run_call("a", lambda _: stop.wait(_HANG)))
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(lane.run_call("a", lambda _, n=n: begun.append(n))) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(AdmissionError, match="at most 2"):
            await lane.run_call("a", lambda _: None)
        other = asyncio.ensure_future(lane.run_call("b", lambda _: begun.append("b")))
        waiting[0].cancel()
        await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(first, waiting[1], other)
        assert set(begun) == {1, "b"}
        with pytest.raises(ZeroDivisionError):
            await lane.run_call("a", lambda _: 1 / 0)
        assert await lane.run_call("a", lambda _: "works on") == "works on"

    asyncio.run(play())


@pytest.mark.slow
def test_long_plans_keep_no_other_call_waiting(company, monkeypatch):
    """Four plans and four deletions of each of two callers hang; the health check, lists and other callers don't."""
    from hybridmu.system.system import System

    stop, hanging = threading.Event(), []
    plan, forget = System.plan, System.forget

    def long(verb):
        def wait(system, **options):
            if options["ids"][0] == "slow":
                hanging.append(verb)
                assert stop.wait(_HANG)
            return verb(system, **options)

        return wait

    monkeypatch.setattr(System, "plan", long(plan))
    monkeypatch.setattr(System, "forget", long(forget))
    busy, busy_too, other, auditor = (
        company.as_(name, *scopes).headers["authorization"]
        for name, scopes in (
            ("busy", ["forget"]),
            ("busy too", ["forget"]),
            ("other", ["forget"]),
            ("auditor", ["audit"]),
        )
    )

    async def play() -> None:
        transport = httpx.ASGITransport(company.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=_HANG) as client:

            def call(method: str, path: str, token: str = "", **more):
                return client.request(method, path, headers={"Authorization": token}, **more)

            slow = {"ids": ["slow", *map(str, range(10_000))]}
            stuck = [
                asyncio.ensure_future(call("POST", path, token, json=slow))
                for path in ("/v1/plan", "/v1/forget")
                for token in (busy, busy_too)
                for _ in range(3)
            ]
            await until(lambda: len(hanging) == 2)
            assert (await call("GET", "/healthz")).status_code == 200
            assert (await call("POST", "/v1/plan", other, json={"ids": [ROWS[1]]})).status_code == 200
            mine = await call("POST", "/v1/forget", other, json={"ids": [ROWS[1]]})
            assert mine.status_code == 202
            assert (await call("GET", "/v1/requests", other)).status_code == 200
            assert (await call("GET", "/v1/requests", busy)).status_code == 200
            assert (await call("GET", "/metrics", auditor)).status_code == 200
            name = mine.json()["request_id"]
            assert (await call("POST", f"/v1/requests/{name}/cancel", other)).status_code == 200
            stuck += [asyncio.ensure_future(call("POST", "/v1/plan", busy, json=slow)) for _ in range(3)]
            done, _ = await asyncio.wait(stuck, timeout=_HANG, return_when=asyncio.FIRST_COMPLETED)
            many = done.pop().result()
            assert (many.status_code, many.json()["error"]) == (429, "AdmissionError")
            stop.set()
            assert {(await one).status_code for one in stuck} == {422, 429}

    try:
        asyncio.run(play())
    finally:
        stop.set()


@pytest.mark.parametrize("path", ["/v1/plan", "/v1/forget"])
@pytest.mark.sampled
def test_a_call_names_as_many_keys_as_a_request_may(tmp_path, path):
    company = Company(tmp_path)
    try:
        company.app = company.remade(admission={"keys_per_request": 3})
        client = company.as_("desk", "forget")
        for body in ({"ids": [1, 2, 3, 4]}, {"ids": [1, 2], "groups": ["p1", "p2"]}, {"ids": [None] * 4}):
            found = client.post(path, json=body)
            assert (found.status_code, found.json()["error"], found.json()["got"]) == (429, "AdmissionError", "4")
        assert client.post("/v1/plan", json={"ids": [1, 2, 3]}).status_code == 200
    finally:
        company.close()
