"""Linking models over the same people: each learns what all others have forgotten, and will be told of what comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations

from hybridmu.errors import StateError
from hybridmu.faults import reach
from hybridmu.runtime.linked.peer import Peer, at, plain
from hybridmu.types import Origin


@dataclass(frozen=True)
class Shared:
    """What linked models must have in common, so that all of them know a person by the same keys.

    Attributes:
        columns: Names of the id and group column.
        types: Kinds of their values; empty where the model has no rows yet.
        partition_key: The key of all digests.
        guard_keys: Ids of the guard keys, the one that is used now last.
    """

    columns: tuple[str, str | None]
    types: tuple[str, str] | None
    partition_key: bytes
    guard_keys: tuple[str, ...]


def differences(ours: Shared, theirs: Shared) -> list[tuple[str, str, str, str]]:
    """Return (what, expected, got, remedy) of everything that keeps two models from being linked."""
    found = []
    if ours.columns != theirs.columns:
        remedy = "only models with the same data.id and data.group know a person by the same keys"
        found.append(("other id or group columns", _said(ours.columns), _said(theirs.columns), remedy))
    if ours.types and theirs.types and not all(map(_alike, ours.types, theirs.types)):
        remedy = "7 is not the text '7': cast the column, and train one of them again"
        found.append(("other kinds of ids or groups", _said(ours.types), _said(theirs.types), remedy))
    if ours.partition_key != theirs.partition_key:
        remedy = "train one of them again with the other's data.partition_key (`seed` means: the same sisa.seed)"
        found.append(("another partition key", "the same data.partition_key", "another one", remedy))
    if (set(ours.guard_keys), ours.guard_keys[-1:]) != (set(theirs.guard_keys), theirs.guard_keys[-1:]):
        remedy = "name the same keys.folder, or the same keys.guard, in both (docs/models.md)"
        got = ", ".join(theirs.guard_keys) or "none"
        found.append(("other guard keys", f"{', '.join(ours.guard_keys)}, in this order", got, remedy))
    return found


def link(ours: Peer, theirs: Peer) -> None:
    """Link two models, and with them all that either is linked with; repeated, it does what was not done.

    Every pair writes its two links first; from then on what is asked of one is passed on to the other. Then all that
    either has forgotten is brought to the other: entries of the guard, and open tombstones. When this returns, nothing
    that one model has forgotten is live in another without a request there.

    Args:
        ours: One model.
        theirs: Another one.

    Raises:
        StateError: They have no keys in common, one of them can't be reached, or rows are on their way into one.
        ConfigError: A configuration holds a password.
    """
    if ours.system == theirs.system:
        raise StateError("a model can't be linked with itself", expected="another storage_url", got=ours.name)
    with ExitStack() as stack:
        members = {ours.system: ours, theirs.system: theirs}
        for known in (ours, theirs):
            for found in known.links.live():
                if found.system not in members:
                    members[found.system] = stack.enter_context(at(found))
        _join([*members.values()])


def _join(members: Sequence[Peer]) -> None:
    pairs = [*combinations(members, 2)]
    for member in members:
        member.database.identity.bind(member.settings.identity(), create=False)
    # One that used the key says so when it is lost; the first makes it, if nothing was forgotten yet.
    for member in (*(each for each in members if each.guard.used()), members[0]):
        member.guard.stamp()
    for one, other in pairs:
        _refuse_unlike(one, other)
    for one, other in pairs:
        one.links.add(other.system, other.name, plain(other.settings))
        reach("link.half")
        other.links.add(one.system, one.name, plain(one.settings))
    for one, other in pairs:
        bring(one, other)
        reach("link.brought")
        bring(other, one)
        if one.trained and other.trained:
            one.links.settle(other.system)
            other.links.settle(one.system)


def bring(source: Peer, target: Peer) -> None:
    """Bring to a model all that another one has forgotten.

    What the target has let back in since stays there. A target without rows learns what must not come in.

    Args:
        source: What has forgotten.
        target: What has to forget.

    Raises:
        StateError: Rows are on their way into the target.
        WouldEmptyError: No training row would be left there.
    """
    source.database.forwards.begin(target.system)
    remembered, readmitted = source.links.remembered(), target.links.readmitted()
    known = target.links.remembered().keys()
    fresh = [
        key
        for mac, (key, since) in sorted(remembered.items())
        if mac not in known and readmitted.get(mac, float("-inf")) < since
    ]
    named, deadline = source.links.revoked()
    ours = target.settings.policy.deadline_seconds
    origin = Origin(source.system, source.name, "link", _earlier(deadline, ours))
    target.learn(fresh, origin)
    if target.trained:
        target.forget_covered(named, origin)


def _earlier(deadline: float | None, seconds: float | None) -> float | None:
    own = None if seconds is None else time.time() + seconds
    return min((at for at in (deadline, own) if at is not None), default=None)


def _refuse_unlike(ours: Peer, theirs: Peer) -> None:
    """Check that two models know a person by the same keys.

    Raises:
        StateError: They do not.
    """
    ours.guard.check()
    theirs.guard.check()
    if found := differences(_shared(ours), _shared(theirs)):
        what, expected, got, remedy = found[0]
        raise StateError(
            f"models {ours.name} and {theirs.name} can't be linked: {what}", expected=expected, got=got, remedy=remedy
        )


def _shared(model: Peer) -> Shared:
    data, manifest = model.settings.data, model.lake.manifest if model.lake.exists else None
    types = (manifest.id_type, manifest.group_type or "null") if manifest else None
    return Shared((data.id, data.group), types, model.settings.partition_key(), model.keyring.guard_keys())


def _alike(ours: str, theirs: str) -> bool:
    return "null" in {ours, theirs} or ("int" in ours) == ("int" in theirs)


def _said(names: Sequence[str | None]) -> str:
    return " and ".join(name or "none" for name in names)
