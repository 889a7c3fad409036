"""The study's audits: one row per shadow model, resuming, and tables made of the file alone."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from benchmarks.study import audited, audits, csvfile
from benchmarks.study.audits import CONTROLS, STRATEGIES, AuditRecord
from benchmarks.study.grid import SETUPS

SMALL = replace(SETUPS["digits/mlp"], shards=3, slices=2, epochs=4)
MODELS = 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    out = folder / "audits.csv"
    found, seconds = audits.tasks((SMALL,), ("share:0.1",), MODELS, set(), folder / "work")
    assert [task.number for task in found] == list(range(MODELS))
    assert 0 < audits.expected_minutes(seconds, 1) < 5
    lines: list[str] = []
    done = list(audits.run(found, 1, out, lines.append))
    assert sorted(task.number for task in done) == list(range(MODELS))
    assert lines[-1].startswith(f"{MODELS} of {MODELS}")
    return folder, out, audits.read(out)


def made(found: list[AuditRecord], strategy: str) -> list[AuditRecord]:
    return sorted((record for record in found if record.strategy == strategy), key=lambda record: record.number)


@pytest.mark.slow
def test_every_number_has_a_model_of_every_strategy_and_control(measured):
    _, _, found = measured
    assert len({record.key for record in found}) == len(found) == MODELS * len(STRATEGIES + CONTROLS)
    for record in found:
        assert abs(record.revoked - 0.1 * record.rows) < 15, "a tenth of all rows, so about one of the shard's"
        assert record.hardware
        assert record.commit
        assert (len(record.score.forget), len(record.score.retain), len(record.score.unseen)) == (24, 12, 12)
        assert record.seconds > 0


def test_exact_models_are_the_oracles_and_those_that_did_nothing_remember(measured):
    _, _, found = measured
    for sisa, oracle, nothing in zip(*(made(found, name) for name in ("sisa", "oracle", "nothing")), strict=True):
        assert sisa.score == oracle.score
        assert nothing.loss < oracle.loss
        assert nothing.relearn == 0
    assert len({record.forget for record in found if record.strategy in {"oracle", "reference"}}) == 2 * MODELS
    assert {record.alpha for record in made(found, "dpus-newton")} == {1.0}
    assert all(record.alpha > 0 for record in made(found, "dpus"))


def test_what_is_there_is_not_made_again(measured, tmp_path):
    folder, _, found = measured
    known = {record.key for record in found}
    assert audits.tasks((SMALL,), ("share:0.1",), MODELS, known, folder / "work") == ([], 0.0)
    lost = {record.key for record in found if (record.strategy, record.number) in {("dpus", 2), ("reference", 2)}}
    [task], seconds = audits.tasks((SMALL,), ("share:0.1",), MODELS, known - lost, folder / "work")
    assert seconds > 0
    again = audits.make(task)
    assert {record.key for record in again} == lost
    csvfile.append(tmp_path / "again.csv", again, AuditRecord)
    before = {record.key: record for record in found}
    for record in audits.read(tmp_path / "again.csv"):
        assert replace(record, seconds=0.0) == replace(before[record.key], seconds=0.0), "the same bits"


def test_more_models_come_on_top(measured):
    folder, _, found = measured
    more, _ = audits.tasks((SMALL,), ("share:0.1",), MODELS + 2, {record.key for record in found}, folder / "work")
    assert [task.number for task in more] == [MODELS, MODELS + 1]


def test_the_table_and_the_figures_are_made_of_the_file_alone(measured, tmp_path):
    folder, out, found = measured
    table = audited.table(folder, "")
    assert table == audited.table(folder, "")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])}
    rows = {line[2]: line for line in lines[2:]}
    assert list(rows) == [*STRATEGIES, "oracle", "nothing"]
    assert {line[3] for line in rows.values()} == {str(MODELS)}
    assert rows["sisa"][4:6] == ["+0.0000", "0.0"]
    assert rows["sisa"][6:10] == rows["oracle"][6:10]
    assert rows["nothing"][4].startswith("-")
    assert rows["nothing"][12] == "0.0"
    [(_, by_name)] = audited.summed_up(folder).items()
    gaps = [a.loss - b.loss for a, b in zip(made(found, "dpus"), made(found, "oracle"), strict=True)]
    assert by_name["dpus"].gap.unlearned == pytest.approx(math.fsum(gaps) / MODELS)
    for draw in (audited.klom, audited.roc):
        assert draw(folder).startswith("<svg")
        assert draw(folder) == draw(folder), "figures repeat byte for byte"
        assert draw(tmp_path).startswith("<svg"), "nothing was measured yet"
    # What an interrupted run lacks is left out: no figure is made of a strategy without its controls.
    half = tmp_path / "audits.csv"
    csvfile.append(half, [record for record in found if record.strategy != "reference"], AuditRecord)
    assert audited.summed_up(tmp_path) == {}
    csvfile.append(half, made(found, "reference")[:3], AuditRecord)
    [(_, partial)] = audited.summed_up(tmp_path).items()
    assert {one.models for one in partial.values()} == {3}
    assert len(fields(AuditRecord)) == len(out.read_text().splitlines()[0].split(","))
