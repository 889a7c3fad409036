"""Making of tasks: registered ones by name, others by import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hybridmu.core.tasks.augmentation import Augmented, AugmentedRegressor
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.closed_form_tasks import ClosedFormTask
from hybridmu.core.tasks.regression_tasks import Regressor
from hybridmu.errors import ConfigError
from hybridmu.kinds import TASKS, search_here
from hybridmu.user_code import contained, told

_CLASSES = ("classes", "data.label", "CrossEntropyTask")


def is_own(name: str) -> bool:
    """Return whether a task is one of this package."""
    return TASKS.is_builtin(name)


def make_task(name: str, options: Mapping[str, Any], *, numbers: bool = False) -> Task:
    """Build a task by registered name or import path `package.module:Class`.

    Args:
        name: The name or path.
        options: Keyword arguments of its constructor.
        numbers: Whether it is to learn numbers instead of classes.

    Returns:
        The task. A built-in one learns either.

    Raises:
        ConfigError: Unknown name, no such module or class, a class without a source file, wrong options, or a
            task that learns the other of classes and numbers.
    """
    factory = TASKS.get(name) if name in TASKS.names() else _imported(name)
    if numbers and is_own(name):
        if issubclass(factory, ClosedFormTask):
            raise ConfigError(f"task {name} learns classes alone", expected="data.label", got="data.target")
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
    _refuse_unsourced(name, {base.__module__ for base in type(task).__mro__})
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


def _imported(name: str) -> type:
    """Return the class that an import path names.

    Raises:
        ConfigError: There is none, or none in a file that can be hashed.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"unknown task {name!r}", expected=f"one of {sorted(TASKS.names())} or an import path package.module:Class"
        )
    if module == "__main__":
        _refuse_unsourced(name, {module})
    search_here()
    try:
        with contained():
            found: type = getattr(importlib.import_module(module), attribute)
            is_class = isinstance(found, type)
    except Exception as error:  # whatever the user's module does while it is imported
        raise ConfigError(f"task {name!r} can't be imported", got=told(error), remedy="check PYTHONPATH") from None
    if not is_class:
        raise ConfigError(
            f"task {name!r} is no class",
            expected="a class at the top of a module file, whose source says what it does",
            got=type(found).__name__,
            remedy="write a class with the methods `model` and `loss`; what varies is an option of its constructor",
        )
    _refuse_unsourced(name, {module, found.__module__})
    return found


def _refuse_unsourced(name: str, modules: Collection[str]) -> None:
    """Check that the code of a task lies in files: else an edited class would go on from the old one's checkpoints.

    Raises:
        ConfigError: A module is a notebook, standard input, part of an archive, or made by hand.
    """
    for module in sorted(modules):
        file = getattr(sys.modules.get(module), "__file__", None)
        if module == "__main__" or not (module in sys.stdlib_module_names or (file and Path(file).is_file())):
            raise ConfigError(
                f"task {name!r} has no source file",
                expected="a class in a module file: its source is part of every checkpoint's key, and other processes "
                "import it",
                got=f"a class of module {module!r}" + (f", of {file}" if file else ""),
                remedy="write the class to a file, for instance network.py, and name it as task.name: network:Class",
            )
