"""Places of a task's code: in files that can be hashed, and that other processes can import."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
import zipfile
from itertools import count
from pathlib import Path

import pytest

from hybridmu.code_digest import code_digest
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError

_NAMES = count()
_NET = "from hybridmu.task import Mlp\nclass Net(Mlp):\n    pass\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(text, **files)` writes a module of a new name, and others beside it; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(text: str | bytes, **files: str | bytes) -> str:
        name = f"sourced_{next(_NAMES)}"
        for each, content in {name: text, **files}.items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / f"{each}.py").write_bytes(data)
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith(("sourced_", "beside")):
            del sys.modules[name]


def test_a_class_of_main_is_refused_whatever_main_is():
    with pytest.raises(ConfigError, match=r"no source file[\s\S]*expected: a class in a module file[\s\S]*network\.py"):
        make_task("__main__:Net", {})


def test_a_class_typed_into_standard_input_is_refused(tmp_path):
    code = f"{_NET}from hybridmu.core.tasks.task_making import make_task\ntry: make_task('__main__:Net', {{}})\n"
    code += "except Exception as error: print(error)"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "task '__main__:Net' has no source file" in done.stdout


def test_a_module_made_by_exec_is_refused(monkeypatch):
    made = types.ModuleType("sourced_by_exec")
    exec(_NET, made.__dict__)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    with pytest.raises(ConfigError, match=r"no source file[\s\S]*'sourced_by_exec'"):
        make_task("sourced_by_exec:Net", {})


def test_a_class_of_main_behind_the_name_of_a_module_is_refused(module):
    name = module(_NET)
    found = importlib.import_module(name)
    found.Net.__module__ = "__main__"
    with pytest.raises(ConfigError, match=r"no source file[\s\S]*'__main__'"):
        make_task(f"{name}:Net", {})


def test_a_module_in_an_archive_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "nets.zip", "w") as archive:
        archive.writestr("sourced_zipped.py", _NET)
    monkeypatch.syspath_prepend(str(tmp_path / "nets.zip"))
    with pytest.raises(ConfigError, match=r"no source file[\s\S]*nets\.zip"):
        make_task("sourced_zipped:Net", {})


@pytest.mark.parametrize(
    "text",
    [
        "from hybridmu.task import Mlp\nNet = lambda: Mlp()\n",
        "from functools import partial\nfrom hybridmu.task import Mlp\nNet = partial(Mlp, hidden=[3])\n",
        "from hybridmu.task import Mlp\nNet = Mlp()\n",
        "from hybridmu.task import Mlp\ndef Net():\n    return Mlp()\n",
    ],
)
def test_only_a_class_says_by_its_source_what_it_does(module, text):
    with pytest.raises(ConfigError, match=r"is no class[\s\S]*expected: a class at the top"):
        make_task(f"{module(text)}:Net", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Net(:\n", r"can't be imported\n  got: SyntaxError"),
        ("raise RuntimeError('no licence')\n", r"RuntimeError: no licence \(sourced_\d+\.py:1\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(sourced_\d+\.py:2\)"),
        (
            "class Own(BaseException): pass\nraise Own('odd')\n",
            r"can't be imported\n  got: Own: odd \(sourced_\d+\.py:2\)",
        ),
        ("class Net:\n    def __init__(self): raise SystemExit(3)\n", r"can't be made[\s\S]*SystemExit: 3 \(sourced_"),
        (
            "class Meta(type):\n    def __call__(self): raise SystemExit\nclass Net(metaclass=Meta): pass\n",
            r"can't be made with these options\n  got: SystemExit",
        ),
        (
            "class Net:\n    @property\n    def model(self): raise RuntimeError('no model')\n",
            r"fails when it is asked for its 'model'\n  got: RuntimeError: no model \(sourced_\d+\.py:3\)",
        ),
        (
            "class Net:\n    model = print\n    @property\n    def loss(self): raise SystemExit(2)\n",
            r"fails when it is asked for its 'loss'\n  got: SystemExit: 2",
        ),
        (
            "class Odd(BaseException):\n    def __str__(self): raise Odd\n"
            "class Net:\n    def __init__(self): raise Odd\n",
            r"got: Odd: its text can't be read: Odd",
        ),
        ("class Outer:\n    class Net: pass\n", "has no attribute 'Net'"),
        ("class Net:\n    pass\n", "no method 'model'"),
        ("class Net:\n    def __init__(self): self.x = {}['gain']\n", r"KeyError: 'gain' \(sourced_\d+\.py:2\)"),
    ],
)
def test_what_the_users_module_does_wrong_is_told_with_its_place(module, text, says):
    with pytest.raises(ConfigError, match=says):
        make_task(f"{module(text)}:Net", {})


@pytest.mark.parametrize(
    "text",
    [
        "# -*- coding: latin-1 -*-\n# caf\xe9\n".encode("latin-1") + _NET.encode(),
        b"\xef\xbb\xbf# caf\xc3\xa9\n" + _NET.encode(),
        f"# café\n{_NET}".encode(),
    ],
    ids=["latin-1", "bom", "utf-8"],
)
def test_a_file_says_its_own_encoding(module, text):
    name = module(text + b"from beside import X\n", beside="X = 1\n")
    before = code_digest(make_task(f"{name}:Net", {}))
    path = Path(sys.modules["beside"].__file__)
    path.write_text("X = 2\n")
    assert code_digest(make_task(f"{name}:Net", {})) != before, "imports of such a file are followed"


@pytest.mark.parametrize(
    "lines",
    [
        "try:\n    import beside_old\nexcept SyntaxError:\n    pass\n",
        "if False:\n    from ... import nothing\n",
        "if False:\n    from beside_broken import x\n",
    ],
)
def test_imports_that_never_ran_do_not_stop_the_hash(module, lines):
    name = module(_NET + lines, beside_old="print 'Python 2'\n", beside_broken="raise RuntimeError('x')\n")
    assert code_digest(make_task(f"{name}:Net", {}))


def test_a_package_called_like_a_standard_module_is_the_users_own(tmp_path, monkeypatch):
    folder = tmp_path / "test" / "nets_own"
    folder.mkdir(parents=True)
    (tmp_path / "test" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("from . import helper\n" + _NET)
    (folder / "helper.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "test"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        before = code_digest(make_task("test.nets_own:Net", {}))
        (folder / "helper.py").write_text("X = 2\n")
        assert code_digest(make_task("test.nets_own:Net", {})) != before
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "test"]:
            del sys.modules[name]
        importlib.invalidate_caches()


@pytest.mark.parametrize("how", ["namespace", "symlink", "relative"])
def test_other_ways_to_lay_out_files_are_followed(how, tmp_path, monkeypatch):
    top = f"sourced_{how}_{next(_NAMES)}"
    folder = tmp_path / "real" / top
    folder.mkdir(parents=True)
    if how != "namespace":
        (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text("from .helper import X\n" + _NET)
    (folder / "helper.py").write_text("X = 1\n")
    where = tmp_path / "real"
    if how == "symlink":
        where = tmp_path / "linked"
        where.mkdir()
        (where / top).symlink_to(folder, target_is_directory=True)
    monkeypatch.syspath_prepend(where)
    before = code_digest(make_task(f"{top}.nets:Net", {}))
    (folder / "helper.py").write_text("X = 2\n")
    assert code_digest(make_task(f"{top}.nets:Net", {})) != before
