"""Registries of kinds: strategies, tasks, learners, partitioners and feature sources.

A built-in kind is one file and one line below. The file is imported when the kind is first asked for, so that names can
be checked by processes that never train. A kind of the operator's own comes from a module that `plugins` in the
configuration names: every process imports those modules, and they register what they have.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hybridmu.errors import ConfigError
from hybridmu.user_code import contained, told

AUTO = "auto"  # what a request asks for that leaves the choice to the planner
# As the ledger and certificates hold it.
_NAME = re.compile("[a-z][a-z0-9_-]{0,15}")


class Registry:
    """Name → class of one sort of kinds.

    Args:
        what: The sort, for errors.
        builtin: Name → `module:Class`, in the order in which they are listed.
    """

    def __init__(self, what: str, builtin: Mapping[str, str]) -> None:
        self._what, self._builtin = what, frozenset(builtin)
        self._kinds: dict[str, type | str] = dict(builtin)

    def register(self, name: str, kind: type) -> None:
        """Add a kind.

        Args:
            name: In configurations, plans and certificates.
            kind: Its class.

        Raises:
            ValueError: The name is taken by another class, or is none, or the class lacks methods.
        """
        if not _NAME.fullmatch(name) or name == AUTO:
            raise ValueError(f"{name!r} can't name a {self._what}: use at most 16 of a-z, 0-9, - and _")
        lacking = [each for each, found in inspect.getmembers(kind) if getattr(found, "__isabstractmethod__", False)]
        if lacking:
            raise ValueError(f"{self._what} {name!r} lacks {', '.join(lacking)}")
        known = self._kinds.get(name)
        if known is not None and not (isinstance(known, type) and _place(known) == _place(kind)):
            raise ValueError(f"{self._what} {name!r} is registered already")
        self._kinds[name] = kind

    def get(self, name: str) -> Any:
        """Return a kind's class.

        Raises:
            ValueError: There is no such kind; the message lists the known ones.
        """
        found = self._kinds.get(name)
        if found is None:
            raise ValueError(f"unknown {self._what} {name!r}; known: {', '.join(sorted(self._kinds))}")
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self._kinds[name] = getattr(importlib.import_module(module), attribute)
        return found

    @property
    def default(self) -> str:
        """Return the name of the first built-in kind."""
        return next(iter(self._kinds))

    def names(self) -> tuple[str, ...]:
        """Return the names of all kinds, the built-in ones first."""
        return tuple(self._kinds)

    def is_builtin(self, name: str) -> bool:
        """Return whether a kind is one of this package."""
        return name in self._builtin


STRATEGIES = Registry(
    "strategy",
    {
        "retrain": "hybridmu.core.strategies.retrain:Retrain",
        "rewind": "hybridmu.core.strategies.rewind:Rewind",
        "dpus": "hybridmu.core.strategies.dpus:Dpus",
        "dpus-optimised": "hybridmu.core.strategies.dpus_optimised:DpusOptimised",
        "dpus-newton": "hybridmu.core.strategies.newton:DpusNewton",
        "subtract": "hybridmu.core.strategies.subtract:Subtract",
    },
)
# Exact, and possible on every shard whatever happened to it: what trains first, repairs, and stands in for the others.
FALLBACK = STRATEGIES.default

TASKS = Registry(
    "task",
    {
        "mlp": "hybridmu.core.tasks.networks:Mlp",
        "cnn": "hybridmu.core.tasks.networks:Cnn",
        "linear": "hybridmu.core.tasks.networks:Linear",
        "resnet": "hybridmu.core.tasks.pictures:ResNet",
        "lda": "hybridmu.core.tasks.closed_form_tasks:Lda",
        "ridge": "hybridmu.core.tasks.closed_form_tasks:Ridge",
        "naive-bayes": "hybridmu.core.tasks.closed_form_tasks:NaiveBayesTask",
        "adapter": "hybridmu.core.tasks.adapter_task:AdapterTask",
    },
)
LEARNERS = Registry(
    "learner",
    {
        "sliced_sgd": "hybridmu.core.learners.sliced_sgd:SlicedSgd",
        "additive": "hybridmu.core.learners.additive:Additive",
    },
)
# Tasks that are learned by another learner than the default, and by no other.
LEARNER_OF_TASK = {"lda": "additive", "ridge": "additive", "naive-bayes": "additive"}
# Tasks of ours that learn no numbers.
CLASSES_ALONE = frozenset({"lda", "naive-bayes", "adapter"})
# Tasks that learn several numbers of a row at once.
SEVERAL_TARGETS = frozenset({"ridge"})
# Tasks whose models read the tokens of a text → the encoder that makes them.
ENCODER_OF_TASK = {"adapter": "tokens"}
# What a learner of these has besides a retrain.
STRATEGY_OF_LEARNER = {"additive": "subtract"}
PARTITIONERS = Registry("partitioner", {"hashed": "hybridmu.core.partitioners.hashed:Hashed"})
FEATURES = Registry("feature source", {"columns": "hybridmu.core.features.columns:Columns"})
# What makes features of one value; others are import paths, as tasks are.
TEXT_ENCODERS = Registry(
    "text encoder",
    {
        "ngrams": "hybridmu.core.features.ngrams:NGrams",
        "wordllama": "hybridmu.core.features.wordllama:WordLlama",
        "sentences": "hybridmu.core.features.sentences:Sentences",
        "tokens": "hybridmu.core.features.text_tokens:Tokens",
    },
)
IMAGE_ENCODERS = Registry("image encoder", {"efficientnet-lite0": "hybridmu.core.features.efficientnet:EfficientNet"})


def choices() -> tuple[str, ...]:
    """Return what a request may ask for: `auto`, which leaves the choice to the planner, or a strategy."""
    return (AUTO, *STRATEGIES.names())


def import_plugins(modules: Iterable[str]) -> None:
    """Import the modules that register kinds of the operator's own; each once per process.

    Args:
        modules: As `plugins` names them. They are found as a task's module is: on the path, or in the current folder.

    Raises:
        ConfigError: A module can't be imported.
    """
    for module in modules:
        search_here()
        try:
            with contained():
                importlib.import_module(module)
        except Exception as error:  # whatever the module does while it is imported
            raise ConfigError(
                f"plugin {module!r} can't be imported",
                expected="a module whose import registers kinds",
                got=told(error),
                remedy="check PYTHONPATH",
            ) from None


def search_here() -> None:
    """Let imports find modules in the current folder, as with `python -m`."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def imported_class(what: str, name: str, known: Iterable[str], remedy: str) -> type:
    """Return the class of the user's own that an import path names.

    Args:
        what: The sort of kinds, for errors.
        name: `package.module:Class`.
        known: Names of registered kinds, for errors.
        remedy: What to write in place of something that is no class.

    Raises:
        ConfigError: There is none, or none in a file that can be hashed.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"unknown {what} {name!r}", expected=f"one of {sorted(known)} or an import path package.module:Class"
        )
    if module == "__main__":
        refuse_unsourced(what, name, {module})
    search_here()
    try:
        with contained():
            found: type = getattr(importlib.import_module(module), attribute)
            is_class = isinstance(found, type)
    except Exception as error:  # whatever the user's module does while it is imported
        raise ConfigError(f"{what} {name!r} can't be imported", got=told(error), remedy="check PYTHONPATH") from None
    if not is_class:
        raise ConfigError(
            f"{what} {name!r} is no class",
            expected="a class at the top of a module file, whose source says what it does",
            got=type(found).__name__,
            remedy=remedy,
        )
    refuse_unsourced(what, name, {module, found.__module__})
    return found


def refuse_unsourced(what: str, name: str, modules: Iterable[str]) -> None:
    """Check that the code of a kind lies in files: else an edited class would go on from the old one's results.

    Args:
        what: The sort of kinds, for errors.
        name: Of the kind.
        modules: Where its code is.

    Raises:
        ConfigError: A module is a notebook, standard input, part of an archive, or made by hand.
    """
    for module in sorted(modules):
        file = getattr(sys.modules.get(module), "__file__", None)
        if module == "__main__" or not (module in sys.stdlib_module_names or (file and Path(file).is_file())):
            raise ConfigError(
                f"{what} {name!r} has no source file",
                expected="a class in a module file: its source is part of every checkpoint's key, and other processes "
                "import it",
                got=f"a class of module {module!r}" + (f", of {file}" if file else ""),
                remedy="write the class to a file, for instance network.py, and name it network:Class",
            )


def _place(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__
