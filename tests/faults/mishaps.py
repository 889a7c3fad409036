"""Mishaps that a campaign of kills does not bring: clients, whole nodes, clocks, and files that change by themselves.

Every function runs in a fork of a warm process, and returns what `lives.look` found wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import hybridmu
from hybridmu import faults
from hybridmu.errors import HybridMUError
from tests.faults.campaign import Kill, must, prepare_world
from tests.faults.lives import FINAL, Say, live, look, speak
from tests.faults.worlds import WORLDS, Act, config, schedule
from tests.faults.yard import fork
from tests.support import HANG_SECONDS

_SECONDS = HANG_SECONDS


def clients(folder: str, seed: int) -> dict[str, Any]:
    """Clients are killed in the middle of their calls, while the coordinator of another process works on."""
    raw, _ = _system(Path(folder), "plain")
    stop = Path(folder) / "stop"
    coordinator = os.fork()
    if coordinator == 0:
        code = 1
        try:
            _coordinate(raw, stop)
            code = 0
        finally:
            os._exit(code)
    draw = random.Random(seed)
    ids = draw.sample(range(60), 12)
    acts, told, deaths = [], {}, 0
    for number, point in enumerate(("accept.commit", "accept.committed", "key.link", "key.linked") * 2):
        act = Act(0, "forget", f"c{number}", (ids.pop(),))
        acts.append(act)
        while act.name not in told:  # a client that got no answer asks again, with the same key
            code, said = fork(partial(_ask, raw, act, (point, 1) if draw.random() < 0.7 else None), _SECONDS)
            deaths += code == -signal.SIGKILL
            assert code in {0, -signal.SIGKILL}, said.decode()
            told |= json.loads(said) if code == 0 else {}
    stop.touch()
    ended = os.waitstatus_to_exitcode(os.waitpid(coordinator, 0)[1])
    assert ended == 0, ended
    return {**_looked(raw, tuple(acts), told), "deaths": deaths}


def _coordinate(raw: dict[str, Any], stop: Path) -> None:
    with hybridmu.connect(raw, executor="local") as system:
        end = time.monotonic() + _SECONDS
        while not (stop.exists() and {request.state for request in system.ledger.requests()} <= FINAL):
            system.session.coordination.step(0.02)
            assert time.monotonic() < end


def _ask(raw: dict[str, Any], act: Act, armed: Kill | None, pipe: int) -> None:
    if armed:
        faults.arm(*armed)
    with hybridmu.connect(raw, executor="local") as system:
        answer = system.forget(ids=act.ids, key=act.key)["request_id"]
    speak(pipe)({act.name: answer})


def node(folder: str, seed: int) -> dict[str, Any]:
    """The node is gone with the coordinator and the processes that it had started."""
    raw, _ = _system(Path(folder), "plain", policy={"verify_share": 1.0})
    acts = schedule(WORLDS["plain"], seed)
    told: dict[str, str] = {}
    reached, group = 0, 0

    def life(pipe: int) -> None:
        say = speak(pipe)
        say({"group": os.getpid()})
        if os.fork() == 0:  # stands beside the node, and waits until that has a process more
            os.close(pipe)
            os.setpgid(0, 0)
            parent, me = os.getppid(), os.getpid()
            while not set(_children(parent)) - {me}:
                time.sleep(0.001)
            os.killpg(parent, signal.SIGKILL)
            os._exit(0)
        live(raw, acts, told, 0, say)

    code, said = fork(life, _SECONDS, group=True)
    assert code == -signal.SIGKILL, said.decode()
    for words in map(json.loads, said.splitlines()):
        told |= {words["name"]: words["answer"]} if "name" in words else {}
        reached, group = words.get("reached", reached), words.get("group", group)
    end = time.monotonic() + HANG_SECONDS
    while _alive(group):
        assert time.monotonic() < end, "a process of the node lives on"
        time.sleep(0.01)
    return {**_finish(raw, acts, told, reached), "reached": reached}


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return [0]


def _alive(group: int) -> bool:
    """Return whether a process of a group runs; those that nobody asked for yet do not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            return True
    return False


def clock(folder: str, seed: int) -> dict[str, Any]:
    """The clock is set back and forth at fault points, and in the end back by a day for good."""
    raw, _ = _system(Path(folder), "plain")
    acts = schedule(WORLDS["plain"], seed)

    def life(pipe: int) -> None:
        draw, real, offset = random.Random(seed), time.time, 0.0
        jumps = [*draw.choices((-3600.0, -5.0, 0.0, 3600.0), k=draw.randrange(20)), -86_400.0]

        def jump(_: str) -> None:
            nonlocal offset
            if jumps and draw.random() < 0.2:
                offset = jumps.pop(0)

        faults.observe(jump)
        time.time = lambda: real() + offset
        live(raw, acts, {}, 0, speak(pipe))

    code, said = fork(life, _SECONDS)
    assert code == 0, said.decode()
    told = {words["name"]: words["answer"] for words in map(json.loads, said.splitlines()) if "name" in words}
    return _looked(raw, acts, told)


def flips(folder: str, seed: int, count: int) -> dict[str, int]:
    """Single bits of the ledger's file change between two lives; return how that ended, and how often.

    Raises:
        AssertionError: The weights differ from those of an undisturbed life, or an error is not one of ours.
    """
    root, draw, ends = Path(folder), random.Random(seed), Counter[str]()
    raw, storage = _system(root, "plain")
    acts = tuple(act for act in schedule(WORLDS["plain"], seed) if act.verb == "forget")
    told = must(fork(lambda pipe: _accept(raw, acts, speak(pipe)), _SECONDS))
    kept = root / "kept"
    shutil.copytree(storage, kept)
    expected = _finish(raw, acts, told, 0)["blobs"]
    for number in range(count):
        shutil.rmtree(storage)
        shutil.copytree(kept, storage)
        file = storage / "ledger.sqlite3"
        data = bytearray(file.read_bytes())
        at = draw.choice([i for i, byte in enumerate(data) if byte])  # most of the file is empty pages
        data[at] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        code, said = fork(partial(_suffer, raw, acts, told), _SECONDS)
        found = json.loads(said.splitlines()[-1])
        assert code == 0, f"flip {number} at byte {at}: {found['error']}"
        if blobs := found.get("blobs"):
            assert blobs == expected, f"flip {number} at byte {at} of {len(data)}: other weights"
        ends[found.get("refused", "as if nothing had happened")] += 1
    return ends


def _accept(raw: dict[str, Any], acts: tuple[Act, ...], say: Say) -> None:
    with hybridmu.connect(raw, executor="local") as system:
        say({act.name: system.forget(ids=act.ids, key=act.key)["request_id"] for act in acts})


def _suffer(raw: dict[str, Any], acts: tuple[Act, ...], told: dict[str, str], pipe: int) -> None:
    say = speak(pipe)
    try:
        live(raw, acts, told, 0, lambda _: None)
        with hybridmu.connect(raw, executor="local") as system:
            say({"blobs": {str(sub.shard): sub.blob for sub in system.registry.version().shards}})
    except HybridMUError as error:
        say({"refused": type(error).__name__})


# ---------------------------------------------------------------------- helpers


def _system(root: Path, world: str, **overrides: Any) -> tuple[dict[str, Any], Path]:
    """Return the configuration of a newly trained system, and its storage."""
    prepare_world(root, world)
    storage = root / "storage"
    shutil.copytree(root / "trained" / world, storage)
    return config(root, storage, WORLDS[world], **overrides), storage


def _finish(raw: dict[str, Any], acts: tuple[Act, ...], told: dict[str, str], reached: int) -> dict[str, Any]:
    """Live on undisturbed, and look."""
    code, said = fork(lambda pipe: live(raw, acts, told, reached, speak(pipe)), _SECONDS)
    assert code == 0, said.decode()
    answers = {words["name"]: words["answer"] for words in map(json.loads, said.splitlines()) if "name" in words}
    return _looked(raw, acts, told | answers)


def _looked(raw: dict[str, Any], acts: tuple[Act, ...], told: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = must(fork(lambda pipe: speak(pipe)(look(raw, acts, told)), _SECONDS))
    return found
