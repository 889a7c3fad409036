"""Quality in the words of the command line."""

from __future__ import annotations

import json

import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from hybridmu.cli.quality_output import change_line, quality_line
from tests.support import make_table, settings_dict, table, write


def said(config, *words):
    done = CliRunner().invoke(app, [*words, "-c", str(config)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_verb_that_changes_or_shows_a_model_tells_its_quality(tmp_path):
    make_table(tmp_path / "train.parquet", 150)
    write(tmp_path, table(60, start=1000, seed=1), "test.parquet")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings_dict(tmp_path, data={"test": str(tmp_path / "test.parquet")})))
    trained = said(config, "train", "--local")
    assert "quality: accuracy " in trained
    assert "on 60 test rows (single sub-models" in trained
    assert "quality: accuracy" in said(config, "plan", "--id", "3")
    forgot = said(config, "forget", "--local", "--wait", "--id", "3")
    assert " -> " in forgot.split("quality")[1]
    assert "quality: accuracy" in said(config, "status")
    found = json.loads(said(config, "requests", "list", "--json"))
    assert " -> " in said(config, "requests", "show", found[0]["request_id"]).split("quality")[1]
    page = tmp_path / "pages" / "evaluation.html"
    measured = said(config, "evaluate", "--output", str(page))
    assert "balanced accuracy" in measured
    assert "shard 3 alone" in measured
    assert page.read_text().startswith("<!doctype html>")
    document = json.loads(said(config, "evaluate", "--output", str(page), "--json"))
    assert document["page"] == str(page)
    assert document["splits"]["test"]["rows"] == 60


def test_what_was_not_measured_is_said():
    assert "not measured" in quality_line(None)
    assert "not measured" in quality_line({"version": 3})
    assert change_line(None, {"version": 1}) is None
    assert not change_line({"version": 1}, {"version": 2})


def test_an_undefined_figure_is_no_number():
    one = {"rows": 2, "ensemble": {"accuracy": None, "log_loss": None}, "sub_models": [{"shard": 0, "accuracy": None}]}
    assert quality_line({"version": 1, "test": one}) == "accuracy undefined, log loss undefined on 2 test rows"
    both = change_line({"version": 1, "test": one}, {"version": 2, "test": one})
    assert both == "accuracy undefined -> undefined, log loss undefined -> undefined on 2 test rows"
