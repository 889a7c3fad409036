from __future__ import annotations

import importlib
import sys
from itertools import count

import pytest
import torch

from hybridmu.code_digest import code_digest
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError

_NAMES = count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A fresh importable package with a task that reaches helper modules in several ways."""
    name = f"user_code_{next(_NAMES)}"
    folder = tmp_path / name
    (folder / "deep").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "task.py": f"from . import helper\nimport {name}.absolute\nfrom .deep.inner import F\n"
        "from hybridmu.task import Mlp\nimport numpy\n\n\nclass Mine(Mlp):\n    pass\n\n\nclass Odd:\n"
        "    def __init__(self, n):\n        self.n = n\n",
        "helper.py": "from .second import G\n",
        "second.py": "G = 1\n",
        "absolute.py": "def f():\n    from .late import H\n    return H\n",
        "late.py": "H = 1\n",
        "deep/__init__.py": "",
        "deep/inner.py": "F = 1\n",
        "unrelated.py": "Z = 1\n",
    }
    for file, text in files.items():
        (folder / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("name", "options", "features", "parameters"),
    [
        ("linear", {}, 7, 7 * 3 + 3),
        ("mlp", {}, 7, 7 * 128 + 128 + 128 * 3 + 3),
        ("mlp", {"hidden": [5, 4]}, 7, (7 * 5 + 5) + (5 * 4 + 4) + (4 * 3 + 3)),
        ("mlp", {"hidden": []}, 7, 7 * 3 + 3),
        ("cnn", {"shape": [2, 6, 5], "width": 8, "stages": 2}, 60, None),
        ("cnn", {"shape": [1, 28, 28], "width": 8, "stages": 1}, 784, None),
    ],
)
def test_built_ins(name, options, features, parameters):
    torch.manual_seed(0)
    task = make_task(name, options)
    model = task.model(features, 3)
    logits = model(torch.randn(4, features))
    assert (logits.shape, logits.dtype) == ((4, 3), torch.float32)
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters
    y = torch.tensor([0, 1, 2, 0])
    expected = -(logits.log_softmax(dim=1)[range(4), y]).sum() / 4  # the mean, not the sum
    assert task.loss(logits, y).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "resnet"])
def test_rows_do_not_influence_each_other(name):
    picture = {"shape": [1, 16, 16], "width": 8}
    model = make_task(name, picture if name in {"cnn", "resnet"} else {}).model(256, 2).train()
    x = torch.randn(3, 256)
    torch.testing.assert_close(model(x)[1], model(x[1:2])[0], atol=1e-6, rtol=1e-5)


def test_cnn_refuses_another_shape():
    with pytest.raises(ConfigError, match="a shape of 100 values") as error:
        make_task("cnn", {"shape": [1, 9, 9]}).model(100, 2)
    assert "[1, 9, 9]" in str(error.value)


def test_import_path(package):
    task = make_task(f"{package.name}.task:Mine", {"hidden": [2]})
    assert type(task).__name__ == "Mine"
    assert task.model(3, 2)(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "resnet900",
            {},
            r"unknown task 'resnet900'[\s\S]*\['adapter', 'cnn', 'lda', 'linear', 'mlp', 'naive-bayes', 'resnet', 'ri",
        ),
        ("json", {}, "unknown task 'json'"),
        ("no_such_package.x:Task", {}, "No module named 'no_such_package'"),
        ("json:NoSuchClass", {}, "NoSuchClass"),
        (":Task", {}, "task ':Task' can't be imported"),
        ("mlp", {"hiden": [3]}, "hiden"),
        ("mlp", {"hidden": 3}, "task.hidden is wrong"),
    ],
)
def test_wrong_names_and_options(name, options, says):
    with pytest.raises(ConfigError, match=says):
        make_task(name, options)


def test_missing_option_of_a_user_task(package):
    with pytest.raises(ConfigError, match="missing 1 required positional argument: 'n'"):
        make_task(f"{package.name}.task:Odd", {})


@pytest.mark.parametrize(
    ("file", "matters"),
    [
        ("task.py", True),
        ("helper.py", True),
        ("second.py", True),
        ("absolute.py", True),
        ("late.py", True),
        ("deep/inner.py", True),
        ("deep/__init__.py", True),
        ("unrelated.py", False),
    ],
)
def test_code_digest_follows_imports(package, file, matters):
    task = make_task(f"{package.name}.task:Mine", {})
    before = code_digest(task)
    assert before == code_digest(task)
    path = package / file
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert (code_digest(task) != before) == matters


def test_the_version_of_an_installed_package_that_a_task_uses_counts(tmp_path, monkeypatch):
    (tmp_path / "versioned_task.py").write_text(
        "import safetensors\nfrom hybridmu.task import Mlp\n\nclass Mine(Mlp):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = make_task("versioned_task:Mine", {})
    before = code_digest(task)
    assert code_digest(task) == before
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert code_digest(task) != before
