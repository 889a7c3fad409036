"""The study: request mixes, what a run measures, resuming, and the tables."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study import pages, plots, records, shards
from benchmarks.study.estimate import expected_hours, trainings
from benchmarks.study.grid import CONTENDERS, GRIDS, SETUPS, Grid
from benchmarks.study.measure import median
from benchmarks.study.mixes import Outline, choose
from benchmarks.study.pool import LocalPool
from benchmarks.study.records import Record
from benchmarks.study.regret import deletions, replay
from benchmarks.study.runner import Cell, crowding, key_of, missing, run
from benchmarks.study.stream import STREAMED
from benchmarks.study.trial import PRICED
from benchmarks.study.worker import Made
from hybridmu.planning.planner import Policy

SMALL = replace(SETUPS["digits/mlp"], shards=3, slices=2, epochs=2)


def outline(rows=300, shards=4, slices=3, users=20, seed=0):
    random = np.random.default_rng(seed)
    groups = np.zeros((rows, 16), np.uint8)
    groups[:, 0] = 1 + random.integers(0, users, rows)
    ids = np.zeros((rows, 16), np.uint8)
    ids[:, 8:] = np.arange(rows, dtype="<u8").reshape(-1, 1).view(np.uint8)
    place = groups[:, 0].astype(np.int32)
    label = random.choice(3, rows, p=[0.6, 0.3, 0.1]).astype(np.int64)
    return Outline(place % shards, place % slices + 1, label, ids, groups)


# ---------------------------------------------------------------------- mixes


@given(
    st.sampled_from(["rows:1", "rows:7", "share:0.1", "touch:0.5", "touch:0.9", "users:2", "class:1", "skewed:0.05"]),
    st.integers(0, 50),
)
def test_a_mix_counts_what_it_revokes_and_repeats(mix, seed):
    rows = outline(seed=seed)
    found = choose(mix, rows, 4, 3, seed)
    assert found == choose(mix, rows, 4, 3, seed)
    assert found.keys.keys() == found.revoked.keys()
    for shard, keys in found.keys.items():
        column = {"id": rows.ids, "group": rows.groups}
        held = {kind: {row.tobytes() for row in column[kind][rows.shard == shard]} for kind, _ in keys}
        assert all(key in held[kind] for kind, key in keys)
        assert len(set(keys)) == len(keys)
        carried = np.isin([row.tobytes() for row in column[keys[0][0]]], [key for _, key in keys])
        counts = np.bincount(rows.slice[carried & (rows.shard == shard)], minlength=4)[1:]
        assert found.revoked[shard] == tuple(counts)


@pytest.mark.parametrize(
    ("mix", "rows"), [("rows:1", 1), ("share:0.001", 1), ("share:0.1", 30), ("skewed:0.05", 15), ("stream:20", 20)]
)
def test_how_many_rows_a_mix_revokes(mix, rows):
    assert choose(mix, outline(), 4, 3, 0).rows == rows


def test_mixes_of_shards_users_classes_and_slices():
    rows = outline()
    assert len(choose("touch:0.5", rows, 4, 3, 1).keys) == 2
    assert len(choose("touch:0.9", rows, 4, 3, 1).keys) == 4
    users = choose("users:2", rows, 4, 3, 1)
    assert sum(map(len, users.keys.values())) == 2
    assert choose("class:1", rows, 4, 3, 1).rows == int((rows.label == 2).sum())
    late = choose("from:3:0.05", rows, 4, 3, 1)
    assert late.rows == 15
    assert all(counts[:2] == (0, 0) for counts in late.revoked.values())
    most = max(sum(counts) for counts in choose("skewed:0.2", rows, 4, 3, 1).revoked.values())
    assert most > 2 * 60 / 4


def test_a_mix_that_the_data_can_not_have():
    nobody = replace(outline(), groups=np.zeros((300, 16), np.uint8))
    assert choose("users:1", nobody, 4, 3, 0) is None
    assert choose("from:4:0.1", outline(), 4, 3, 0) is None
    with pytest.raises(ValueError, match="unknown request mix"):
        choose("everything", outline(), 4, 3, 0)


# ---------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Every contender on two deletions of a small system, and a stream."""
    folder = tmp_path_factory.mktemp("study")
    out = folder / "smoke.csv"
    grid = Grid((SMALL,), ("rows:1", "share:0.1", "stream:12"), tuple(CONTENDERS), (0,))
    lines: list[str] = []
    cells = missing(grid, set())
    done = list(run(cells, folder / "work", LocalPool(), out, lines.append))
    assert [cell.mix for cell in done] == list(grid.mixes)
    return folder, out, grid, records.read(out)


def one(found, mix, strategy):
    (record,) = [record for record in found if (record.mix, record.strategy) == (mix, strategy)]
    return record


def test_exact_strategies_are_exact_to_the_bit_and_others_are_not(measured):
    *_, found = measured
    for mix in ("rows:1", "share:0.1", "stream:12"):
        exact = one(found, mix, "sisa")
        assert exact.bitwise == exact.touched
        assert exact.gap == 0
        assert exact.tow == 1
        assert exact.repair_seconds == 0
    for record in found:
        assert record.bitwise <= record.touched
        if record.strategy in {"dpus", "dpus-newton", "rewind", "nothing", "oracle-again"}:
            assert record.bitwise == 0


def test_every_deletion_has_one_oracle(measured):
    *_, found = measured
    for mix in ("rows:1", "share:0.1", "stream:12"):
        group = [record for record in found if record.mix == mix]
        assert len({(r.oracle_accuracy, r.oracle_forget_loss, r.noise_gap, r.revoked) for r in group}) == 1
    again = one(found, "share:0.1", "oracle-again")
    assert again.gap == pytest.approx(again.noise_gap, abs=1e-5)


def test_approximate_results_owe_the_exact_retrain(measured):
    *_, found = measured
    owed = one(found, "share:0.1", "sisa").device_seconds
    for strategy in ("dpus", "rewind", "nothing", "fine-tune"):
        assert one(found, "share:0.1", strategy).repair_seconds == pytest.approx(owed, rel=1e-4)
    assert one(found, "share:0.1", "nothing").device_seconds == 0
    assert one(found, "share:0.1", "scratch").repair_seconds == 0


def test_doing_nothing_remembers_and_the_stream_has_latencies(measured):
    *_, found = measured
    assert one(found, "share:0.1", "nothing").gap < 0
    for strategy in ("sisa", "hybrid", "dpus-newton"):
        record = one(found, "stream:12", strategy)
        assert 0 < record.applied_p50 <= record.applied_p95
    assert {r.strategy for r in found if r.mix == "stream:12"} < set(CONTENDERS)


def test_what_is_there_is_not_measured_again(measured):
    folder, out, grid, found = measured
    known = {record.key for record in found}
    assert missing(grid, known) == []
    lost = key_of(SMALL, "share:0.1", "dpus", 0)
    assert missing(grid, known - {lost}) == [Cell(SMALL, "share:0.1", 0, ("dpus",))]
    before = out.read_text()
    (cell,) = run(missing(grid, known - {lost}), folder / "work", LocalPool(), out, lambda _: None)
    assert cell.contenders == ("dpus",)
    assert out.read_text().startswith(before)
    again, *rest = [record for record in records.read(out) if record.key == lost]
    assert rest[0].forget_loss == again.forget_loss, "the same system, found again, gives the same bits"
    assert rest[0].bitwise == again.bitwise


def test_what_the_planner_knew_and_what_came_of_it_is_kept_per_shard(measured):
    _, out, _, found = measured
    rows = shards.read(shards.beside(out))
    seen = [row for row in rows if row.before]
    assert {row.strategy for row in seen if row.mix == "training"} == {"retrain"}
    assert {row.strategy for row in seen if row.mix.startswith("first:")} == set(PRICED)
    assert sum(sum(row.rows) for row in seen if row.mix == "training") == found[0].rows
    (deletion,) = [one for one in deletions(rows) if one.mix == "share:0.1"]
    for name, strategy in (("sisa", "retrain"), ("dpus-optimised",) * 2, ("dpus-newton",) * 2):
        record = one(found, "share:0.1", name)
        mine = [shard[strategy] for shard in deletion.shards.values()]
        assert len(mine) == record.touched
        assert sum(sum(row.revoked) for row in mine) == record.revoked
        assert sum(row.seconds for row in mine) == pytest.approx(record.device_seconds, rel=1e-4)
        assert sum(row.visits for row in mine) == record.visits
        weighted = sum(row.gap * sum(row.revoked) for row in mine) / record.revoked
        assert weighted == pytest.approx(record.gap, abs=1e-4)
        assert (strategy == "retrain") == all(row.gap == 0 for row in mine)
    # The planner, asked again, decides as it did. It had not seen the other deletions, from which a replay learns.
    (again,) = replay([row for row in rows if row.before or row.mix == "share:0.1"], Policy(light_seconds=0.0))
    assert one(found, "share:0.1", "hybrid").bitwise == sum(name == "retrain" for name in again.chosen.values())


def test_repeating_gives_the_same_bits_and_the_median_of_the_times(measured):
    folder, _, _, found = measured
    cell = Cell(SMALL, "share:0.1", 0, ("dpus-newton", "sisa"))
    thrice = folder / "thrice.csv"
    list(run([cell], folder / "work", LocalPool(), thrice, lambda _: None, repeats=3))
    for record in records.read(thrice):
        before = one(found, "share:0.1", record.strategy)
        assert (record.forget_loss, record.bitwise) == (before.forget_loss, before.bitwise)
        mine = [row for row in shards.read(shards.beside(thrice)) if (row.mix, row.seconds > 0) == ("share:0.1", True)]
        assert len(mine) == 2 * record.touched


def test_medians_are_taken_per_job():
    rounds = [Made(0, "b", False, seconds, 10 - seconds, 5, 1, 2) for seconds in (3.0, 1.0, 2.0)]
    assert median(rounds) == replace(rounds[0], seconds=2.0, cpu_seconds=8.0)


def test_the_expected_hours_grow_with_the_work(measured):
    folder, _, grid, _ = measured
    cells = missing(grid, set())
    few, many = (expected_hours(part, folder / "work", LocalPool()) for part in (cells[:1], cells))
    assert 0 < few < many < 1


def test_streams_took_what_is_expected_of_them_to_a_factor_of_two():
    root = Path(__file__).resolve().parents[2]
    found = [record for record in records.read(root / "docs" / "study" / "headline.csv") if record.mix == "stream:200"]
    for one in (record for record in found if record.strategy == "sisa"):
        mine = [r for r in found if (r.dataset, r.model, r.seed) == (one.dataset, one.model, one.seed)]
        training = one.device_seconds / one.visits * one.rows * one.epochs
        took = sum(record.device_seconds for record in mine) / training
        cell = Cell(SETUPS[f"{one.dataset}/{one.model}"], one.mix, one.seed, STREAMED)
        besides = trainings(replace(cell, contenders=()), one.rows / one.shards)
        expected = trainings(cell, one.rows / one.shards) - besides
        assert 0.5 < expected / took < 2


def test_records_survive_the_file(measured, tmp_path):
    *_, found = measured
    odd = replace(found[0], estimated_seconds=None, forget_loss=float("nan"), rules="time 1, boundary 2")
    records.append(tmp_path / "a.csv", [odd])
    records.append(tmp_path / "a.csv", [found[1]])
    back, other = records.read(tmp_path / "a.csv")
    assert (back.estimated_seconds, back.rules, back.key) == (None, odd.rules, odd.key)
    assert np.isnan(back.forget_loss)
    assert other == found[1]
    assert len(fields(Record)) == len((tmp_path / "a.csv").read_text().splitlines()[0].split(","))


# ---------------------------------------------------------------------- grids, tables, figures


def test_some_mixes_and_contenders_run_on_fewer_seeds():
    grid = Grid((SMALL,), ("rows:1", "stream:200"), ("sisa", "amnesiac"), (7, 8, 9), fewer={"stream:200": 1})
    asked = [(cell.mix, cell.seed, cell.contenders) for cell in missing(grid, set())]
    assert asked == [
        ("rows:1", 7, ("sisa", "amnesiac")),
        ("stream:200", 7, ("sisa",)),
        ("rows:1", 8, ("sisa", "amnesiac")),
        ("rows:1", 9, ("sisa",)),
    ]
    dear = replace(SMALL, sparing=1)
    grid = Grid((SMALL, dear), ("rows:1", "class:1"), ("sisa",), (7, 8, 9), fewer={"class:1": 2})
    assert [cell.seed for cell in missing(grid, set()) if (cell.setup, cell.mix) == (SMALL, "class:1")] == [7, 8]
    assert [cell.seed for cell in missing(grid, set()) if (cell.setup, cell.mix) == (dear, "class:1")] == [7]
    assert [cell.seed for cell in missing(grid, set()) if (cell.setup, cell.mix) == (dear, "rows:1")] == [7, 8, 9]


def test_what_a_dataset_cannot_have_is_not_missing():
    tables, people = SETUPS["adult/mlp"], SETUPS["hapt/mlp"]
    grid = Grid((tables, people), ("rows:1", "users:1", "from:2:0.1", "from:3:0.1"), ("sisa",), (0,))
    asked = [(cell.setup.dataset, cell.mix) for cell in missing(grid, set())]
    assert asked == [
        ("adult", "rows:1"),
        ("adult", "from:2:0.1"),
        ("adult", "from:3:0.1"),
        ("hapt", "rows:1"),
        ("hapt", "users:1"),
        ("hapt", "from:2:0.1"),
    ]


def test_grids_name_what_exists():
    for grid in GRIDS.values():
        assert set(grid.contenders) <= set(CONTENDERS)
        cells = missing(grid, set())
        assert len({(cell.setup, cell.mix, cell.seed) for cell in cells}) == len(cells)
    assert {setup.dataset for setup in GRIDS["headline"].setups} >= {"mnist", "cifar10", "adult", "census"}


def test_tables_and_figures_are_made_of_the_file_alone(measured):
    folder, out, *_ = measured
    (folder / "headline.csv").write_text(out.read_text())
    text = "a\n<!-- table headline digits/mlp -->\nold\n<!-- end -->\nb\n<!-- table runs -->\n<!-- end -->\n"
    filled = pages.fill(text, folder)
    assert filled == pages.fill(filled, folder)
    assert "old" not in filled
    assert filled.startswith("a\n")
    assert "| share:0.1 | scratch |" in filled
    assert "digits/mlp S=3 R=2 epochs=2" in filled
    with pytest.raises(ValueError, match="unknown table 'nope'"):
        pages.fill("<!-- table nope -->\n<!-- end -->", folder)
    for name, draw in plots.FIGURES.items():
        assert draw(folder).startswith("<svg"), name
    assert draw(folder) == draw(folder), "figures repeat byte for byte"


def test_the_committed_tables_are_those_of_the_committed_files():
    root, shown = Path(__file__).parents[2], set()
    for page in pages.PAGES:
        text = (root / page).read_text()
        assert pages.fill(text, root / "docs" / "study") == text, "run `python benchmarks/run_study.py tables`"
        shown |= set(re.findall(r"<!-- table (\w+)", text))
    assert shown == set(pages.TABLES), "every table stands on a page"


class Drawn(NamedTuple):
    """What a figure shows: everything but numbers, and the numbers (coordinates are in points)."""

    shapes: list[str]
    numbers: list[float]


def figure(svg: str) -> Drawn:
    """Take a figure apart; Matplotlib names shapes by a hash of coordinates, whose last digits vary by processor."""
    named: dict[str, str] = {}
    letters = str.maketrans("0123456789", "abcdefghij")  # a name is no coordinate

    def rename(found: re.Match[str]) -> str:
        return named.setdefault(found[0], f"shape {len(named)}".translate(letters))

    text = re.sub(r"\b[mp][0-9a-f]{10}\b", rename, svg)
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return Drawn(parts[::2], [float(number) for number in parts[1::2]])


def test_figures_are_compared_by_what_they_draw():
    one = '<path id="m0123456789" d="M 1.00000 2e-3"/><use href="#m0123456789"/><text>ten</text>'
    rounded = '<path id="mabcdef0123" d="M 1.00001 2e-3"/><use href="#mabcdef0123"/><text>ten</text>'
    assert figure(one).shapes == figure(rounded).shapes
    assert figure(one).numbers == pytest.approx(figure(rounded).numbers, abs=0.01)
    assert figure(one).numbers != pytest.approx(figure(one.replace("1.0", "1.1")).numbers, abs=0.01)
    for other in (one.replace("ten", "two"), one + "<g/>", one.replace('"#m0123456789"', '"#m9876543210"')):
        assert figure(one).shapes != figure(other).shapes


@pytest.mark.parametrize("name", plots.FIGURES)
def test_the_committed_figures_are_drawn_from_the_committed_files(name):
    docs = Path(__file__).parents[2] / "docs"
    committed, drawn = figure((docs / "study" / f"{name}.svg").read_text()), figure(plots.FIGURES[name](docs / "study"))
    told = f"run `python benchmarks/run_study.py plots --figure {name}`"
    assert committed.shapes == drawn.shapes, told
    np.testing.assert_allclose(committed.numbers, drawn.numbers, rtol=0, atol=0.01, err_msg=told)
    assert f"](study/{name}.svg)" in "".join((docs / page).read_text() for page in ("results.md", "quality.md"))


def test_no_figure_is_left_that_nothing_draws():
    study = Path(__file__).parents[2] / "docs" / "study"
    assert {path.stem for path in study.glob("*.svg")} == set(plots.FIGURES)


def test_every_exact_deletion_that_was_measured_ended_in_the_oracles_bits():
    root = Path(__file__).parents[2]
    found = [
        r for name in ("headline", "boundary", "singles") for r in records.read(root / "docs" / "study" / f"{name}.csv")
    ]
    exact = [r for r in found if r.strategy in {"scratch", "sisa"}]
    assert len(exact) > 500
    assert all(r.bitwise == r.touched for r in exact)


def test_few_people_leave_slices_empty_and_a_smaller_cut_is_suggested():
    few = outline(users=12, shards=8, slices=5)
    assert crowding(few, 8, 5).endswith("of 40 slices are empty; 12 people would fill S=2, R=1")
    assert crowding(outline(users=60, shards=4, slices=3), 4, 3) is None
    nobody = replace(few, groups=np.zeros((300, 16), np.uint8))
    assert crowding(nobody, 8, 5).endswith("slices are empty")
