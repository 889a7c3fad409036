"""A successor with another encoder: features are made again of the stored texts, as a first training makes them."""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybridmu
from hybridmu.config import Settings
from hybridmu.errors import DataError
from tests.system.test_derived_features import OWN, config, notes, states, trained, write

WIDER = {"text": {"note": [{"name": "ngrams", "width": 16}]}}


def successor_of(raw, folder, **changes):
    keys = {"folder": str(folder / "storage-keys")}
    return {**raw, "storage_url": str(folder / "successor"), "keys": keys, **changes}


@pytest.mark.parametrize("task", ["lda", "mlp"])
def test_it_is_what_a_first_training_with_the_new_encoder_gives(tmp_path, task):
    source = write(tmp_path / "a.parquet", notes(80))
    with trained(tmp_path / "a", config(tmp_path, source, task)) as old:
        old.forget(ids=[3, 40], wait=True)
        write(tmp_path / "more.parquet", notes(10, seed=1), start=100)
        old.ingest(str(tmp_path / "more.parquet"), wait=True)
        later = successor_of(config(tmp_path, source, task), tmp_path / "a", features=WIDER)
        old.reshard(Settings.parse(later))
        old.forget(ids=[5], wait=True)
    left = pa.concat_tables([pq.read_table(source), pq.read_table(tmp_path / "more.parquet")])
    for gone in ({3, 40}, {5}):
        left = left.filter(pa.array([row not in gone for row in left["id"].to_pylist()]))
    pq.write_table(left, tmp_path / "left.parquet")
    fresh = config(tmp_path, tmp_path / "left.parquet", task, features=WIDER)
    with hybridmu.connect(later, executor="local") as new, trained(tmp_path / "b", fresh) as expected:
        new.run(until_idle=True)
        assert states(new) == states(expected)
        assert new.verify()["bitwise_equal"] is True
        asked = left.slice(0, 5).to_pylist()
        assert new.predict(asked)["predictions"] == expected.predict(asked)["predictions"]
        assert new.session.lake.manifest.encoders.keys() == {"note:ngrams"}


def test_an_edited_encoder_comes_in_by_a_successor(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "edited_encoder_of_test.py"
    file.write_text(OWN.replace("FACTOR", "100"))
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda", features={"text": {"note": "edited_encoder_of_test:Own"}})
    trained(tmp_path / "a", raw).close()
    file.write_text(OWN.replace("FACTOR", "7"))
    sys.modules.pop("edited_encoder_of_test")
    raw["storage_url"] = str(tmp_path / "a" / "storage")
    asked = pq.read_table(source).slice(0, 1).to_pylist()
    with hybridmu.connect(raw, executor="local") as old:
        assert "hybridmu reshard" in old.upgrade().explain()
        later = successor_of(raw, tmp_path / "a")
        old.reshard(Settings.parse(later))
    with hybridmu.connect(later, executor="local") as new, trained(tmp_path / "b", raw) as fresh:
        assert states(new) == states(fresh)
        assert new.predict(asked)["predictions"] == fresh.predict(asked)["predictions"]


REFUSING = """
import numpy as np
from hybridmu.plugins import TextEncoder

class Own(TextEncoder):
    width = 1

    def encode(self, texts):
        if any("number00007" in text for text in texts):
            raise ValueError(texts)
        return np.array([[len(text) % 100] for text in texts], np.int8)
"""


def test_a_stored_value_that_the_new_encoder_refuses_leaves_no_successor_and_the_old_one_works(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "refusing_encoder_of_test.py").write_text(REFUSING)
    source = write(tmp_path / "a.parquet", notes(80))
    raw = config(tmp_path, source, "lda")
    with trained(tmp_path / "a", raw) as old:
        later = successor_of(raw, tmp_path / "a", features={"text": {"note": "refusing_encoder_of_test:Own"}})
        with pytest.raises(
            DataError, match=r"row \d+ of the live rows of model .*: column 'note' can't be encoded"
        ) as told:
            old.reshard(Settings.parse(later))
        assert "number00007" not in str(told.value)
        assert old.predict(pq.read_table(source).slice(0, 1).to_pylist())["predictions"]
        assert not list((tmp_path / "a" / "successor").rglob("*.parquet"))
        old.forget(ids=[7], wait=True)  # rows of requests that nobody began come along
        old.reshard(Settings.parse(later))
    with hybridmu.connect(later, executor="local") as new:
        new.run(until_idle=True)
        assert new.verify()["bitwise_equal"] is True
