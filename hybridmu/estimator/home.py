"""Home of an estimator's system: a folder of the user's, or one of its own that goes with it."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridmu.errors import StateError
from hybridmu.system.arguments import Executor
from hybridmu.system.notebook import fit
from hybridmu.system.system import System, connect


class Home:
    """A trained system, and the folder that it is in.

    Args:
        system: The system.
        path: Its folder.
        executor: As of `hybridmu.connect`.
        own: The temporary folder that is removed with this object, `path` in it; None: the user keeps the system.
    """

    def __init__(self, system: System | None, path: Path, executor: Executor, own: Path | None) -> None:
        self._system, self._path, self._executor, self._own = system, path, executor, own
        if own is not None:
            weakref.finalize(self, _remove, own, system, os.getpid())

    @classmethod
    def of(cls, rows: pa.Table, path: str | Path | None, executor: Executor, **options: Any) -> Home:
        """Return the home of a system that is trained on rows.

        Args:
            rows: The training table.
            path: Folder for the system, which must not exist; None: a temporary one.
            executor: As of `hybridmu.connect`.
            options: Of `hybridmu.fit`.

        Raises:
            StateError: There is something at `path` already.
            DataError: The rows can't be learned.
            ConfigError: An option is wrong.
        """
        if path is not None:
            system = _released(fit(rows, path=path, executor=executor, **options))
            return cls(system, Path(path).expanduser().absolute(), executor, None)
        own = Path(tempfile.mkdtemp(prefix="hybridmu-"))  # for this user alone
        try:
            system = _released(fit(rows, path=own / "system", executor=executor, **options))
        except BaseException:
            _remove(own, None, os.getpid())
            raise
        return cls(system, own / "system", executor, own)

    @property
    def system(self) -> System:
        """Return the system, opened if need be."""
        if self._system is None:
            self._system = connect(self._path.with_name(f"{self._path.name}.yaml"), executor=self._executor)
        return self._system

    def __getstate__(self) -> dict[str, Any]:
        if self._own is not None:
            raise StateError(
                "a fitted estimator without a path can't be pickled: its rows are in a folder that goes with it",
                expected="an estimator that was made with path=…, of which a pickle holds the path alone",
                got="path=None",
                remedy="fit one with path=…; sklearn.base.clone copies the parameters of this one",
            )
        return {"path": self._path, "executor": self._executor}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(None, state["path"], state["executor"], None)  # type: ignore[misc]


def _released(system: System) -> System:
    """Return a system that leads no work: another process may, and deletions take the lead again."""
    system.close()
    return system


def _remove(folder: Path, system: System | None, process: int) -> None:
    if os.getpid() != process:
        return  # a fork's copy of the object went, and not the object
    if system is not None:
        system.close()
    shutil.rmtree(folder, ignore_errors=True)
