"""Ids in Ray's logs: words of Ray's own are told from traces of a person."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from hybridmu.cluster.ray_log_words import is_component, traces


@pytest.fixture
def programs(tmp_path: Path) -> list[Path]:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "binary.so").write_bytes(b"\x7fELF\0Starting dashboard at %s:%d\0")
    return [tmp_path / "program"]


RAYLET = b"[2026-11-30 00:51:02,499 I 7595 7595] (raylet) main.cc:98: "
PYTHON = b"2026-11-30 00:51:02,499\tINFO agent.py:177 -- "
SERVE = b"INFO 2026-11-30 00:51:02,499 serve 7595 -- "
OURS = b"2026-11-30 00:51:02,499 INFO hybridmu.coordinator "


@pytest.mark.parametrize("head", [RAYLET, PYTHON, SERVE, OURS, b":actor_name:"])
def test_a_word_of_the_program_is_no_trace_in_a_line_of_its_own(programs: list[Path], head: bytes) -> None:
    lines = [head + b"Starting dashboard at 1.2.3.4:5\n"]
    assert traces(lines, [b"dashboard"], False, programs) == set()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("head", [RAYLET, PYTHON, SERVE])
def test_anything_else_in_such_a_line_came_from_outside(programs: list[Path], head: bytes, own: bool) -> None:
    lines = [head + b"Task failed: no row for a-person-77, born 1971-02-03\n", b"  KeyError: 'another-88'\n"]
    told = [b"a-person-77", b"1971-02-03", b"another-88", b"dashboard"]
    assert traces(lines, told, own, programs) == {b"a-person-77", b"1971-02-03", b"another-88"}


def test_a_word_of_the_program_that_a_task_prints_is_a_trace(programs: list[Path]) -> None:
    lines = [RAYLET + b"Starting dashboard\n", b"forgot dashboard\n"]
    assert traces(lines, [b"dashboard"], False, programs) == {b"dashboard"}


def test_an_exception_over_several_lines_keeps_the_words_of_its_file(programs: list[Path]) -> None:
    lines = [RAYLET + b"Actor died:\n", b'  File "dashboard/agent.py", line 3\n']
    assert traces(lines, [b"dashboard"], True, programs) == set()


def test_a_time_is_no_trace_where_it_is_a_stamp(programs: list[Path]) -> None:
    assert traces([RAYLET + b"started\n"], [b"2026-11-30", b"00:51:02"], False, programs) == set()
    assert traces([RAYLET + b"no row 2026-11-30\n"], [b"2026-11-30"], False, programs) == {b"2026-11-30"}


def test_what_spans_two_lines_is_kept(programs: list[Path]) -> None:
    assert traces([b"a person\n", b"of two lines"], [b"person\nof two"], True, programs) == {b"person\nof two"}


def test_files_of_rays_own_processes() -> None:
    own = ["logs/raylet.out", "logs/gcs_server.err", "logs/python-core-worker-1_2.log", "logs/events/event_GCS.log"]
    own += ["logs/dashboard_agent.log", "logs/serve/replica_1.log", "metrics/grafana/dashboards/a.json"]
    other = ["logs/worker-1-01000000-2.out", "logs/job-driver-raysubmit_1.log", "logs/mine.txt", "spilled/raylet.out"]
    assert [is_component(PurePosixPath(file)) for file in (*own, *other)] == [True] * len(own) + [False] * len(other)
