"""Changes of our own code: those that shape weights cost checkpoints, those of prose and places cost none."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import hybridmu
from hybridmu import code_digest as digests
from hybridmu.code_digest import KERNEL, canonical, code_digest, kernel_sources
from hybridmu.core import learners
from hybridmu.core.tasks.task_making import make_task

CORE = Path(hybridmu.__file__).parent / "core"
FILES = [file for files in KERNEL.values() for file in files]


@pytest.fixture
def core(tmp_path, monkeypatch) -> Path:
    """A copy of the core that may be edited."""
    shutil.copytree(CORE, tmp_path / "core", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digests, "_CORE", tmp_path / "core")
    return tmp_path / "core"


def edited(core: Path, file: str, old: str, new: str) -> None:
    text = (core / file).read_text()
    assert old in text
    (core / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("kernel/training.py", "# Rows gathered at once", "# Another comment"),
        ("kernel/training.py", '"""Train one slice in place.', '"""Something else.'),
        ("kernel/training.py", "    epochs: tuple[int, ...]", "    epochs:  tuple[int, ...]"),
        ("kernel/training.py", "lower optimizer.lr", "raise nothing"),
        ("kernel/training.py", "across: Across | None = None,\n) -> int:", "across: object = None,\n) -> object:"),
        ("kernel/rows.py", '"""', '"""Another beginning. '),
        ("tasks/networks.py", '"task.shape does not match the table"', '"the shape is wrong"'),
        ("proof/certificate.py", "True", "False"),
        ("strategies/dpus.py", "1", "2"),
    ],
)
def test_prose_and_what_shapes_no_weights_cost_nothing(core, file, old, new):
    before = code_digest(make_task("linear", {}))
    edited(core, file, old, new)
    assert code_digest(make_task("linear", {})) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("kernel/training.py", "recipe.lr * (1 - done / total)", "recipe.lr * (1 + done / total)"),
        ("kernel/training.py", "alpha=-rate", "alpha=rate"),
        ("kernel/training.py", "momentum: float = 0.0", "momentum: float = 0.1"),
        ("kernel/training.py", "_GATHER_ROWS = 4096", "_GATHER_ROWS = 4097"),
        ("kernel/retraining.py", "range(start + 1, slices + 1)", "range(start, slices + 1)"),
        ("kernel/rows.py", "from hybridmu.core.kernel.", "from hybridmu.core.other."),
        ("kernel/revoked_keys.py", '(("id", ids), ("group", groups))', '(("id", ids),)'),
        ("kernel/gradients.py", "import CrossEntropyTask, Task", "import Task"),
        ("tasks/networks.py", "nn.GroupNorm(8", "nn.GroupNorm(4"),
    ],
)
def test_arithmetic_costs_checkpoints(core, file, old, new):
    before = code_digest(make_task("linear", {}))
    edited(core, file, old, new)
    assert code_digest(make_task("linear", {})) != before


@pytest.mark.parametrize("file", digests.OF_AUGMENTED.values())
def test_what_augments_is_in_the_keys_of_systems_that_augment_alone(core, file):
    numbers = make_task("resnet", {}, targets=("y",))
    tasks = [make_task("resnet", {}), numbers, make_task("cnn", {}), make_task("mlp", {}, targets=("y",))]
    before = [code_digest(task) for task in tasks]
    (core / file).write_text((core / file).read_text() + "\nMORE = 1\n")
    after = [code_digest(task) for task in tasks]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize("file", digests.OF_SUMS.values())
def test_what_counts_is_in_the_keys_of_the_learner_that_counts_alone(core, file):
    kinds = [learners.get("additive"), learners.get(), make_task("mlp", {})]
    before = [code_digest(kind) for kind in kinds]
    (core / file).write_text((core / file).read_text() + "\nMORE = 1\n")
    after = [code_digest(kind) for kind in kinds]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True]


def test_every_file_that_counts_is_in_them():
    files = {file.relative_to(CORE).as_posix() for file in (CORE / "closed_form").glob("*.py")}
    assert files - {"closed_form/__init__.py"} <= {*digests.OF_SUMS.values(), *digests.OF_SEVERAL.values()}


@pytest.mark.parametrize(
    ("source", "made_of_it"),
    [
        ("from hybridmu.task import CrossEntropyTask, ResNet", True),
        ("from hybridmu.task import CrossEntropyTask\nimport hybridmu.task as tasks\nN = tasks.ResNet", True),
        ("from hybridmu.core.tasks import pictures\nfrom hybridmu.task import CrossEntropyTask", True),
        ("from hybridmu.core.tasks.pictures import ResNet as N\nfrom hybridmu.task import CrossEntropyTask", True),
        ("import hybridmu\nfrom hybridmu.task import CrossEntropyTask\nN = hybridmu.task.ResNet", True),
        ("from hybridmu.task import CrossEntropyTask\nclass ResNet: pass", False),
        ("import os\nfrom hybridmu.task import CrossEntropyTask\ndef f(b): return b.pictures, os.ResNet", False),
    ],
)
def test_a_network_that_a_user_makes_of_ours_is_in_the_keys(core, tmp_path, monkeypatch, source, made_of_it):
    name = f"nets_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(
        f"{source}\n\n\nclass Net(CrossEntropyTask):\n    def model(self, features, classes):\n        return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = make_task(f"{name}:Net", {})
    before = code_digest(task)
    edited(core, "tasks/pictures.py", "_SMALLEST = 16", "_SMALLEST = 15")
    assert (code_digest(task) != before) == made_of_it


def test_a_renamed_file_costs_nothing(core, monkeypatch):
    before = code_digest(make_task("mlp", {}))
    (core / "kernel/rows.py").rename(core / "kernel/a_better_name.py")
    for file in FILES:
        path = core / file.replace("rows.py", "a_better_name.py")
        lines = path.read_text().replace("hybridmu.core.kernel.rows", "hybridmu.core.kernel.a_better_name").split("\n")
        if moved := [line for line in lines if line.startswith("from hybridmu.core.kernel.a_better_name")]:
            lines.remove(moved[0])  # imports are sorted, so that a new name gets another place among them
            first = next(n for n, line in enumerate(lines) if line.startswith(("import ", "from ")))
            lines.insert(first + 1, moved[0])
        path.write_text("\n".join(lines))
    monkeypatch.setitem(digests.KERNEL, "rows", ("kernel/a_better_name.py", "kernel/revoked_keys.py"))
    assert code_digest(make_task("mlp", {})) == before


def test_a_file_that_is_cut_in_two_costs_nothing(core, monkeypatch):
    before = code_digest(make_task("mlp", {}))
    first, second = (core / file for file in KERNEL["rows"])
    first.write_text(first.read_text() + second.read_text().partition('"""\n\n')[2])
    monkeypatch.setitem(digests.KERNEL, "rows", KERNEL["rows"][:1])
    assert code_digest(make_task("mlp", {})) == before


def test_a_module_that_is_not_of_the_kernel_may_move(core):
    before = code_digest(make_task("mlp", {}))
    edited(core, "kernel/training.py", "from hybridmu.errors import", "from hybridmu.core.mistakes import")
    assert code_digest(make_task("mlp", {})) == before


def test_every_file_of_the_kernel_counts_once_and_reaches_no_other():
    files = {file.relative_to(CORE).as_posix() for file in (CORE / "kernel").glob("**/*.py")}
    assert files - {"kernel/__init__.py"} <= set(FILES)
    assert len(set(FILES)) == len(FILES)
    assert kernel_sources().keys() == {f"kernel: {name}" for name in KERNEL}
    covered = {f"hybridmu.core.{file.removesuffix('.py').replace('/', '.')}" for file in FILES}
    for file in FILES:
        for node in ast.walk(ast.parse((CORE / file).read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("hybridmu") for alias in node.names), file
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hybridmu.core"):
                assert node.module in covered, f"{file} reaches code that is not covered: {node.module}"


def test_packages_of_the_kernel_do_nothing_when_imported():
    for package in ("kernel", "tasks"):
        assert len(ast.parse((CORE / package / "__init__.py").read_text()).body) == 1, "a docstring"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import b\nimport a", "import a\nimport b"),
        ("from x import a, b", "from x import b\nfrom x import a"),
        ("def f(a: int) -> str:\n    'Doc.'\n    return a", "def f(a):\n    return (a)  # same"),
        ("raise ValueError('a')", "raise ValueError(f'{b}', c=1)"),
        ("class A:\n    'Doc.'\n    x: int = 1", "class A:\n    x: int = 1"),
    ],
)
def test_sources_that_do_the_same(one, other):
    assert canonical(one.encode(), {}) == canonical(other.encode(), {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = a + b", "x = a - b"),
        ("x = 'a'", "x = b'a'"),
        ("def f(a, b=1): pass", "def f(a, *, b=1): pass"),
        ("def f(a, b): pass", "def f(b, a): pass"),
        ("from x import a", "from y import a"),
        ("from x import a", "from x import a as b"),
        ("raise ValueError('a')", "raise TypeError('a')"),
        ("class A:\n    x: int = 1", "class A:\n    x = 1"),
        ("x = [[1], 2]", "x = [[1, 2]]"),
        ("f(1)(2)", "f(1, 2)"),
        ("x = -1", "x = +1"),
        ("if a:\n    f()\ng()", "if a:\n    f()\n    g()"),
        ("x = f'{a}b'", "x = f'{a!r}b'"),
    ],
)
def test_sources_that_do_something_else(one, other):
    assert canonical(one.encode(), {}) != canonical(other.encode(), {})


def test_the_kernel_is_parsed_once_per_process(monkeypatch):
    kernel_sources()
    monkeypatch.setattr(digests, "canonical", lambda *_: pytest.fail("parsed again"))
    assert kernel_sources() == kernel_sources()


def test_what_is_installed_is_read_once_unless_something_new_is_asked_for(monkeypatch):
    asked = []
    known = {"numpy": ["numpy"], "sklearn": ["scikit-learn"]}
    digests._distributions.cache_clear()
    monkeypatch.setattr(digests.importlib.metadata, "packages_distributions", lambda: asked.append(1) or dict(known))
    try:
        assert [digests._packages("sklearn") for _ in range(3)] == [["scikit-learn"]] * 3
        assert len(asked) == 1
        known["later"] = ["later-package"]
        assert digests._packages("later") == ["later-package"]
        assert len(asked) == 2
        assert digests._packages("nowhere") == []
    finally:
        digests._distributions.cache_clear()
