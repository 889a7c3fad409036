"""Metrics: right numbers from the ledger, one name each, and dashboards and alerts that use names that exist."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hybridmu.report.metric_names import LEDGER, REPLICA, samples
from hybridmu.server.prometheus import exposition
from hybridmu.store.ledger.health import Jobs, Vitals, read_vitals
from hybridmu.store.ledger.operator_controls import Controls
from hybridmu.store.ledger.registry import Registry
from hybridmu.store.ledger.replicas import Replicas
from hybridmu.types import RequestState
from tests.store.ledger.test_registry import outcome, plan
from tests.support import HANG_SECONDS, key

MONITORING = Path(__file__).parents[2] / "serve" / "monitoring"


def test_a_ledger_without_anything_has_all_figures(engine):
    found = read_vitals(engine)
    assert found.requests == dict.fromkeys(map(str, RequestState), 0)
    assert found == Vitals(found.requests, 0.0, 0.0, 0, None, {}, 0, 0, 0, False, 0, 0, 0, 0, 0.0, {})


def test_every_figure_follows_what_happens(engine, ledger, lease, clock, progress):
    registry, replicas, token = Registry(engine), Replicas(engine), lease.acquire("me", 3600)
    registry.publish_training(token, [outcome(shard, 0) for shard in range(3)])
    assert read_vitals(engine).coordinator
    late = ledger.accept([key(1, 1)], deadline_seconds=100).request_id
    ledger.accept([key(2, 2)], deadline_seconds=1e6)
    clock(200)
    replicas.register("slow", 1, 3600)
    found = read_vitals(engine)
    assert (found.requests["RECEIVED"], found.overdue, found.replicas, found.lag) == (2, 1, 1, 0)
    assert 200 <= found.oldest_unserved_seconds < 200 + HANG_SECONDS
    assert found.oldest_unpurged_seconds == found.oldest_unserved_seconds
    assert found.next_deadline_seconds < 0
    registry.publish(token, "round", [late], [(plan(1), outcome(1, 1))])
    found = read_vitals(engine)
    assert (found.version, found.lag) == (2, 1)
    assert found.jobs == {"retrain": Jobs(1, 0.4, 0.5)}
    replicas.register("slow", 2, 3600)
    progress.mark_served(token, replicas.confirmed())
    held = Controls(engine)
    held.hold(None, "court", "me")
    found = read_vitals(engine)
    assert (found.requests["SERVED"], found.requests["RECEIVED"], found.lag, found.holds) == (1, 1, 0, 1)
    lease.release(token)
    replicas.unregister("slow")
    assert (read_vitals(engine).coordinator, read_vitals(engine).replicas) == (False, 0)


FULL = Vitals(
    {"RECEIVED": 3, "SERVED": 4},
    *(12.5, 99.0, 1, 60.0),
    {"retrain": Jobs(2, 3.0, 4.0)},
    *(7, 2, 1, True, 5, 6),
    *(8, 9, 10.5),
    {"accuracy": 0.75},
)


def test_every_figure_is_a_metric_and_every_metric_has_a_figure():
    shown = {sample.metric for sample in samples(FULL)}
    assert shown == set(LEDGER)
    values = [sample.value for sample in samples(FULL)]
    assert len(fields(Vitals)) <= len(values)
    assert {3, 4, 12.5, 99.0, 1, 60.0, 2, 7, 5, 6, 8, 9, 10.5, 0.75} <= set(values)
    names = [metric.name for metric in (*LEDGER, *REPLICA)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"hybridmu_[a-z_]+", name) for name in names)


def test_prometheus_reads_what_is_exposed():
    families = {family.name: family for family in text_string_to_metric_families(exposition(FULL).decode())}
    assert families.keys() == {metric.name for metric in LEDGER}
    by_state = {one.labels["state"]: one.value for one in families["hybridmu_requests"].samples}
    assert by_state == {"received": 3.0, "served": 4.0}
    (coordinator,) = families["hybridmu_coordinator_up"].samples
    assert (coordinator.value, coordinator.labels) == (1.0, {})
    assert all(family.documentation for family in families.values())


def named(text: str) -> set[str]:
    return set(re.findall(r"hybridmu_[a-z_]+", text))


def test_the_dashboard_shows_every_metric_and_no_other():
    board = json.loads((MONITORING / "grafana.json").read_text())
    queries = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    asked = {name.removesuffix("_bucket") for name in named(queries)}
    assert asked == {metric.name for metric in (*LEDGER, *REPLICA)}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"


def test_alerts_are_about_metrics_that_exist_and_say_what_to_do():
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    known = {metric.name for metric in LEDGER}
    states = {str(state).lower() for state in RequestState}
    for rule in group["rules"]:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert named(rule["expr"]) <= known
        assert named(rule["expr"])
        assert set(re.findall(r'state="([a-z]+)"', rule["expr"])) <= states
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in {"page", "ticket"}


LINES = """
import logging
from hybridmu.config import LogSettings
from hybridmu.logs import start_logging
start_logging(LogSettings(format="{format}", level="info"))
log = logging.getLogger("hybridmu.test")
log.debug("not this")
log.info("%d request(s) are served", 2, extra={{"requests": ["r1", "r2"]}})
"""


@pytest.mark.parametrize("how", ["json", "text"])
def test_log_lines_are_what_the_settings_say(how):
    done = subprocess.run([sys.executable, "-c", LINES.format(format=how)], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    if how == "text":
        assert line.endswith("INFO hybridmu.test 2 request(s) are served")
        return
    found = json.loads(line)
    assert found.pop("asctime")
    assert found == {
        "levelname": "INFO",
        "name": "hybridmu.test",
        "message": "2 request(s) are served",
        "requests": ["r1", "r2"],
    }
    assert logging.getLogger().level != logging.INFO, "this process was left alone"
