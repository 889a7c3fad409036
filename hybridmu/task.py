"""Task: what the user brings: a model factory and a loss. Built-in: `mlp`, `cnn`, `linear`."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridmu.errors import ConfigError
from hybridmu.user_code import installed, told


class Task(Protocol):
    """A classification problem: how to make an untrained sub-model, and what it minimises."""

    def model(self, features: int, classes: int) -> nn.Module:
        """Return a new module mapping float32 [batch, features] to logits [batch, classes].

        Initialisation draws from torch's global generator, which is seeded by (seed, shard).
        """
        ...

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the *mean* loss over the batch; `labels` is int64 [batch]."""
        ...


class CrossEntropyTask:
    """Base of the built-in tasks: mean cross entropy."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of logits [batch, classes] against int64 [batch]."""
        return functional.cross_entropy(logits, labels)


_WIDEST = 1 << 16  # of a layer; beyond it a machine's memory ends before the training begins


def _whole_numbers(
    name: str, value: Sequence[int], most: int, *, count: int | None = None, multiple: int = 1
) -> tuple[int, ...]:
    """Return an option of a built-in task as whole numbers.

    Args:
        name: Of the option.
        value: What the configuration has.
        most: The largest.
        count: How many; any number by default.
        multiple: Of what each must be one.

    Raises:
        ConfigError: It is something else.
    """
    if (
        not isinstance(value, (list, tuple))
        or count not in {None, len(value)}
        or not all(type(each) is int and multiple <= each <= most and each % multiple == 0 for each in value)
    ):
        of = f"whole numbers from {multiple} to {most}" + (f" that are multiples of {multiple}" if multiple > 1 else "")
        raise ConfigError(f"task.{name} is wrong", expected=f"{count or 'a list of'} {of}", got=repr(value)[:100])
    return tuple(value)


class Linear(CrossEntropyTask):
    """Multinomial logistic regression."""

    def model(self, features: int, classes: int) -> nn.Module:
        """Return one linear layer."""
        return nn.Sequential(nn.Linear(features, classes))


class Mlp(CrossEntropyTask):
    """Fully connected network with ReLU.

    Args:
        hidden: Widths of the hidden layers.
    """

    def __init__(self, hidden: Sequence[int] = (128,)) -> None:
        self.hidden = _whole_numbers("hidden", hidden, _WIDEST)

    def model(self, features: int, classes: int) -> nn.Module:
        """Return Linear–ReLU pairs and a linear head."""
        layers: list[nn.Module] = []
        for width in self.hidden:
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        return nn.Sequential(*layers, nn.Linear(features, classes))


class _Residual(nn.Module):
    """Two 3×3 convolutions with GroupNorm around a skip; halves the picture when stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(min(8, outputs), outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(min(8, outputs), outputs),
        )
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class Cnn(CrossEntropyTask):
    """A small residual network with GroupNorm (no batch statistics, so nothing leaks between rows).

    Args:
        shape: Picture as [channels, height, width]; its product is the number of features.
        width: Channels of the first stage (a multiple of 8); each later stage doubles them.
        stages: Residual blocks; each but the first halves the picture.
    """

    def __init__(self, shape: Sequence[int] = (1, 28, 28), width: int = 16, stages: int = 3) -> None:
        self.shape = _whole_numbers("shape", shape, _WIDEST, count=3)
        (self.width,) = _whole_numbers("width", [width], _WIDEST, multiple=8)
        (self.stages,) = _whole_numbers("stages", [stages], 8)

    def model(self, features: int, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ConfigError: `shape` does not hold `features` values.
        """
        if torch.Size(self.shape).numel() != features:
            raise ConfigError(
                "task.shape does not match the table",
                expected=f"a shape of {features} values",
                got=str(list(self.shape)),
                remedy="set task.shape to [channels, height, width]",
            )
        channels = [self.width * 2**stage for stage in range(self.stages)]
        blocks: list[nn.Module] = []
        before = channels[0]
        for stage, after in enumerate(channels):
            blocks.append(_Residual(before, after, 1 if stage == 0 else 2))
            before = after
        network = nn.Sequential(
            nn.Unflatten(1, self.shape),
            nn.Conv2d(self.shape[0], channels[0], 3, 1, 1, bias=False),
            nn.GroupNorm(8, channels[0]),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(before, classes),
        )
        # Channels beside each other: convolutions are a quarter faster on one plane, a tenth on three (docs/log.md).
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types do not know it
        return network


_BUILTIN: dict[str, type] = {"mlp": Mlp, "cnn": Cnn, "linear": Linear}


def is_own(name: str) -> bool:
    """Return whether a task is one of this package."""
    return name in _BUILTIN


def make_task(name: str, options: Mapping[str, Any]) -> Task:
    """Build a task by built-in name or import path `package.module:Class`.

    Args:
        name: The name or path.
        options: Keyword arguments of its constructor.

    Returns:
        The task.

    Raises:
        ConfigError: Unknown name, no such module or class, a class without a source file, or wrong options.
    """
    factory = _BUILTIN.get(name) or _imported(name)
    try:
        task: Task = factory(**options)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"task {name!r} does not take these options", got=told(error)) from None
    except Exception as error:  # the user's own code
        raise ConfigError(f"task {name!r} can't be made with these options", got=told(error)) from error
    _refuse_unsourced(name, {base.__module__ for base in type(task).__mro__})
    for method in ("model", "loss"):
        if not callable(getattr(task, method, None)):
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
            f"unknown task {name!r}", expected=f"one of {sorted(_BUILTIN)} or an import path package.module:Class"
        )
    if module == "__main__":
        _refuse_unsourced(name, {module})
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a module in the current folder, as with `python -m`
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise ConfigError(f"task {name!r} can't be imported", got=told(error), remedy="check PYTHONPATH") from None
    if not isinstance(found, type):
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


# Modules of core/ that shape no exact weights: what is predicted, measured, searched and certified, and how checkpoints
# are named. A module that is not listed counts: one too few here costs checkpoints, one too many costs truth.
_SHAPELESS = frozenset({
    "access.py",
    "aggregate.py",
    "audit.py",
    "calibration.py",
    "canaries.py",
    "certificate.py",
    "curvature.py",
    "evidence.py",
    "findings.py",
    "lineage.py",
    "merkle.py",
    "needles.py",
    "shadow.py",
    "statements.py",
    "strategies/__init__.py",
    "strategies/adam.py",
    "strategies/dpus.py",
    "strategies/newton.py",
    "strategies/rewind.py",
    "task_check.py",
    "update_check.py",
})


def training_files() -> dict[str, Path]:
    """Return the files of this package whose code shapes exact weights, by name relative to the package."""
    package = Path(__file__).parent
    core = package / "core"
    found = [file for file in core.glob("**/*.py") if file.relative_to(core).as_posix() not in _SHAPELESS]
    return {file.relative_to(package).as_posix(): file for file in (package / "task.py", *sorted(found))}


def code_digest(task: Task, versions: Mapping[str, str] | None = None) -> str:
    """Hash the source of a task and of everything it imports; of installed packages, the versions.

    Part of every lineage key: weights made by other code are never reused. Built-in tasks hash this
    package's own training code.

    Args:
        task: An instance of the task.
        versions: Package → version to assume in place of the installed one; names as `installed_version` knows them.

    Returns:
        Hex digest over the sorted (module, source) pairs.
    """
    sources = {f"hybridmu/{name}": file.read_bytes() for name, file in training_files().items()}
    _collect(type(task).__module__, sources, versions or {})
    own = getattr(sys.modules.get(type(task).__module__), "__file__", None)
    if own:  # even where it is installed: an edited file keeps its package's version
        sources["task"] = Path(own).read_bytes()
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(sources):
        digest.update(f"{name}\0".encode() + sources[name] + b"\0")
    return digest.hexdigest()


def normal_name(package: str) -> str:
    """Return a package's name as registries compare it: `Scikit_Learn` is `scikit-learn`."""
    return re.sub(r"[-_.]+", "-", package).lower()


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None when there is no such package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(module: str) -> list[str]:
    """Return the packages that an importable name comes from: `sklearn` is from scikit-learn."""
    if installed_version(module) is not None:
        return [module]
    return sorted(set(importlib.metadata.packages_distributions().get(module, [])))


def _collect(module: str, found: dict[str, bytes], versions: Mapping[str, str]) -> None:
    """Add a module's source and, through its import statements, all it reaches; of installed packages, the version."""
    if module.split(".")[0] == "hybridmu" or module in found:
        return
    if parent := module.rpartition(".")[0]:
        _collect(parent, found, versions)  # importing a module runs the packages around it
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        spec = importlib.util.find_spec(module) if module != "__main__" else None
        file = spec.origin if spec else None
    if file and installed(Path(file)):  # by its file, not its name: a package of ours may be called `test`
        for package in _packages(module.split(".")[0]):
            name = normal_name(package)
            found[f"{name}=={versions.get(name) or installed_version(package)}"] = b""
        return
    if not file or not file.endswith(".py"):
        return
    found[module] = source = Path(file).read_bytes()
    package = module if Path(file).name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(source)  # bytes: a file says its own encoding (PEP 263)
    except (SyntaxError, ValueError):  # something that is never imported, for another Python
        return
    for node in ast.walk(tree):
        for name in _named(node, package):
            try:
                _collect(name, found, versions)
            except Exception:  # finding it may run the user's packages; what fails there is not reached
                continue


def _named(node: ast.AST, package: str) -> list[str]:
    """Return the modules, and what may be modules, that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        try:
            base = importlib.util.resolve_name("." * node.level + base, package or None)
        except ImportError:  # it points outside of every package: such a line never ran
            return []
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]
