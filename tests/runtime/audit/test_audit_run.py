"""Auditing a trained system: it changes nothing, goes on where it was interrupted, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from sqlalchemy import MetaData
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.config import Settings
from hybridmu.core.kernel.partition import digest
from hybridmu.errors import RequestError, ShardFailedError, StateError, StrategyUnavailableError
from hybridmu.report.audit_page import headline, lines, page, served
from hybridmu.runtime.coordinator.planner_policy import approximate_of
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.types import AuditOutcome
from tests.support import make_table, rows_of, settings_dict

ROWS, MODELS = 150, 8
SISA = {"shards": 3, "slices": 2, "epochs": 12}
QUICK = {"models": MODELS, "shards": 1, "share": 0.15}


def config(folder: Path, data: Path, **overrides):
    tables = {"train": str(data / "train.parquet"), "test": str(data / "test.parquet")}
    return settings_dict(folder, **{"data": tables, "sisa": SISA, "task": {"hidden": [24]}, **overrides})


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    # Four features in twelve classes: nobody can learn that but by heart.
    make_table(folder / "train.parquet", ROWS, classes=12)
    make_table(folder / "test.parquet", 45, classes=12, seed=1, start=1000)
    with hybridmu.connect(config(folder, folder), executor="local") as system:
        system.train()
    return folder


@pytest.fixture
def system(template, tmp_path):
    shutil.copytree(template / "storage", tmp_path / "storage")
    with hybridmu.connect(config(tmp_path, template), executor="local") as made:
        yield made


def state(system) -> tuple[dict, dict]:
    """Every file but the database's, and every row of the database."""
    root = Path(system.settings.storage_url)
    files = {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
    found = MetaData()
    found.reflect(system.database.engine)
    rows = {name: sorted(map(str, rows_of(system.database.engine, table))) for name, table in found.tables.items()}
    return {name: data for name, data in files.items() if not name.startswith("ledger.")}, rows


def interrupt(after: int):
    def watch(done: int, total: int, left: float) -> None:
        if done == after:
            raise KeyboardInterrupt

    return watch


def kept(system) -> list[str]:
    return [file.name for file in system.site.storage.list("audits")]


def ids_of(system, shard: int) -> list[int]:
    """The live training ids of a shard."""
    key = system.site.lake.key
    digests = {row.tobytes() for row in system.site.lake.outline(shard, set()).ids}
    return [number for number in range(ROWS) if digest(key, "id", number) in digests]


# ---------------------------------------------------------------------- what it says


def test_an_audit_says_what_it_found_and_changes_nothing(system):
    before, said, steps = state(system), [], []
    found = system.audit(strategy="dpus", **QUICK, announce=lambda *x: said.append(x), watch=lambda *x: steps.append(x))
    assert state(system) == before
    assert [workers for _, workers in said] == [1]
    assert said[0][0] > 0
    assert [done for done, _, _ in steps] == list(range(1, MODELS + 1))
    assert steps[-1] == (MODELS, MODELS, 0.0)
    assert found["telling"] is True
    assert found["figures"]["auc"]["nothing"] > 0.7
    [shard] = found["shards"]
    assert (shard["strategy"], shard["canaries"]) == ("dpus", round(0.15 * shard["rows"]))
    assert found["served"] == [{"shard": shard["shard"], "exact": True, "keys": 0, "found": None}]
    assert served(found) == ["No row was revoked that is still in the tables of these shards."]
    assert json.loads(json.dumps(found))["models"] == MODELS


def test_an_exact_strategy_is_like_the_oracle_and_doing_next_to_nothing_is_not(system):
    exact = system.audit(strategy="retrain", **QUICK)
    assert exact["verdict"] == "like the oracle"
    assert "of all cases (guessing: 50 %; about models that did nothing: " in headline(exact)
    assert '<p class="banner good">' in page(exact)
    assert (exact["figures"]["gap"]["unlearned"], exact["figures"]["tow"]["unlearned"]) == (0.0, 1.0)
    idle = system.settings.policy.model_copy(update={"alpha": 1e-6})
    settings = system.settings.model_copy(update={"policy": idle})
    with hybridmu.connect(settings, executor="local") as other:
        found = other.audit(strategy="dpus", **QUICK)
    assert found["shards"][0]["alpha"] == 1e-6
    assert found["verdict"] == "told apart"
    assert found["left"] == pytest.approx(1.0, abs=0.01)
    assert "They still know more of the rows (100.0 %" in headline(found)
    assert '<p class="banner bad">' in page(found)


def test_every_figure_has_its_controls_and_a_sentence(system):
    found = system.audit(strategy="dpus-newton", **QUICK)
    text = page(found)
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 3
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")
    for line in lines(found):
        assert line.sentence.endswith((".", "alone.")), line
        assert {line.unlearned, line.oracle, line.nothing} != {""}
        assert line.name in text.replace("&#39;", "'")
    assert headline(found) in text.replace("&#39;", "'")
    assert [line.unlearned for line in lines(found) if "0.1 %" in line.name] == ["not measured"]


def test_the_default_strategy_is_the_policys_update_and_auto_asks_the_planner(system):
    few = {**QUICK, "models": 3}
    assert system.audit(**few)["shards"][0]["strategy"] == approximate_of(system.settings)[0]
    auto = system.audit(strategy="auto", **few)
    assert auto["shards"][0]["strategy"] == "retrain"
    assert auto["shards"][0]["reasons"]
    assert auto["verdict"] == "inconclusive"


@pytest.mark.parametrize("wrong", [{"models": 2}, {"shards": 0}, {"share": 0.0}, {"share": 1.0}])
def test_an_audit_of_nothing_is_refused(system, wrong):
    with pytest.raises(RequestError, match=r"nothing to audit|out of range"):
        system.audit(strategy="dpus", **{**QUICK, **wrong})


def test_a_strategy_that_cant_run_is_refused_and_one_that_breaks_is_reported(template, tmp_path):
    adamw = config(tmp_path, template, optimizer={"name": "adamw", "lr": 0.01}, sisa={**SISA, "epochs": 2})
    with hybridmu.connect(adamw, executor="local") as system:
        system.train()
        with pytest.raises(StrategyUnavailableError):
            system.audit(strategy="dpus-newton", **QUICK)
        assert system.audit(strategy="rewind", **{**QUICK, "models": 3})["verdict"] == "inconclusive"
    tame = Settings.parse(config(tmp_path, template, storage_url=str(tmp_path / "wild")))
    wild = tame.policy.model_copy(update={"alpha": 1e39})  # no configuration may say so
    with hybridmu.connect(tame.model_copy(update={"policy": wild}), executor="local") as system:
        system.train()
        with pytest.raises(ShardFailedError, match="not finite"):
            system.audit(strategy="dpus", **QUICK)


# ---------------------------------------------------------------------- going on


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_and_ends_as_if_it_had_not_been(system):
    whole = system.audit(strategy="dpus", **QUICK)
    before = state(system)
    with pytest.raises(KeyboardInterrupt):
        system.audit(strategy="dpus", **QUICK, watch=interrupt(3))
    assert len(kept(system)) == 3
    left = []
    rest = system.audit(strategy="dpus", **QUICK, announce=lambda seconds, _: left.append(seconds))
    assert rest["resumed"] == 3
    assert rest["figures"] == whole["figures"]
    assert state(system) == before
    asked = []
    system.audit(strategy="dpus", **QUICK, announce=lambda seconds, _: asked.append(seconds))
    assert left[0] == pytest.approx(asked[0] * 5 / 8)


def test_what_shapes_the_models_is_not_mixed_up(system):
    with pytest.raises(KeyboardInterrupt):
        system.audit(strategy="dpus", **QUICK, watch=interrupt(3))
    other = system.audit(strategy="dpus-newton", **QUICK)
    assert other["resumed"] == 0
    assert len(kept(system)) == 3, "the other audit can still go on"
    assert system.audit(strategy="dpus", **{**QUICK, "share": 0.3, "models": 3})["resumed"] == 0


# ---------------------------------------------------------------------- rows that are revoked meanwhile


def test_a_row_that_is_revoked_meanwhile_is_seen_no_more(system):
    shard = system.audit(strategy="dpus", **{**QUICK, "models": 3})["shards"][0]["shard"]
    gone = ids_of(system, shard)[0]

    def watch(done: int, total: int, left: float) -> None:
        if done == 3 and not system.ledger.requests():
            system.forget(ids=[gone])

    found = system.audit(strategy="dpus", **QUICK, watch=watch)
    assert found["restarts"] == 1
    [now] = found["shards"]
    assert (now["shard"], now["rows"]) == (shard, len(ids_of(system, shard)) - 1)
    # The same audit of a system that never had the row since.
    system.forget(ids=[gone], wait=True, strategy="retrain")
    again = system.audit(strategy="dpus", **QUICK)
    assert again["figures"] == found["figures"]


def test_a_row_that_is_revoked_after_the_last_model_counts_too(system):
    shard = system.audit(strategy="dpus", **{**QUICK, "models": 3})["shards"][0]["shard"]
    gone = ids_of(system, shard)[0]

    def watch(done: int, total: int, left: float) -> None:
        if done == total and not system.ledger.requests():
            system.forget(ids=[gone])

    found = system.audit(strategy="dpus", **QUICK, watch=watch)
    assert (found["restarts"], found["shards"][0]["rows"]) == (1, len(ids_of(system, shard)) - 1)
    assert found["figures"]["models"] == MODELS


def test_an_audit_that_is_overtaken_by_deletions_gives_up(system):
    shard = system.audit(strategy="dpus", **{**QUICK, "models": 3})["shards"][0]["shard"]
    ids = iter(ids_of(system, shard))
    with pytest.raises(StateError, match="revoked faster"):
        system.audit(strategy="dpus", **QUICK, watch=lambda *_: system.forget(ids=[next(ids)]))


def test_a_result_that_saw_a_revoked_row_is_thrown_away(system, monkeypatch):
    shard = system.audit(strategy="dpus", **{**QUICK, "models": 3})["shards"][0]["shard"]
    gone, real = ids_of(system, shard)[0], Audits.keep

    def keep(self, *arguments):
        if not system.ledger.requests():
            system.forget(ids=[gone])  # at the last moment: the file that is written now has seen it
        real(self, *arguments)

    monkeypatch.setattr(Audits, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        system.audit(strategy="dpus", **QUICK, watch=interrupt(1))
    assert kept(system) == []


# ---------------------------------------------------------------------- purge


def test_a_purge_deletes_what_an_interrupted_audit_kept(system):
    every = {**QUICK, "models": 3, "shards": 3}
    with pytest.raises(KeyboardInterrupt):
        system.audit(strategy="dpus", **every, watch=interrupt(3 * 3 - 1))
    shards = [int(name.split("/")[1].removeprefix("shard-")) for name in kept(system)]
    assert set(shards) == {0, 1, 2}
    system.forget(ids=ids_of(system, 1)[:1], strategy="retrain", wait=True)
    system.run(until_idle=True)
    assert {int(name.split("/")[1].removeprefix("shard-")) for name in kept(system)} == {0, 2}
    found = system.audit(strategy="dpus", **every)
    assert found["resumed"] == len([shard for shard in shards if shard != 1])
    assert kept(system) == []
    assert [sentence for sentence in served(found) if sentence.startswith("1 request(s) are purged")]
    assert found["figures"]["auc"]["nothing"] > 0.5, "canaries need no revoked row"


@pytest.mark.slow
def test_served_approximate_rows_are_asked_about_until_they_are_purged(system, template, tmp_path):
    shard = 2
    gone = ids_of(system, shard)[:8]
    system.hold("audit first")
    waiting = config(tmp_path, template, policy={"repair": "deadline"})
    with hybridmu.connect(waiting, executor="local") as unrepaired:
        unrepaired.forget(ids=gone, strategy="dpus", wait=True)
        found = unrepaired.audit(strategy="dpus", **QUICK)
        truth = unrepaired.verify([shard])["shards"][0]
    [entry] = found["served"]
    assert (entry["shard"], entry["exact"], entry["found"]["rows"]) == (shard, False, len(gone)), "first of all"
    measured = entry["found"]
    assert measured["gap_before"] < measured["gap"]
    assert measured["gap_before"] < 0
    assert measured["surer_before"] > measured["chance"]
    assert measured["gap"] == pytest.approx(truth["forget_loss_gap"], abs=1e-5)
    assert "approximate, an exact repair is owed" in served(found)[0]
    system.run(until_idle=True)
    exact = system.audit(strategy="dpus", **{**QUICK, "models": 3, "shards": 3})
    [now] = [e for e in exact["served"] if e["shard"] == shard]
    assert now["exact"] is True
    assert now["found"]["gap"] == 0.0, "it is the oracle of number 0 itself"
    assert now["found"]["surer"] == 0.0


# ---------------------------------------------------------------------- the command


@pytest.fixture
def cli(system, template, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(tmp_path, template)))

    def run(*words: str):
        where = ["-c", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "a" / "b.html")]
        return CliRunner().invoke(app, ["audit", *where, "--local", *words])

    return run


@pytest.mark.slow
def test_the_command_writes_a_page_and_prints_the_time_first(cli, tmp_path):
    done = cli("--models", str(MODELS), "--shards", "1", "--share", "0.15", "--strategy", "dpus")
    assert done.exit_code == 0, done.output
    assert done.stderr.lstrip().startswith("about ")
    assert "attack: area under the curve" in done.stdout
    assert "<svg" in (tmp_path / "a" / "b.html").read_text()


def test_the_command_fails_when_the_audit_says_nothing(cli, tmp_path):
    done = cli("--models", "3", "--shards", "1", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert (document["telling"], document["verdict"]) == (False, "inconclusive")
    assert document["figures"]["tpr_at_one"]["unlearned"] is None, "JSON knows no NaN"
    assert Path(document["page"]).exists()
    refused = cli("--strategy", "hope", "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"] == "ConfigError"


def test_outcomes_hold_scores_and_no_ids(system):
    seen: list[AuditOutcome] = []
    real = Audits.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Audits, "keep", lambda self, *x: (seen.append(x), real(self, *x)))
        system.audit(strategy="dpus", **{**QUICK, "models": 3})
    digests = [row.tobytes().hex() for s in range(3) for row in system.site.lake.outline(s, set()).ids]
    for _, name, number, document in seen:
        assert not any(key in document or key in name for key in digests)
        scores = json.loads(document)
        assert scores["number"] == number
        assert all(math.isfinite(value) for value in scores["models"]["oracle"]["forget"])
