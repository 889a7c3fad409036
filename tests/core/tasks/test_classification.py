"""Meaning of answers: the classifier's by default, a task's own where it says so."""

from __future__ import annotations

import pytest
import torch

from hybridmu.core.tasks.classification import Classification, judgement_of
from hybridmu.core.tasks.task_making import make_task
from hybridmu.errors import ConfigError
from hybridmu.task import Linear, Mlp
from tests.support import local_system, make_table


class First(Classification):
    """The first voter alone, judged by a number that nothing else gives."""

    def metric(self, logits, labels):
        return 0.125

    def combine(self, logits, how):
        return logits[0].softmax(dim=1)


class Judged(Mlp):
    judgement = First()


class Misjudged(Linear):
    judgement = "the best"


class Failing(Linear):
    @property
    def judgement(self):
        raise RuntimeError("not today")


def test_a_task_without_one_has_plain_logits():
    assert type(judgement_of(make_task("linear", {}))) is Classification
    assert type(judgement_of(Judged())) is First


@pytest.mark.parametrize(("name", "says"), [("Misjudged", "judgement of task Misjudged"), ("Failing", "not today")])
def test_what_is_no_judgement_is_one_sentence(name, says):
    with pytest.raises(ConfigError, match=says):
        make_task(f"{__name__}:{name}", {})


def test_no_voter_and_an_unknown_way_are_refused():
    with pytest.raises(ValueError, match="no shard is left"):
        Classification().combine(torch.empty(0, 2, 2), "mean")
    with pytest.raises(ValueError, match="known: mean, vote"):
        Classification().combine(torch.zeros(1, 2, 2), "median")


@pytest.mark.slow
def test_answers_and_proofs_ask_the_task(tmp_path):
    table = make_table(tmp_path / "train.parquet", 120)
    make_table(tmp_path / "test.parquet", 30)
    data, task = {"test": str(tmp_path / "test.parquet")}, {"name": f"{__name__}:Judged"}
    with local_system(tmp_path, data=data, task=task) as system:
        system.train()
        site, first = system.site, system.registry.version().shards[0]
        encoder = site.lake.manifest.encoder
        with torch.no_grad():
            expected = site.load_model(first.shard, first.blob)(torch.from_numpy(encoder.encode(table))).softmax(dim=1)
        said = system.predict(table.to_pylist())["predictions"]
        torch.testing.assert_close(torch.tensor([[*each["probabilities"].values()] for each in said]), expected)
        verified = system.verify()
        assert verified["accuracy"] == verified["oracle_accuracy"] == 0.125
