"""The demo from its first to its last step: a person's review is forgotten, proven, served, purged and certified."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from hybridmu.cluster.resources import ensure_ray
from hybridmu.config import Settings
from hybridmu.datasets import catalog
from hybridmu.demo.by_network import by_network
from hybridmu.demo.by_sums import by_sums
from hybridmu.demo.ending import certificate_page
from hybridmu.demo.reviews import DATASET, network_settings, sums_settings
from hybridmu.demo.screen import Phases, phases
from hybridmu.errors import ConfigError
from hybridmu.report.demo_page import page
from hybridmu.store.ownership import MARKER
from hybridmu.system.system import System

_SYSTEMS = ("sums", "network")


def run_demo(output: Path, console: Console) -> dict[str, Any]:
    """Run everything and write `report.json`, `report.html` and `certificate.html`.

    Args:
        output: Folder of the report; the systems and the keys of an earlier demo in it are removed.
        console: Where progress goes.

    Returns:
        The report; `ok` says whether every proof and certificate held, every request was purged, and none failed.

    Raises:
        ConfigError: The folder holds something else under the name of a system.
    """
    output = output.expanduser().absolute()
    for name in _SYSTEMS:
        if (output / name).exists() and not (output / name / MARKER).is_file():
            raise ConfigError(
                f"{output / name} is not of an earlier demo, and would be removed",
                remedy="name another folder: --output",
            )
    for name in _SYSTEMS:
        shutil.rmtree(output / name, ignore_errors=True)
        shutil.rmtree(output / f"{name}-keys", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with phases(console) as bar:
        bar.begin("fetching the reviews")
        catalog.get(DATASET)
        with _ray(sums_settings(output), bar):
            report, certificate = _live(output, bar)
            bar.of("")
            bar.begin("stopping Ray")
    report |= {"seconds": time.perf_counter() - started, "phases": bar.seconds}
    _write(output, report, certificate)
    return report


def _live(output: Path, bar: Phases) -> tuple[dict[str, Any], str | None]:
    """Return the report of both models, and the person's certificate as a page."""
    with System(sums_settings(output), "ray") as system:
        people, sums = by_sums(system, bar)
        person = sums["deletions"][0]["request_id"]
        certificate = certificate_page(system, bar, person)
        check = [_check_command(system, one["number"]) for one in sums["certificates"] if one["request_id"] == person]
    with System(network_settings(output), "ray") as system:
        network = by_network(system, bar, people)
    report = {"sums": sums, "network": network, "check": check[0] if check else None}
    return {"ok": holds(report), **report}, certificate


def holds(report: dict[str, Any]) -> bool:
    """Return whether every proof and certificate of a report held, every request was purged, and none failed."""
    sums, network = report["sums"], report["network"]
    served = sums["serving"]
    return (
        all(deletion["proof"]["bitwise_equal"] for deletion in sums["deletions"])
        and bool(sums["answers"])
        and served["failures"] == 0
        and served["last_version"] == served["expected_version"]
        and network["gap"]["exact_claims_hold"]
        and network["proof"]["bitwise_equal"]
        and all(_ended_well(part) for part in (sums, network))
    )


def _ended_well(part: dict[str, Any]) -> bool:
    """Return whether all of one model's requests were purged, and have certificates that hold."""
    purged, certified = part["purge"], part["certificates"]
    return (
        not purged["not_purged"]
        and purged["rows_before"] > purged["rows_after"] == 0
        and len(certified) == len(part["deletions"])
        and all(entry["chain"] and entry["checks_held"] == entry["checks"] for entry in certified)
        and all(entry["deadline_kept"] is not False for entry in certified)
    )


@contextmanager
def _ray(settings: Settings, bar: Phases) -> Iterator[None]:
    """Have one local Ray for both models.

    Args:
        settings: Of one of them.
        bar: The demo's bar.

    Yields:
        Nothing.
    """
    bar.begin("starting Ray")
    ours = ensure_ray(settings)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _check_command(system: System, number: int) -> str:
    folder = Path(system.settings.storage_url) / "certificates"
    key = sorted(system.settings.keys_folder.glob("*.pub.pem"))[-1:]
    public = f" --public-key {_short(key[0])}" if key else ""
    return f"hybridmu certificate verify {_short(folder / f'{number:08d}.json')} --chain {_short(folder)}{public}"


def _short(path: Path) -> Path:
    """Return a path as it is shorter to type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _write(output: Path, report: dict[str, Any], certificate: str | None) -> None:
    (output / "report.json").write_text(json.dumps(report, indent=1, default=str))
    (output / "report.html").write_text(page(report))
    if certificate is not None:
        (output / "certificate.html").write_text(certificate)
