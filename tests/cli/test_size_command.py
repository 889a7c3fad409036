"""`hybridmu size`, on a system that measured its own costs."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

import hybridmu
from hybridmu.cli.main import app
from hybridmu.errors import RequestError
from tests.support import make_table, settings_dict


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    make_table(folder / "train.parquet", 120)
    raw = settings_dict(folder, sisa={"shards": 3, "slices": 2, "epochs": 4})
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    with hybridmu.connect(raw, executor="local") as system:
        system.train()
        for number in range(3):
            system.forget(ids=[number], strategy="retrain", wait=True)
    return folder / "config.yaml"


def test_a_system_sizes_itself_by_what_it_measured(config):
    with hybridmu.connect(config, executor="local") as system:
        before = system.status()
        found = system.size(5_000, 3600.0, days=0.2, strategy="retrain")
        assert system.status() == before
        assert found == system.size(5_000, 3600.0, days=0.2, strategy="retrain")
    assert 850 < found["requests"] < 1150
    assert [size["workers"] for size in found["sizes"]] == [1, 2, 3]
    assert found["workers"] == 1
    assert found["observations"]["retrain"] == 6  # three shards trained, three requests
    assert 0 < found["overheads"]["start"] < 5
    one = found["sizes"][0]
    assert found["overheads"]["start"] < one["served_p50"] < 10
    with pytest.raises(RequestError, match="out of range"), hybridmu.connect(config, executor="local") as system:
        system.size(1, 1, days=0)


def test_its_command_says_what_is_enough_and_refuses_nonsense(config):
    run = CliRunner()
    ask = ["size", "-c", str(config), "--requests-per-day", "100", "--deadline"]
    answer = run.invoke(app, [*ask, "24h", "--days", "1"])
    assert answer.exit_code == 0, answer.output
    assert "1 worker(s) of 1 CPU each are enough" in answer.output
    found = json.loads(run.invoke(app, [*ask, "0.001s", "--workers", "2", "--json"]).stdout)
    assert (found["workers"], [size["workers"] for size in found["sizes"]]) == (None, [2])
    assert "page" not in found
    page = config.parent / "pages" / "size.html"
    answer = run.invoke(app, [*ask, "24h", "--days", "1", "--output", str(page)])
    assert f"page: {page}" in answer.output
    assert '<p class="banner good">1 worker(s) of 1 CPU each are enough: all ' in page.read_text()
    late = json.loads(run.invoke(app, [*ask, "0.001s", "--days", "1", "--output", str(page), "--json"]).stdout)
    assert late["page"] == str(page)
    made = page.read_text()
    assert '<p class="banner bad">Not even 3 worker(s) of 1 CPU each keep the deadline of 1 ms' in made
    assert made.count("no: ") == len(late["sizes"])
    for wrong in ("soon", "-5h", "0"):
        assert run.invoke(app, [*ask, wrong]).exit_code != 0
    assert run.invoke(app, [*ask, "1h", "--strategy", "magic"]).exit_code != 0
