"""`hybridmu models …` and `reshard`, as people and scripts call them."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from hybridmu.cli.main import app
from tests.scenes.linked_models import family


@pytest.fixture
def run(tmp_path):
    """`run("models", "list", "first")`: the last word names a configuration; returns (exit code, output)."""
    with family(tmp_path, "first", "second", rows=20) as (models, ids):
        models.config("new", (2, 1))
        for name, raw in models.configs.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw))
        models.close()

        def call(*words):
            *words, name = words
            words = [str(tmp_path / f"{word}.yaml") if word in {"SECOND", "NEW"} else str(word) for word in words]
            words = [word.replace("SECOND", "second").replace("NEW", "new") for word in words]
            done = CliRunner().invoke(app, [*words, "-c", str(tmp_path / f"{name}.yaml")])
            return done.exit_code, done.stdout

        yield call, ids


@pytest.mark.slow
def test_a_life_of_linked_models(run):
    call, ids = run
    assert call("models", "link", "SECOND", "first")[0] == 0
    code, text = call("forget", "--id", ids[0], "--wait", "--local", "first")
    assert code == 0
    assert "model second: RECEIVED" in text
    assert "coordinator(s) of second" in text
    code, text = call("forget", "--id", 999, "--json", "--local", "first")
    assert code == 2
    code, text = call("requests", "list", "--json", "second")
    (request,) = json.loads(text)
    assert "passed on by a linked model" in call("requests", "show", request["request_id"], "second")[1]
    assert "linked with: second" in call("status", "first")[1]
    code, text = call("reshard", "NEW", "--json", "--local", "first")
    result = json.loads(text)
    assert (code, result["predecessor"]["name"], result["delivered"]) == (0, "first", 0)
    found = json.loads(call("models", "list", "--json", "new")[1])
    assert [(m["name"], m["state"]) for m in found] == [("new", "active"), ("first", "active"), ("second", "active")]
    assert call("run", "--until-idle", "--local", "second")[0] == 0
    assert call("models", "retire", "first", "--reason", "resharded", "new")[0] == 2
    code, text = call("models", "retire", "first", "--reason", "resharded", "--yes", "new")
    assert code == 0
    assert "first is retired" in text
    assert "retired" in call("models", "list", "new")[1]
    assert call("verify", "--json", "new")[0] == 0


def test_words_after_a_reshard_say_what_comes_next(run):
    call, _ = run
    code, text = call("reshard", "NEW", "--local", "first")
    assert code == 0
    assert "models retire first" in text.replace("\n", " ")
