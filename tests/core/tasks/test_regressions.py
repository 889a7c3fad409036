"""Meaning of several values: each as the one of `test_regression`, and the mean where one figure is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.regression import Regression
from hybridmu.core.tasks.regressions import Regressions
from hybridmu.core.tasks.task_making import make_task

ONE, OF = Regression(), Regressions(["price", "rent"])
DRAWN = np.random.default_rng(0)
ANSWERS = torch.from_numpy(DRAWN.uniform(1, 3, (5, 7, 4)).astype(np.float32))
TARGETS = torch.from_numpy(DRAWN.normal(size=(7, 2)).astype(np.float32))


def parts(answers, width=2):
    return answers[..., :width], answers[..., width:]


def test_widths_are_those_of_one_times_the_targets():
    assert (OF.outputs(0), OF.width(0), OF.combined(0)) == (2, 4, 8)
    assert (OF.kind, OF.figure) == ("regression", "skill")


def test_figure_and_margins_are_means_over_the_targets():
    answers = ANSWERS[0]
    alone = [ONE.metric(part, TARGETS[:, at]) for at, part in enumerate(parts(answers))]
    assert OF.metric(answers, TARGETS) == pytest.approx(np.mean(alone))
    margins = [ONE.margins(part, TARGETS[:, at]) for at, part in enumerate(parts(answers))]
    np.testing.assert_allclose(OF.margins(answers, TARGETS), (margins[0] + margins[1]) / 2)


@pytest.mark.parametrize("how", ["mean", "median"])
def test_each_target_is_combined_as_one(how):
    found = OF.combine(ANSWERS, how)
    expected = [ONE.combine(part, how) for part in parts(ANSWERS)]
    assert torch.equal(found, torch.cat(expected, dim=1))
    assert OF.metric(found, TARGETS) == pytest.approx(
        np.mean([ONE.metric(part, TARGETS[:, at]) for at, part in enumerate(expected)])
    )
    with pytest.raises(ValueError, match="no shard"):
        OF.combine(ANSWERS[:0], how)


def test_predictions_name_the_targets():
    combined = OF.combine(ANSWERS, "median").numpy()
    said = OF.predictions(combined, ())
    each = [ONE.predictions(part, ()) for part in parts(combined, 4)]
    assert len(said) == 7
    for row, price, rent in zip(said, *each, strict=True):
        assert row["values"] == {"price": price["value"], "rent": rent["value"]}
        assert row["intervals"] == {"price": price["interval"], "rent": rent["interval"]}


def test_ridge_answers_by_them_where_it_learns_several():
    judgement = judgement_of(make_task("ridge", {}, targets=("price", "rent")))
    assert isinstance(judgement, Regressions)
    assert judgement.targets == ("price", "rent")
    assert type(judgement_of(make_task("ridge", {}, targets=("price",)))) is Regression
