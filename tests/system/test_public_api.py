from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hybridmu

ROOT = Path(__file__).parents[2]
SCRIPTS = ("__main__", "migrations.env")  # run by Python and by Alembic, imported by nobody
MODULES = sorted(m.name for m in pkgutil.walk_packages(hybridmu.__path__, "hybridmu.") if not m.name.endswith(SCRIPTS))


def test_the_public_names():
    assert hybridmu.__all__ == sorted(hybridmu.__all__)
    assert 0 < len(hybridmu.__all__) <= 12
    for name in hybridmu.__all__:
        found = getattr(hybridmu, name)
        assert found.__name__ == name
        assert found.__module__.startswith("hybridmu.")
        assert found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'secret'"):
        _ = hybridmu.secret
    with pytest.raises(ImportError):
        from hybridmu import nothing  # noqa: F401


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, hybridmu; print([m for m in ('ray', 'torch', 'sqlalchemy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_doctests():
    attempted = 0
    for name in ["hybridmu", *MODULES]:
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted >= 10


def test_import_contracts():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " 0 broken" in done.stdout


def test_every_module_says_what_it_is():
    undocumented = [name for name in MODULES if not importlib.import_module(name).__doc__]
    assert undocumented == []
