"""Every example configuration trains, forgets and is proven."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import load
from hybridmu.datasets.catalog import describe

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.yaml"))
# What is fetched first: tests/datasets/test_widedeep.py trains on tables of the same form.
FETCHED = [path for path in EXAMPLES if describe(load(path).data.name).download]


def test_there_are_examples():
    assert {"digits.yaml", "mnist5k.yaml"} <= {path.name for path in EXAMPLES}


def test_an_example_of_a_dataset_that_is_fetched_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDMU_DATA", str(tmp_path))
    assert {path.stem for path in FETCHED} == {"california", "cifar10", "cifar10-encoder", "movielens", "reviews"}
    for path in FETCHED:
        name = load(path).data.name
        assert f"hybridmu data get {name}" in path.read_text()
        with pytest.raises(hybridmu.HybridMUError, match=f"hybridmu data get {name}"):
            hybridmu.connect(path, executor="local")


@pytest.mark.parametrize("path", sorted({*EXAMPLES} - {*FETCHED}), ids=lambda path: path.stem)
@pytest.mark.sampled
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
