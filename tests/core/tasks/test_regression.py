"""Meaning of values: skill, residuals, combination and intervals, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from hybridmu.core.tasks.regression import Regression
from hybridmu.serving.answer_schemas import PredictResponse


@st.composite
def voices(draw):
    """Return answers of some voters, float32 [voters, n, 2], and targets [n]."""
    voters, rows = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(voters, rows, generator=random) * 10
    units = torch.rand(voters, 1, generator=random).expand(voters, rows) + 0.5
    return torch.stack([values, units], dim=-1), torch.randn(rows, generator=random)


@given(voices(), st.sampled_from(["mean", "median"]))
@settings(max_examples=80, deadline=None)
def test_values_are_combined_whatever_the_order_of_voters(given_, how):
    answers, _ = given_
    found = Regression().combine(answers, how)
    values = answers[..., 0].numpy().astype(np.float64)
    assert found.shape == (answers.shape[1], Regression().combined(0))
    assert found[:, 0].numpy() == pytest.approx(getattr(np, how)(values, axis=0), rel=1e-5, abs=1e-5)
    assert found[:, 1].numpy() == pytest.approx(answers[..., 1].numpy().mean(axis=0), rel=1e-5)
    assert found[:, 2:].tolist() == np.stack([values.min(0), values.max(0)], axis=1).tolist()
    turned = Regression().combine(answers.flip(0), how)
    assert turned.numpy() == pytest.approx(found.numpy(), rel=1e-5, abs=1e-5)
    assert bool((found[:, 2] <= found[:, 0] + 1e-4).all() and (found[:, 0] <= found[:, 3] + 1e-4).all())


@given(voices())
@settings(max_examples=50, deadline=None)
def test_skill_is_r2_with_the_unit_in_the_place_of_the_rows_own_deviation(given_):
    answers, targets = given_
    one, judged = answers[0], Regression()
    error = theirs.mean_squared_error(targets, one[:, 0])
    assert judged.metric(one, targets) == pytest.approx(1 - error / float(one[0, 1]) ** 2, rel=1e-4, abs=1e-4)
    margins = judged.margins(one, targets)
    assert 1 - (margins**2).mean() == pytest.approx(judged.metric(one, targets), rel=1e-9)
    assert judged.sureness(margins).argmax() == np.abs(margins).argmin()


def test_a_combined_answer_is_judged_as_one_of_a_sub_model():
    answers, right = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]), torch.tensor([2.0])
    assert Regression().metric(Regression().combine(answers, "mean"), right) == 1.0


def test_no_voter_and_an_unknown_way_are_refused():
    with pytest.raises(ValueError, match="no shard is left"):
        Regression().combine(torch.empty(0, 2, 2), "mean")
    with pytest.raises(ValueError, match="known: mean, median"):
        Regression().combine(torch.zeros(1, 2, 2), "vote")


def test_predictions_are_short_numbers_that_the_schema_takes():
    combined = np.array([[3.1, 1.0, 2.5, 4.2]], dtype=np.float32)
    said = Regression().predictions(combined, ())
    assert said == [{"value": 3.1, "interval": [2.5, 4.2]}]
    answer = PredictResponse.model_validate({"version": 1, "withheld": 0, "predictions": said})
    assert answer.model_dump(mode="json")["predictions"] == said
    label = [{"label": "a", "probabilities": {"a": 1.0}}]
    answer = PredictResponse.model_validate({"version": 1, "withheld": 0, "predictions": label})
    assert answer.model_dump(mode="json")["predictions"] == label
