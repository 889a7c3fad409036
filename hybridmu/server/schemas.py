"""Schemas of bodies and answers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from hybridmu.config.one_of import OneOf
from hybridmu.core.kernel.partition import LONGEST_KEY, check_key
from hybridmu.errors import DataError, HybridMUError, too_many_keys
from hybridmu.kinds import choices
from hybridmu.serving import answer_schemas
from hybridmu.types import RequestState
from hybridmu.verifier.plain_data import DoubledNameError, each_once

# PostgreSQL has no text with NUL in it.
_Text = Annotated[StrictStr, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


def _nameable(value: int | str) -> int | str:
    """Return an id or group that a table may hold.

    Raises:
        ValueError: No table may.
    """
    try:
        check_key(value)
    except DataError as error:
        raise ValueError(f"{error.what}: expected {error.expected}") from None
    return value


# The limits are `check_key`'s, repeated for the schema that callers see.
Key = Annotated[
    Annotated[StrictInt, Field(json_schema_extra={"minimum": -(2**63), "maximum": 2**64 - 1})]
    | Annotated[StrictStr, Field(json_schema_extra={"maxLength": LONGEST_KEY})],
    AfterValidator(_nameable),
]


class Keys(BaseModel):
    """Ids and groups to forget.

    Attributes:
        ids: Row ids. A number may be sent as text: not every JSON writer keeps all digits beyond 2^53.
        groups: Groups: every row of these people.
        strategy: `auto` lets the planner choose per shard.
        ignore_unknown: Leave unknown ones out instead of refusing.
    """

    # Strict: a number in quotes, or 1 for true, is a caller's mistake, not another way to say it.
    model_config = ConfigDict(extra="forbid", strict=True)
    # The first wrong one is named: a list of a million errors would cost more than the call.
    ids: Annotated[list[Key], FailFast()] = []
    groups: Annotated[list[Key], FailFast()] = []
    strategy: Annotated[str, OneOf(choices)] = "auto"
    ignore_unknown: bool = False

    @model_validator(mode="after")
    def _some(self) -> Keys:
        if not self.ids and not self.groups:
            raise ValueError("name at least one id or group")
        return self


class PrivacyRequest(BaseModel):
    """A call of a policy webhook of Fides; what it says besides is not read.

    Attributes:
        privacy_request_id: Its name there.
        direction: Whether an answer is waited for.
        callback_type: When in the life of the privacy request it is called.
        policy_action: What the policy does; nothing is forgotten but for `erasure`.
        identity: Whom it is about: name of the identity → value, or label and value.
    """

    model_config = ConfigDict(extra="ignore")
    privacy_request_id: Annotated[_Text, Field(max_length=100, pattern=r"^[0-9A-Za-z_.-]+$")]
    direction: Literal["one_way", "two_way"]
    callback_type: Literal["pre_approval", "pre", "post"]
    policy_action: str | None = None
    identity: dict[str, Any]


class Forget(Keys):
    """A deletion request.

    Attributes:
        key: Idempotency key: the same key and body are one request, however often they are sent.
        deadline_seconds: How long from now until it must be exact and purged; the policy's by default.
    """

    key: Annotated[_Text, Field(max_length=200)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None


_Named = TypeVar("_Named", bound=BaseModel)


def read(model: type[_Named], raw: bytes, most: int) -> _Named:
    """Return a body as what it says; nothing in it is read in one of two ways.

    Args:
        model: What it should be.
        raw: JSON in UTF-8.
        most: Ids and groups in one call.

    Raises:
        RequestValidationError: It is no JSON, says something twice, holds a number that JSON does not know, or is not
            as the schema says.
    """  # noqa: DOC501 - a function makes one
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=each_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # The words of a decoder of JSON say where it is wrong, those of another may quote the body.
        says = error.msg if isinstance(error, json.JSONDecodeError) else "not JSON in UTF-8, or nested too deeply"
        says = str(error) if isinstance(error, _NoNumberError | DoubledNameError) else says
        raise RequestValidationError([{"loc": ("body",), "msg": says, "type": "json_invalid"}]) from None
    if isinstance(found, dict):  # counted before each of them is looked at
        lists = [value for value in (found.get("ids"), found.get("groups")) if isinstance(value, list)]
        if (count := sum(map(len, lists))) > most:
            raise too_many_keys(count, most)
    try:
        return model.model_validate(found)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors]) from None


class _NoNumberError(ValueError):
    pass


def _no_constant(name: str) -> None:
    raise _NoNumberError(f"JSON has no number {name}")


class Report(BaseModel):
    """State of a request. Times are seconds since the epoch, UTC; more fields as `hybridmu requests show --json`."""

    model_config = ConfigDict(extra="allow")
    request_id: str
    state: RequestState
    caller: str
    keys: int
    received_at: float
    deadline_at: float | None
    planned_at: float | None
    quarantined_at: float | None
    applied_at: float | None
    served_at: float | None
    exact_at: float | None
    purged_at: float | None
    certificate: int | None
    reason: str | None
    approval: dict[str, Any] | None = None


class PlanAnswer(BaseModel):
    """Effect and cost of a request, explained; more fields as `hybridmu plan --json`."""

    model_config = ConfigDict(extra="allow")
    makespan_seconds: float
    shards: list[dict[str, Any]]
    warnings: list[str]
    explanation: str


class Problem(BaseModel):
    """Reason of a refused call, which changed nothing."""

    error: str
    what: str
    expected: str = ""
    got: str = ""
    remedy: str = ""


def problem(error: HybridMUError) -> Problem:
    """Return an error as the body of an answer."""
    return Problem(error=type(error).__name__, **answer_schemas.problem(error))
