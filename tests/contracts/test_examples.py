"""Every example configuration trains, forgets and is proven."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hybridmu

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.yaml"))


def test_there_are_examples():
    assert {"digits.yaml", "mnist5k.yaml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDMU_STORAGE_URL", str(tmp_path / "storage"))
    with hybridmu.connect(path, executor="local") as system:
        trained = system.train()
        assert trained["voters"] == trained["shards"] == system.settings.sisa.shards
        table = pq.read_table(system.settings.data.train)
        group = table["user"][5].as_py()
        report = system.forget(groups=[group], strategy="retrain", wait=True)
        assert report["state"] == "SERVED"
        proof = system.verify()
        assert proof["bitwise_equal"] is True
        assert proof["accuracy"] > 0.8
        answer = system.predict(pq.read_table(system.settings.data.test).slice(0, 20).to_pylist())
        assert len(answer["predictions"]) == 20
