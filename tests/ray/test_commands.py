"""The documented commands against `ray start --head`: jobs, `serve run`, `serve deploy`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ray import support
from tests.ray.support import Head

DIGITS = "examples/digits.yaml"


def submit(head: Head, *command: str, check: bool = True, **env: str) -> tuple[int, str]:
    """Submit a job as the documentation says and return (exit code, its log)."""
    runtime_env = json.dumps({"env_vars": env})
    done = head.run(
        *("ray", "job", "submit", "--address", head.url, "--working-dir", "."),
        *("--runtime-env-json", runtime_env, "--", "python", *command),
        check=check,
    )
    return done.returncode, done.stdout + done.stderr


def document(log: str) -> dict[str, Any]:
    """Return the JSON document that a job printed."""
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert len(lines) == 1, log
    found: dict[str, Any] = json.loads(lines[0])
    return found


@pytest.fixture(scope="module")
def storage(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Storage that a submitted job trained on the digits, and what that job printed."""
    folder = tmp_path_factory.mktemp("digits")
    _, log = submit(head, "jobs/train.py", "-c", DIGITS, "--json", HYBRIDMU_STORAGE_URL=str(folder))
    yield folder, document(log)


def test_jobs_train_forget_audit_and_run(
    head: Head, storage: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, trained = storage
    env = {"HYBRIDMU_STORAGE_URL": str(folder)}
    assert trained["version"] == 1
    assert trained["voters"] == 4
    assert (folder / "ledger.sqlite3").exists()
    assert not (Path(head.env["HOME"]) / "hybridmu-runs").exists()

    ids = tmp_path / "ids.txt"
    ids.write_text("3\n17\n")
    _, log = submit(head, "jobs/forget.py", "-c", DIGITS, "--ids", str(ids), "--wait", "--json", **env)
    forgotten = document(log)
    assert forgotten["state"] == "SERVED"
    assert forgotten["keys"] == 2

    ids.write_text("40\n")
    _, log = submit(
        head, "jobs/forget.py", "-c", DIGITS, "--ids", str(ids), "--strategy", "retrain", "--json", **env
    )
    assert document(log)["state"] == "RECEIVED"
    _, log = submit(head, "jobs/run.py", "-c", DIGITS, "--until-idle", "--json", **env)
    assert document(log)["open_requests"] == 0

    _, log = submit(head, "jobs/audit.py", "-c", DIGITS, "--json", **env)
    audited = document(log)
    assert audited["exact_claims_hold"] is True
    assert audited["version"] == 3


def test_a_job_refuses_a_relative_storage_url(head: Head) -> None:
    code, log = submit(
        head, "jobs/train.py", "-c", DIGITS, "--json", check=False, HYBRIDMU_STORAGE_URL="runs/digits"
    )
    assert code != 0
    assert "'runs/digits' is relative" in log
    assert f"file://{head.env['HOME']}/runs/digits" in log


def test_ids_never_stand_on_a_jobs_command_line(head: Head) -> None:
    for arguments in (["--id", "3"], ["--id=3"], ["--group", "p1"]):
        refused = head.run("python", "jobs/forget.py", "-c", DIGITS, *arguments, check=False)
        assert refused.returncode == 1
        assert "--ids FILE" in refused.stderr


def answer(port: int) -> dict[str, Any]:
    """Return the answer to one picture, as soon as there is one."""
    row = {"pixels": [0.0] * 64}

    def ask() -> dict[str, Any] | None:
        try:
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/predict", json={"rows": [row]}, timeout=10)
        except httpx.HTTPError:
            return None
        return reply.json() if reply.status_code == 200 else None

    found: dict[str, Any] = support.until(ask, 90, step=0.3)
    return found


def test_serve_deploy_answers_predictions(head: Head, storage: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    config = yaml.safe_load((support.PROJECT / DIGITS).read_text()) | {"storage_url": str(storage[0])}
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config))
    deployment = yaml.safe_load((support.PROJECT / "serve/config.yaml").read_text())
    deployment["http_options"]["port"] = head.http
    deployment["applications"][0]["args"]["config"] = str(tmp_path / "digits.yaml")
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(deployment))
    head.run("serve", "deploy", "--address", head.url, str(tmp_path / "serve.yaml"))
    found = answer(head.http)
    assert found["version"] >= 1
    assert len(found["predictions"][0]["probabilities"]) == 10
    head.run("serve", "shutdown", "--address", head.url, "-y")
