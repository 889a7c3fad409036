"""Making of tasks: registered ones by name, others by import path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hybridmu.core.tasks.augmentation import Augmented, AugmentedRegressor
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.closed_form_tasks import LinearTask, RidgeOfNumbers
from hybridmu.core.tasks.regression_tasks import Regressor
from hybridmu.core.tasks.ridge_of_targets import RidgeOfTargets
from hybridmu.errors import ConfigError
from hybridmu.kinds import CLASSES_ALONE, SEVERAL_TARGETS, TASKS, imported_class, refuse_unsourced
from hybridmu.user_code import contained, told

_CLASSES = ("classes", "data.label", "CrossEntropyTask")
_REMEDY = "write a class with the methods `model` and `loss`; what varies is an option of its constructor"


def is_own(name: str) -> bool:
    """Return whether a task is one of this package."""
    return TASKS.is_builtin(name)


def make_task(name: str, options: Mapping[str, Any], *, targets: Sequence[str] = ()) -> Task:
    """Build a task by registered name or import path `package.module:Class`.

    Args:
        name: The name or path.
        options: Keyword arguments of its constructor.
        targets: Columns of the numbers that it is to learn; none: it learns classes.

    Returns:
        The task. A built-in one learns either.

    Raises:
        ConfigError: Unknown name, no such module or class, a class without a source file, wrong options, or a
            task that learns the other of classes and numbers, or one number alone.
    """
    numbers = bool(targets)
    if len(targets) > 1 and name not in SEVERAL_TARGETS:
        raise ConfigError(
            f"task {name} learns one number of a row",
            expected=f"one target, or task {' or '.join(sorted(SEVERAL_TARGETS))}",
            got=", ".join(targets),
            remedy="or make a system of each target, and link them: hybridmu models link",
        )
    factory = TASKS.get(name) if name in TASKS.names() else imported_class("task", name, TASKS.names(), _REMEDY)
    if numbers and is_own(name):
        if name in CLASSES_ALONE:
            raise ConfigError(f"task {name} learns classes alone", expected="data.label", got="data.target")
        if issubclass(factory, LinearTask):
            factory = RidgeOfNumbers if len(targets) == 1 else partial(RidgeOfTargets, targets)
        else:
            factory = partial(AugmentedRegressor if issubclass(factory, Augmented) else Regressor, factory)
    try:
        with contained():
            task: Task = factory(**options)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"task {name!r} does not take these options", got=told(error)) from None
    except Exception as error:  # the user's own code
        raise ConfigError(f"task {name!r} can't be made with these options", got=told(error)) from error
    refuse_unsourced("task", name, {base.__module__ for base in type(task).__mro__})
    try:
        with contained():
            kind = judgement_of(task).kind
    except ConfigError:
        raise
    except Exception as error:  # a property, or __getattr__
        raise ConfigError(f"task {name!r} fails when it is asked for its judgement", got=told(error)) from error
    if (kind == "regression") != numbers:
        learns, named, base = ("numbers", "data.target", "RegressionTask") if numbers else _CLASSES
        raise ConfigError(
            f"task {name!r} does not learn {learns}, which {named} names",
            expected=f"a class derived from hybridmu.task.{base}",
            got=f"one whose judgement is of {kind}",
            remedy="derive it from that class, or name the column as data.target (numbers) or data.label (classes)",
        )
    for method in ("model", "loss"):
        try:
            with contained():
                found = callable(getattr(task, method, None))
        except Exception as error:  # a property, or __getattr__
            raise ConfigError(f"task {name!r} fails when it is asked for its {method!r}", got=told(error)) from error
        if not found:
            raise ConfigError(
                f"task {name!r} has no method {method!r}",
                expected="a class with the methods `model` and `loss`",
                got=type(task).__name__,
                remedy="derive it from hybridmu.task.CrossEntropyTask, which has the loss",
            )
    return task
