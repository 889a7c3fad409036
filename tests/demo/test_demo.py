"""The parts of the demo, on a small table and without Ray."""

from __future__ import annotations

import copy
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

import hybridmu
from hybridmu.demo import ending
from hybridmu.demo.ending import certificates, purge, repair, replayed, rows_left
from hybridmu.demo.load import Clients
from hybridmu.demo.screen import Phases, phases, show
from hybridmu.demo.story import demo_settings, forget, holds
from hybridmu.errors import CorruptBlobError
from hybridmu.report import svg_plots
from hybridmu.report.html_page import render
from tests import support

PROJECT = Path(__file__).parents[2]
PERSON, BATCH = "p3", [*range(0, 300, 20)]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@contextmanager
def trained(folder: Path) -> Iterator[hybridmu.System]:
    """Train on 300 rows of 30 people, with a test table."""
    support.make_table(folder / "train.parquet", 300, groups=30)
    support.make_table(folder / "test.parquet", 60, groups=30, start=1000, seed=1)
    data = {"test": str(folder / "test.parquet"), "group": "person"}
    with support.local_system(folder, data=data) as system:
        system.train()
        yield system


def served(version: int) -> dict[str, Any]:
    """Return what clients of a server that always answers with one version report."""
    with server(lambda: (200, json.dumps({"version": version}))) as address:
        clients = Clients(address, b"{}")
        clients.wait()
        clients.stop()
        return clients.report(version)


@contextmanager
def server(answer: Callable[[], tuple[int, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, text = answer()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/v1/predict"
    finally:
        running.shutdown()
        running.server_close()


def forgotten(system: hybridmu.System, row: int) -> str:
    return str(system.forget(ids=[row], strategy="retrain", wait=True)["request_id"])


def told(system: hybridmu.System, bar: Phases) -> dict[str, Any]:
    """Return the report of the demo's story on a small system."""
    hold = system.hold("the proofs are made first")["number"]
    row = next(row for row in range(1, 300) if row not in BATCH)
    deletions = [
        forget(system, bar, "a batch", ids=BATCH, strategy="dpus-optimised"),
        forget(system, bar, "one user", deadline_seconds=3600.0, groups=[PERSON], strategy="retrain"),
        forget(system, bar, "one row", deadline_seconds=3600.0, ids=[row], strategy="retrain"),
    ]
    names = {entry["request_id"]: entry["name"] for entry in deletions}
    updated = sum(entry["strategy"] == "dpus-optimised" for entry in deletions[0]["shards"])
    return {
        "about": "a small table",
        "training": {"worker_seconds": 1.0},
        "deletions": deletions,
        "repairs": repair(system, bar, updated),
        "purge": purge(system, bar, [*names], hold, {"ids": [*BATCH, row], "groups": [PERSON]}),
        "serving": served(system.registry.version().version) | {"seconds_to_served": 0.1},
        "certificates": certificates(system, bar, names),
        "replay": replayed(system, bar, deletions[-1]["request_id"]),
        "check": "hybridmu certificate verify",
        "seconds": 1.0,
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    with trained(folder) as system, phases(quiet()) as bar:
        report = told(system, bar)
        report["source"] = pq.read_table(folder / "train.parquet").to_pylist()
    return {"ok": holds(report), **report, "phases": bar.seconds}


@pytest.mark.slow
def test_what_was_approximate_becomes_exact_then_everything_is_purged(story: dict[str, Any]) -> None:
    assert holds(story)
    batch, user, row = story["deletions"]
    assert "dpus-optimised" in batch["strategies"]
    assert user["strategies"] == row["strategies"] == "1 retrain"
    # Only the request's own rows are counted, not what its retrain repairs along the way.
    mine = [r for r in story["source"] if r["person"] == PERSON and r["id"] not in BATCH]
    assert (batch["rows"], user["rows"]) == (len(BATCH), len(mine))
    assert row["rows"] == (next(n for n in range(1, 300) if n not in BATCH) not in {r["id"] for r in mine})
    assert story["repairs"]["approximate"] == sum(entry["strategy"] != "retrain" for entry in batch["shards"]) > 0
    assert story["repairs"]["exact"] == story["repairs"]["shards"] == 4
    assert story["purge"]["rows_before"] > story["purge"]["rows_after"] == 0


def test_every_request_has_a_certificate_with_its_times_in_order(story: dict[str, Any]) -> None:
    found = {entry["name"]: entry for entry in story["certificates"]}
    assert [*found] == ["a batch", "one user", "one row"]
    assert "dpus-optimised -> retrain" in found["a batch"]["removal"]
    assert found["a batch"]["proofs"] == len(BATCH)
    assert {name: entry["deadline_kept"] for name, entry in found.items()} == {
        "a batch": None,
        "one user": True,
        "one row": True,
    }
    for entry in found.values():
        times = [entry[f"seconds_to_{moment}"] for moment in ("applied", "served", "exact", "purged")]
        assert 0 < times[0] <= times[1] < times[3]
        assert times[0] <= times[2] < times[3]
    assert found["a batch"]["seconds_to_exact"] > found["a batch"]["seconds_to_applied"]
    assert story["replay"]["verdict"] == "confirmed"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("deletions", 0, "proven"), False),
        (("serving", "failures"), 1),
        (("serving", "last_version"), 1),
        (("repairs", "proven"), False),
        (("purge", "not_purged"), ["legal hold 1"]),
        (("purge", "rows_after"), 1),
        (("purge", "rows_before"), 0),
        (("certificates",), []),
        (("certificates", 1, "chain"), False),
        (("certificates", 2, "checks_held"), 3),
        (("replay",), None),
        (("replay", "confirmed"), False),
    ],
)
def test_one_thing_that_does_not_hold_is_enough(story: dict[str, Any], part: tuple[Any, ...], value: object) -> None:
    spoiled = copy.deepcopy(story)
    inner: Any = spoiled
    for name in part[:-1]:
        inner = inner[name]
    inner[part[-1]] = value
    assert holds(story)
    assert not holds(spoiled)


def test_a_changed_certificate_is_seen(tmp_path: Path) -> None:
    with trained(tmp_path) as system, phases(quiet()) as bar:
        hold = system.hold("the proofs are made first")["number"]
        names = dict.fromkeys((forgotten(system, row) for row in (1, 2)), "")
        assert purge(system, bar, [*names], hold, {"ids": [1, 2], "groups": []})["not_purged"] == []
        assert all(entry["chain"] for entry in certificates(system, bar, names))
        file = Path(system.settings.storage_url) / "certificates" / "00000001.json"
        document = json.loads(file.read_text())
        document["request"]["received_at"] = "2020-01-01T00:00:00.000000Z"
        file.write_text(json.dumps(document))
        with pytest.raises(CorruptBlobError, match="certificate 1 is damaged"):
            certificates(system, bar, names)


@pytest.mark.slow
def test_a_copy_in_storage_is_counted_and_keeps_a_request_from_being_purged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_PURGE_SECONDS", 2.0)
    with trained(tmp_path) as system, phases(quiet()) as bar:
        source = pq.read_table(tmp_path / "train.parquet")
        assert rows_left(system, [7], []) == 1
        assert rows_left(system, [5000], ["nobody"]) == 0
        person = source["person"][7].as_py()
        both = rows_left(system, [7], [person])
        assert both == rows_left(system, [], [person]) > 1  # a row is counted once
        hold = system.hold("the proofs are made first")["number"]
        request = forgotten(system, 7)
        pq.write_table(source.slice(7, 1), Path(system.settings.storage_url) / "copy.parquet")
        ended = purge(system, bar, [request], hold, {"ids": [7], "groups": []})
        assert (ended["rows_before"], ended["rows_after"]) == (2, 1)
        assert "copy.parquet" in ended["not_purged"][0]
        assert replayed(system, bar, request) is None


def test_the_demo_keeps_to_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", "/somebody/elses")
    monkeypatch.setenv("HYBRIDMU_DATABASE_URL", "sqlite:////somebody/elses.sqlite3")
    settings = demo_settings(tmp_path)
    assert settings.storage_url == str(tmp_path / "system")
    assert settings.keys_folder == tmp_path / "system-keys"
    assert settings.database == f"sqlite:///{tmp_path / 'system' / 'ledger.sqlite3'}"


def test_clients_count_answers_and_refusals() -> None:
    answers = iter([(503, ""), (200, "no json"), (200, '{"version": 4}')])
    lock = threading.Lock()

    def answer() -> tuple[int, str]:
        with lock:
            return next(answers, (200, '{"version": 5}'))

    with server(answer) as address:
        clients = Clients(address, b"{}")
        clients.wait()
        clients.stop()
    report = clients.report(5)
    assert (report["failures"], report["versions"], report["last_version"]) == (2, [4, 5], 5)
    assert report["answers"] == len(clients.versions) > 2


def test_a_purge_that_was_held_back_is_not_shown_as_clean(story: dict[str, Any], tmp_path: Path) -> None:
    spoiled = copy.deepcopy(story)
    spoiled["purge"]["not_purged"] = ["not purged: copy.parquet still names a purged row"]
    spoiled["ok"] = holds(spoiled)
    console = quiet()
    show(console, spoiled, tmp_path)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "NOT PURGED: copy.parquet still names" in printed
    assert "0 found" not in printed
    html = render("demo.html.j2", report=spoiled, plots=[])
    assert "copy.parquet still names" in html
    assert "<td>0</td>" not in html.split("where was looked")[1].split("</table>")[0]
    assert "Something did not hold" in html


def test_parts_of_the_demo_are_timed_in_order(story: dict[str, Any]) -> None:
    names = [*story["phases"]]
    assert names[0] == "a batch: planning and forgetting"
    assert names.index("purging, looking, signing") < names.index("checking the certificates") < len(names) - 1
    assert all(seconds >= 0 for seconds in story["phases"].values())


def test_report_shows_purge_certificates_and_times(story: dict[str, Any], tmp_path: Path) -> None:
    html = render("demo.html.j2", report=story, plots=[svg_plots.lives(story["certificates"])])
    assert "Exact, purged, certified" in html
    assert "confirmed" in html
    assert "seconds since the request was received" in html
    for entry in story["certificates"]:
        assert f"{entry['checks']} of {entry['checks']}" in html
        assert html.count(entry["name"]) >= 3  # deletions, certificates, plot


def test_its_page_shows_what_the_demo_prints(story: dict[str, Any], tmp_path: Path) -> None:
    console = quiet()
    show(console, story, tmp_path)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    page = (PROJECT / "docs" / "demo.md").read_text()
    excerpt = page[page.index("$ make demo") :].split("```")[0]
    heads = [line for line in printed.splitlines() if line.startswith("┃")]
    words = [word.strip() for line in heads for word in line.strip("┃").split("┃")]
    assert len(words) == 17
    assert [word for word in words if word not in excerpt] == []

    def shapes(text: str) -> list[str]:
        lines = re.findall(r"^(?:serving|repairs|purge|look|replay of certificate)\b.*", text, re.MULTILINE)
        return [re.sub(r"\d+(, \d+)*", "#", line).replace(" and Ray's folders on # node(s)", "") for line in lines]

    assert len(shapes(printed)) == 5
    assert shapes(excerpt) == shapes(printed)
