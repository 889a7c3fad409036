"""The check of a task on a system's own rows, here and in a fresh process, which must come to the same bits.

Run as `python -m hybridmu.runtime.workers.task_checks` it is that process: it reads one line of JSON on standard input
and the rows after it. Only a fresh process shows what depends on this one: a hash seed, a clock, a module that others
can't import, a file that was edited after it was imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from hybridmu.config import Settings
from hybridmu.core.features import opened
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.table_encoder import Encoder
from hybridmu.core.kernel.training import Recipe
from hybridmu.core.task_check import SAMPLE_ROWS, Trial, check, sample
from hybridmu.core.tasks.task_making import is_own, make_task
from hybridmu.errors import ConfigError
from hybridmu.runtime.workers.context import Site, configure_torch, recipe_of
from hybridmu.types import KeySet, Tombstone
from hybridmu.user_code import contained, told


class TaskChecks:
    """Tries a system's task once, before anything depends on it.

    Args:
        site: The system's task, settings and lake.
        first: Folders, before its own, where a worker looks for modules; None: wherever this process does.
    """

    def __init__(self, site: Site, first: Sequence[str] | None = None) -> None:
        self._site, self._first, self._done = site, first, False

    def of_table(self, encoder: Encoder, table: pa.Table) -> None:
        """Try the task on the first rows of the source, of which nothing is stored yet.

        Args:
            encoder: Of the source.
            table: Some rows.
        """
        some = table.slice(0, SAMPLE_ROWS)
        x = torch.from_numpy(opened(self._site.lake.features, encoder)(some))
        y = torch.from_numpy(encoder.encode_labels(some))
        self._check(x, y, self._outputs(encoder), begins=True)

    def of_lake(self, gone: Mapping[int, list[Tombstone]], *, begins: bool) -> None:
        """Try the task on live rows of the lake, unless it was tried.

        Args:
            gone: Shard → tombstones: what they name is not read.
            begins: Nothing was trained with this task here.
        """
        self._site.check_backbone()
        lake = self._site.lake
        for shard in range(self._site.settings.sisa.shards):
            tables = lake.shard("train", shard)
            keys = KeySet.of(gone.get(shard, ()))
            live = np.flatnonzero(~carries(tables.outline.ids, tables.outline.groups, keys))[:SAMPLE_ROWS]
            if len(live):
                (rows,) = tables.rows(live)
                self._check(rows.x, rows.y, self._outputs(lake.manifest.encoder), begins=begins)
                return

    def _outputs(self, encoder: Encoder) -> int:
        return self._site.judgement.outputs(len(encoder.classes))

    def _check(self, x: Tensor, y: Tensor, outputs: int, *, begins: bool) -> None:
        if self._done:
            return
        settings = self._site.settings
        foreign = not is_own(settings.task.name)
        # First: what ends a process without an exception would end this one.
        theirs = _elsewhere(settings, x, y, outputs, self._first) if foreign else {}
        with _alone(settings):
            ours = check(_trial(settings, x, y, outputs), begins=begins)
        if foreign:
            _compare(settings.task.name, ours, theirs)
        self._done = True


def _trial(settings: Settings, x: Tensor, y: Tensor, outputs: int) -> Trial:
    task = make_task(settings.task.name, settings.task.options, targets=settings.data.targets)
    recipe: Recipe = recipe_of(settings, (1, 1))
    return Trial(settings.task.name, task, outputs, settings.data.standardize, recipe, sample(x, y))


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Compute as a worker does, and leave this process as it was: it may be somebody's notebook."""
    threads, strictness = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    configure_torch(settings)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strictness)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _elsewhere(settings: Settings, x: Tensor, y: Tensor, outputs: int, first: Sequence[str] | None) -> dict[str, str]:
    """Try the task in a fresh process.

    Returns:
        Its `fingerprint`, or its `error`.

    Raises:
        ConfigError: It ended before it could tell.
    """
    name = settings.task.name
    with tempfile.TemporaryDirectory(prefix="hybridmu-check-") as folder:
        answer = Path(folder) / "answer.json"
        document = {
            "settings": settings.model_dump(mode="json"),
            "path": sys.path if first is None else None,
            "first": list(first or ()),
            "outputs": outputs,
            "answer": str(answer),
        }
        # The rows are somebody's: through a pipe, and into no file.
        given = (
            json.dumps(document).encode() + b"\n" + safetensors.torch.save({"x": x.contiguous(), "y": y.contiguous()})
        )
        done = subprocess.run([sys.executable, "-m", __name__], input=given, capture_output=True, check=False)
        if not answer.exists():
            words = done.stderr.decode(errors="replace").strip()[-500:]
            raise ConfigError(
                f"task {name} ends a process that uses it",
                got=words or f"exit code {done.returncode}",
                remedy="no os._exit() in a task, and no library that ends the process",
            )
        found: dict[str, str] = json.loads(answer.read_text())
    return found


def _compare(name: str, ours: str, found: Mapping[str, str]) -> None:
    """Compare what both processes came to.

    Raises:
        ConfigError: The other one can't use the task, or came to other bits.
    """
    if "error" in found:
        raise ConfigError(
            f"task {name} can't be used by another process",
            got=found["error"],
            remedy="what it imports must be found by every process: set PYTHONPATH, or start in its folder",
        )
    if found["fingerprint"] != ours:
        raise ConfigError(
            f"task {name} makes or trains another model in another process, with the same seed",
            expected="the same bits",
            got="others",
            remedy="draw random numbers from torch's generator alone; no clock, no process number, no hash() of text; "
            "after an edit of its file, start this process again",
        )


def main() -> None:
    """Try the task that standard input names, and write the fingerprint, or why there is none, into a file."""
    document: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = document["path"] or [*document["first"], *sys.path]
    settings = Settings.model_validate(document["settings"])
    rows = safetensors.torch.load(sys.stdin.buffer.read())
    try:
        configure_torch(settings)
        with contained():
            made = check(_trial(settings, rows["x"], rows["y"], document["outputs"]), begins=False)
        answer = {"fingerprint": made}
    except Exception as error:  # the other process tells of it
        answer = {"error": told(error)}
    Path(document["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
