"""The documented commands against `ray start --head`: jobs, `serve run`, `serve deploy`."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import hybridmu
from hybridmu.report.metric_names import DEADLINE, LEDGER
from jobs import forget, submit
from tests.ray import support
from tests.ray.support import Head
from tests.support import HANG_SECONDS

DIGITS = "examples/digits.yaml"


def document(log: str) -> dict[str, Any]:
    """Return the JSON document that a job printed."""
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert len(lines) == 1, log
    found: dict[str, Any] = json.loads(lines[0])
    return found


@dataclass
class Digits:
    """A system on the built-in digits, trained by a submitted job."""

    head: Head
    storage: Path
    trained: dict[str, Any]
    package: str

    def submit(self, entrypoint: str, storage: str = "") -> str:
        """Return the id of a new job with the files that the first one uploaded; what `ray job submit` calls."""
        env = {"HYBRIDMU_STORAGE_URL": storage or str(self.storage)}
        body = {"entrypoint": entrypoint, "runtime_env": {"working_dir": self.package, "env_vars": env}}
        return str(self.head.api("POST", "/api/jobs/", body)["submission_id"])

    def wait(self, job: str) -> tuple[str, str]:
        """Return a job's final state and its log."""
        final = {"SUCCEEDED", "FAILED", "STOPPED"}
        state = support.until(
            lambda: (now := self.head.api("GET", f"/api/jobs/{job}")["status"]) in final and now, step=0.2
        )
        return state, self.head.api("GET", f"/api/jobs/{job}/logs")["logs"]

    def config(self, folder: Path) -> Path:
        """Return a copy of the example that names this storage."""
        raw = yaml.safe_load((support.PROJECT / DIGITS).read_text()) | {"storage_url": str(self.storage)}
        (folder / "digits.yaml").write_text(yaml.safe_dump(raw))
        return folder / "digits.yaml"


@pytest.fixture(scope="module")
def digits(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """`ray job submit` as documented."""
    storage = tmp_path_factory.mktemp("digits")
    done = head.run(
        *("ray", "job", "submit", "--address", head.url, "--submission-id", "train", "--working-dir", "."),
        *("--runtime-env-json", json.dumps({"env_vars": {"HYBRIDMU_STORAGE_URL": str(storage)}})),
        *("--", "python", "jobs/train.py", "-c", DIGITS, "--json"),
    )
    package = head.api("GET", "/api/jobs/train")["runtime_env"]["working_dir"]
    return Digits(head, storage, document(done.stdout), package)


@pytest.mark.slow
def test_jobs_train_forget_run_verify_and_audit(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.trained["version"] == 1
    assert digits.trained["voters"] == 4
    assert (digits.storage / "ledger.sqlite3").exists()
    assert not (Path(digits.head.env["HOME"]) / "hybridmu-runs").exists()

    ids = tmp_path / "ids.txt"
    ids.write_text("3\n17\n")
    state, log = digits.wait(digits.submit(f"python jobs/forget.py -c {DIGITS} --ids {ids} --wait --json"))
    assert state == "SUCCEEDED", log
    forgotten = document(log)
    assert forgotten["state"] == "SERVED"
    assert forgotten["keys"] == 2

    # A request that nobody follows yet; `run` finds it in the ledger.
    monkeypatch.setenv("HYBRIDMU_DATA", f"{digits.head.env['HOME']}/.cache/hybridmu")
    with hybridmu.connect(digits.config(tmp_path), executor="local") as system:
        left = system.forget(ids=[40], strategy="retrain")
        assert left["state"] == "RECEIVED"
        state, log = digits.wait(digits.submit(f"python jobs/run.py -c {DIGITS} --until-idle --json"))
        assert state == "SUCCEEDED", log
        assert document(log)["open_requests"] == 0
        assert system.report(left["request_id"])["state"] == "PURGED"

    relative = digits.submit(f"python jobs/train.py -c {DIGITS} --json", storage="runs/digits")
    state, log = digits.wait(digits.submit(f"python jobs/verify.py -c {DIGITS} --json"))
    assert state == "SUCCEEDED", log
    assert document(log)["exact_claims_hold"] is True
    assert document(log)["version"] == 3

    page = tmp_path / "audit.html"
    quick = f"--models 8 --shards 1 --share 0.1 --output {page} --json"
    state, log = digits.wait(digits.submit(f"python jobs/audit.py -c {DIGITS} {quick}"))
    assert state == "SUCCEEDED", log
    assert document(log)["telling"] is True
    assert "<svg" in page.read_text()

    # The working directory of a job is a copy that goes away; results there would be lost.
    state, log = digits.wait(relative)
    assert state == "FAILED"
    assert "'runs/digits' is relative" in log
    assert f"file://{digits.head.env['HOME']}/runs/digits" in log


@pytest.mark.parametrize("arguments", [["--id", "3"], ["--id=3"], ["--group", "p1"], ["--group=p1"]])
def test_ids_never_stand_on_a_jobs_command_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/forget.py", "-c", DIGITS, *arguments])
    with pytest.raises(SystemExit) as refused:
        forget.main()
    assert "--ids FILE" in str(refused.value.code), "a text is printed, and the exit code is 1"


def answered(port: int, route: str = "") -> dict[str, Any]:
    """Return the answer to one picture, as soon as there is one."""

    def ask() -> dict[str, Any] | None:
        try:
            reply = httpx.post(
                f"http://127.0.0.1:{port}{route}/v1/predict", json={"rows": [{"pixels": [0.0] * 64}]}, timeout=10
            )
        except httpx.HTTPError:
            return None
        return reply.json() if reply.status_code == 200 else None

    found: dict[str, Any] = support.until(ask, step=0.2)
    assert len(found["predictions"][0]["probabilities"]) == 10
    return found


@pytest.mark.slow
def test_serve_deploy_and_serve_run_answer_predictions(digits: Digits, tmp_path: Path) -> None:
    head, config = digits.head, str(digits.config(tmp_path))
    deployment = yaml.safe_load((support.PROJECT / "serve/config.yaml").read_text())
    deployment["http_options"]["port"] = head.http
    deployment["applications"][0]["args"]["config"] = config
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(deployment))
    head.run("serve", "deploy", "--address", head.url, str(tmp_path / "serve.yaml"))
    version = answered(head.http)["version"]
    assert version >= 1

    # `serve run` joins the running Serve; another name and route tell which application answers.
    run = ["serve", "run", "--address", f"127.0.0.1:{head.gcs}"]
    running = head.start(*run, "--name", "run", "--route-prefix", "/run", "serve.app:build", f"config={config}")
    try:
        assert answered(head.http, "/run")["version"] == version
        silent = ["--non-blocking", "--name", "silent", "--route-prefix", "/silent", "serve.app:build"]
        head.run(*run, *silent, HYBRIDMU_CONFIG=config)
        assert answered(head.http, "/silent")["version"] == version
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(HANG_SECONDS)


def job_of(said: str) -> str:
    """Return the submission id that `jobs/submit.py` told."""
    return next(line.split()[0] for line in said.splitlines() if line.endswith(" is submitted"))


@pytest.mark.slow
def test_submitting_twice_runs_once_and_a_stopped_job_goes_on_under_a_new_name(digits: Digits, tmp_path: Path) -> None:
    config, ids = str(digits.config(tmp_path)), tmp_path / "ids.txt"
    ids.write_text("55\n")
    script = ("python", "jobs/submit.py")
    where = ("--address", digits.head.url)
    forgetting = (*script, "forget", "-c", config, *where, "--deadline", "100", "--ids", str(ids), "--json")
    first, second = digits.head.run(*forgetting), digits.head.run(*forgetting)
    name = job_of(first.stderr)
    assert f"{name} was submitted before" in second.stderr
    assert document(first.stdout)["keys"] == 1
    assert document(second.stdout) == document(first.stdout), "the same job's log"

    # The daemon never ends by itself.
    daemon = (*script, "run", "-c", config, *where, "--detach")
    job = job_of(digits.head.run(*daemon).stderr)
    assert f"{job} was submitted before" in digits.head.run(*daemon).stderr
    assert "being stopped" in digits.head.run(*script, "stop", job, *where).stderr
    assert digits.wait(job)[0] == "STOPPED"
    assert digits.head.run(*script, "logs", job, *where, check=False).returncode == 1
    again = digits.head.run(*script, "run", "-c", config, *where, "--until-idle")
    assert "SUCCEEDED" in again.stderr
    late = digits.head.run(*script, "run", "-c", config, *where, "--deadline", "2", check=False)
    assert late.returncode == 1
    assert "FAILED" in late.stderr


@pytest.mark.parametrize("wrong", [["train"], ["stop"], ["forget", "-c", DIGITS, "--id", "3"], ["run", "-c", "none"]])
def test_what_can_not_be_submitted_is_refused_before_a_cluster_is_asked(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/submit.py", "--address", "http://127.0.0.1:9", *wrong])
    with pytest.raises(SystemExit) as refused:
        submit.main()
    assert refused.value.code not in {0, None}


@pytest.mark.slow
def test_prometheus_sees_what_a_running_coordinator_does(digits: Digits, tmp_path: Path) -> None:
    job = digits.submit("python jobs/run.py -c examples/digits.yaml")
    try:
        with hybridmu.connect(digits.config(tmp_path), executor="local") as system:
            system.forget(ids=[1201], strategy="retrain")  # so that there is a job
        wanted = {f"ray_{metric.name}" for metric in LEDGER if metric is not DEADLINE}  # nothing has a deadline
        found = support.until(lambda: wanted <= (seen := digits.head.scrape()).keys() and seen, step=0.5)
        (version,) = {sample.value for sample in found["ray_hybridmu_version"].samples}
        assert version >= 1
        assert {sample.labels["state"] for sample in found["ray_hybridmu_requests"].samples} >= {"received", "purged"}
        assert [sample.value for sample in found["ray_hybridmu_coordinator_up"].samples] == [1.0]
    finally:
        digits.head.api("POST", f"/api/jobs/{job}/stop")
        digits.wait(job)
