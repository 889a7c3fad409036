"""The upload of `ray job submit --working-dir .`: the code, and never keys, data or results."""

from __future__ import annotations

import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest

PROJECT = Path(__file__).parents[2]
SECRETS = ["runs/demo/report.html", "data/train.parquet", "partition.key", "deep/in/other.key", ".venv/bin/python"]
SECRETS += ["ledger.sqlite3", "ledger.sqlite3-wal", ".git/config", "tests/test_x.py"]
CODE = ["hybridmu/cli/main.py", "hybridmu/store/dataset/lake.py", "jobs/train.py", "serve/app.py", "serve/config.yaml"]
CODE += ["examples/digits.yaml", "pyproject.toml", "README.md"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in [*SECRETS, *CODE]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    shutil.copy(PROJECT / ".rayignore", tmp_path)
    return tmp_path


def uploaded(project: Path) -> set[str]:
    """Return the files that Ray packs, by its own function."""
    from ray._private.runtime_env.packaging import _zip_files  # late: no other test here needs Ray

    target = project.parent / f"{project.name}.zip"
    _zip_files(str(project), [], str(target), include_gitignore=True)
    with ZipFile(target) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_code_goes_up_and_secrets_stay(project: Path) -> None:
    assert uploaded(project) == {*CODE, ".rayignore"}


def test_without_the_file_everything_would_go_up(project: Path) -> None:
    (project / ".rayignore").unlink()
    assert uploaded(project) >= {*SECRETS, *CODE} - {".git/config"}
