"""Scan of Ray's session logs and spilled objects, on every node, for purged rows.

Words of the machines and of the configuration stand everywhere in there: logins, hosts, addresses, folders, packages.
An id that is the same as one of them is not told from it, so of such an id only digests are searched. Words of Ray's
own messages are told from ids by the line that they stand in (`ray_log_words`). Imports no torch: every node has a
process with this module.
"""

from __future__ import annotations

import getpass
import os
import platform
import sys
from collections.abc import Collection
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybridmu.cluster.ray_log_words import is_component, needles_beside, traces
from hybridmu.core.proof.byte_search import Needles, spelled
from hybridmu.errors import PurgeError

_TIMEOUT_SECONDS = 300.0
_PROGRAMS = (Path(ray.__file__).parent, Path(__file__).parents[1])
_LOGS = {"logs", "metrics"}

Held = list[tuple[str, tuple[bytes, ...]]]


class Searcher:
    """Search of Ray's files on the node of its actor."""

    def find(self, needles: Collection[bytes], words: bytes = b"") -> Held:
        """Return every file of the session's folder that holds a needle, and which.

        Args:
            needles: Digests are also searched as hexadecimal text.
            words: The configuration and the cluster's nodes; what stands there is no trace of a row.
        """
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        told = needles_beside([*_words_here(session), words], needles)
        meaning = {spelling: needle for needle in told for spelling in spelled([needle])}
        wanted = Needles(meaning)
        found = []
        for file in session.rglob("*"):
            try:
                if not file.is_file() or file.is_socket():
                    continue
                with file.open("rb") as stream:
                    held = {spelling for piece in wanted.in_stream(stream.read) for spelling in piece}
                place = PurePosixPath(file.relative_to(session))
                if held and place.parts[0] in _LOGS:
                    with file.open("rb") as lines:
                        held = traces(lines, held, is_component(place), _PROGRAMS)
            except OSError:
                continue  # rotated or removed meanwhile
            if held:
                found.append((str(file), tuple(sorted({meaning[spelling] for spelling in held}))))
        return found


class Searchers:
    """A searcher on every other node, kept from one purge to the next, and one here.

    Ray ends a process that idles for a second where more actors live than there are CPUs, and each new one takes
    seconds of a core, from the retrains that run there. They hold no CPU and end with the process that made them.
    """

    def __init__(self) -> None:
        self._actors: dict[str, Any] = {}

    def find(
        self, needles: Collection[bytes], words: bytes = b""
    ) -> tuple[int, tuple[tuple[str, tuple[bytes, ...]], ...]]:
        """Search Ray's session folders on all live nodes.

        Args:
            needles: Digests and telling raw ids of purged rows.
            words: The configuration.

        Returns:
            (nodes searched, (file with its node, needles in it) for every file that holds one).

        Raises:
            PurgeError: A node could not be searched.
        """
        if not needles:
            return 0, ()
        here = ray.get_runtime_context().get_node_id()
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._actors = {node: self._actors.get(node) or _start(node) for node in sorted(alive - {here})}
        words += b"\n" + str(ray.nodes()).encode()  # addresses and ports, which Ray logs
        asked = [actor.find.remote(sorted(needles), words) for actor in self._actors.values()]
        try:
            held = {here: Searcher().find(needles, words), **dict(zip(self._actors, _answers(asked), strict=True))}
        except RayError as error:
            self._end()
            raise PurgeError(
                "the cluster's nodes could not be searched for purged rows",
                got=str(error).splitlines()[0],
                remedy="it is tried again",
            ) from None
        return len(held), tuple(
            (f"{file} of node {node}", named) for node, files in held.items() for file, named in files
        )

    def _end(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors = {}


def _words_here(session: Path) -> list[bytes]:
    """Return what Ray logs on this machine in any case: logins, hosts, folders, variables, packages."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        login = ""
    places = [str(session), str(Path.cwd()), str(Path.home()), sys.executable, *sys.path]
    packages = [str(found.metadata["Name"]) for found in distributions()]
    variables = [part for pair in os.environ.items() for part in pair]
    words = [login, platform.node(), *places, *packages, *variables, *sys.modules]
    return [os.fsencode(word) for word in words]


def _answers(asked: list[Any]) -> list[Held]:
    answers: list[Held] = ray.get(asked, timeout=_TIMEOUT_SECONDS)
    return answers


def _start(node: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=where)(Searcher).remote()
