"""Merging: the sums of several shards are those of all rows, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridmu.core.learners import Fit
from hybridmu.core.learners import get as learner
from hybridmu.core.learners.merging import answering
from tests.core.learners.test_additive import TASKS, shard


@pytest.mark.parametrize(("task", "options"), TASKS)
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_become_the_model_of_all_rows(task, options, parts):
    whole = shard(task, options)
    models = []
    for part in range(parts):
        gone = np.arange(120) % parts != part
        found = whole.fresh_model()
        job = Fit(found, whole.rows.where(~gone), whole.recipe, whole.task, 0, lambda _: None, lambda *_: None)
        learner("additive").fit(job)
        models.append(found.eval())
    before = [{name: one.clone() for name, one in model.state_dict().items()} for model in models]
    [merged], how = answering(models, "merge")
    assert how == "mean"
    expected = whole.states[2]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.state_dict().items())
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


def test_what_is_not_merged_stays():
    models = [shard().model(), shard().model()]
    for how in ("mean", "vote"):
        assert answering(models, how) == (models, how)
    assert answering(models[:1], "merge") == (models[:1], "mean")
    assert answering([], "merge") == ([], "mean")
