"""Digest of the code that shapes exact weights: part of every lineage key, so that other code's weights are not reused.

Our own code counts by its syntax tree: what a comment, a docstring, the words of an error, a type of an argument or a
file's name say changes no weights, and costs no checkpoint. A user's code counts by its syntax tree too, docstrings and
words of errors included, since it may read them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from hybridmu.user_code import contained, installed

# Logical name → file under core/, or its parts in order. A file may be renamed, and cut between two definitions; its
# logical name stays, and with it every checkpoint.
KERNEL: dict[str, tuple[str, ...]] = {
    "batch gradients": ("kernel/gradients.py",),
    "cells": ("kernel/column_writers.py",),
    "columns": ("kernel/column_types.py",),
    "encoder": ("kernel/table_encoder.py",),
    "micro-batches": ("kernel/microbatches.py",),
    "networks": ("tasks/networks.py",),
    "partition": ("kernel/partition.py",),
    "retraining": ("kernel/retraining.py",),
    "rows": ("kernel/rows.py", "kernel/revoked_keys.py"),
    "sub-model": ("kernel/model.py",),
    "task": ("tasks/base.py",),
    "training": ("kernel/training.py",),
}
# The same, of files that shape the weights of those systems alone whose task derives from a class of the first one.
OF_NUMBERS: dict[str, str] = {"regression": "tasks/regression_tasks.py", "target scale": "learners/target_scale.py"}
# The same, of tasks that learn several numbers, by the module of their first.
OF_SEVERAL: dict[str, str] = {
    "ridge of targets": "tasks/ridge_of_targets.py",
    "several targets": "closed_form/several_targets.py",
}
# The same, of tasks that augment rows; the network that does is among them.
OF_AUGMENTED: dict[str, str] = {
    "augmentation": "tasks/augmentation.py",
    "augmented rows": "learners/augmented_rows.py",
    "pictures": "tasks/pictures.py",
    "splitmix": "splitmix.py",
}
# The same, of the learner of integer sums, by its module.
OF_SUMS: dict[str, str] = {
    "additive": "learners/additive.py",
    "closed-form model": "closed_form/closed_form_model.py",
    "exact products": "closed_form/exact_products.py",
    "exact solver": "closed_form/exact_solver.py",
    "fixed point": "closed_form/fixed_point.py",
    "linear models": "closed_form/linear_models.py",
    "naive Bayes": "closed_form/naive_bayes.py",
    "penalty choice": "closed_form/penalty_choice.py",
    "projection": "closed_form/projection.py",
    "quantiser": "closed_form/quantiser.py",
    "ridge": "closed_form/ridge.py",
    "closed-form tasks": "tasks/closed_form_tasks.py",
    "discriminant": "closed_form/discriminant.py",
    "splitmix": "splitmix.py",
    "sums": "closed_form/sums.py",
}
# The same, of tasks that adapt a frozen transformer, and the packages whose code runs in them.
OF_ADAPTERS: dict[str, str] = {
    "adapter model": "adapters/adapter_model.py",
    "adapter task": "tasks/adapter_task.py",
    "backbone files": "adapters/backbone_files.py",
    "frozen backbone": "adapters/frozen_backbone.py",
    "token codes": "adapters/token_codes.py",
}
_PACKAGES_OF_ADAPTERS = ("peft", "transformers")
_PICTURES = ("ResNet", "pictures")  # by these names `OF_AUGMENTED` is imported
_CORE = Path(__file__).parent / "core"
# Fields of syntax trees that say nothing about what is computed.
_SILENT = {"ctx", "kind", "type_comment", "type_ignores"}


def code_digest(task: object, versions: Mapping[str, str] | None = None) -> str:
    """Return the hash of the code of a task, of all that it imports, and of the kernel.

    Args:
        task: An instance of the task. Built-in tasks are part of the kernel, of the groups beside it.
        versions: Package → version to assume in place of the installed one; names as `installed_version` knows them.

    Returns:
        32 hex digits over the sorted pairs of name and canonical source; of installed packages, the versions.
    """
    sources = kernel_sources()
    bases = {base.__module__ for base in type(task).__mro__}
    if _module_of(OF_NUMBERS["regression"]) in bases:
        sources |= _sources_of("numbers", OF_NUMBERS)
    if _module_of(OF_SEVERAL["ridge of targets"]) in bases:
        sources |= _sources_of("several", OF_SEVERAL)
    if _module_of(OF_AUGMENTED["augmentation"]) in bases:
        sources |= _sources_of("augmented", OF_AUGMENTED)
    if _module_of(OF_SUMS["additive"]) in bases:
        sources |= _sources_of("sums", OF_SUMS)
    if _module_of(OF_ADAPTERS["adapter task"]) in bases:
        sources |= _sources_of("adapters", OF_ADAPTERS)
        sources |= {_versioned(package, versions or {}): b"" for package in _PACKAGES_OF_ADAPTERS}
    module = type(task).__module__
    _collect(module, sources, versions or {})
    own = getattr(sys.modules.get(module), "__file__", None)
    if own and not _is_ours(module):  # even where it is installed: an edited file keeps its package's version
        sources["the task"] = _users(Path(own).read_bytes())
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(sources):
        digest.update(f"{name}\0".encode() + sources[name] + b"\0")
    return digest.hexdigest()


def kernel_sources() -> dict[str, bytes]:
    """Return logical name → canonical source of every file of this package that shapes exact weights."""
    names = _logical()
    return {
        f"kernel: {name}": _canonical_once(names, *((_CORE / file).read_bytes() for file in files))
        for name, files in KERNEL.items()
    }


def _sources_of(kind: str, files: Mapping[str, str]) -> dict[str, bytes]:
    """Return the same of files that shape the weights of some systems alone."""
    names = _logical()
    return {f"{kind}: {name}": _canonical_once(names, (_CORE / file).read_bytes()) for name, file in files.items()}


def _logical() -> tuple[tuple[str, str], ...]:
    """Return (module, logical name) of every file of the kernel."""
    return tuple((_module_of(file), name) for name, files in KERNEL.items() for file in files)


def _module_of(file: str) -> str:
    return f"hybridmu.core.{file.removesuffix('.py').replace('/', '.')}"


def canonical(source: bytes, logical: Mapping[str, str], *rest: bytes) -> bytes:
    """Return the text of a module's syntax tree, without prose and without the places of what it imports.

    Args:
        source: A module of this package.
        logical: Module of the kernel → its logical name.
        rest: The module's further parts, where it was cut.

    Returns:
        The same bytes for sources that differ in comments, layout, docstrings, words of errors, types of arguments, or
        in the paths of modules whose logical names are the same, or in where a module is cut between two definitions.

    Example:
        >>> canonical(b"x = 1  # one", {}) == canonical(b'"A number."\\nx = (1)', {}) != canonical(b"x = 2", {})
        True
    """
    parts = [ast.parse(part) for part in (source, *rest)]
    for part in parts:
        _drop_prose(part)
    nodes = [node for part in parts for node in part.body]
    found = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    tree = ast.Module([node for node in nodes if node not in found], [])
    imports = sorted({line for node in found for line in _imported(node, logical)})
    return "\n".join([*imports, "".join(_written(tree))]).encode()


@lru_cache(maxsize=2 * len(KERNEL))  # by content: a file that was edited meanwhile is parsed again
def _canonical_once(names: tuple[tuple[str, str], ...], source: bytes, *rest: bytes) -> bytes:
    return canonical(source, dict(names), *rest)


def normal_name(package: str) -> str:
    """Return a package's name as registries compare it: `Scikit_Learn` is `scikit-learn`."""
    return re.sub(r"[-_.]+", "-", package).lower()


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None when there is no such package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _drop_prose(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            del node.body[0]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func  # which error it is may be caught; its words are for people


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imported(node: ast.Import | ast.ImportFrom, logical: Mapping[str, str]) -> Iterator[str]:
    """Yield one line per imported name; our own modules outside of the kernel may be anywhere."""
    place = getattr(node, "module", None) or ""
    place = logical.get(place, "hybridmu" if _is_ours(place) else place)
    for alias in node.names:
        yield f"{place}: {alias.name} as {alias.asname or alias.name}"


def _written(node: object) -> Iterator[str]:
    """Yield the parts of a tree's text; the same in every version of Python that has the same syntax."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name not in _SILENT and value is not None and value != []:
                yield f" {name}="
                yield from _written(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _written(item)
            yield ","
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r}"


@lru_cache(maxsize=256)
def _users(source: bytes) -> bytes:
    """Return the text of the syntax tree of a user's module; its bytes, where it is none."""
    try:
        tree = ast.parse(source)  # bytes: a file says its own encoding (PEP 263)
    except (SyntaxError, ValueError):
        return source
    return "".join(_written(tree)).encode()


def _versioned(package: str, versions: Mapping[str, str]) -> str:
    name = normal_name(package)
    return f"{name}=={versions.get(name) or installed_version(package)}"


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "hybridmu"


def _packages(module: str) -> list[str]:
    """Return the packages that an importable name comes from: `sklearn` is from scikit-learn."""
    if installed_version(module) is not None:
        return [module]
    if module not in _distributions(tuple(sys.path)):  # installed since, by a notebook for one
        _distributions.cache_clear()
    return sorted(set(_distributions(tuple(sys.path)).get(module, [])))


@lru_cache(maxsize=4)
def _distributions(_: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return importable name → packages: reading what every installed package holds takes a fifth of a second."""
    return importlib.metadata.packages_distributions()


def _collect(module: str, found: dict[str, bytes], versions: Mapping[str, str]) -> None:
    """Add a module's source and, through its import statements, all it reaches; of installed packages, the version."""
    if module.rpartition(".")[2] in _PICTURES and _is_ours(module):  # a user's network may be made of it
        found.update(_sources_of("augmented", OF_AUGMENTED))
    if _is_ours(module) or module in found:
        return
    if parent := module.rpartition(".")[0]:
        _collect(parent, found, versions)  # importing a module runs the packages around it
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        spec = importlib.util.find_spec(module) if module != "__main__" else None
        file = spec.origin if spec else None
    if file and installed(Path(file)):  # by its file, not its name: a package of ours may be called `test`
        for package in _packages(module.split(".")[0]):
            found[_versioned(package, versions)] = b""
        return
    if not file or not file.endswith(".py"):
        return
    source = Path(file).read_bytes()
    found[module] = _users(source)
    package = module if Path(file).name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(source)  # bytes: a file says its own encoding (PEP 263)
    except (SyntaxError, ValueError):  # something that is never imported, for another Python
        return
    ours = _bound_to_ours(tree)
    for node in ast.walk(tree):
        for name in _named(node, package, ours):
            try:
                with contained():
                    _collect(name, found, versions)
            except Exception:  # finding it may run the user's packages; what fails there is not reached
                continue


def _bound_to_ours(tree: ast.Module) -> set[str]:
    """Return the names in a module that stand for modules or classes of this package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.asname or each.name.split(".")[0] for each in node.names if _is_ours(each.name)}
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            found |= {each.asname or each.name for each in node.names}
    return found


def _root(node: ast.expr) -> str:
    """Return the name at the left end of a dotted expression; empty where there is none."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _named(node: ast.AST, package: str, ours: Collection[str]) -> list[str]:
    """Return the modules, and what may be modules, that an import statement or an attribute names."""
    if isinstance(node, ast.Attribute) and node.attr in _PICTURES and _root(node) in ours:
        return [f"hybridmu.task.{node.attr}"]
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
