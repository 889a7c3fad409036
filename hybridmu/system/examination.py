"""Examination of an installation and a system: what works, what doesn't, and what to do. Nothing is changed."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hybridmu.code_digest import installed_version
from hybridmu.config import load, running_cluster
from hybridmu.config.addresses import local_path
from hybridmu.errors import HybridMUError
from hybridmu.extras import EXTRAS
from hybridmu.store.ledger.consistency_check import check_soundness
from hybridmu.store.ledger.engine.opening import has_tables
from hybridmu.system.finding import Finding, State
from hybridmu.system.session import Session
from hybridmu.system.webhook_examination import look_at_webhooks

_LIBRARIES = ("ray", "torch", "pyarrow", "numpy", "sqlalchemy")
_LITTLE_SPACE = 1 << 30
_CLOCKS_APART = 5.0


def examined(path: str | Path) -> Iterator[Finding]:
    """Yield what is found, the installation first; after a wrong configuration nothing that rests on it.

    Args:
        path: Configuration.
    """
    yield from _installation()
    try:
        session = Session(load(path), "local")
    except (HybridMUError, OSError) as error:
        yield _failed("configuration", error)
        return
    yield Finding("configuration", "ok", f"{path} is valid")
    try:
        for about, look in _LOOKS.items():
            try:
                yield from look(session)
            except (HybridMUError, OSError) as error:
                yield _failed(about, error)
    finally:
        session.close()


def _failed(about: str, error: Exception) -> Finding:
    if not isinstance(error, HybridMUError):
        return Finding(about, "wrong", str(error))
    more = "; ".join(f"{name} {text}" for name, text in (("expected", error.expected), ("got", error.got)) if text)
    return Finding(about, "wrong", f"{error.what} ({more})" if more else error.what, error.remedy)


def _installation() -> Iterator[Finding]:
    versions = ", ".join(f"{name} {installed_version(name) or 'missing'}" for name in _LIBRARIES)
    hybridmu = installed_version("hybridmu") or "not installed as a package"
    yield Finding("versions", "ok", f"HybridMU {hybridmu}, Python {platform.python_version()}, {versions}")
    if sys.platform != "linux":
        yield Finding("platform", "note", f"{sys.platform} is not tested", "run it on Linux")
    there = {name: all(importlib.util.find_spec(part) for part in parts) for name, parts in EXTRAS.items()}
    lacking = [name for name, found in there.items() if not found]
    names = ", ".join(name for name, found in there.items() if found) or "none"
    remedy = f"pip install 'hybridmu[{','.join(lacking)}]', where you need what they are for" if lacking else ""
    yield Finding("extras", "ok", f"installed: {names}" + (f"; not: {', '.join(lacking)}" if lacking else ""), remedy)
    address = running_cluster()
    yield Finding("cluster", "ok", f"a Ray cluster is at {address}" if address else "no Ray cluster runs here")


def _storage(session: Session) -> Iterator[Finding]:
    place = local_path(session.given.storage_url)
    trained = session.lake.exists
    yield Finding("storage", "ok", f"{session.given.storage_url} " + ("holds a system" if trained else "is empty yet"))
    if place is None or not place.exists():
        return
    free = shutil.disk_usage(place).free
    yield Finding(
        "space",
        "ok" if free > _LITTLE_SPACE else "wrong",
        f"{free / 1e9:.1f} GB free",
        "" if free > _LITTLE_SPACE else "make room: a purge rewrites tables before it deletes the old ones",
    )
    if session.given.storage_mode == "private" and stat.S_IMODE(place.stat().st_mode) & 0o077:
        yield Finding("modes", "wrong", f"others may read {place}", f"chmod -R go= {place}")


def _task(session: Session) -> Iterator[Finding]:
    session.site  # noqa: B018 - making it imports the task
    yield Finding("task", "ok", f"{session.settings.task.name} can be made")
    derivation = session.lake.derivation
    if not derivation:
        return
    if not session.lake.exists:
        yield Finding("encoders", "ok", f"{', '.join(derivation.digests)} can be made")
        return
    others = derivation.others(session.lake.manifest.encoders)
    yield Finding(
        "encoders",
        "wrong" if others else "ok",
        f"stored features of {', '.join(others)} are another encoder's" if others else "as the stored rows had them",
        "put the encoder back: until then new rows and questions are refused, and deletions go on" if others else "",
    )


def _ledger(session: Session) -> Iterator[Finding]:
    if not has_tables(session.given.database):
        if session.lake.exists:
            session.database  # noqa: B018 - says what is lost
        yield Finding("ledger", "note", "nothing was trained yet", "hybridmu train")
        return
    session.check_bound()
    check_soundness(session.database.engine, session.database.journal(session.storage))
    yield Finding("ledger", "ok", "sound, and of this storage")
    apart = abs(session.database.time() - time.time())
    if apart > _CLOCKS_APART:
        yield Finding("clocks", "wrong", f"the ledger's clock is {apart:.0f} s off", "synchronise the clocks (NTP)")
    else:
        yield Finding("clocks", "ok", f"the ledger's clock is within {_CLOCKS_APART:.0f} s")


def _keys(session: Session) -> Iterator[Finding]:
    if not session.lake.exists:
        return
    session.keyring.check()
    signing, guards = len(session.keyring.public_keys()), len(session.keyring.guard_keys())
    if not guards and any(session.pages.totals().values()):
        yield Finding(
            "keys",
            "wrong",
            "the guard key is gone, by which forgotten ids are known again",
            f"put the files of {session.settings.keys_folder} back from a copy (docs/keys.md)",
        )
        return
    yield Finding("keys", "ok", f"{signing} signing key(s), {guards} guard key(s)")


def _work(session: Session) -> Iterator[Finding]:
    if not session.lake.exists:
        return
    holder = session.lease.holder()
    waits = session.registry.debts() or any(
        count for state, count in session.pages.totals().items() if str(state) in {"RECEIVED", "PLANNED", "APPLIED"}
    )
    if holder:
        yield Finding("coordinator", "ok", f"runs: {holder}")
    else:
        state: State = "note" if waits else "ok"
        yield Finding("coordinator", state, "none runs", "hybridmu run: requests are waiting" if waits else "")
    if paused := session.controls.paused():
        yield Finding("pause", "note", f"paused by {paused.caller}", "hybridmu resume")
    if waiting := session.database.approvals.waiting():
        names = ", ".join(one.request_id for one in waiting[:3]) + (" …" if len(waiting) > 3 else "")
        yield Finding(
            "approvals",
            "note",
            f"{len(waiting)} request(s) wait for a second person: {names}",
            "hybridmu requests approve, by somebody else than who asked; their deadlines run",
        )
    yield Finding("replicas", "ok", f"{len(session.replicas.live())} serve this system")


_LOOKS: dict[str, Callable[[Session], Iterator[Finding]]] = {
    "storage": _storage,
    "task": _task,
    "ledger": _ledger,
    "keys": _keys,
    "coordinator": _work,
    "webhooks": look_at_webhooks,
}
