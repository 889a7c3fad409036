"""Base of the estimators: training on what scikit-learn's users have, deletions, and certificates of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hybridmu.config import Settings
from hybridmu.errors import ConfigError
from hybridmu.estimator.home import Home
from hybridmu.estimator.sample_tables import (
    Roles,
    columns_of,
    keys,
    lacking,
    numbers_alone,
    numbers_of,
    with_numbers,
)
from hybridmu.extras import extra
from hybridmu.runtime.coordinator.leadership import LEASE_SECONDS
from hybridmu.system.arguments import Executor
from hybridmu.system.frame_kinds import is_frame
from hybridmu.system.notebook import table_of
from hybridmu.system.system import System

with extra("sklearn"):
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

# What users of scikit-learn expect: every row is learned, however few there are, and what is held out is their affair.
# Without canaries every deletion is exact at once. No fresh process proves one in ten of them: `system_.verify()` does
# when it is asked.
_SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "data": {"test_fraction": 0.0},
    "sisa": {"min_rows": 1},
    "policy": {"calibrate": False, "verify_share": 0.0},
    "evaluation": {"every_version": False},
}


class HybridEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of `HybridClassifier` and `HybridRegressor`, which say what the parameters are.

    Attributes:
        n_features_in_: How many features there are.
        feature_names_in_: Their names, where X was a frame.
    """

    _outcome: ClassVar[Literal["label", "target"]]
    task: str | Mapping[str, Any]
    penalty: float | None
    project: int | None
    path: str | Path | None
    settings: Mapping[str, Mapping[str, Any]] | None
    executor: Executor

    def fit(self, X: Any, y: Any, ids: Any = None, groups: Any = None) -> Self:
        """Train a system on rows; a fit that fails leaves the estimator as it was.

        Args:
            X: Features [n, features]: an array of numbers, a list of lists, or a frame of pandas, polars or Arrow,
                which may have texts, categories and lists of numbers too.
            y: What is learned [n]; [n, k] of a regressor's k targets.
            ids: What tells rows apart, integers or texts [n]; by default rows are numbered from 0.
            groups: To whom rows belong, integers or texts [n]; null: to nobody else.

        Returns:
            The estimator.

        Raises:
            ValueError: X or y is not as scikit-learn's estimators have it.
            DataError: The rows can't be learned: an id stands twice, for one.
            ConfigError: A parameter is wrong.
            StateError: There is something at `path` already, an earlier fit for one.
        """
        before = dict(self.__dict__)
        try:
            self._train(X, y, ids, groups)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _train(self, X: Any, y: Any, ids: Any, groups: Any) -> None:
        several = self.__sklearn_tags__().target_tags.multi_output
        values = validate_data(self, y=y, y_numeric=self._outcome == "target", multi_output=several)
        table = self._table(X, reset=True)
        check_consistent_length(X, values, ids, groups)
        learned, said = self._learned(values)
        roles = Roles.beside(table.column_names, self._outcome, len(learned))
        added = {
            roles.id: pa.array(range(len(values))) if ids is None else keys("ids", ids),
            **({} if groups is None else {roles.group: keys("groups", groups)}),
            **dict(zip(roles.outcomes, learned, strict=True)),
        }
        for name, column in added.items():
            table = table.append_column(name, column)
        self._home = Home.of(
            table,
            self.path,
            self.executor,
            id=roles.id,
            group=None if groups is None else roles.group,
            task=self._task(),
            **{self._outcome: roles.outcomes[0] if len(roles.outcomes) == 1 else list(roles.outcomes)},
            **self._sections(said),
        )

    @abstractmethod
    def _learned(self, y: npt.NDArray[Any]) -> tuple[list[pa.Array], dict[str, Any]]:
        """Return what is learned as columns, and what the section `data` says of them."""

    @property
    def system_(self) -> System:
        """Return the system, which has all of HybridMU's verbs.

        Raises:
            NotFittedError: There is none yet.
        """
        check_is_fitted(self)
        return self._home.system

    def forget(self, *, ids: Any = (), groups: Any = (), wait: bool = True) -> dict[str, Any]:
        """Forget rows, or all rows of people: exactly, as if they had never been in X.

        Args:
            ids: Ids, as given to `fit`; row numbers where none were.
            groups: Groups, as given to `fit`.
            wait: Until the new model answers and the rows are purged from the system's files. Otherwise the request is
                durable when this returns, and the next one that is waited for fulfils it too.

        Returns:
            The request's report, as `System.report`: its `request_id`, its `state`, which is PURGED unless a hold, a
            pause or a retention forbids it, and its times.

        Raises:
            RequestError: The request is empty, unknown, or would leave nothing to learn; nothing was changed.
            NotFittedError: Nothing was learned yet.
        """
        system = self.system_
        try:
            request = system.forget(ids=ids, groups=groups, wait=wait)["request_id"]
            if wait and not _is_led_elsewhere(system):
                system.run(until_idle=True)
            return system.report(request)
        finally:
            system.close()

    def certificate(self, request: Mapping[str, Any] | str) -> dict[str, Any]:
        """Return the signed certificate of a deletion, which `hybridmu certificate verify` checks.

        Args:
            request: The report that `forget` returned, or its `request_id`.

        Raises:
            StateError: Its rows are not purged yet.
            NotFittedError: Nothing was learned yet.
        """
        return self.system_.certificate(request["request_id"] if isinstance(request, Mapping) else request)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_home")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._fills
        tags.target_tags.required = True
        return tags

    def _answers(self, X: Any) -> pa.Table:
        """Return the system's answers to rows."""
        system = self.system_
        answers: pa.Table = system.predict(self._table(X, reset=False))
        return answers

    def _table(self, X: Any, *, reset: bool) -> pa.Table:
        """Return features as a table, numbers as float64.

        Args:
            X: The features.
            reset: These are the ones to learn; otherwise they must be like those.

        Raises:
            ValueError: They are not.
        """
        least = {"ensure_min_samples": 2 if reset else 1, "ensure_all_finite": "allow-nan" if self._fills else True}
        table = table_of(X) if is_frame(X) else None
        if table is None or numbers_alone(table):
            return columns_of(validate_data(self, X, reset=reset, dtype=np.float64, **least), self._names)
        validate_data(self, X, reset=reset, skip_check_array=True)
        numbers = numbers_of(table)
        if numbers.shape[1]:
            check_array(numbers, input_name="X", estimator=self, **least)
        if lacking(table) and not self._fills:
            raise ValueError("Input X contains NaN: say in settings={'data': {'fills': …}} what stands in for it")
        return with_numbers(table, numbers, self._names)

    @property
    def _names(self) -> list[str]:
        return [*getattr(self, "feature_names_in_", [f"x{n}" for n in range(self.n_features_in_)])]

    @property
    def _fills(self) -> bool:
        """Return whether something stands in for values that lack."""
        data = self.settings.get("data") if isinstance(self.settings, Mapping) else None
        return isinstance(data, Mapping) and bool(data.get("fills"))

    def _task(self) -> dict[str, Any]:
        """Return the task and its options.

        Raises:
            ConfigError: An option is said twice.
        """
        task = dict(self.task) if isinstance(self.task, Mapping) else {"name": self.task}
        said = {name: getattr(self, name) for name in ("penalty", "project") if getattr(self, name) is not None}
        if twice := sorted(said.keys() & task.keys()):
            raise ConfigError(f"{twice[0]} is said twice", remedy="leave it out of task, or out of the parameters")
        return {name: _plain(value) for name, value in {**task, **said}.items()}

    def _sections(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return the other sections of the configuration.

        Args:
            said: What the estimator says of `data`.

        Raises:
            ConfigError: They are no sections, or say what is the estimator's to say.
        """
        given = {} if self.settings is None else self.settings
        if not isinstance(given, Mapping) or not all(isinstance(given.get(name, {}), Mapping) for name in _SECTIONS):
            raise ConfigError(
                "settings is no configuration", expected="a mapping of sections, such as {'sisa': {'shards': 4}}"
            )
        known = {*Settings.model_fields} - {"task", "storage_url"}
        if wrong := sorted(map(str, {*given} - known)):
            raise ConfigError(
                f"settings has {wrong[0]}",
                expected=", ".join(sorted(known)),
                remedy="task and path are parameters of their own",
            )
        found = {name: {**_SECTIONS[name], **given.get(name, {})} for name in _SECTIONS}
        if twice := sorted(said.keys() & found["data"].keys()):
            raise ConfigError(f"data.{twice[0]} is said twice", remedy="leave it out of settings: y says it")
        return {**given, **found, "data": {**found["data"], **said}}


def _is_led_elsewhere(system: System) -> bool:
    """Return whether another process works on a system: what is to purge, it purges."""
    ours = system.session.coordination.driver is not None
    return not ours and system.lease.holder(LEASE_SECONDS) is not None


def _plain(value: Any) -> Any:
    """Return a number of NumPy, as searches over parameters draw them, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
