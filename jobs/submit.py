"""Submit a verb as a Ray job, once, and follow it.

    python jobs/submit.py train|run|forget|verify|audit -c CONFIG [--deadline SECONDS] [--detach] [what the verb takes]
    python jobs/submit.py logs|stop ID

The same command gives the same submission id: while that job runs, or once it has succeeded, nothing is submitted a
second time and its log is shown; after a failure it is submitted again. Jobs are repeated safely, since what they do is
in the ledger. The address is `--address`, RAY_API_SERVER_ADDRESS or the Ray cluster of this machine; a cluster in token
mode gets the token of this environment.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from hybridmu.config import Settings, load
from hybridmu.errors import HybridMUError

PROJECT = Path(__file__).resolve().parents[1]
VERBS = ("train", "run", "forget", "verify", "audit")
_FILES = ("--ids", "--groups")
_RAW = ("--id", "--group")
_DECADES = 1e9  # seconds
_ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


def entrypoint(verb: str, config: str, deadline: float | None, arguments: Sequence[str]) -> str:
    """Return the shell command of a job.

    Args:
        verb: Script in `jobs/`.
        config: Configuration file, as the cluster sees it.
        deadline: Seconds after which the job is ended, whether or not anybody follows it.
        arguments: The verb's own.

    Example:
        >>> entrypoint("train", "a b.yaml", 60, ["--json"])
        "timeout --kill-after=30 60 python jobs/train.py -c 'a b.yaml' --json"
    """
    limit = [] if deadline is None else ["timeout", "--kill-after=30", f"{deadline:g}"]
    return shlex.join([*limit, "python", f"jobs/{verb}.py", "-c", config, *arguments])


def submission_id(verb: str, settings: Settings, arguments: Sequence[str]) -> str:
    """Return the name that the same job over the same storage always has.

    A file of ids counts by its path, size and time of change: a digest of what is in it could be guessed, and everybody
    who may open the dashboard sees the name.

    Args:
        verb: Script in `jobs/`.
        settings: The configuration.
        arguments: The verb's own.
    """
    seen: list[object] = [verb, settings.storage_url, *arguments]
    for option, value in zip(arguments, [*arguments, ""][1:], strict=True):
        name, _, joined = option.partition("=")
        file = Path(joined or value)
        if name in _FILES and file.is_file():
            seen += [file.stat().st_size, file.stat().st_mtime_ns]
    return f"{verb}-{hashlib.blake2b(json.dumps(seen).encode(), digest_size=8).hexdigest()}"


def submit(client: JobSubmissionClient, name: str, command: str, folder: Path) -> tuple[str, bool]:
    """Submit a job unless it is there.

    Args:
        client: Of the cluster.
        name: From `submission_id`.
        command: From `entrypoint`.
        folder: Uploaded as the job's working directory; `.rayignore` says without what.

    Returns:
        (submission id, whether it is a new job). A job that failed or was stopped stays for its log; the next has a
        number behind its name.
    """
    known = {job.submission_id: job.status for job in client.list_jobs()}
    for number in count(1):
        candidate = name if number == 1 else f"{name}-{number}"
        status = known.get(candidate)
        if status not in {None, JobStatus.FAILED, JobStatus.STOPPED}:
            return candidate, False
        if status is None:
            break
    client.submit_job(entrypoint=command, submission_id=candidate, runtime_env={"working_dir": str(folder)})
    return candidate, True


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print a job's log until it ends; return 0 when it succeeded, 1 otherwise."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        _say(f"{job} goes on; `python jobs/submit.py logs {job}` follows it, `stop {job}` ends it")
        return 130
    info = client.get_job_info(job)
    _say(f"{job} {info.status}" + (f": {info.message}" if info.message else ""))
    return 0 if info.status == JobStatus.SUCCEEDED else 1


def stop(client: JobSubmissionClient, job: str) -> int:
    """Ask a job to end; what it had acknowledged stays acknowledged."""
    if (status := client.get_job_status(job)) in _ENDED:
        _say(f"{job} has ended before: {status}")
    else:
        client.stop_job(job)
        _say(f"{job} is being stopped; submitting it again goes on where it was")
    return 0


def main() -> None:
    """Run a command; the exit code is the job's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=(*VERBS, "logs", "stop"))
    parser.add_argument("id", nargs="?", help="logs, stop: submission id")
    parser.add_argument("-c", "--config", help="YAML configuration, in this folder or where every node sees it")
    parser.add_argument("--address", help="of the dashboard, such as http://127.0.0.1:8265")
    parser.add_argument("--deadline", type=float, help="end the job after so many seconds")
    parser.add_argument("--detach", action="store_true", help="submit only, do not follow")
    given, arguments = parser.parse_known_args()
    logging.getLogger("ray").setLevel(logging.WARNING)  # the log that is wanted here is the job's
    if given.what in VERBS:
        if given.config is None:
            parser.error("-c CONFIG is missing")
        if given.deadline is not None and not 0 < given.deadline <= _DECADES:
            parser.error(f"--deadline is out of range: seconds above 0, at most {_DECADES:g}")
        if any(argument.partition("=")[0] in _RAW for argument in arguments):
            parser.error("the dashboard shows a job's command line; put ids into a file: --ids FILE or --groups FILE")
        # A positional that was taken for an id belongs to the verb.
        arguments = [*([given.id] if given.id else []), *arguments]
    elif given.id is None or arguments:
        parser.error(f"{given.what} takes one submission id")
    try:
        sys.exit(_run(given, arguments))
    except HybridMUError as error:
        sys.exit(f"error: {error}")
    except (ConnectionError, RuntimeError) as error:
        sys.exit(f"error: {' '.join(str(error).split())[:500]}")


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    settings = load(given.config) if given.what in VERBS else None  # a mistake is found before anything is submitted
    client = JobSubmissionClient(given.address)
    if settings is None:
        return follow(client, given.id) if given.what == "logs" else stop(client, given.id)
    command = entrypoint(given.what, given.config, given.deadline, arguments)
    job, new = submit(client, submission_id(given.what, settings, arguments), command, PROJECT)
    _say(f"{job} is submitted" if new else f"{job} was submitted before; its log follows")
    return 0 if given.detach else follow(client, job)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
