"""Schemas of the prediction endpoint's bodies and answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hybridmu.errors import HybridMUError


class PredictRequest(BaseModel):
    """Rows to predict, each as column → value with every feature column."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rows: list[dict[str, Any]] = Field(min_length=1)


class Prediction(BaseModel):
    """The most probable class and the probability of each."""

    label: int | str
    probabilities: dict[str, float]


class ValuePrediction(BaseModel):
    """The value, and the lowest and highest value of the sub-models: how far they differ, no confidence interval."""

    value: float
    interval: tuple[float, float]


class ValuesPrediction(BaseModel):
    """Several values by the names of their targets, and the lowest and highest value of the sub-models for each."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class PredictResponse(BaseModel):
    """Predictions in the order of the rows; all from one model version.

    Attributes:
        version: Which one.
        withheld: How many of its sub-models did not vote, since deletions wait for them. Not which: who can guess
            where a person's rows lie would learn whose they may be.
        predictions: One per row.
    """

    version: int
    withheld: int
    predictions: list[Prediction] | list[ValuePrediction] | list[ValuesPrediction]


class Refusal(BaseModel):
    """Reason of a refused call.

    Attributes:
        detail: A sentence; or what went wrong, what would have been right, what was found, and what to do.
    """

    detail: str | dict[str, str]


class VersionResponse(BaseModel):
    """The version that answers now.

    Attributes:
        version: Model version.
        voters: Sub-models that vote.
        withheld: How many do not, since deletions wait for them.
        aggregation: How they are combined.
        forward: The way all sub-models are run, chosen by measuring.
        forward_seconds: Best seconds of each way on a sample batch.
    """

    version: int
    voters: int
    withheld: int
    aggregation: str
    forward: str
    forward_seconds: dict[str, float]


def problem(error: HybridMUError) -> dict[str, str]:
    """Return an error as the body of an HTTP answer; what is no Unicode in it is written as an escape."""
    said = {"what": error.what, "expected": error.expected, "got": error.got, "remedy": error.remedy}
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in said.items()}
