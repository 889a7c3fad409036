"""The page of public interfaces names all of them, and pages and examples use no other."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from sklearn.base import BaseEstimator

import hybridmu
import hybridmu.estimator
import hybridmu.plugins
import hybridmu.task
from hybridmu.cli.main import app
from hybridmu.server.app import make_app
from tests.support import local_system, make_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "public-api.md").read_text()
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _section(title: str) -> set[str]:
    """Return all that a section has between single backquotes."""
    return set(re.findall(r"`([^`\n]+)`", PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]))


def test_every_public_name_is_on_the_page() -> None:
    modules = {"hybridmu.estimator", "hybridmu.task", "hybridmu.plugins"}
    assert {*hybridmu.__all__, "hybridmu.__version__", *modules} <= _section("Python")
    assert {*hybridmu.task.__all__, *hybridmu.plugins.__all__, *hybridmu.estimator.__all__} <= _section("Python")


@pytest.mark.parametrize("kind", [hybridmu.estimator.HybridClassifier, hybridmu.estimator.HybridRegressor])
def test_what_estimators_add_to_scikit_learns_is_on_the_page(kind: type) -> None:
    ours = {name for name in dir(kind) if not name.startswith("_")} - {*dir(BaseEstimator)}
    assert {"forget", "certificate", "system_"} <= ours
    assert ours - _section("Python") - {"set_fit_request", "set_score_request"} == set()


def test_every_verb_of_a_system_is_on_the_page() -> None:
    verbs = {name for name, _ in inspect.getmembers(hybridmu.System, inspect.isfunction) if not name.startswith("_")}
    assert verbs - _section("Python") == set()


def test_every_verb_of_the_command_line_is_on_the_page() -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = {name for name in _section("Command line") if name.isalpha()}
    assert verbs == named


def test_every_section_of_the_configuration_is_on_the_page() -> None:
    named = {name for name in _section("Configuration") if re.fullmatch(r"[a-z_]+", name)}
    assert named == set(hybridmu.Settings.model_fields)


def test_every_path_of_the_http_interface_is_on_its_page(tmp_path: Path) -> None:
    make_table(tmp_path / "train.parquet", 60)
    with local_system(tmp_path, sisa={"shards": 1, "slices": 1, "epochs": 1}) as system:
        system.train()
        paths = {path.replace("{request_id}", "{id}") for path in make_app(system.settings).openapi()["paths"]}
    page = (ROOT / "docs" / "api.md").read_text()
    assert len(paths) >= 7
    assert [path for path in paths if not re.search(rf"`[A-Z]+ {re.escape(path)}[`?]", page)] == []


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_pages_use_public_names_only(path: Path) -> None:
    text = path.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"<<'PY'\n(.*?)^PY$", text, re.DOTALL | re.MULTILINE)
    for block in blocks:
        assert [name for name in _used(ast.parse(block)) if not _is_public(name)] == []


def test_what_is_public_is_told_from_what_is_not() -> None:
    code = "import hybridmu\nfrom hybridmu.store import lake\nfrom hybridmu import Task\nhybridmu.secret()"
    assert [n for n in _used(ast.parse(code)) if not _is_public(n)] == ["hybridmu.store.lake", "hybridmu.secret"]


def test_examples_are_configurations_and_notebooks_alone() -> None:
    assert {path.suffix for path in (ROOT / "examples").iterdir() if path.is_file()} == {".yaml", ".ipynb"}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_use_public_names_only(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert [name for name in _used(ast.parse(code)) if not _is_public(name)] == []


def _used(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of this package that a program uses."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "hybridmu":
                yield from (f"{module}.{each.name}" for each in node.names)
            case ast.Import():
                yield from (each.name for each in node.names if each.name.startswith("hybridmu."))
            case ast.Attribute(value=ast.Name(id="hybridmu")):
                yield f"hybridmu.{node.attr}"


def _is_public(name: str) -> bool:
    module, _, last = name.rpartition(".")
    public = {
        "hybridmu": {*hybridmu.__all__, "estimator", "task", "plugins", "__version__"},
        "hybridmu.estimator": {*hybridmu.estimator.__all__},
        "hybridmu.task": {*hybridmu.task.__all__},
        "hybridmu.plugins": {*hybridmu.plugins.__all__},
    }
    return last in public.get(module, set())
